package client

import (
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// DialOperator is Dial for the service of those who run the servers. The errors
// of its streams are connect's: see Rebuild.
func DialOperator(addr, caFile string, opts ...Option) (joulev1connect.OperatorServiceClient, error) {
	hc, with, err := connection(addr, caFile, opts)
	if err != nil {
		return nil, err
	}
	return joulev1connect.NewOperatorServiceClient(hc, addr, with), nil
}
