package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whatever of a snapshot is damaged, cut or left half written: the server has
// everything that was acknowledged, or does not start.
func TestDamagedSnapshots(t *testing.T) {
	t.Parallel()
	for _, trailing := range []uint64{1, 1000} {
		t.Run(fmt.Sprint("trailing ", trailing), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "s1")
			cfg := testConfig(t, "s1", dir)
			cfg.TrailingLogs = trailing
			cfg.segmentBytes = 4096
			sm := &list{}
			s := mustOpen(t, cfg, sm)
			mustLead(t, s)
			for i := range 40 {
				mustPropose(t, s, fmt.Sprint("entry ", i))
				if i == 15 || i == 30 {
					if err := s.TakeSnapshot(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := sm.strings()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			snaps, err := filepath.Glob(filepath.Join(dir, "snapshots", "*"))
			if err != nil || len(snaps) != 2 {
				t.Fatalf("got snapshots %q, %v, want two", snaps, err)
			}
			slices.Sort(snaps)
			newest := filepath.Base(snaps[1])
			cases := map[string]func(dir string) error{
				"a half written one beside them": func(dir string) error {
					return os.CopyFS(filepath.Join(dir, "snapshots", newest+"9.tmp"), os.DirFS(filepath.Join(dir, "snapshots", newest)))
				},
				"no snapshot": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "snapshots")) },
			}
			for _, file := range []string{"state.bin", "meta.json"} {
				path := filepath.Join("snapshots", newest, file)
				info, err := os.Stat(filepath.Join(dir, path))
				if err != nil {
					t.Fatal(err)
				}
				for at := int64(0); at < info.Size(); at += info.Size()/6 + 1 {
					cases[fmt.Sprintf("%s cut at %d", file, at)] = func(dir string) error { return os.Truncate(filepath.Join(dir, path), at) }
					cases[fmt.Sprintf("%s with a bit flipped at %d", file, at)] = func(dir string) error {
						b, err := os.ReadFile(filepath.Join(dir, path))
						if err != nil {
							return err
						}
						b[at] ^= 4
						return os.WriteFile(filepath.Join(dir, path), b, 0o600)
					}
				}
			}
			started, refused := 0, 0
			for name, damage := range cases {
				copied := filepath.Join(t.TempDir(), "copy")
				if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				if err := damage(copied); err != nil {
					t.Fatal(err)
				}
				again := cfg
				again.Dir = copied
				sm := &list{}
				s, err := Open(again, sm, testLog(t))
				if err != nil {
					refused++
					if strings.HasPrefix(name, "meta.json") && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), filepath.Join(newest, "meta.json"))) {
						t.Errorf("%s: got %v, want the file's name", name, err)
					}
					continue
				}
				started++
				mustLead(t, s)
				if err := s.VerifyRead(testContext(t)); err != nil {
					t.Errorf("%s: %v", name, err)
				} else if got := sm.strings(); !slices.Equal(got, want) {
					t.Errorf("%s: the server started with %d entries, want %d", name, len(got), len(want))
				}
				s.Close()
			}
			t.Logf("%d cases: started in %d, refused in %d", len(cases), started, refused)
			if started == 0 || trailing == 1 && refused == 0 {
				t.Errorf("started in %d cases, refused in %d: want some of both", started, refused)
			}
		})
	}
}
