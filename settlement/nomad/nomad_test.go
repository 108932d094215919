package nomad

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"
)

// fakeNomad answers the two reads that a lookup makes, as Nomad v1.11.2 does.
func fakeNomad(t *testing.T, alloc *api.Allocation, node *api.Node) *Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/allocation/") && id == alloc.ID:
			json.NewEncoder(w).Encode(alloc)
		case strings.HasPrefix(r.URL.Path, "/v1/node/") && id == node.ID:
			json.NewEncoder(w).Encode(node)
		case id == "not-a-uuid":
			http.Error(w, `1 error occurred: UUID must be 36 characters`, http.StatusInternalServerError)
		case id == "broken":
			http.Error(w, `no cluster leader`, http.StatusInternalServerError)
		default:
			http.Error(w, "alloc not found", http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	c, err := NewClient(srv.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func p[T any](v T) *T { return &v }

func placed(config map[string]any) (*api.Allocation, *api.Node) {
	task := &api.Task{Name: "main", Driver: "joule", Config: config}
	return &api.Allocation{
		ID: "a1", Namespace: "acme", JobID: "job", TaskGroup: "group", NodeID: "n1",
		DesiredStatus: "run", ClientStatus: "pending",
		Job: &api.Job{TaskGroups: []*api.TaskGroup{
			{Name: p("other"), Tasks: []*api.Task{{Name: "main", Driver: "docker"}}},
			{Name: p("group"), Tasks: []*api.Task{task, {Name: "side", Driver: "exec"}}}}},
		AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{"main": {
			Memory:  api.AllocatedMemoryResources{MemoryMB: 512, MemoryMaxMB: 1024},
			Devices: []*api.AllocatedDeviceResource{{Type: "gpu", DeviceIDs: []string{"x", "y"}}, {Type: "fpga", DeviceIDs: []string{"z"}}}}}},
	}, &api.Node{ID: "n1", Attributes: map[string]string{HostAttribute: "h1", "cpu.numcores": "8"}}
}

func TestTask(t *testing.T) {
	alloc, node := placed(map[string]any{
		"command":   "/bin/true",
		"max_price": []any{map[string]any{"gpu": "2.50", "cpu": "0.04"}},
		"budget":    "25.00",
	})
	got, err := fakeNomad(t, alloc, node).Task(t.Context(), "a1", "main")
	if err != nil {
		t.Fatal(err)
	}
	want := &Task{Namespace: "acme", Job: "job", Group: "group", Name: "main", NodeID: "n1", Host: "h1",
		MilliCores: 8000, MemoryMiB: 512, GPUs: 2, MaxGPU: 2_500_000_000, MaxCPU: 40_000_000, BudgetNUSD: 25_000_000_000}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A job that names its GPUs itself pays for them.
func TestNamedDevices(t *testing.T) {
	alloc, node := placed(map[string]any{"devices": []any{"GPU-a", "GPU-b", "MIG-c"}})
	alloc.AllocatedResources.Tasks["main"].Devices = nil
	got, err := fakeNomad(t, alloc, node).Task(t.Context(), "a1", "main")
	if err != nil || got.GPUs != 3 {
		t.Errorf("got %+v, %v, want 3 GPUs", got, err)
	}
}

func TestTaskRefusals(t *testing.T) {
	for _, tc := range []struct {
		name        string
		alloc, task string
		config      map[string]any
		change      func(*api.Allocation, *api.Node)
		want        error
		words       string
	}{
		{name: "an unknown allocation", alloc: "a9", task: "main", want: ErrNoAllocation, words: "a9"},
		{name: "an id that is no UUID", alloc: "not-a-uuid", task: "main", want: ErrNoAllocation, words: "not-a-uuid"},
		{name: "a Nomad without a leader", alloc: "broken", task: "main", want: ErrUnreachable, words: "leader"},
		{name: "an unknown task", alloc: "a1", task: "nope", want: ErrNoAllocation, words: `"nope"`},
		{name: "a task of another driver", alloc: "a1", task: "side", want: ErrNoAllocation, words: `"side"`},
		{name: "an allocation that is to stop", alloc: "a1", task: "main", want: ErrNotWanted, words: "stop",
			change: func(a *api.Allocation, _ *api.Node) { a.DesiredStatus = "stop" }},
		{name: "an allocation that has failed", alloc: "a1", task: "main", want: ErrNotWanted, words: "failed",
			change: func(a *api.Allocation, _ *api.Node) { a.ClientStatus = "failed" }},
		{name: "a node without cores", alloc: "a1", task: "main", want: ErrUnreachable, words: "cpu.numcores",
			change: func(_ *api.Allocation, n *api.Node) { delete(n.Attributes, "cpu.numcores") }},
		{name: "a price that is no amount", alloc: "a1", task: "main", want: ErrBadTerms, words: "max_price.cpu",
			config: map[string]any{"max_price": map[string]any{"cpu": "cheap"}}},
		{name: "a price of an unknown dimension", alloc: "a1", task: "main", want: ErrBadTerms, words: "max_price.disk",
			config: map[string]any{"max_price": map[string]any{"disk": "1"}}},
		{name: "a negative budget", alloc: "a1", task: "main", want: ErrBadTerms, words: "budget",
			config: map[string]any{"budget": "-1"}},
		{name: "GPUs named beside Nomad's", alloc: "a1", task: "main", want: ErrBadTerms, words: "devices: ",
			config: map[string]any{"devices": []any{"GPU-a"}}},
		{name: "GPUs that are no list", alloc: "a1", task: "main", want: ErrBadTerms, words: "GPU-a",
			config: map[string]any{"devices": "GPU-a"}},
		{name: "two price blocks", alloc: "a1", task: "main", want: ErrBadTerms, words: "max_price",
			config: map[string]any{"max_price": []any{map[string]any{}, map[string]any{}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			alloc, node := placed(tc.config)
			if tc.change != nil {
				tc.change(alloc, node)
			}
			_, err := fakeNomad(t, alloc, node).Task(t.Context(), tc.alloc, tc.task)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("got %v, want %v with %q", err, tc.want, tc.words)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	c, err := NewClient("http://127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Task(t.Context(), "a1", "main"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want %v", err, ErrUnreachable)
	}
}

// An allocation is lost when Nomad says so of it, or of its node while it ran;
// never when its client has said how it ended.
func TestLost(t *testing.T) {
	for _, tc := range []struct {
		alloc, node string
		want        bool
	}{
		{"running", "ready", false}, {"running", "down", true}, {"running", "disconnected", true}, {"pending", "down", true},
		{"lost", "ready", true}, {"unknown", "ready", true}, {"complete", "down", false}, {"failed", "down", false},
	} {
		alloc, node := placed(nil)
		alloc.ClientStatus, node.Status = tc.alloc, tc.node
		if got, err := fakeNomad(t, alloc, node).Lost(t.Context(), "a1"); err != nil || got != tc.want {
			t.Errorf("allocation %s on a node that is %s: got %v, %v, want %v", tc.alloc, tc.node, got, err, tc.want)
		}
	}
	alloc, node := placed(nil)
	c := fakeNomad(t, alloc, node)
	for id, want := range map[string]error{"nothing": ErrNoAllocation, "broken": ErrUnreachable} {
		if got, err := c.Lost(t.Context(), id); got || !errors.Is(err, want) {
			t.Errorf("allocation %s: got %v, %v, want %v", id, got, err, want)
		}
	}
}
