package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// layered is an image whose upper layers hide, replace and add.
func layered(tb testing.TB) v1.Image {
	return build(tb, v1.Config{Env: []string{"A=1"}},
		tarOf(tb,
			entry{name: "./", mode: 0o755}, entry{name: "tmp/", mode: 0o1777}, entry{name: "keep", body: "below"},
			entry{name: "gone", body: "x"}, entry{name: "dir/"}, entry{name: "dir/old", body: "x"}, entry{name: "dir/sub/", mode: 0o750, uid: 7},
			entry{name: "suid", body: "x", mode: 0o4755}, entry{name: "owned", body: "x", uid: 1000, gid: 1001},
			entry{name: "hard", kind: '1', link: "keep"}, entry{name: "lib", kind: '2', link: "usr/lib"}, entry{name: "usr/lib/"},
			entry{name: "lib/through", body: "link"}),
		tarOf(tb,
			entry{name: ".wh.gone"}, entry{name: "dir/"}, entry{name: "dir/.wh..wh..opq"}, entry{name: "dir/new", body: "y"},
			entry{name: "keep", body: "above"}, entry{name: "tmp/implied", body: "z"}))
}

func TestRootOfLayers(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	im := s.mustPull(t, srv.push(t, "app:1", layered(t)))
	for _, mapped := range []bool{false, true} {
		id := map[bool]string{false: "plain", true: "mapped"}[mapped]
		r := mustMount(t, s, im, id, RootOptions{MapIDs: mapped})
		at := func(name string) string { return filepath.Join(r.Dir, name) }
		wantFile(t, at("keep"), "above")
		wantFile(t, at("hard"), "below")
		wantFile(t, at("dir/new"), "y")
		wantFile(t, at("usr/lib/through"), "link")
		wantNone(t, at("gone"))
		wantNone(t, at("dir/old"))
		wantNone(t, at("dir/sub"))
		if st := statOf(t, at("tmp")); st.Mode&0o7777 != 0o1777 {
			t.Errorf("/tmp, which a layer only implied: got mode %o, want 1777", st.Mode)
		}
		if st := statOf(t, at("suid")); st.Mode&0o7777 != 0o4755 || st.Mtim.Sec != tarTime.Unix() {
			t.Errorf("suid: got %o %v", st.Mode, st.Mtim)
		}
		for name, want := range map[string][2]uint32{"owned": {1000, 1001}, ".": {0, 0}, "keep": {0, 0}, "tmp": {0, 0}} {
			if st := statOf(t, at(name)); st.Uid != r.IDs.First+want[0] || st.Gid != r.IDs.First+want[1] {
				t.Errorf("%s: got owner %d:%d, want %v from %d", name, st.Uid, st.Gid, want, r.IDs.First)
			}
		}
		if mapped == (r.IDs.First == 0) {
			t.Errorf("got ids %+v", r.IDs)
		}
		if err := os.WriteFile(at("keep"), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What one task writes, neither the cache nor another task sees.
	r := mustMount(t, s, im, "third", RootOptions{})
	wantFile(t, filepath.Join(r.Dir, "keep"), "above")
	s.Release(im)
}

// A process with the root's ids, and nobody else, can write to it as root.
func TestMappedRootIsTheTasksOwn(t *testing.T) {
	old := unix.Umask(0o077) // as systemd starts hostd
	defer unix.Umask(old)
	srv := newServer(t)
	s := newStore(t, allow(srv))
	if err := CanMapIDs(s.cfg.Dir); err != nil {
		t.Skipf("needs id-mapped mounts: %v", err)
	}
	local := passableDir(t)
	if err := os.WriteFile(filepath.Join(local, "theirs"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	im := s.mustPull(t, srv.push(t, "app:1", layered(t)))
	r := mustMount(t, s, im, "a", RootOptions{MapIDs: true, Binds: []Bind{{Source: local}, {Source: local, ReadOnly: true}}})
	other := mustMount(t, s, im, "b", RootOptions{MapIDs: true})
	if other.IDs == r.IDs {
		t.Errorf("two tasks have the same ids: %+v", r.IDs)
	}
	as := func(ids IDs, script string) error {
		cmd := exec.Command("/bin/sh", "-ec", script)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: int(ids.First), Size: IDsPerTask}},
			GidMappings: []syscall.SysProcIDMap{{HostID: int(ids.First), Size: IDsPerTask}},
			Credential:  &syscall.Credential{}, GidMappingsEnableSetgroups: true}
		out, err := cmd.CombinedOutput()
		t.Logf("%s: %s %v", script, out, err)
		return err
	}
	script := "cd " + r.Dir + " && echo mine > keep && rm -r dir && mkdir dir && chown 5:6 suid && test $(stat -c %u owned) = 1000 && " +
		"cat " + r.Binds[0] + "/theirs && echo y > " + r.Binds[0] + "/ours && ! { echo z > " + r.Binds[1] + "/no; }"
	if err := as(r.IDs, script); err != nil {
		t.Errorf("the task's own root: %v", err)
	}
	if st := statOf(t, filepath.Join(local, "ours")); st.Uid != 0 {
		t.Errorf("a file that the task's root made has owner %d on the disk, want 0", st.Uid)
	}
	if err := as(other.IDs, "cat "+r.Dir+"/keep"); err == nil {
		t.Error("another task's ids reach into the root")
	}
}

// A root outlives the process that mounted it, keeps its image in the cache, and
// is swept once nobody has it.
func TestRootsSurviveARestart(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	im := s.mustPull(t, srv.push(t, "app:1", layered(t)))
	mustMount(t, s, im, "kept", RootOptions{})
	r := mustMount(t, s, im, "lost", RootOptions{MapIDs: true})
	if err := os.MkdirAll(s.rootDir("cut-off"), 0o700); err != nil { // no record: killed in the middle
		t.Fatal(err)
	}
	if _, err := Open(s.cfg, s.log); err == nil {
		t.Error("a second process opened the cache")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next := openStore(t, s.cfg)
	if err := next.Sweep(func(id string) bool { return id == "kept" }); err != nil {
		t.Fatal(err)
	}
	wantNone(t, filepath.Dir(r.Dir))
	wantNone(t, s.rootDir("lost"))
	wantNone(t, s.rootDir("cut-off"))
	if left, _ := filepath.Glob(filepath.Join(s.idsDir(), "*")); len(left) != 0 {
		t.Errorf("ids left: %q", left)
	}
	wantFile(t, filepath.Join(s.runDir("kept"), mergedDir, "keep"), "above")
	for next.evictAll() {
	}
	wantFile(t, filepath.Join(s.runDir("kept"), mergedDir, "hard"), "below")
	if got := next.Usage(); got.Mounted != 1 || got.Images != 1 || got.Layers != 2 {
		t.Errorf("got %+v, want the mounted image to be kept", got)
	}
	if err := next.Unmount("kept"); err != nil {
		t.Fatal(err)
	}
	for next.evictAll() {
	}
	if got := next.Usage(); got.Bytes != 0 || got.Images != 0 || got.Layers != 0 {
		t.Errorf("got %+v, want an empty cache", got)
	}
}

func (s *Store) evictAll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evict()
}

func TestClassicMount(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	im := s.mustPull(t, srv.push(t, "app:1", layered(t)))
	mustMount(t, s, im, "x", RootOptions{})
	dir := t.TempDir()
	for _, d := range []string{"u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lowers, err := s.lowers(s.roots["x"], s.runDir("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := filepath.Join(dir, "m")
	if err := mountOverlayClassic(m, lowers, filepath.Join(dir, "u"), filepath.Join(dir, "w")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(m, "keep"), "above")
	if err := unix.Unmount(m, 0); err != nil {
		t.Fatal(err)
	}
}
