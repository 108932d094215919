package journal

import (
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/wire"
)

// The journal behaves like a list of blocks, whatever the order of appends,
// replays, syncs, clean restarts and crashes.
func TestModel(t *testing.T) {
	t.Parallel()
	c := new(chain).fill(60)
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		rotate := rapid.Int64Range(1, 3000).Draw(rt, "rotate")
		reopen := func() *Journal {
			j, err := open(OS, dir, rotate)
			if err != nil {
				rt.Fatalf("open: %v", err)
			}
			return j
		}
		j := reopen()
		defer func() { j.Close() }()
		have, synced := 0, 0
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "replay", "sync", "restart", "crash"}).Draw(rt, "step") {
			case "append":
				to := min(have+rapid.IntRange(1, 8).Draw(rt, "n"), len(c.blocks))
				mustAppendTo(rt, j, c, have, to)
				have = to
			case "replay":
				mustAppendTo(rt, j, c, rapid.IntRange(0, have).Draw(rt, "from"), have)
			case "sync":
				if err := j.Sync(); err != nil {
					rt.Fatal(err)
				}
				synced = have
			case "restart":
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				synced = have
				j = reopen()
			case "crash":
				// What was not synced may be lost at any byte. The mark says so:
				// keep it as it was before Close moves it.
				mark, _ := os.ReadFile(filepath.Join(dir, syncedName))
				j.Close()
				os.WriteFile(filepath.Join(dir, syncedName), mark, 0o600)
				paths, contents := files(t, dir)
				if n := len(paths); n > 0 {
					keep := headerSize
					last := &scanState{}
					last.walk(contents[n-1], func(seq uint64, end int) {
						if seq <= uint64(synced) {
							keep = end
						}
					})
					cut := rapid.IntRange(keep, len(contents[n-1])).Draw(rt, "cut")
					os.Truncate(paths[n-1], int64(cut))
				}
				j = reopen()
				seq, _ := j.Last()
				if int(seq) < synced || int(seq) > have {
					rt.Fatalf("after a crash: got %d blocks, want %d to %d", seq, synced, have)
				}
				have = int(seq)
			}
			if seq, digest := j.Last(); seq != uint64(have) || have > 0 && digest != c.blocks[have-1].Digest {
				rt.Fatalf("last: got %d, want %d", seq, have)
			}
		}
		n := 0
		for b, err := range j.Blocks(1) {
			if err != nil || b.Digest != c.blocks[n].Digest {
				rt.Fatalf("block %d: %v", n+1, err)
			}
			n++
		}
		if n != have {
			rt.Fatalf("got %d blocks, want %d", n, have)
		}
	})
}

type scanState struct{}

// walk calls fn with each whole frame's block sequence and end.
func (*scanState) walk(b []byte, fn func(seq uint64, end int)) {
	for off := headerSize; off+frameHeader <= len(b); {
		n := int(uint32(b[off]) | uint32(b[off+1])<<8 | uint32(b[off+2])<<16 | uint32(b[off+3])<<24)
		blk, err := wire.DecodeBlock(b[off+frameHeader : off+frameHeader+n])
		if err != nil {
			return
		}
		off += frameHeader + n
		fn(blk.Seq, off)
	}
}

func mustAppendTo(rt *rapid.T, j *Journal, c *chain, from, to int) {
	for i := from; i < to; i++ {
		if err := j.Append(c.encoded[i], c.blocks[i]); err != nil {
			rt.Fatalf("append block %d: %v", i+1, err)
		}
	}
}
