package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

func unpackInto(tb testing.TB, b []byte) (*unpacked, string, error) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	dir := filepath.Join(tb.TempDir(), "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	u, err := unpack(tb.Context(), dir, bytes.NewReader(b), func(int64) error { return nil })
	return u, dir, err
}

// Entries that try to reach out of the layer are refused or stay inside.
func TestUnpackCannotLeaveTheLayer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []entry
		refused string // "": unpacked, inside
	}{
		{"dot dot", []entry{{name: "../../evil", body: "x"}}, "leads out"},
		{"dot dot in the middle", []entry{{name: "a/../../evil", body: "x"}}, "leads out"},
		{"absolute", []entry{{name: "/evil", body: "x"}}, ""},
		{"through an absolute link", []entry{{name: "a", kind: '2', link: "/outside"}, {name: "a/evil", body: "x"}}, "parent directory"},
		{"through an absolute link to a directory inside", []entry{{name: "etc/"}, {name: "a", kind: '2', link: "/etc"}, {name: "a/evil", body: "x"}}, ""},
		{"through a relative link", []entry{{name: "a", kind: '2', link: "../../../../../../outside"}, {name: "a/evil", body: "x"}}, "parent directory"},
		{"over a link", []entry{{name: "a", kind: '2', link: "/outside/evil"}, {name: "a", body: "x"}}, ""},
		{"a directory over a link, then into it", []entry{{name: "a", kind: '2', link: "/outside"}, {name: "a/"}, {name: "a/evil", body: "x"}}, ""},
		{"hard link to the host", []entry{{name: "a", kind: '1', link: "/outside/secret"}}, "link to"},
		{"hard link upwards", []entry{{name: "a", kind: '1', link: "../../outside/secret"}}, "leads out"},
		{"hard link through a link", []entry{{name: "l", kind: '2', link: "/outside"}, {name: "a", kind: '1', link: "l/secret"}}, "link to"},
		{"attributes through a link", []entry{{name: "a", kind: '2', link: "/outside/secret"}, {name: "b", kind: '1', link: "a"}}, ""},
		{"whiteout upwards", []entry{{name: "d/.wh..."}}, "whiteout of nothing"},
		{"empty whiteout", []entry{{name: "d/.wh."}}, "whiteout of nothing"},
		{"opaque through a link", []entry{{name: "a", kind: '2', link: "/outside"}, {name: "a/.wh..wh..opq"}}, "parent directory"},
		{"root that is a file", []entry{{name: ".", kind: '0', body: ""}}, "root"},
		{"an odd type", []entry{{name: "a", kind: 'Z'}}, "unknown type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			outside := filepath.Join(string(filepath.Separator), "outside")
			if _, err := os.Lstat(outside); err == nil {
				t.Skipf("%s exists", outside)
			}
			_, dir, err := unpackInto(t, tarOf(t, tt.entries...))
			if tt.refused == "" && err != nil || tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)) {
				t.Errorf("got %v, want %q", err, tt.refused)
			}
			wantNone(t, outside)
			wantNone(t, filepath.Join(filepath.Dir(dir), "evil"))
			wantNone(t, "/evil")
		})
	}
}

