package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A process of the benchmark takes one request per line on its standard input
// and answers each with a line on its standard output, both JSON. It ends with
// its input.

type request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

type response struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// serve answers requests with the functions of ops, one at a time.
func serve(ctx context.Context, in io.Reader, out io.Writer, ops map[string]func(context.Context, json.RawMessage) (any, error)) error {
	dec, enc := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	for {
		var req request
		if err := dec.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var resp response
		op, ok := ops[req.Op]
		if !ok {
			return fmt.Errorf("unknown request %q", req.Op)
		}
		v, err := op(ctx, req.Args)
		if err != nil {
			resp.Error = err.Error()
		} else if resp.Result, err = json.Marshal(v); err != nil {
			return err
		}
		if err := enc.Encode(resp); err != nil {
			return err
		}
	}
}

// peer is a process of the benchmark as its parent sees it.
type peer struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
}

// spawn starts this program again in another part; config is its first line.
func spawn(name string, program []string, part string, config any) (*peer, error) {
	p := &peer{name: name, cmd: exec.Command(program[0], append(program[1:], part)...)}
	p.cmd.Stderr = os.Stderr
	// It is ended with us, should we be killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = in, json.NewDecoder(bufio.NewReader(out))
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, json.NewEncoder(p.in).Encode(config)
}

func (p *peer) pid() int { return p.cmd.Process.Pid }

// call sends one request and waits for its answer.
func (p *peer) call(op string, args, result any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(p.in).Encode(request{Op: op, Args: raw}); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	var resp response
	if err := p.out.Decode(&resp); err != nil {
		return fmt.Errorf("%s ended during %q: %w", p.name, op, err)
	}
	if resp.Error != "" {
		return fmt.Errorf("%s: %s", p.name, resp.Error)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(resp.Result, result)
}

// stopTimeout bounds an orderly end.
const stopTimeout = 60 * time.Second

// stop ends the process and waits.
func (p *peer) stop() error {
	p.in.Close()
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		return nil
	case <-time.After(stopTimeout):
		p.cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s did not end: killed it", p.name)
	}
}
