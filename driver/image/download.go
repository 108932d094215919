package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// How a transfer that breaks off goes on.
const (
	silenceMax   = 30 * time.Second       // without a byte, before it counts as broken
	triesInVain  = 5                      // without any byte, before it is given up
	retryWait    = 200 * time.Millisecond // doubled each time
	retryWaitMax = 25                     // times retryWait
)

// errSilent is why a transfer is ended that sends nothing any more.
var errSilent = fmt.Errorf("nothing came for %v", silenceMax)

// download brings a layer into a file of the cache and checks its digest. What
// an earlier download left is not asked for again. got is told of every byte
// that is there, the earlier ones as well.
func (s *Store) download(ctx context.Context, l layerSource, got func(int64)) (*os.File, error) {
	path := filepath.Join(s.cfg.Dir, partialDir, l.digest)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make file for a layer: %w", err)
	}
	d := &transfer{layerSource: l, f: f, got: got, retry: s.retry}
	if err := d.run(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("layer sha256:%s: %w", l.digest, err), f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// transfer is a download under way.
type transfer struct {
	layerSource
	f    *os.File
	sum  hash.Hash
	have int64
	got  func(int64)

	retry time.Duration
}

// errDigest says that the bytes are not those that were asked for.
type errDigest struct{ got string }

func (e *errDigest) Error() string {
	return "the registry sent other bytes, with digest sha256:" + e.got
}

func (d *transfer) run(ctx context.Context) error {
	if err := d.recall(); err != nil {
		return err
	}
	vain, wrong, again, wait := 0, 0, 0, d.retry
	for {
		before := d.have
		err := d.fetch(ctx)
		if err == nil {
			err = d.check()
		}
		var denied *deniedError
		var digest *errDigest
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &denied), errors.Is(err, unix.ENOSPC):
			return err
		case errors.Is(err, errNoRange):
			// Or it has less of the layer than it said: that doesn't end by itself.
			if again++; again >= triesInVain {
				return err
			}
			if err := d.restart(); err != nil {
				return err
			}
		case errors.As(err, &digest):
			// Once it may have been damage in what an earlier download left.
			if wrong++; wrong > 1 {
				return errors.Join(err, d.restart())
			}
			if err := d.restart(); err != nil {
				return err
			}
		case d.have > before:
			vain, wait = 0, d.retry
		default:
			if vain++; vain >= triesInVain {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, retryWaitMax*d.retry)
	}
}

// recall takes in what is there already.
func (d *transfer) recall() error {
	d.sum = sha256.New()
	n, err := io.Copy(d.sum, d.f)
	if err != nil {
		return fmt.Errorf("read what is there of it: %w", err)
	}
	if n > d.size {
		return d.restart()
	}
	d.have = n
	d.got(n)
	return nil
}

// restart throws away what is there.
func (d *transfer) restart() error {
	d.got(-d.have)
	d.sum, d.have = sha256.New(), 0
	if err := d.f.Truncate(0); err != nil {
		return err
	}
	_, err := d.f.Seek(0, io.SeekStart)
	return err
}

// fetch asks for what is missing and takes what comes of it.
func (d *transfer) fetch(ctx context.Context) error {
	if d.have == d.size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silenceMax, func() { cancel(errSilent) })
	defer silent.Stop()
	body, err := d.open(ctx, d.have)
	if err != nil {
		return err
	}
	defer body.Close()
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			silent.Reset(silenceMax)
			if d.have+int64(n) > d.size {
				return &deniedError{fmt.Errorf("the registry sent more than the %d bytes that the manifest says", d.size)}
			}
			if _, err := d.f.Write(buf[:n]); err != nil {
				return err
			}
			d.sum.Write(buf[:n])
			d.have += int64(n)
			d.got(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF) && d.have < d.size:
			return fmt.Errorf("the registry broke off after %d of %d bytes", d.have, d.size)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
	}
}

// check compares the digest. The bytes are all there.
func (d *transfer) check() error {
	if got := hex.EncodeToString(d.sum.Sum(nil)); got != d.digest {
		return &errDigest{got}
	}
	return nil
}
