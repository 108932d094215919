package loopback

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

const child = "JOULE_TEST_RESERVE"

func TestMain(m *testing.M) {
	if os.Getenv(child) == "" {
		os.Exit(m.Run())
	}
	for range 500 {
		addr, err := Reserve()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(addr)
	}
	os.Stdin.Read(make([]byte, 1)) // until the other one has its own
}

func TestReserveGivesEachAddressOnce(t *testing.T) {
	drawn, err := drawnByKernel()
	if err != nil {
		t.Fatal(err)
	}
	outs := make([]string, 2)
	var all, listed sync.WaitGroup
	hold := make(chan struct{})
	for i := range outs {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), child+"=1")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		listed.Add(1)
		all.Go(func() {
			var b strings.Builder
			buf := make([]byte, 4096)
			for strings.Count(b.String(), "\n") < 500 {
				n, err := out.Read(buf)
				b.Write(buf[:n])
				if err != nil {
					break
				}
			}
			outs[i] = b.String()
			listed.Done()
			<-hold
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	listed.Wait()
	close(hold)
	all.Wait()
	seen := map[string]bool{}
	for _, addr := range strings.Fields(outs[0] + outs[1]) {
		if seen[addr] {
			t.Errorf("%s was given twice", addr)
		}
		seen[addr] = true
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if drawn.has(tcp.Port) && !drawn.covers() {
			t.Errorf("%s is of the range %v that the kernel draws from", addr, drawn)
		}
	}
	if len(seen) != 1000 {
		t.Errorf("got %d addresses, want 1000", len(seen))
	}
}
