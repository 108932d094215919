package ledger

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// keyed rows: row i has keys[i-1], and hash says where it stands.
func indexed(keys []uint64, hash func(uint64) uint32) (*index, func(key uint64) (int, bool)) {
	x := new(index)
	find := func(key uint64) (int, bool) {
		return x.find(hash(key), func(row int) bool { return keys[row-1] == key })
	}
	for i, k := range keys {
		if _, ok := find(k); !ok {
			x.add(hash(k), i+1)
		}
	}
	return x, find
}

func TestIndexFindsWhatIsInIt(t *testing.T) {
	for name, hash := range map[string]func(uint64) uint32{
		"spread":            func(k uint64) uint32 { return uint32(k * 0x9e3779b97f4a7c15 >> 32) },
		"few first bits":    func(k uint64) uint32 { return uint32(k*0x9e3779b97f4a7c15>>32) & 0x0300ffff },
		"few hashes":        func(k uint64) uint32 { return uint32(k % 7 * 0x9e3779b9) },
		"one after another": func(k uint64) uint32 { return uint32(k) },
	} {
		n := 40_000
		if name == "few hashes" {
			n = 300 // as slow as a list, and right all the same
		}
		keys := make([]uint64, n)
		for i := range keys {
			keys[i] = uint64(i) * 3
		}
		x, find := indexed(keys, hash)
		if x.len() != n {
			t.Errorf("%s: %d rows, want %d", name, x.len(), n)
		}
		for i, k := range keys {
			if row, ok := find(k); !ok || row != i+1 {
				t.Fatalf("%s: key %d finds row %d, %v, want %d", name, k, row, ok, i+1)
			}
			if row, ok := find(k + 1); ok {
				t.Fatalf("%s: key %d, which is not there, finds row %d", name, k+1, row)
			}
		}
	}
}

// Rows whose hashes are all the same would split a part for ever.
func TestIndexTakesEqualHashes(t *testing.T) {
	keys := make([]uint64, partMax)
	for i := range keys {
		keys[i] = uint64(i)
	}
	x, find := indexed(keys, func(uint64) uint32 { return 0xdeadbeef })
	for _, i := range []int{0, 1, partMax / 2, partMax - 1} {
		if row, ok := find(keys[i]); !ok || row != i+1 {
			t.Errorf("key %d finds row %d, %v", i, row, ok)
		}
	}
	if x.len() != partMax {
		t.Errorf("got %d rows", x.len())
	}
}

func TestIndexIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.Uint64Range(0, 300), 0, 400).Draw(t, "keys")
		x, find := indexed(keys, func(k uint64) uint32 { return uint32(k * 0x9e3779b97f4a7c15 >> 40) })
		var distinct []uint64
		for i, k := range keys {
			first := slices.Index(keys, k)
			if first == i {
				distinct = append(distinct, k)
			}
			if row, ok := find(k); !ok || row != first+1 {
				t.Fatalf("key %d finds %d, %v, want %d", k, row, ok, first+1)
			}
		}
		if x.len() != len(distinct) {
			t.Fatalf("%d rows, want %d", x.len(), len(distinct))
		}
	})
}
