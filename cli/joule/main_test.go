package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/joulecloud/joule/cli/command/commandtest"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/loopback"
)

// readyTimeout bounds how long a settlement server may take to elect itself.
const readyTimeout = 30 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"joule": main})
}

// waitFor waits until a file is there.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor FILE")
	}
	deadline := time.Now().Add(readyTimeout)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			tick.Stop()
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not there after %v", args[0], readyTimeout)
		}
	}
}

// TestScripts runs the whole program as people do. JOULE_ADDR is a fake
// settlement server (commandtest); $REFUSED refuses connections; $API and $RAFT
// are free addresses for a real server, which waitserver waits for; waitfor
// waits for a file.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("JOULE_ADDR", commandtest.New().Serve(env.T().(testing.TB)))
			for _, name := range []string{"API", "RAFT", "REFUSED"} {
				addr, err := loopback.Reserve()
				if err != nil {
					return err
				}
				env.Setenv(name, addr)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"waitserver": waitServer, "waitfor": waitFor},
	})
}

// waitServer waits until the server at a URL is its own leader.
func waitServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitserver URL")
	}
	c, err := client.Dial(args[0], "")
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		st, err := c.GetStatus(ctx, &joulev1.GetStatusRequest{})
		if err == nil && st.GetLeader() {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("server %s: not ready after %v: %v", args[0], readyTimeout, err)
		}
	}
}
