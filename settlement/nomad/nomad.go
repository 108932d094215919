// Package nomad is settlement's bridge to the Nomad cluster: it tells which
// allocation a host asks a lease for, on which host Nomad placed it, and what
// the customer's job allows. Hosts are never believed on any of this.
//
// It knows nothing of ledger rules.
package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/joulecloud/joule/settlement/money"
)

// HostAttribute is the node attribute in which the driver publishes the name
// of the host it runs on.
const HostAttribute = "driver.joule.host"

// The reasons why a task may not have a lease.
var (
	// ErrNoAllocation is returned when Nomad knows no such allocation, or the
	// allocation has no such task.
	ErrNoAllocation = errors.New("no such allocation")
	// ErrNotWanted is returned when Nomad does not want the allocation to run.
	ErrNotWanted = errors.New("allocation is not meant to run")
	// ErrBadTerms is returned when the job's max_price or budget does not parse.
	ErrBadTerms = errors.New("job terms")
	// ErrUnreachable is returned when Nomad did not answer; the same question
	// may be answered later.
	ErrUnreachable = errors.New("nomad is unreachable")
)

// Task is one task of an allocation, as Nomad has it.
type Task struct {
	Namespace string
	Job       string
	Group     string
	Name      string
	NodeID    string
	Host      string // the node's HostAttribute; "" when it publishes none
	// What Nomad granted.
	MilliCores uint32 // every core of the node: Nomad's cpu shares are a weight, not a limit
	MemoryMiB  uint32
	GPUs       uint32
	// What the customer's job allows, in nUSD per hour; 0 is no limit.
	MaxBase, MaxCPU, MaxGPU, MaxMemory int64
	BudgetNUSD                         int64
}

// Client asks a Nomad API. It is safe for concurrent use.
type Client struct {
	api     *api.Client
	timeout time.Duration
}

// NewClient returns a client of the Nomad API at address ("http://host:4646"),
// with the ACL token read from tokenFile unless that is "". It dials nothing.
func NewClient(address, token string) (*Client, error) {
	cfg := api.DefaultConfig()
	cfg.Address = address
	if token != "" {
		cfg.SecretID = token
	}
	c, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("nomad address %q: %w", address, err)
	}
	return &Client{api: c, timeout: 5 * time.Second}, nil
}

// Task looks one task of an allocation up. Its errors wrap one of the
// sentinels above and name the allocation.
func (c *Client) Task(ctx context.Context, allocID, task string) (*Task, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	opts := (&api.QueryOptions{Namespace: api.AllNamespacesNamespace}).WithContext(ctx)
	alloc, _, err := c.api.Allocations().Info(allocID, opts)
	if err != nil {
		return nil, lookupError(err, "allocation", allocID)
	}
	if alloc.DesiredStatus != api.AllocDesiredStatusRun {
		return nil, fmt.Errorf("%w: allocation %s is to %s", ErrNotWanted, allocID, alloc.DesiredStatus)
	}
	if alloc.ServerTerminalStatus() || alloc.ClientTerminalStatus() {
		return nil, fmt.Errorf("%w: allocation %s is %s", ErrNotWanted, allocID, alloc.ClientStatus)
	}
	node, _, err := c.api.Nodes().Info(alloc.NodeID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, lookupError(err, "node", alloc.NodeID)
	}
	return describe(alloc, node, task)
}

// Lost reports whether Nomad has given up the node that an allocation is on,
// with the allocation running: it has heard neither for longer than it waits.
// Its errors are those of Task.
func (c *Client) Lost(ctx context.Context, allocID string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	alloc, _, err := c.api.Allocations().Info(allocID, (&api.QueryOptions{Namespace: api.AllNamespacesNamespace}).WithContext(ctx))
	if err != nil {
		return false, lookupError(err, "allocation", allocID)
	}
	switch alloc.ClientStatus {
	case api.AllocClientStatusLost, api.AllocClientStatusUnknown:
		return true, nil
	case api.AllocClientStatusRunning, api.AllocClientStatusPending:
	default:
		return false, nil // its client has said how it ended
	}
	node, _, err := c.api.Nodes().Info(alloc.NodeID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return false, lookupError(err, "node", alloc.NodeID)
	}
	return node.Status == api.NodeStatusDown || node.Status == api.NodeStatusDisconnected, nil
}

