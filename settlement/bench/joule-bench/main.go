// Command joule-bench measures settlement; `make bench` runs it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/joulecloud/joule/settlement/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(bench.Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}
