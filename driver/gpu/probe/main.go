// Package probe is the inside of joule-gpu-probe: it answers package gpu's
// requests by NVIDIA's management library, which it alone loads. Every symbol is
// looked up before it is called, since a call to one that the installed library
// lacks ends the process; what can't be asked is left out of the answer.
//
// It must be linked with lazy binding: the library's symbols are unresolved
// until it is loaded.
package probe

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/joulecloud/joule/driver/gpu"
)

// lineBytesMax bounds a request.
const lineBytesMax = 1 << 20

// Main answers requests on the socket that hostd passes as file 3, until hostd
// closes it. It returns the exit code.
func Main(args []string) int {
	flags := flag.NewFlagSet("joule-gpu-probe", flag.ContinueOnError)
	library := flags.String("library", DefaultLibrary, "NVIDIA's management library")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	socket := os.NewFile(gpu.ProbeFD, "socket")
	if info, err := socket.Stat(); err != nil || info.Mode().Type() != os.ModeSocket || flags.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: joule-gpu-probe [-library FILE] (started by joule hostd, not by hand)")
		return 2
	}
	if err := Serve(socket, New(*library)); err != nil {
		fmt.Fprintln(os.Stderr, "joule-gpu-probe:", err)
		return 1
	}
	return 0
}

// Answerer answers requests, one at a time.
type Answerer interface {
	Answer(gpu.Request) gpu.Response
}

// Serve answers requests, a line each, until the other side closes. It returns
// then even while an answer hangs in the library.
func Serve(rw io.ReadWriter, a Answerer) error {
	requests := make(chan gpu.Request)
	failed := make(chan error, 1)
	go func() {
		enc := json.NewEncoder(rw)
		for req := range requests {
			if err := enc.Encode(a.Answer(req)); err != nil {
				failed <- err
				return
			}
		}
	}()
	lines := make(chan gpu.Request)
	ended := make(chan error, 1)
	go func() {
		sc := bufio.NewScanner(rw)
		sc.Buffer(nil, lineBytesMax)
		for sc.Scan() {
			var req gpu.Request
			if err := json.Unmarshal(sc.Bytes(), &req); err != nil {
				ended <- fmt.Errorf("request: %w", err)
				return
			}
			lines <- req
		}
		ended <- sc.Err()
	}()
	var queue []gpu.Request
	for {
		var next gpu.Request
		var out chan<- gpu.Request
		if len(queue) > 0 {
			next, out = queue[0], requests
		}
		select {
		case req := <-lines:
			queue = append(queue, req)
		case out <- next:
			queue = queue[1:]
		case err := <-failed:
			return fmt.Errorf("answer: %w", err)
		case err := <-ended:
			return err
		}
	}
}
