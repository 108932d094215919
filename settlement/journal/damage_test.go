package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/joulecloud/joule/settlement/wire"
)

// files reads the journal's segments.
func files(tb testing.TB, dir string) (paths []string, contents [][]byte) {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.jl"))
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(paths)
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			tb.Fatal(err)
		}
		contents = append(contents, b)
	}
	return paths, contents
}

// A crash that tears the last frame, at whatever byte, costs that block alone;
// it is appended again.
func TestTornTail(t *testing.T) {
	t.Parallel()
	c := new(chain).fill(6)
	dir := t.TempDir()
	j := mustOpen(t, dir, segmentBytes)
	mustAppend(t, j, c, 0, 5)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	_, before := files(t, dir)
	mustAppend(t, j, c, 5, 6)
	paths, after := files(t, dir)
	mark, err := os.ReadFile(filepath.Join(dir, syncedName))
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	whole, torn := after[0], len(before[0])
	zeros := append(slices.Clone(before[0]), make([]byte, len(whole)-torn)...)
	flipped := slices.Clone(whole)
	flipped[torn+20] ^= 4
	cases := map[string][]byte{"zeros": zeros, "a flipped bit": flipped}
	for n := torn; n < len(whole); n++ {
		cases[fmt.Sprint("cut at ", n)] = whole[:n]
	}
	for name, content := range cases {
		if err := errors.Join(os.WriteFile(paths[0], content, 0o600), os.WriteFile(filepath.Join(dir, syncedName), mark, 0o600)); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir)
		if err != nil {
			t.Fatalf("%s: open: %v", name, err)
		}
		if d := j.Dropped(); (d == nil) != (len(content) == torn) || d != nil && (d.Offset != int64(torn) || d.Bytes != int64(len(content)-torn)) {
			t.Errorf("%s: dropped: got %v", name, d)
		}
		check(t, j, c, 5)
		mustAppend(t, j, c, 5, 6)
		check(t, j, c, 6)
		j.Close()
	}
}

// A crash while a segment is begun leaves an incomplete header.
func TestTornHeader(t *testing.T) {
	t.Parallel()
	c := new(chain).fill(3)
	for n := 0; n <= headerSize; n++ {
		dir := t.TempDir()
		j := mustOpen(t, dir, 1)
		mustAppend(t, j, c, 0, 2)
		j.Close()
		header := appendHeader(nil, 3, c.blocks[1].Digest)
		if err := os.WriteFile(filepath.Join(dir, segmentName(3)), header[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j = mustOpen(t, dir, 1)
		check(t, j, c, 2)
		mustAppend(t, j, c, 2, 3)
		check(t, j, c, 3)
		j.Close()
		j = mustOpen(t, dir, 1)
		check(t, j, c, 3)
		j.Close()
	}
}

// Once synced, no bit of the journal can change without Scan and Verify saying
// where; Open says it of what it reads.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	c := new(chain).fill(6)
	dir := t.TempDir()
	j := mustOpen(t, dir, 500)
	mustAppend(t, j, c, 0, 6)
	j.Close()
	paths, contents := files(t, dir)
	if len(paths) < 2 {
		t.Fatalf("got %d segments, want some", len(paths))
	}
	for i, path := range paths {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for bit := range len(contents[i]) * 8 {
			at := int64(bit / 8)
			if _, err := f.WriteAt([]byte{contents[i][at] ^ 1<<(bit%8)}, at); err != nil {
				t.Fatal(err)
			}
			var corrupt *CorruptError
			var err error
			for _, err = range Scan(dir) {
			}
			if !errors.As(err, &corrupt) {
				t.Fatalf("bit %d of %s: scan: got %v, want a CorruptError", bit, path, err)
			}
			if bit%13 == 0 {
				opened(t, dir, i == len(paths)-1, fmt.Sprintf("bit %d of %s", bit, path), &corrupt)
			}
			if corrupt.File != path {
				t.Fatalf("bit %d of %s: got a fault in %s", bit, path, corrupt.File)
			}
			if _, err := f.WriteAt(contents[i][at:at+1], at); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Neither can whole files or synced blocks go.
	for i, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		var corrupt *CorruptError
		if _, err := Open(dir); !errors.As(err, &corrupt) {
			t.Errorf("without %s: open: got %v, want a CorruptError", path, err)
		}
		if err := os.WriteFile(path, contents[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j = mustOpen(t, dir, 500)
	check(t, j, c, 6)
}

// opened opens a damaged journal, and verifies it where Open reads the damaged
// segment only if its index is missing.
func opened(t *testing.T, dir string, last bool, what string, corrupt **CorruptError) {
	t.Helper()
	j, err := Open(dir)
	if err == nil {
		defer j.Close()
		if last {
			t.Fatalf("%s: open: got no error, want a CorruptError", what)
		}
		err = j.Verify(func(uint64, int) error { return nil })
	}
	if !errors.As(err, corrupt) {
		t.Fatalf("%s: got %v, want a CorruptError", what, err)
	}
}

func TestUnknownVersionIsNotDropped(t *testing.T) {
	t.Parallel()
	c := new(chain).fill(1)
	dir := t.TempDir()
	j := mustOpen(t, dir, segmentBytes)
	mustAppend(t, j, c, 0, 1)
	path := j.segs[0].path
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	later := slices.Clone(c.encoded[0])
	later[0] = 200
	f.Write(appendFrame(nil, later))
	f.Close()
	j.Close()
	if _, err := Open(dir); !errors.Is(err, wire.ErrUnknownVersion) {
		t.Errorf("open: got %v, want %v", err, wire.ErrUnknownVersion)
	}
}
