package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"

	"github.com/joulecloud/joule/driver/session"
	"github.com/joulecloud/joule/driver/spool"
	"github.com/joulecloud/joule/settlement/wire"
)

// A todo is a lease to close because its task never ran. It is on disk until a
// settlement server has answered.
type todo struct {
	TaskID string `json:"task_id"`
	// Lease is 0 where it isn't known whether a lease was opened: asking for it
	// again, which is idempotent, tells.
	Lease       wire.LeaseID `json:"lease,omitempty"`
	AllocID     string       `json:"alloc_id,omitempty"`
	Task        string       `json:"task,omitempty"`
	Invocation  string       `json:"invocation,omitempty"`
	NotBeforeMs int64        `json:"not_before_ms,omitempty"` // Unix
}

const (
	todoWait     = 10 * time.Second // for one answer
	todoPauseMin = 200 * time.Millisecond
	todoPauseMax = 30 * time.Second
)

// todos are the leases to close, by task.
type todos struct {
	spool    *spool.Spool
	sessions *session.Sessions
	now      func() time.Time
	log      *slog.Logger
	wake     chan struct{}

	mu      sync.Mutex
	pending map[string]todo
	doing   sync.Mutex // held while one is being done
}

func newTodos(sp *spool.Spool, now func() time.Time, log *slog.Logger) (*todos, error) {
	td := &todos{spool: sp, now: now, log: log, wake: make(chan struct{}, 1), pending: map[string]todo{}}
	stored, err := sp.Todos()
	if err != nil {
		return nil, err
	}
	for _, s := range stored {
		var t todo
		if err := json.Unmarshal(s.Value, &t); err != nil {
			log.Error("note of a lease to close can't be read", "key", s.Key, "error", err)
			continue
		}
		td.pending[s.Key] = t
	}
	return td, nil
}

// add notes a lease to close. It is kept in memory even if the disk is full.
func (td *todos) add(t todo) {
	b, err := json.Marshal(t)
	if err == nil {
		err = td.spool.PutTodo(spool.Todo{Key: t.TaskID, Value: b})
	}
	if err != nil {
		td.log.Error("note of a lease to close can't be stored", "task", t.TaskID, "lease", t.Lease, "error", err)
	}
	td.mu.Lock()
	td.pending[t.TaskID] = t
	td.mu.Unlock()
	select {
	case td.wake <- struct{}{}:
	default:
	}
}

// cancel drops the note of a task that is started again. One being done is
// waited for.
func (td *todos) cancel(taskID string) {
	td.mu.Lock()
	_, ok := td.pending[taskID]
	td.mu.Unlock()
	if !ok {
		return
	}
	td.doing.Lock()
	defer td.doing.Unlock()
	td.drop(taskID)
}

func (td *todos) drop(taskID string) {
	if err := td.spool.DeleteTodo(taskID); err != nil {
		td.log.Error("note of a closed lease can't be deleted", "task", taskID, "error", err)
	}
	td.mu.Lock()
	delete(td.pending, taskID)
	td.mu.Unlock()
}

// run works on the notes until ctx ends.
func (td *todos) run(ctx context.Context) {
	pause := todoPauseMin
	for {
		td.mu.Lock()
		next := time.Hour
		var due []todo
		for _, t := range td.pending {
			// A note that waits for longer than any does was made before the clock
			// was stepped back.
			if wait := time.UnixMilli(t.NotBeforeMs).Sub(td.now()); wait > 0 && wait <= orphanWait {
				next = min(next, wait)
				continue
			}
			due = append(due, t)
		}
		td.mu.Unlock()
		failed := false
		for _, t := range due {
			if !td.do(ctx, t.TaskID) {
				failed = true
				break // no server answers: the others can wait as well
			}
		}
		if failed {
			next = min(next, pause)
			pause = min(2*pause, todoPauseMax)
		} else {
			pause = todoPauseMin
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-td.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// do closes one lease. false: no server answered.
func (td *todos) do(ctx context.Context, taskID string) bool {
	td.doing.Lock()
	defer td.doing.Unlock()
	td.mu.Lock()
	t, ok := td.pending[taskID]
	td.mu.Unlock()
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, todoWait)
	defer cancel()
	err := td.close(ctx, t)
	var refused *session.RefusedError
	switch {
	case err == nil:
		td.log.Info("lease of a task that never ran closed", "task", t.TaskID, "lease", t.Lease)
	case errors.As(err, &refused) && refused.Reason != joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED: // as a clock that was stepped makes us
		// There is no such lease, or it is closed: either way nothing is open.
		td.log.Info("lease of a task that never ran needs no closing", "task", t.TaskID, "lease", t.Lease, "message", refused.Message)
	default:
		td.log.Warn("lease of a task that never ran not closed yet", "task", t.TaskID, "lease", t.Lease, "error", err)
		return false
	}
	td.drop(taskID)
	return true
}

func (td *todos) close(ctx context.Context, t todo) error {
	if t.Lease == 0 {
		grant, err := td.sessions.OpenLease(ctx, t.AllocID, t.Task, t.Invocation)
		if err != nil {
			return err
		}
		t.Lease = grant.Lease
	}
	return td.sessions.CloseLease(ctx, t.Lease)
}
