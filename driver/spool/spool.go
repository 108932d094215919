package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/joulecloud/joule/settlement/wire"
)

var (
	// ErrFull is returned when the disk has no room for a record. Nothing was
	// written and nothing was lost; the caller may try again.
	ErrFull = errors.New("the disk that holds the spool is full")

	// ErrLocked is returned by Open when another process has the spool open.
	ErrLocked = errors.New("the spool is open in another process")

	// ErrCorrupt is returned when the file turned out to be damaged while in
	// use. The spool refuses all further writes; opening it again sets the file
	// aside.
	ErrCorrupt = errors.New("the spool file is damaged")
)

// lockWait bounds how long Open waits for another process to let the file go.
const lockWait = 500 * time.Millisecond

var (
	bucketRecords = []byte("records") // lease, seq → record
	bucketChains  = []byte("chains")  // lease → chain
	bucketTodos   = []byte("todos")   // caller's key → caller's value
)

// Spool is the records not yet acknowledged and the leases' chains. It is safe
// for concurrent use.
type Spool struct {
	path     string
	db       *bolt.DB
	setAside string

	queueMu sync.Mutex
	queue   []*op

	writeMu sync.Mutex // held by the one goroutine that writes the queue
	broken  error      // guarded by writeMu: set once the file proved damaged

	count atomic.Int64
}

// An op is one caller's part of a transaction that several may share.
type op struct {
	apply func(*bolt.Tx) error
	after func() // runs once the transaction is durable
	done  bool   // guarded by writeMu
	err   error
}

// Chain is where a lease's records continue.
type Chain struct {
	Seq   uint64    // of the last record; 0: none yet
	Hash  wire.Hash // of the last record; zero: none yet, or unknown
	State []byte    // the caller's, as last stored
}

// Update is one lease's part of a Put.
type Update struct {
	Lease wire.LeaseID
	// Record is spooled, unless it is nil. Put sets its Seq, Prev and Hash.
	Record *wire.Record
	// State replaces the lease's stored state; nil leaves it.
	State []byte
	// Base is the sequence that counts as the lease's last one if the spool
	// knows no chain of it.
	Base uint64
}

// Acked names a record whose outcome is final.
type Acked struct {
	Lease wire.LeaseID
	Seq   uint64
}

// Todo is a durable note of the caller's.
type Todo struct {
	Key   string
	Value []byte
}

// Open opens the spool at path and creates it where there is none. A damaged
// file is renamed and reported to log; SetAside then names it. The caller must
// Close the spool.
func Open(path string, log *slog.Logger) (*Spool, error) {
	s := &Spool{path: path}
	db, n, err := openChecked(path)
	var damage *damageError
	switch {
	case errors.As(err, &damage):
		if err := s.replaceDamaged(damage, log); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		s.db = db
		s.count.Store(int64(n))
	}
	return s, nil
}

// SetAside is the name that Open gave to a damaged file, or "" if the file was
// sound.
func (s *Spool) SetAside() string { return s.setAside }

// Close closes the file after the writes under way.
func (s *Spool) Close() error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close spool %q: %w", s.path, err)
	}
	return nil
}

// Put makes the updates durable, all or none, with one fsync for all callers
// that wait at the same moment. On success each record has its Seq, Prev and
// Hash; on failure the records are untouched. The error is ErrFull if the disk
// has no room.
func (s *Spool) Put(updates ...Update) error {
	filled := make([]wire.Record, len(updates))
	records := 0
	err := s.write(func(tx *bolt.Tx) error {
		records = 0
		for i := range updates {
			u := &updates[i]
			chain, ok, err := readChain(tx, u.Lease)
			if err != nil {
				return err
			}
			if !ok {
				chain.Seq = u.Base
			}
			if u.State != nil {
				chain.State = u.State
			}
			if u.Record != nil {
				r := *u.Record
				r.Lease, r.Seq, r.Prev = u.Lease, chain.Seq+1, chain.Hash
				b := wire.AppendRecord(make([]byte, 0, wire.RecordSize+crcSize), &r)
				r.Hash = wire.HashRecord(b)
				chain.Seq, chain.Hash = r.Seq, r.Hash
				filled[i] = r
				records++
				if err := tx.Bucket(bucketRecords).Put(recordKey(r.Lease, r.Seq), appendCRC(b)); err != nil {
					return err
				}
			}
			if err := tx.Bucket(bucketChains).Put(leaseKey(u.Lease), encodeChain(chain)); err != nil {
				return err
			}
		}
		return nil
	}, func() { s.count.Add(int64(records)) })
	if err != nil {
		return fmt.Errorf("spool usage records: %w", err)
	}
	for i := range updates {
		if updates[i].Record != nil {
			*updates[i].Record = filled[i]
		}
	}
	return nil
}

