package hostapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Client speaks to a hostd on its unix socket. It is safe for concurrent use.
// A failed connection is returned as it is (a *net.OpError): whether to start
// hostd or to try again is the caller's choice.
type Client struct {
	http *http.Client
}

// NewClient returns a client of the hostd that listens on socket. It dials
// nothing yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Start opens a lease for the task and runs it.
func (c *Client) Start(ctx context.Context, req *StartRequest) (*TaskStatus, error) {
	var st TaskStatus
	return &st, c.do(ctx, http.MethodPost, "/v1/tasks", req, &st)
}

// Task returns the task's status.
func (c *Client) Task(ctx context.Context, id string) (*TaskStatus, error) {
	var st TaskStatus
	return &st, c.do(ctx, http.MethodGet, taskPath(id, ""), nil, &st)
}

// Tasks lists every task that hostd knows.
func (c *Client) Tasks(ctx context.Context) ([]TaskStatus, error) {
	var st []TaskStatus
	err := c.do(ctx, http.MethodGet, "/v1/tasks", nil, &st)
	return st, err
}

// Wait blocks until the task has exited.
func (c *Client) Wait(ctx context.Context, id string) (*TaskStatus, error) {
	var st TaskStatus
	return &st, c.do(ctx, http.MethodGet, taskPath(id, "/wait"), nil, &st)
}

// Stop signals the task, kills it after the timeout, and returns once it has
// exited.
func (c *Client) Stop(ctx context.Context, id string, req *StopRequest) (*TaskStatus, error) {
	var st TaskStatus
	return &st, c.do(ctx, http.MethodPost, taskPath(id, "/stop"), req, &st)
}

// Signal sends a signal to the task's first process.
func (c *Client) Signal(ctx context.Context, id string, req *SignalRequest) error {
	return c.do(ctx, http.MethodPost, taskPath(id, "/signal"), req, nil)
}

// Freeze makes the task stand by.
func (c *Client) Freeze(ctx context.Context, id string) (*TaskStatus, error) {
	var st TaskStatus
	return &st, c.do(ctx, http.MethodPost, taskPath(id, "/freeze"), nil, &st)
}

// Thaw lets a task that stands by run.
func (c *Client) Thaw(ctx context.Context, id string, req *ThawRequest) (*TaskStatus, error) {
	var st TaskStatus
	return &st, c.do(ctx, http.MethodPost, taskPath(id, "/thaw"), req, &st)
}

// Stats reads the task's meters.
func (c *Client) Stats(ctx context.Context, id string) (*Stats, error) {
	var st Stats
	return &st, c.do(ctx, http.MethodGet, taskPath(id, "/stats"), nil, &st)
}

// Destroy forgets an exited task; with force a running one is killed first.
func (c *Client) Destroy(ctx context.Context, id string, force bool) error {
	return c.do(ctx, http.MethodDelete, taskPath(id, fmt.Sprintf("?force=%t", force)), nil, nil)
}

// Host returns what hostd knows of itself.
func (c *Client) Host(ctx context.Context) (*HostInfo, error) {
	var info HostInfo
	return &info, c.do(ctx, http.MethodGet, "/v1/host", nil, &info)
}

func taskPath(id, rest string) string { return "/v1/tasks/" + url.PathEscape(id) + rest }

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://hostd"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		e := &Error{}
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(e); err != nil || e.Code == "" {
			return &Error{Code: ErrInternal, Message: fmt.Sprintf("hostd answered %s", resp.Status)}
		}
		return e
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("decode hostd's answer: %w", err)
	}
	return nil
}
