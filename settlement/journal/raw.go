package journal

import (
	"errors"
	"fmt"
	"iter"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Encoded yields the blocks from sequence from on (0 is the first) as they
// stand in the files, each checked like those of Blocks. The bytes are valid
// until the next pair.
func (j *Journal) Encoded(from uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		r := reader{j: j}
		defer r.close()
		for seq := max(from, 1); ; seq++ {
			_, ok, err := r.block(seq)
			if err != nil {
				yield(nil, err)
				return
			}
			if !ok || !yield(r.buf, nil) {
				return
			}
		}
	}
}

// DigestOf returns a block's digest; false if the journal has no such block.
// That of block 0 is the zero digest.
func (j *Journal) DigestOf(seq uint64) (ledger.Digest, bool, error) {
	last, digest := j.Last()
	switch {
	case seq > last:
		return ledger.Digest{}, false, nil
	case seq == 0:
		return ledger.Digest{}, true, nil
	case seq == last:
		return digest, true, nil
	}
	d, err := j.digestOf(seq)
	return d, err == nil, err
}

// AppendCopy appends the next block as another server's journal has it, after
// checking that it follows from this journal's last one. A block that doesn't
// is a *MismatchError.
func (j *Journal) AppendCopy(encoded []byte) error {
	b, err := wire.DecodeBlock(encoded)
	if err != nil {
		return err
	}
	last, digest := j.Last()
	if b.Seq != last+1 {
		return fmt.Errorf("block %d of another journal: this one's last is %d", b.Seq, last)
	}
	want, err := wire.BlockDigest(digest, encoded)
	if err != nil {
		return err
	}
	if want != b.Digest {
		return &MismatchError{Seq: b.Seq, Have: want, Got: b.Digest}
	}
	return j.Append(encoded, b)
}

// IsMismatch reports whether err says that two histories have parted.
func IsMismatch(err error) bool {
	_, ok := errors.AsType[*MismatchError](err)
	return ok
}
