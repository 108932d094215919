package image

import (
	"context"
	"io"
)

// ahead reads on while its consumer works, so that decompressing a layer and
// making its files take two cores.
type ahead struct {
	cancel context.CancelFunc
	full   chan chunk
	free   chan []byte
	cur    chunk
	off    int
}

type chunk struct {
	b   []byte
	err error
}

const (
	chunkBytes = 512 << 10
	chunks     = 4
)

func readAhead(ctx context.Context, r io.Reader) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{cancel: cancel, full: make(chan chunk, chunks), free: make(chan []byte, chunks)}
	for range chunks {
		a.free <- make([]byte, chunkBytes)
	}
	go func() {
		defer close(a.full)
		for {
			var b []byte
			select {
			case b = <-a.free:
			case <-ctx.Done():
				return
			}
			n, err := io.ReadFull(r, b[:chunkBytes])
			if err == io.ErrUnexpectedEOF && n > 0 {
				// The next read tells a short end from a broken one.
				err = nil
			}
			a.full <- chunk{b[:n], err}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for a.off == len(a.cur.b) {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.b != nil {
			a.free <- a.cur.b
		}
		var ok bool
		if a.cur, ok = <-a.full; !ok {
			a.cur = chunk{err: context.Canceled}
		}
		a.off = 0
	}
	n := copy(p, a.cur.b[a.off:])
	a.off += n
	return n, nil
}

// close ends the reading and waits for it: the source is the caller's again.
func (a *ahead) close() {
	a.cancel()
	for range a.full { //nolint:revive // drained until its writer is gone
	}
}