// The same against a directory that is really there: nothing in it changes.
func TestUnpackSparesTheHost(t *testing.T) {
	host := t.TempDir()
	secret := filepath.Join(host, "secret")
	if err := os.WriteFile(secret, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, entries := range [][]entry{
		{{name: "a", kind: '2', link: host}, {name: "a/secret", body: "evil"}},
		{{name: "a", kind: '2', link: secret}, {name: "a", kind: '0', body: "evil", mode: 0o777}},
		{{name: "a", kind: '2', link: host}, {name: "b", kind: '1', link: "a/secret"}},
		{{name: "a", kind: '2', link: host}, {name: "a/.wh.secret"}},
		{{name: "a", kind: '2', link: host}, {name: "a/secret", kind: '2', link: "x"}},
	} {
		_, dir, err := unpackInto(t, tarOf(t, entries...))
		t.Log(err)
		wantFile(t, secret, "s")
		if st := statOf(t, secret); st.Mode&0o777 != 0o600 || st.Nlink != 1 {
			t.Errorf("the host's file: got mode %o, %d links", st.Mode, st.Nlink)
		}
		_ = dir
	}
}

func TestUnpackKeepsWhatItMay(t *testing.T) {
	b := tarOf(t,
		entry{name: "f", body: "x", mode: 0o6755, uid: 70000, gid: 3, pax: map[string]string{
			"SCHILY.xattr.user.mine": "1", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y",
			"SCHILY.xattr.security.selinux":    "s",
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		entry{name: "d/", mode: 0o1700}, entry{name: "d/pipe", kind: '6'}, entry{name: "null", kind: '3'}, entry{name: "sda", kind: '4'},
		entry{name: "deep/er/file", body: "x"}, entry{name: "deep/", mode: 0o700},
		entry{name: "both", body: "x"}, entry{name: ".wh.both"}, entry{name: ".wh.later"}, entry{name: "later", body: "y"},
		entry{name: ".wh..wh.plnk", body: ""},
		entry{name: "tree/"}, entry{name: "tree/a/"}, entry{name: "tree/a/b", body: "x"}, entry{name: "tree", kind: '0', body: "now a file"},
	)
	u, dir, err := unpackInto(t, b)
	if err != nil {
		t.Fatal(err)
	}
	at := func(n string) string { return filepath.Join(dir, n) }
	if st := statOf(t, at("f")); st.Mode&0o7777 != 0o6755 || st.Uid != 70000 || st.Gid != 3 {
		t.Errorf("f: got %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
	var names [1024]byte
	n, err := unix.Llistxattr(at("f"), names[:])
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.Trim(string(names[:n]), "\x00"), "\x00")
	if len(got) != 2 || !strings.Contains(strings.Join(got, " "), "user.mine") || !strings.Contains(strings.Join(got, " "), "security.capability") {
		t.Errorf("got attributes %q, want user.mine and security.capability", got)
	}
	if st := statOf(t, at("d")); st.Mode&0o7777 != 0o1700 || st.Mtim.Sec != tarTime.Unix() {
		t.Errorf("d: got %o %v", st.Mode, st.Mtim)
	}
	if st := statOf(t, at("d/pipe")); st.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("pipe: got mode %o", st.Mode)
	}
	wantNone(t, at("null"))
	wantNone(t, at("sda"))
	wantFile(t, at("both"), "x")
	wantFile(t, at("later"), "y")
	wantFile(t, at("tree"), "now a file")
	wantNone(t, at(".wh..wh.plnk"))
	if u.devices != 2 || strings.Join(u.implied, " ") != ". deep/er" || u.diffID != sha(b) || u.opaque {
		t.Errorf("got %+v, want 2 devices, only deep/er and the root implied, digest %s", u, sha(b))
	}
}

func TestUnpackCompressions(t *testing.T) {
	plain := tarOf(t, entry{name: "f", body: strings.Repeat("joule ", 300_000)})
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	gz := gzipped(t, plain)
	for name, b := range map[string][]byte{"none": plain, "gzip": gz, "zstd": z.Bytes()} {
		if u, _, err := unpackInto(t, b); err != nil || u.diffID != sha(plain) {
			t.Errorf("%s: got %+v, %v", name, u, err)
		}
	}
	for name, b := range map[string][]byte{
		"cut tar": plain[:len(plain)/2], "cut gzip": gz[:len(gz)-9], "cut zstd": z.Bytes()[:z.Len()-9],
		"flipped gzip": append(append([]byte{}, gz[:len(gz)/2]...), append([]byte{^gz[len(gz)/2]}, gz[len(gz)/2+1:]...)...),
		"no tar":       []byte("hello, this is no tar at all"), "empty gzip header": {0x1f, 0x8b},
	} {
		if u, _, err := unpackInto(t, b); err == nil && u.diffID == sha(plain) {
			t.Errorf("%s: got no error", name)
		}
	}
}

// What a layer may take of the disk is asked for while it is unpacked.
func TestUnpackStopsWhereThereIsNoRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	bomb := gzipped(t, tarOf(t, entry{name: "f", body: strings.Repeat("\x00", 64<<20)}))
	full := errors.New("full")
	var taken int64
	_, err := unpack(t.Context(), dir, bytes.NewReader(bomb), func(n int64) error {
		if taken += n; taken > 16<<20 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) {
		t.Fatalf("got %v, want full", err)
	}
	if st := statOf(t, filepath.Join(dir, "f")); st.Size > 24<<20 {
		t.Errorf("%d bytes were written", st.Size)
	}
}

func TestReadAheadEndsWithItsConsumer(t *testing.T) {
	a := readAhead(context.Background(), neverending{})
	if _, err := io.CopyN(io.Discard, a, 3<<20); err != nil {
		t.Fatal(err)
	}
	a.close() // returns: the reader is gone
}

type neverending struct{}

func (neverending) Read(p []byte) (int, error) { return len(p), nil }

// Whatever bytes come as a layer: no panic, and nothing outside of it.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, entry{name: "a/b", body: "x"}, entry{name: ".wh.x"}, entry{name: "l", kind: '2', link: "/"}, entry{name: "l/y", body: "z"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, dir, _ := unpackInto(t, b)
		if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 1 {
			t.Errorf("beside the layer: %v %v", left, err)
		}
	})
}
