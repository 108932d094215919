// Command nomad-driver-joule is Joule's task driver, which Nomad starts from
// its plugin directory.
package main

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	"github.com/joulecloud/joule/driver/plugin"
)

func main() {
	plugins.ServeCtx(func(ctx context.Context, log hclog.Logger) any { return plugin.New(ctx, log) })
}
