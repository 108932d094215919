package e2e

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/nomad/api"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/wire"
)

// A dishonest supplier with a real host key: it asks for leases of work that
// it was not given. Settlement asks Nomad and refuses.
func TestHostCannotInventWork(t *testing.T) {
	f := cluster(t)
	spec := sleepFor(20 * time.Second)
	spec.host = "dc-1"
	job, elsewhere := f.submit(t, spec)
	f.running(t, elsewhere)
	finished := func() string {
		_, alloc := f.submit(t, task{command: "/bin/true"})
		f.closed(t, alloc, 30*time.Second)
		eventually(t, 10*time.Second, "complete allocation", func() error {
			a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
			if err == nil && a.ClientStatus != api.AllocClientStatusComplete {
				err = fmt.Errorf("it is %s", a.ClientStatus)
			}
			return err
		})
		return alloc
	}()

	key := hostKey(t, filepath.Join(f.cluster.Hosts[0].DataDir(), "host.key"))
	hc, err := client.HTTPClient(f.cluster.SettlementURL(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer hc.CloseIdleConnections()
	hosts := joulev1connect.NewHostServiceClient(hc, f.cluster.SettlementURL(),
		connect.WithInterceptors(client.Errors(f.cluster.SettlementURL())))
	for _, tc := range []struct {
		name, alloc string
		want        joulev1.ErrorReason
		word        string
	}{
		{"an allocation that does not exist", "11111111-2222-3333-4444-555555555555", joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, "11111111"},
		{"an id that is no allocation's", "nonsense", joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, "nonsense"},
		{"an allocation on another node", elsewhere, joulev1.ErrorReason_ERROR_REASON_WRONG_NODE, "dc-1"},
		{"an allocation that has ended", finished, joulev1.ErrorReason_ERROR_REASON_ALLOCATION_STOPPED, "complete"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(f.leases(t, tc.alloc))
			now := time.Now().UnixMilli()
			_, err := hosts.OpenLease(t.Context(), &joulev1.OpenLeaseRequest{AllocId: tc.alloc, Task: "main", Invocation: "invented",
				Auth: &joulev1.HostAuth{Host: "crowd-1", UnixMs: now, Signature: ed25519.Sign(key,
					wire.HostRequestSigningBytes("OpenLease", "crowd-1", now, wire.OpenLeaseBody(tc.alloc, "main", "invented")))}})
			var refused *client.Error
			if !errors.As(err, &refused) || refused.Reason != tc.want || !strings.Contains(refused.Message, tc.word) {
				t.Errorf("got %v, want %v with %q", err, tc.want, tc.word)
			}
			if after := len(f.leases(t, tc.alloc)); after != before {
				t.Errorf("got %d leases, want still %d", after, before)
			}
		})
	}
	f.nomad(t, "job", "stop", "-detach", job)
	f.closed(t, elsewhere, 20*time.Second)
}

func hostKey(t *testing.T, path string) ed25519.PrivateKey {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s holds no PEM block", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(ed25519.PrivateKey)
}
