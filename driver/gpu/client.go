package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Config says how to run the probe.
type Config struct {
	Probe   string // absolute path of joule-gpu-probe
	Library string // NVIDIA's management library; "": the system's
	// Hang is how long an answer may take before the probe counts as hanging and
	// is killed.
	Hang       time.Duration
	BackoffMin time.Duration // first pause before the probe is started again
	BackoffMax time.Duration // longest pause
}

// Default returns a Config with every time set.
func Default() Config {
	return Config{Hang: 5 * time.Second, BackoffMin: 200 * time.Millisecond, BackoffMax: 30 * time.Second}
}

// ErrDown is returned while there is no probe to ask; the error says why.
var ErrDown = errors.New("the GPU probe is down")

// Client asks the probe. It is safe for concurrent use. Its methods wait for
// the answer or ctx, and fail at once while the probe is down.
type Client struct {
	cfg Config
	log *slog.Logger

	mu    sync.Mutex
	probe *probe // nil: down
	why   error  // why it is down
}

// NewClient returns a client whose probe Run starts.
func NewClient(cfg Config, log *slog.Logger) *Client {
	return &Client{cfg: cfg, log: log, why: errors.New("it has not been started yet")}
}

// Run keeps a probe running until ctx ends, and ends it then.
func (c *Client) Run(ctx context.Context) {
	pause := c.cfg.BackoffMin
	for ctx.Err() == nil {
		answered, err := c.runOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		if answered {
			pause = c.cfg.BackoffMin
		}
		c.log.Warn("GPU probe ended, will start it again", "error", err, "pause", pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, c.cfg.BackoffMax)
	}
	c.set(nil, errors.New("hostd is stopping"))
}

// runOnce runs one probe to its end, for the reason that it returns. answered:
// it was good for something. Another one is started only once it is gone: one
// that hangs in the kernel outlives its kill, and two would hang.
func (c *Client) runOnce(ctx context.Context) (answered bool, err error) {
	p, err := startProbe(c.cfg)
	if err != nil {
		c.set(nil, err)
		return false, err
	}
	c.set(p, nil)
	stop := context.AfterFunc(ctx, func() { p.fail(context.Cause(ctx)) })
	defer stop()
	p.readAnswers()
	// What the process says of its end is better than that the socket closed.
	c.set(nil, p.cause())
	if exit := p.wait(ctx); exit != nil && !p.killed() {
		err = exit
		c.set(nil, err)
	} else {
		err = p.cause()
	}
	return p.answered.Load(), err
}

func (c *Client) set(p *probe, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probe, c.why = p, why
}

// Err says why there is no probe to ask; nil: there is one.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probe != nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrDown, c.why)
}

// Inventory lists the GPUs and MIG devices.
func (c *Client) Inventory(ctx context.Context) (*Inventory, error) {
	resp, err := c.ask(ctx, Request{Inventory: true})
	if err == nil && resp.Inventory == nil {
		err = errors.New("the GPU probe answered without an inventory")
	}
	if err != nil {
		return nil, err
	}
	return resp.Inventory, nil
}

// Read reads the devices' counters. One device's failure is in its reading.
func (c *Client) Read(ctx context.Context, queries []Query) ([]Reading, error) {
	resp, err := c.ask(ctx, Request{Read: queries})
	if err == nil && len(resp.Read) != len(queries) {
		err = fmt.Errorf("the GPU probe answered %d readings to %d queries", len(resp.Read), len(queries))
	}
	if err != nil {
		return nil, err
	}
	return resp.Read, nil
}

// Accounting asks for the accounts of the processes that used a device.
func (c *Client) Accounting(ctx context.Context, req AccountingRequest) (*Accounting, error) {
	resp, err := c.ask(ctx, Request{Accounting: &req})
	if err == nil && resp.Accounting == nil {
		err = errors.New("the GPU probe answered without accounts")
	}
	if err != nil {
		return nil, err
	}
	return resp.Accounting, nil
}

func (c *Client) ask(ctx context.Context, req Request) (*Response, error) {
	c.mu.Lock()
	p := c.probe
	c.mu.Unlock()
	if p == nil {
		return nil, c.Err()
	}
	answer, err := p.send(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDown, err)
	}
	select {
	case resp := <-answer:
		if resp.Error != "" {
			return nil, errors.New(resp.Error)
		}
		return resp, nil
	case <-p.ended:
		return nil, fmt.Errorf("%w: %w", ErrDown, p.cause())
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the GPU probe's answer: %w", context.Cause(ctx))
	}
}

// send sends a request. The answer comes on the channel, unless the probe ends.
func (p *probe) send(req Request) (<-chan *Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	p.last++
	req.ID = p.last
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	q := &question{answer: make(chan *Response, 1)}
	// It runs on when the caller gives up: nobody else would notice a hang.
	q.hang = time.AfterFunc(p.hang, func() {
		p.fail(fmt.Errorf("it did not answer within %v, so it was killed: NVIDIA's driver may hang", p.hang))
	})
	p.questions[req.ID] = q
	// A probe that reads no more must not keep us.
	_ = p.conn.SetWriteDeadline(time.Now().Add(p.hang)) // a socket has deadlines
	if _, err := p.conn.Write(append(b, '\n')); err != nil {
		return nil, p.failLocked(fmt.Errorf("ask it: %w", err))
	}
	return q.answer, nil
}

// readAnswers hands out answers until the socket ends.
func (p *probe) readAnswers() {
	sc := bufio.NewScanner(p.conn)
	sc.Buffer(nil, answerBytesMax)
	for sc.Scan() {
		resp := &Response{}
		if err := json.Unmarshal(sc.Bytes(), resp); err != nil {
			p.fail(fmt.Errorf("it answered what can't be understood: %w", err))
			return
		}
		p.answered.Store(true)
		p.mu.Lock()
		q := p.questions[resp.ID]
		delete(p.questions, resp.ID)
		p.mu.Unlock()
		if q != nil {
			q.hang.Stop()
			q.answer <- resp
		}
	}
	err := sc.Err()
	if err == nil || errors.Is(err, net.ErrClosed) {
		err = errors.New("it closed its socket")
	}
	p.end(err)
}