// describe is the pure part of Task.
func describe(alloc *api.Allocation, node *api.Node, task string) (*Task, error) {
	spec := findTask(alloc, task)
	if spec == nil {
		return nil, fmt.Errorf("%w: allocation %s has no task %q", ErrNoAllocation, alloc.ID, task)
	}
	t := &Task{
		Namespace: alloc.Namespace,
		Job:       alloc.JobID,
		Group:     alloc.TaskGroup,
		Name:      task,
		NodeID:    alloc.NodeID,
		Host:      node.Attributes[HostAttribute],
	}
	cores, err := strconv.ParseUint(node.Attributes["cpu.numcores"], 10, 16)
	if err != nil || cores == 0 {
		return nil, fmt.Errorf("%w: node %s: attribute cpu.numcores is %q", ErrUnreachable, node.ID, node.Attributes["cpu.numcores"])
	}
	t.MilliCores = uint32(cores * 1000)
	if alloc.AllocatedResources == nil || alloc.AllocatedResources.Tasks[task] == nil {
		return nil, fmt.Errorf("%w: allocation %s has no resources for task %q", ErrNoAllocation, alloc.ID, task)
	}
	granted := alloc.AllocatedResources.Tasks[task]
	t.MemoryMiB = uint32(granted.Memory.MemoryMB)
	for _, d := range granted.Devices {
		if d.Type == "gpu" {
			t.GPUs += uint32(len(d.DeviceIDs))
		}
	}
	if err := t.readDevices(spec.Config); err != nil {
		return nil, fmt.Errorf("%w: job %q task %q: %w", ErrBadTerms, alloc.JobID, task, err)
	}
	if err := t.readTerms(spec.Config); err != nil {
		return nil, fmt.Errorf("%w: job %q task %q: %w", ErrBadTerms, alloc.JobID, task, err)
	}
	return t, nil
}

// readDevices counts the GPUs that the job names itself, past Nomad's device
// plugin.
func (t *Task) readDevices(config map[string]any) error {
	v, ok := config["devices"]
	if !ok || v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		return fmt.Errorf("devices: want a list of UUIDs, got %v", v)
	}
	if t.GPUs > 0 && len(list) > 0 {
		return fmt.Errorf("devices: the task's resources have a device block already: use one of the two (got %v)", v)
	}
	t.GPUs += uint32(len(list))
	return nil
}

func findTask(alloc *api.Allocation, task string) *api.Task {
	if alloc.Job == nil {
		return nil
	}
	for _, g := range alloc.Job.TaskGroups {
		if g.Name == nil || *g.Name != alloc.TaskGroup {
			continue
		}
		for _, t := range g.Tasks {
			if t.Name == task && t.Driver == "joule" {
				return t
			}
		}
	}
	return nil
}

// readTerms reads max_price and budget from the task's config block as Nomad
// keeps it.
func (t *Task) readTerms(config map[string]any) error {
	prices := map[string]*int64{"base": &t.MaxBase, "cpu": &t.MaxCPU, "gpu": &t.MaxGPU, "memory": &t.MaxMemory}
	block, err := singleBlock(config["max_price"])
	if err != nil {
		return fmt.Errorf("max_price: %w", err)
	}
	for name, value := range block {
		into, ok := prices[name]
		if !ok {
			return fmt.Errorf("max_price.%s: unknown dimension", name)
		}
		if *into, err = parseUSD("max_price."+name, value); err != nil {
			return err
		}
	}
	if v, ok := config["budget"]; ok && v != nil {
		if t.BudgetNUSD, err = parseUSD("budget", v); err != nil {
			return err
		}
	}
	return nil
}

func parseUSD(field string, v any) (int64, error) {
	s, ok := v.(string)
	if !ok {
		return 0, fmt.Errorf("%s: want an amount in quotes, got %v", field, v)
	}
	return money.Parse(money.USD, field, s)
}

// singleBlock reads an HCL block as Nomad stores it: a map, or a list of maps.
func singleBlock(v any) (map[string]any, error) {
	switch b := v.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return b, nil
	case []map[string]any:
		if len(b) == 1 {
			return b[0], nil
		}
	case []any:
		if len(b) == 1 {
			return singleBlock(b[0])
		}
	}
	return nil, fmt.Errorf("want one block, got %v", v)
}

// lookupError tells "there is none" from "could not ask".
func lookupError(err error, kind, id string) error {
	var ur api.UnexpectedResponseError
	if errors.As(err, &ur) && ur.HasStatusCode() {
		switch code := ur.StatusCode(); {
		case code == http.StatusNotFound,
			code == http.StatusBadRequest, // not a UUID
			// An id that is no UUID is answered with 500 and this text.
			code == http.StatusInternalServerError && strings.Contains(ur.Body(), "UUID"):
			return fmt.Errorf("%w: %s %q", ErrNoAllocation, kind, id)
		}
	}
	return fmt.Errorf("%w: look up %s %q: %v", ErrUnreachable, kind, id, err)
}
