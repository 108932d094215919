// Package faultfs is a disk in memory that can be broken in every way a real
// one breaks: power that goes at any operation and takes unsynced writes with
// it, sector by sector; a write or an fsync that fails; a full disk; flipped
// bits. Tests run the log, the journal and whole clusters on it.
//
// What survives a loss of power is what POSIX promises and no more: a file's
// bytes up to its last fsync, a name up to the last fsync of its directory
// (or, unless StrictNames, of the file, as ext4 and xfs do it). Of everything
// later any part may survive, each sector for itself.
package faultfs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// ErrPower is what every operation returns once the power is gone.
var ErrPower = errors.New("the power is gone")

// ErrIO is a failed operation of the device.
var ErrIO = fmt.Errorf("injected: %w", syscall.EIO)

// ErrFull is returned by writes beyond Capacity.
var ErrFull = fmt.Errorf("injected: %w", syscall.ENOSPC)

// Op is one operation that changes the disk.
type Op struct {
	N    int    // counted from 1
	Kind string // create, write, sync, syncdir, truncate, remove
	Path string
}

// Disk is one machine's disk while its power is on. It is safe for concurrent
// use.
type Disk struct {
	// Fault is asked before each operation that changes the disk; an error
	// makes it fail, a write after half of its bytes. Set before use.
	Fault func(Op) error
	// StrictNames: a new file's name survives only by SyncDir.
	StrictNames bool
	// Capacity in bytes; 0: no limit. Set before use.
	Capacity int64

	mu    sync.Mutex
	names map[string]*inode // as the running system sees them
	disk  map[string]*inode // as they survive
	ops   int
	off   bool
	used  int64
}

type inode struct {
	data    []byte
	synced  []byte
	pending []write // since the last sync, in order
	linked  int     // names that are its
}

// write is a change of a file: bytes at an offset, or a new length.
type write struct {
	off  int64
	b    []byte
	size int64 // -1: no truncation
}

// New returns an empty disk.
func New() *Disk { return &Disk{names: map[string]*inode{}, disk: map[string]*inode{}} }

// SetFault sets Fault while the disk is in use.
func (d *Disk) SetFault(fault func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Fault = fault
}

// Ops is the number of operations so far.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// PowerOff ends all use of the disk.
func (d *Disk) PowerOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// Kept says how much of what was not synced survives a loss of power.
type Kept int

// What survives: nothing, any part, all of it (as when only the process died).
const (
	KeptNothing Kept = iota
	KeptSome
	KeptAll
)

// Restart takes the power away, if it isn't gone, and returns the disk as the
// machine finds it afterwards.
func (d *Disk) Restart(r *rand.Rand, kept Kept) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	next := New()
	next.StrictNames, next.Capacity = d.StrictNames, d.Capacity
	survives := func() bool { return kept == KeptAll || kept == KeptSome && r.IntN(2) == 0 }
	names := map[string]*inode{}
	for _, path := range sortedKeys(d.disk) {
		if d.names[path] == d.disk[path] || !survives() { // a removal or replacement may not have got there
			names[path] = d.disk[path]
		}
	}
	for _, path := range sortedKeys(d.names) {
		if d.disk[path] != d.names[path] && survives() {
			names[path] = d.names[path]
		}
	}
	copies := map[*inode]*inode{}
	for _, path := range sortedKeys(names) {
		old := names[path]
		if copies[old] == nil {
			b := old.apply(slices.Clone(old.synced), survives)
			copies[old] = &inode{data: b, synced: slices.Clone(b)}
			next.used += int64(len(b))
		}
		copies[old].linked++
		next.names[path], next.disk[path] = copies[old], copies[old]
	}
	return next
}

func always() bool { return true }

// apply makes those of the pending changes that survive in b.
func (n *inode) apply(b []byte, survives func() bool) []byte {
	for _, w := range n.pending {
		if w.size >= 0 {
			if survives() {
				b = resize(b, w.size)
			}
			continue
		}
		for at := w.off; at < w.off+int64(len(w.b)); {
			end := min((at/sector+1)*sector, w.off+int64(len(w.b)))
			if survives() {
				if int64(len(b)) < end {
					b = resize(b, end)
				}
				copy(b[at:end], w.b[at-w.off:end-w.off])
			}
			at = end
		}
	}
	return b
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// Paths lists the files below a directory.
func (d *Disk) Paths(dir string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, path := range sortedKeys(d.names) {
		if strings.HasPrefix(path, dir+"/") {
			out = append(out, path)
		}
	}
	return out
}

// Content returns a file's bytes; nil if there is none.
func (d *Disk) Content(path string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.names[path]; n != nil {
		return append([]byte{}, n.data...)
	}
	return nil
}

// SetContent writes a file as if it had always been there.
func (d *Disk) SetContent(path string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &inode{data: slices.Clone(b), synced: slices.Clone(b), linked: 1}
	d.names[path], d.disk[path] = n, n
}

// Flip flips one bit of a file, on the disk and in what is read from now on.
func (d *Disk) Flip(path string, bit int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[path]
	if n == nil {
		return
	}
	for _, b := range [][]byte{n.data, n.synced} {
		if bit/8 < int64(len(b)) {
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// Dump writes the files below dir to a real directory.
func (d *Disk) Dump(dir, to string) error {
	for _, path := range d.Paths(dir) {
		target := filepath.Join(to, strings.TrimPrefix(path, dir+"/"))
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(target, d.Content(path), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// begin counts an operation and asks for its fault; mu is held.
func (d *Disk) begin(kind, path string) error {
	if d.off {
		return ErrPower
	}
	d.ops++
	if d.Fault != nil {
		if err := d.Fault(Op{d.ops, kind, path}); err != nil {
			if errors.Is(err, ErrPower) {
				d.off = true
			}
			return err
		}
	}
	return nil
}

func (d *Disk) find(path string) (*inode, error) {
	if d.off {
		return nil, ErrPower
	}
	n := d.names[path]
	if n == nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
	}
	return n, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
