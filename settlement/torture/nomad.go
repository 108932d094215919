package torture

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/hashicorp/nomad/api"

	"github.com/joulecloud/joule/settlement/nomad"
)

const (
	nomadAddr = "127.0.0.1:4646" // in each server's namespace
	namespace = "torture"
	taskName  = "t"
)

// placements stands in for Nomad's API, whose agents cli/e2e runs: it answers
// for the allocations that the hosts say they have, as Nomad would.
type placements struct {
	srv *http.Server

	mu    sync.Mutex
	hosts map[string]string // by allocation
}

// servePlacements serves on listeners that it closes in the end.
func servePlacements(lns []net.Listener) *placements {
	p := &placements{hosts: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/allocation/{id}", p.allocation)
	mux.HandleFunc("GET /v1/node/{id}", p.node)
	p.srv = &http.Server{Handler: mux}
	for _, ln := range lns {
		go p.srv.Serve(ln)
	}
	return p
}

func (p *placements) close() { p.srv.Close() }

// place makes an allocation known and returns its id.
func (p *placements) place(host string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := fmt.Sprintf("00000000-0000-4000-8000-%012x", len(p.hosts))
	p.hosts[id] = host
	return id
}

func (p *placements) allocation(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	p.mu.Lock()
	host, ok := p.hosts[id]
	p.mu.Unlock()
	if !ok {
		http.Error(w, "alloc not found", http.StatusNotFound)
		return
	}
	group := "g"
	answer(w, &api.Allocation{
		ID: id, Namespace: namespace, JobID: "job", TaskGroup: group, NodeID: "node-" + host,
		DesiredStatus: api.AllocDesiredStatusRun, ClientStatus: api.AllocClientStatusPending,
		Job: &api.Job{TaskGroups: []*api.TaskGroup{{Name: &group, Tasks: []*api.Task{{Name: taskName, Driver: "joule"}}}}},
		AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
			taskName: {Memory: api.AllocatedMemoryResources{MemoryMB: memoryMiB}}}},
	})
}

func (p *placements) node(w http.ResponseWriter, r *http.Request) {
	host, ok := strings.CutPrefix(r.PathValue("id"), "node-")
	if !ok {
		http.Error(w, "node not found", http.StatusNotFound)
		return
	}
	answer(w, &api.Node{ID: r.PathValue("id"), Attributes: map[string]string{nomad.HostAttribute: host, "cpu.numcores": "2"}})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