// Pending returns up to limit records that are not acknowledged, each lease's
// in the order of their sequence.
func (s *Spool) Pending(limit int) ([]wire.Record, error) {
	var out []wire.Record
	err := s.read(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketRecords).Cursor()
		for k, v := c.First(); k != nil && len(out) < limit; k, v = c.Next() {
			r, err := decodeRecord(k, v)
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read spooled records: %w", err)
	}
	return out, nil
}

// Ack deletes each named record and the lease's earlier ones, whose totals it
// includes.
func (s *Spool) Ack(acked ...Acked) error {
	deleted := 0
	err := s.write(func(tx *bolt.Tx) error {
		deleted = 0
		b := tx.Bucket(bucketRecords)
		for _, a := range acked {
			// Deleting under a bbolt cursor can skip keys, so collect first.
			var keys [][]byte
			c := b.Cursor()
			last := recordKey(a.Lease, a.Seq)
			for k, _ := c.Seek(recordKey(a.Lease, 0)); k != nil && string(k) <= string(last); k, _ = c.Next() {
				keys = append(keys, bytes.Clone(k))
			}
			for _, k := range keys {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			deleted += len(keys)
		}
		return nil
	}, func() { s.count.Add(-int64(deleted)) })
	if err != nil {
		return fmt.Errorf("delete acknowledged records: %w", err)
	}
	return nil
}

// Count is the number of records not acknowledged. It doesn't block.
func (s *Spool) Count() int { return int(s.count.Load()) }

// Chain returns where the lease's records continue; false if the spool knows
// no chain of that lease.
func (s *Spool) Chain(lease wire.LeaseID) (Chain, bool, error) {
	var chain Chain
	var ok bool
	err := s.read(func(tx *bolt.Tx) (err error) {
		chain, ok, err = readChain(tx, lease)
		return err
	})
	if err != nil {
		return Chain{}, false, fmt.Errorf("read chain of lease %d: %w", lease, err)
	}
	return chain, ok, nil
}

// Forget deletes the lease's chain. Its records stay until acknowledged.
func (s *Spool) Forget(lease wire.LeaseID) error {
	err := s.write(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketChains).Delete(leaseKey(lease))
	}, nil)
	if err != nil {
		return fmt.Errorf("forget lease %d: %w", lease, err)
	}
	return nil
}

// PutTodo makes a note durable, in place of an earlier one with the same key.
func (s *Spool) PutTodo(t Todo) error {
	err := s.write(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketTodos).Put([]byte(t.Key), appendCRC(bytes.Clone(t.Value)))
	}, nil)
	if err != nil {
		return fmt.Errorf("store note %q: %w", t.Key, err)
	}
	return nil
}

