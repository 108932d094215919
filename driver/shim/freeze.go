package shim

import (
	"context"
	"time"
)

// Freeze stops the running task where it is and returns the moment, on
// CLOCK_MONOTONIC, from which it stood still. When ctx ends first the task runs.
func (p *Proc) Freeze(ctx context.Context) (monoNs int64, err error) {
	if _, err := p.first(); err != nil {
		return 0, err
	}
	if err := p.group.Freeze(ctx); err != nil {
		return 0, err
	}
	return monoNow(), nil
}

// Thaw lets the task go on and returns the moment, on CLOCK_MONOTONIC, before
// which it stood still.
func (p *Proc) Thaw() (monoNs int64, err error) {
	if _, err := p.first(); err != nil {
		return 0, err
	}
	at := monoNow()
	return at, p.group.Thaw()
}

// Frozen says whether the task is frozen.
func (p *Proc) Frozen() (bool, error) { return p.group.Frozen() }

// FrozenFor is how long the task has been frozen in all, by the kernel's own
// account; nil: it keeps none.
func (p *Proc) FrozenFor() *time.Duration { return p.group.FrozenFor() }
