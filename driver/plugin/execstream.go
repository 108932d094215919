package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
)

// endOfTransmission is what a person types at a terminal to end their input.
const endOfTransmission = 4

// ExecTask runs a command in the task's container and returns the end of its
// output, for script checks. A command that takes longer than timeout (if > 0)
// is killed, which is an error.
func (d *Driver) ExecTask(id string, command []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	ctx, cancel := d.ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	x, err := d.newExec(id, command, false)
	if err != nil {
		return nil, err
	}
	var stdout, stderr tail
	x.cmd.Stdout, x.cmd.Stderr = &stdout, &stderr
	if err := x.cmd.Start(); err != nil {
		os.RemoveAll(x.tmp)
		return nil, fmt.Errorf("exec %q: %w", x.name(), err)
	}
	code, err := x.wait(ctx)
	if err != nil {
		return nil, err
	}
	return &drivers.ExecTaskResult{Stdout: stdout.b, Stderr: stderr.b, ExitResult: &drivers.ExitResult{ExitCode: code}}, nil
}

// ExecTaskStreamingRaw runs a command in the task's container between the ends
// of stream ("nomad alloc exec"). It is the raw form of the contract because
// that lets the command's end end the reading of its input, too.
func (d *Driver) ExecTaskStreamingRaw(ctx context.Context, id string, command []string, tty bool, stream drivers.ExecTaskStream) error {
	x, err := d.newExec(id, command, tty)
	if err != nil {
		return err
	}
	out := &sender{stream: stream}
	run := x.runPipes
	if tty {
		run = x.runTTY
	}
	code, err := run(ctx, stream, out)
	if err != nil {
		return err
	}
	for _, end := range []*drivers.ExecTaskStreamingResponseMsg{
		{Stdout: &proto.ExecTaskStreamingIOOperation{Close: true}},
		{Stderr: &proto.ExecTaskStreamingIOOperation{Close: true}},
		drivers.NewExecStreamingResponseExit(code),
	} {
		if err := out.send(end); err != nil {
			return err
		}
	}
	return nil
}

func (x *execCommand) runPipes(ctx context.Context, stream drivers.ExecTaskStream, out *sender) (int, error) {
	x.cmd.Stdout = writerFunc(out.stdout)
	x.cmd.Stderr = writerFunc(out.stderr)
	// Not StdinPipe: its end would be closed by Wait while it is written to.
	stdin, input, err := os.Pipe()
	if err != nil {
		os.RemoveAll(x.tmp)
		return -1, fmt.Errorf("exec %q: %w", x.name(), err)
	}
	x.cmd.Stdin = stdin
	err = x.cmd.Start()
	stdin.Close()
	if err != nil {
		input.Close()
		os.RemoveAll(x.tmp)
		return -1, fmt.Errorf("exec %q: %w", x.name(), err)
	}
	defer input.Close() // also ends a write that nobody reads
	go receive(stream, input, func() { input.Close() }, nil)
	return x.wait(ctx)
}

func (x *execCommand) runTTY(ctx context.Context, stream drivers.ExecTaskStream, out *sender) (int, error) {
	master, slave, err := openPTY()
	if err != nil {
		os.RemoveAll(x.tmp)
		return -1, err
	}
	defer master.Close()
	// The runtime keeps a terminal of its own in the container; it copies between
	// the two and passes the size of this one on.
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = x.cmd.Start()
	slave.Close()
	if err != nil {
		os.RemoveAll(x.tmp)
		return -1, fmt.Errorf("exec %q: %w", x.name(), err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		// It ends with an error (EIO) when nobody has the other side open.
		_, _ = io.Copy(writerFunc(out.stdout), master)
	}()
	go receive(stream, master,
		func() { _, _ = master.Write([]byte{endOfTransmission}) },
		func(size *proto.ExecTaskStreamingRequest_TerminalSize) {
			_ = resizePTY(master, size.Height, size.Width) // fails when it has just ended
		})
	code, err := x.wait(ctx)
	// What was written last may still be on its way; what the command's leftover
	// children write is not waited for.
	_ = master.SetReadDeadline(time.Now().Add(execLinger))
	<-copied
	return code, err
}

// receive passes what a person types on until the stream ends, which it does
// when the call returns.
func receive(stream drivers.ExecTaskStream, input io.Writer, closeInput func(), resize func(*proto.ExecTaskStreamingRequest_TerminalSize)) {
	broken := false // the command reads no more; its output may go on
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) && resize == nil {
			closeInput()
		}
		if err != nil {
			return
		}
		switch {
		case msg.TtySize != nil && resize != nil:
			resize(msg.TtySize)
		case msg.Stdin != nil && !broken:
			if len(msg.Stdin.Data) > 0 {
				_, err := input.Write(msg.Stdin.Data)
				broken = err != nil
			}
			if msg.Stdin.Close {
				closeInput()
			}
		}
	}
}

// sender lets several goroutines send on one stream.
type sender struct {
	mu     sync.Mutex
	stream drivers.ExecTaskStream
}

func (s *sender) send(msg *drivers.ExecTaskStreamingResponseMsg) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(msg)
}

func (s *sender) stdout(p []byte) (int, error) {
	return len(p), s.send(&drivers.ExecTaskStreamingResponseMsg{Stdout: &proto.ExecTaskStreamingIOOperation{Data: p}})
}

func (s *sender) stderr(p []byte) (int, error) {
	return len(p), s.send(&drivers.ExecTaskStreamingResponseMsg{Stderr: &proto.ExecTaskStreamingIOOperation{Data: p}})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