// Todos returns the notes in the order of their keys.
func (s *Spool) Todos() ([]Todo, error) {
	var out []Todo
	err := s.read(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketTodos).ForEach(func(k, v []byte) error {
			body, err := checkCRC(v)
			if err != nil {
				return fmt.Errorf("note %q: %w", k, err)
			}
			out = append(out, Todo{Key: string(k), Value: bytes.Clone(body)})
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read notes: %w", err)
	}
	return out, nil
}

// DeleteTodo deletes the note, if it is there.
func (s *Spool) DeleteTodo(key string) error {
	err := s.write(func(tx *bolt.Tx) error { return tx.Bucket(bucketTodos).Delete([]byte(key)) }, nil)
	if err != nil {
		return fmt.Errorf("delete note %q: %w", key, err)
	}
	return nil
}

// write applies one operation, in one transaction with those of every caller
// that is waiting: whoever gets the lock first writes for all.
func (s *Spool) write(apply func(*bolt.Tx) error, after func()) error {
	o := &op{apply: apply, after: after}
	s.queueMu.Lock()
	s.queue = append(s.queue, o)
	s.queueMu.Unlock()

	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if o.done {
		return o.err
	}
	s.queueMu.Lock()
	batch := s.queue
	s.queue = nil
	s.queueMu.Unlock()

	err := s.broken
	if err == nil {
		err = guard(func() error {
			return s.db.Update(func(tx *bolt.Tx) error {
				for _, o := range batch {
					if err := o.apply(tx); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	switch {
	case errors.Is(err, ErrCorrupt):
		s.broken = err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	for _, o := range batch {
		o.done, o.err = true, err
		if err == nil && o.after != nil {
			o.after()
		}
	}
	return err
}

func (s *Spool) read(fn func(*bolt.Tx) error) error {
	return guard(func() error { return s.db.View(fn) })
}

const crcSize = 4

func appendCRC(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func checkCRC(b []byte) ([]byte, error) {
	if len(b) < crcSize {
		return nil, fmt.Errorf("%w: value of %d bytes has no checksum", ErrCorrupt, len(b))
	}
	body, sum := b[:len(b)-crcSize], binary.LittleEndian.Uint32(b[len(b)-crcSize:])
	if got := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)); got != sum {
		return nil, fmt.Errorf("%w: checksum %08x, stored %08x", ErrCorrupt, got, sum)
	}
	return body, nil
}

func leaseKey(lease wire.LeaseID) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(lease))
}

func recordKey(lease wire.LeaseID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(leaseKey(lease), seq)
}

func decodeRecord(k, v []byte) (wire.Record, error) {
	body, err := checkCRC(v)
	if err != nil {
		return wire.Record{}, fmt.Errorf("record %x: %w", k, err)
	}
	r, err := wire.DecodeRecord(body)
	if errors.Is(err, wire.ErrUnknownVersion) {
		return wire.Record{}, fmt.Errorf("record %x: %w: upgrade hostd", k, err)
	}
	if err != nil {
		return wire.Record{}, fmt.Errorf("%w: record %x: %w", ErrCorrupt, k, err)
	}
	if string(recordKey(r.Lease, r.Seq)) != string(k) {
		return wire.Record{}, fmt.Errorf("%w: record %x is stored under lease %d, sequence %d", ErrCorrupt, k, r.Lease, r.Seq)
	}
	return r, nil
}

// A chain is stored as: version (1 byte), sequence (8), hash, state, checksum.
const chainVersion = 1

func encodeChain(c Chain) []byte {
	b := append(make([]byte, 0, 1+8+len(c.Hash)+len(c.State)+crcSize), chainVersion)
	b = binary.LittleEndian.AppendUint64(b, c.Seq)
	b = append(b, c.Hash[:]...)
	b = append(b, c.State...)
	return appendCRC(b)
}

func readChain(tx *bolt.Tx, lease wire.LeaseID) (Chain, bool, error) {
	v := tx.Bucket(bucketChains).Get(leaseKey(lease))
	if v == nil {
		return Chain{}, false, nil
	}
	c, err := decodeChain(v)
	if err != nil {
		return Chain{}, false, fmt.Errorf("chain of lease %d: %w", lease, err)
	}
	return c, true, nil
}

func decodeChain(v []byte) (Chain, error) {
	body, err := checkCRC(v)
	if err != nil {
		return Chain{}, err
	}
	var c Chain
	if len(body) < 1+8+len(c.Hash) {
		return Chain{}, fmt.Errorf("%w: chain of %d bytes is too short", ErrCorrupt, len(body))
	}
	if body[0] != chainVersion {
		return Chain{}, fmt.Errorf("chain has version %d, this program reads version %d: upgrade hostd", body[0], chainVersion)
	}
	c.Seq = binary.LittleEndian.Uint64(body[1:])
	copy(c.Hash[:], body[9:])
	if state := body[9+len(c.Hash):]; len(state) > 0 {
		c.State = bytes.Clone(state)
	}
	return c, nil
}

// fileExists says whether there is something at path.
func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
