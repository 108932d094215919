package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Whatever stands in a segment and in the index beside it, opening and reading
// the journal ends with an answer or a typed error, and what an index says
// wrongly is not believed about money: a balance follows from the blocks.
//
// The fuzzer's bytes replace those of a sound journal from an offset on, with
// the checksums of frames and pages put right again, so that it gets to what is
// behind them.
func FuzzJournal(f *testing.F) {
	c := history(3, 40)
	dir := f.TempDir()
	j, err := open(OS, dir, 4000)
	if err != nil {
		f.Fatal(err)
	}
	for i := range c.blocks {
		if err := j.Append(c.encoded[i], c.blocks[i]); err != nil {
			f.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	sound := map[string][]byte{}
	names, err := os.ReadDir(dir)
	if err != nil {
		f.Fatal(err)
	}
	var segs, indexes []string
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			f.Fatal(err)
		}
		sound[n.Name()] = b
		switch filepath.Ext(n.Name()) {
		case ".jl":
			segs = append(segs, n.Name())
		case ".jx":
			indexes = append(indexes, n.Name())
		}
	}
	if len(segs) < 3 || len(indexes) < 2 {
		f.Fatalf("got %d segments and %d indexes, want some", len(segs), len(indexes))
	}
	f.Add(byte(0), false, uint16(0), []byte("joule journal 1\n"))
	f.Add(byte(1), false, uint16(headerSize), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(byte(len(segs)-1), false, uint16(headerSize+frameHeader+1), []byte{9, 0, 0, 0, 0, 0, 0, 0})
	f.Add(byte(0), true, uint16(16), []byte{0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(byte(1), true, uint16(len(indexMagic)+24+digestSize), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add(byte(0), true, uint16(indexHeaderSize), make([]byte, 64))
	f.Add(byte(0), true, uint16(3000), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, which byte, inIndex bool, at uint16, patch []byte) {
		dir := t.TempDir()
		files := segs
		if inIndex {
			files = indexes
		}
		target := files[int(which)%len(files)]
		for name, b := range sound {
			if name == target {
				b = patched(b, int(at), patch, inIndex)
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		check := func(what string, err error) {
			var corrupt *CorruptError
			var torn *TornError
			var index *indexError
			var decode *wire.DecodeError
			if err != nil && !errors.As(err, &corrupt) && !errors.As(err, &torn) && !errors.As(err, &index) && !errors.As(err, &decode) &&
				!errors.Is(err, wire.ErrUnknownVersion) && !errors.Is(err, errMissing) {
				t.Errorf("%s: got %T %v, want a typed error", what, err, err)
			}
		}
		for _, err := range Scan(dir) {
			check("scan", err)
		}
		j, err := open(OS, dir, 4000)
		check("open", err)
		if err != nil {
			return
		}
		defer j.Close()
		check("verify", j.Verify(func(uint64, int) error { return nil }))
		for _, err := range j.Blocks(1) {
			check("blocks", err)
		}
		for id := range ledger.LeaseID(6) {
			_, err := j.EntriesOfLease(id, Range{After: 3, Limit: 5})
			check("lease", err)
		}
		_, err = j.Condense([]ledger.LeaseID{1, 2, 3, 4})
		check("condense", err)
		for id := range ledger.AccountID(5) {
			_, err := j.EntriesOfAccounts([]ledger.AccountID{id}, Range{From: 1005, To: 1015})
			check("account", err)
			_, err = j.BalanceAt(id, 1010)
			check("balance at", err)
			_, err = j.BalanceAfter(id, 9)
			check("balance after", err)
			_, err = j.LeasesOfCustomer(ledger.CustomerID(id), 0, 3)
			check("leases", err)
		}
	})
}

// patched replaces bytes from an offset of the content on, and puts checksums
// right.
func patched(b []byte, at int, patch []byte, index bool) []byte {
	if !index {
		b = append([]byte(nil), b...)
		copy(b[min(at, len(b)):], patch)
		binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
		for off := headerSize; off+frameHeader <= len(b); {
			n := int(binary.LittleEndian.Uint32(b[off:]))
			if n > len(b)-off-frameHeader {
				break
			}
			crc := crc32.Update(crc32.Checksum(b[off:off+4], castagnoli), castagnoli, b[off+frameHeader:off+frameHeader+n])
			binary.LittleEndian.PutUint32(b[off+4:], crc)
			off += frameHeader + n
		}
		return b
	}
	var content []byte
	for p := b; len(p) >= pageSize; p = p[pageSize:] {
		content = append(content, p[:pageBody]...)
	}
	copy(content[min(at, len(content)):], patch)
	var out bytes.Buffer
	w := newPageWriter(&out)
	w.write(content)
	if err := w.finish(); err != nil {
		panic(err) // a buffer takes everything
	}
	return out.Bytes()
}
