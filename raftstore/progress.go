package raftstore

import (
	"context"
	"sync"
)

// progress is an index that grows, and can be waited for.
type progress struct {
	mu    sync.Mutex
	index uint64
	moved chan struct{} // closed at the next move; nil: nobody waits
}

func (p *progress) load() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.index
}

// advance moves the index to i unless it is there already.
func (p *progress) advance(i uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i > p.index {
		p.move(i)
	}
}

// set moves the index to i, also backwards.
func (p *progress) set(i uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.move(i)
}

func (p *progress) move(i uint64) {
	p.index = i
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

// wait returns nil when the index has reached i, errStop when stop is closed
// first.
func (p *progress) wait(ctx context.Context, i uint64, stop <-chan struct{}, errStop func() error) error {
	for {
		p.mu.Lock()
		if p.index >= i {
			p.mu.Unlock()
			return nil
		}
		if p.moved == nil {
			p.moved = make(chan struct{})
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-stop:
			return errStop()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
