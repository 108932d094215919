package journal

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Frame is a block as it stands in a file.
type Frame struct {
	File    string
	Offset  int64
	Encoded []byte // valid until the next frame
	Block   *wire.Block
}

// Scan reads the journal in dir from its first block to its last without
// changing anything; a server may be writing it. It checks the files' and
// frames' form, checksums and that the segments follow one another from block 1
// on, but not that the blocks within them do, nor what their digests stand for. Its last pair may carry an error, with the
// place in the Frame: a *CorruptError, a *TornError, or one of reading.
func Scan(dir string) iter.Seq2[Frame, error] { return scan(OS, dir) }

func scan(fs FS, dir string) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		// The mark first: blocks that are written meanwhile don't count.
		synced, err := readSynced(fs, dir)
		if err != nil {
			yield(Frame{}, err)
			return
		}
		segs, err := segments(fs, dir)
		if err != nil {
			yield(Frame{}, err)
			return
		}
		s := scanner{fs: fs, synced: synced}
		for i, seg := range segs {
			if !s.segment(seg, i == len(segs)-1, yield) {
				return
			}
		}
		if s.last < synced {
			err := &CorruptError{Offset: s.end, File: s.file,
				Reason: fmt.Sprintf("the journal ends at block %d, but had block %d on disk", s.last, synced)}
			yield(Frame{File: s.file, Offset: s.end}, err)
		}
	}
}

type scanner struct {
	fs     FS
	synced uint64
	last   uint64        // sequence of the last block read
	digest ledger.Digest // that it names
	file   string
	end    int64
}

// segment yields one file's frames; false: stop. final is for the last file,
// which may have a torn tail.
func (s *scanner) segment(seg segment, final bool, yield func(Frame, error) bool) bool {
	r, err := openSegment(s.fs, seg)
	if r != nil {
		defer r.close()
		s.file = seg.path
	}
	if err == nil && (seg.first != s.last+1 || r.prev != s.digest) {
		err = &badBytes{0, fmt.Sprintf("the file follows block %d with digest %x, the one before it ends at block %d with digest %x",
			seg.first-1, r.prev, s.last, s.digest)}
		final = false
	}
	for err == nil {
		var payload []byte
		var off int64
		if payload, off, err = r.next(); err != nil {
			break
		}
		b, derr := wire.DecodeBlock(payload)
		if derr != nil {
			yield(Frame{File: seg.path, Offset: off}, &CorruptError{File: seg.path, Offset: off, Reason: derr.Error(), Err: derr})
			return false
		}
		s.last, s.digest, s.end = b.Seq, b.Digest, r.off
		if !yield(Frame{File: seg.path, Offset: off, Encoded: payload, Block: b}, nil) {
			return false
		}
	}
	var bad *badBytes
	switch {
	case errors.Is(err, io.EOF):
		return true
	case !errors.As(err, &bad):
		yield(Frame{File: seg.path}, err)
	case final && max(s.last+1, seg.first) > s.synced:
		yield(Frame{File: seg.path, Offset: bad.off}, &TornError{File: seg.path, Offset: bad.off, Bytes: r.size - bad.off})
	default:
		yield(Frame{File: seg.path, Offset: bad.off}, &CorruptError{File: seg.path, Offset: bad.off, Reason: bad.reason})
	}
	return false
}
