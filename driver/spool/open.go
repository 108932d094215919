package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/joulecloud/joule/settlement/wire"
)

// damageError says that the file can't be used as a spool, and how that was
// found.
type damageError struct{ cause error }

func (e *damageError) Error() string { return fmt.Sprintf("damaged: %v", e.cause) }

func (e *damageError) Unwrap() error { return e.cause }

// guard runs fn and turns a panic, or a fault of the mapped memory, which is
// how bbolt meets a damaged page, into ErrCorrupt.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}()
	return fn()
}

// openChecked opens the file, makes its buckets and walks all of it. The
// number is that of its records. A *damageError means that the file was opened
// and closed again and isn't sound.
func openChecked(path string) (*bolt.DB, int, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("open spool %q: not a regular file", path)
	}
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType, NoStatistics: true})
		return err
	})
	if err != nil {
		return nil, 0, openError(path, err)
	}
	var count int
	err = guard(func() error {
		if err := checkSize(db, path); err != nil {
			return err
		}
		if err := checkMeta(db, path); err != nil {
			return err
		}
		if err := walk(db, &count); err != nil {
			return err
		}
		if err := checkPages(db); err != nil {
			return err
		}
		return db.Update(func(tx *bolt.Tx) error {
			for _, name := range [][]byte{bucketRecords, bucketChains, bucketTodos} {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		closeDamaged(db)
		if errors.Is(err, ErrCorrupt) {
			return nil, 0, &damageError{err}
		}
		return nil, 0, fmt.Errorf("open spool %q: %w", path, err)
	}
	return db, count, nil
}

func openError(path string, err error) error {
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("open spool %q: %w", path, ErrLocked)
	case errors.As(err, &pathErr):
		return fmt.Errorf("open spool: %w", err)
	case errors.Is(err, ErrCorrupt), errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum),
		errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrInvalidMapping):
		return &damageError{err}
	}
	// bbolt reports a file that is too short for its two first pages with an
	// error that has no type.
	if info, statErr := os.Stat(path); statErr == nil && info.Size() < int64(2*os.Getpagesize()) {
		return &damageError{err}
	}
	return fmt.Errorf("open spool %q: %w", path, err)
}

// checkSize finds a file that was cut short: reading its missing pages would
// end the process with SIGBUS.
func checkSize(db *bolt.DB, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return db.View(func(tx *bolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("%w: %d bytes long, its pages need %d", ErrCorrupt, info.Size(), tx.Size())
		}
		return nil
	})
}

// checkMeta requires both of bbolt's meta pages. bbolt would go on with the
// older one if the newer were damaged, that is with the transaction before the
// last: records already sent would be forgotten and their sequences signed a
// second time, which is equivocation. A crash can't cause it: the 64 bytes of a
// meta page lie in one sector.
func checkMeta(db *bolt.DB, path string) error {
	const (
		header = 16 // of a page, before its meta
		summed = 56 // bytes of the meta before its checksum
	)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for page := range int64(2) {
		var b [summed + 8]byte
		if _, err := f.ReadAt(b[:], page*int64(db.Info().PageSize)+header); err != nil {
			return err
		}
		h := fnv.New64a()
		h.Write(b[:summed])
		if got, want := h.Sum64(), binary.NativeEndian.Uint64(b[summed:]); got != want {
			return fmt.Errorf("%w: meta page %d has checksum %016x, stored %016x", ErrCorrupt, page, got, want)
		}
	}
	return nil
}

// walk reads every key and value, so that a page that can't be read or a value
// that isn't what was written is found now.
func walk(db *bolt.DB, count *int) error {
	return db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketRecords); b != nil {
			err := b.ForEach(func(k, v []byte) error {
				*count++
				_, err := decodeRecord(k, v)
				return err
			})
			if err != nil {
				return err
			}
		}
		if b := tx.Bucket(bucketChains); b != nil {
			err := b.ForEach(func(k, v []byte) error {
				_, err := decodeChain(v)
				return err
			})
			if err != nil {
				return err
			}
		}
		if b := tx.Bucket(bucketTodos); b != nil {
			return b.ForEach(func(k, v []byte) error {
				_, err := checkCRC(v)
				return err
			})
		}
		return nil
	})
}

// checkPages has bbolt check its own structures: a page that is both in use and
// free would be overwritten later. It runs after walk, so that the pointers it
// follows are good.
func checkPages(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = err
			}
		}
		if first != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, first)
		}
		return nil
	})
}

// closeDamaged lets go of a file that may make bbolt panic.
func closeDamaged(db *bolt.DB) { _ = guard(db.Close) }

// replaceDamaged renames the damaged file and starts a new one with every
// record and note that is provably whole. Chains are not carried over: one that
// came from an outdated page would make hostd sign a sequence twice.
func (s *Spool) replaceDamaged(damage *damageError, log *slog.Logger) error {
	aside, err := setAside(s.path)
	if err != nil {
		return fmt.Errorf("set aside damaged spool %q (%w): %w", s.path, damage, err)
	}
	s.setAside = aside
	records, todos := salvage(aside)
	db, _, err := openChecked(s.path)
	if err != nil {
		return fmt.Errorf("start a new spool in place of the damaged one, now %q: %w", aside, err)
	}
	s.db = db
	err = s.write(func(tx *bolt.Tx) error {
		for i := range records {
			b := appendCRC(wire.AppendRecord(nil, &records[i]))
			if err := tx.Bucket(bucketRecords).Put(recordKey(records[i].Lease, records[i].Seq), b); err != nil {
				return err
			}
		}
		for _, t := range todos {
			if err := tx.Bucket(bucketTodos).Put([]byte(t.Key), appendCRC(t.Value)); err != nil {
				return err
			}
		}
		return nil
	}, func() { s.count.Store(int64(len(records))) })
	if err != nil {
		return errors.Join(fmt.Errorf("carry records over from damaged spool %q: %w", aside, err), db.Close())
	}
	log.Error("spool file was damaged: set aside, keep it for inspection",
		"file", s.path, "set_aside", aside, "damage", damage.cause.Error(),
		"records_carried_over", len(records), "notes_carried_over", len(todos))
	return nil
}

// setAside renames the file to a name that isn't taken.
func setAside(path string) (string, error) {
	base := path + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	aside := base
	for i := 2; fileExists(aside); i++ {
		aside = fmt.Sprintf("%s-%d", base, i)
	}
	if err := os.Rename(path, aside); err != nil {
		return "", err
	}
	return aside, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// salvage reads what it can of a damaged file without changing it.
func salvage(path string) (records []wire.Record, todos []Todo) {
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockWait})
		return err
	})
	if err != nil {
		return nil, nil
	}
	defer closeDamaged(db)
	// Each bucket is read until its first bad page, bad values are passed over.
	_ = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			if b := tx.Bucket(bucketRecords); b != nil {
				return b.ForEach(func(k, v []byte) error {
					if r, err := decodeRecord(k, v); err == nil {
						records = append(records, r)
					}
					return nil
				})
			}
			return nil
		})
	})
	_ = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			if b := tx.Bucket(bucketTodos); b != nil {
				return b.ForEach(func(k, v []byte) error {
					if body, err := checkCRC(v); err == nil {
						todos = append(todos, Todo{Key: string(k), Value: bytes.Clone(body)})
					}
					return nil
				})
			}
			return nil
		})
	})
	return records, todos
}
