package backup_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"testing"

	"github.com/joulecloud/joule/settlement/backup"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// source makes a ledger of n commands and its blocks.
func source(n int) backup.Source {
	l := ledger.New()
	var blocks [][]byte
	var digest ledger.Digest
	for i := range n {
		env := ledger.Envelope{Key: fmt.Sprint("k", i), Command: &ledger.CreateSupplier{Name: fmt.Sprint("s", i)}}
		res := l.Apply(ledger.Time(1000+i), &env)
		b := wire.Block{Seq: uint64(i + 1), Index: uint64(i + 5), Time: l.Now(), Envelopes: []ledger.Envelope{env},
			Results: []ledger.Result{res}, Entries: l.TakeEntries()}
		blocks = append(blocks, wire.AppendBlock(nil, digest, &b))
		digest = b.Digest
	}
	return backup.Source{
		State: l.State(), Extra: append(binary.LittleEndian.AppendUint64(nil, uint64(n)), digest[:]...), Block: uint64(n), Digest: digest,
		Blocks: func(yield func([]byte, error) bool) {
			for _, b := range blocks {
				if !yield(b, nil) {
					return
				}
			}
		},
	}
}

func TestBackup(t *testing.T) {
	var file bytes.Buffer
	if err := backup.Write(&file, backup.Meta{Server: "s1", Created: "2026-01-01T00:00:00Z"}, source(30)); err != nil {
		t.Fatal(err)
	}
	for _, read := range []func() (*backup.Meta, error){
		func() (*backup.Meta, error) { return backup.Inspect(bytes.NewReader(file.Bytes())) },
		func() (*backup.Meta, error) { return backup.Verify(bytes.NewReader(file.Bytes())) },
	} {
		m, err := read()
		if err != nil {
			t.Fatal(err)
		}
		if m.Block != 30 || m.Server != "s1" || m.Accounts != 37 || m.StateBytes == 0 {
			t.Errorf("got %+v", m)
		}
	}
	blocks := 0
	if _, err := backup.Read(bytes.NewReader(file.Bytes()), backup.Handler{Block: func([]byte) error { blocks++; return nil }}); err != nil || blocks != 30 {
		t.Errorf("got %d blocks, %v", blocks, err)
	}
	// Whatever is cut off or flipped is found.
	for n := 0; n < file.Len(); n += 13 {
		if _, err := backup.Verify(bytes.NewReader(file.Bytes()[:n])); err == nil {
			t.Errorf("the first %d of %d bytes pass", n, file.Len())
		}
		bad := bytes.Clone(file.Bytes())
		bad[n] ^= 0x10
		if _, err := backup.Verify(bytes.NewReader(bad)); err == nil && !bytes.Equal(unzip(bad), unzip(file.Bytes())) {
			t.Errorf("a flipped bit at byte %d of %d passes", n, file.Len())
		}
	}
}

// unzip is what a file holds; a few of its bits, in gzip's own tables, mean
// nothing.
func unzip(b []byte) []byte {
	gz, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(gz)
	if err != nil {
		return nil
	}
	return out
}

// A file whose sums are right is still refused where its parts are not of one
// history.
func TestForgedBackup(t *testing.T) {
	for name, forge := range map[string]func(*backup.Source){
		"another digest": func(s *backup.Source) { s.Digest[0]++ },
		"another state":  func(s *backup.Source) { s.State, s.Extra = source(4).State, source(4).Extra },
		"another's extra": func(s *backup.Source) {
			s.Extra = append(binary.LittleEndian.AppendUint64(nil, 5), make([]byte, 32)...)
		},
		"a block twice":  func(s *backup.Source) { s.Blocks = reorder(s.Blocks, 0, 0, 1, 2, 3) },
		"blocks swapped": func(s *backup.Source) { s.Blocks = reorder(s.Blocks, 0, 2, 1, 3, 4) },
	} {
		src := source(5)
		forge(&src)
		var file bytes.Buffer
		if err := backup.Write(&file, backup.Meta{}, src); err != nil {
			continue // it did not even come to a file
		}
		if _, err := backup.Verify(bytes.NewReader(file.Bytes())); err == nil {
			t.Errorf("%s: passes", name)
		}
	}
	short := source(5)
	short.Block = 6
	if err := backup.Write(&bytes.Buffer{}, backup.Meta{}, short); err == nil {
		t.Error("a journal that ends before the state: got no error")
	}
}

func reorder(blocks iter.Seq2[[]byte, error], order ...int) iter.Seq2[[]byte, error] {
	var all [][]byte
	for b := range blocks {
		all = append(all, b)
	}
	return func(yield func([]byte, error) bool) {
		for _, i := range order {
			if !yield(all[i], nil) {
				return
			}
		}
	}
}
