// Joule is the command line of every role, the settlement server and the
// host's daemon; see package command.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/joulecloud/joule/cli/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(command.Main(ctx, deps(), os.Args))
}
