package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// formatVersion is that of the files that this program writes and reads.
const formatVersion = 1

// The archive's names.
const (
	metaName   = "meta.json"
	stateName  = "state"
	partPrefix = "journal/"
	sumsName   = "SHA256SUMS"
)

// partBytes is how much of the journal one part of the archive has.
const partBytes = 8 << 20

// Meta says what a backup is.
type Meta struct {
	Format       int    `json:"format"`
	Created      string `json:"created"` // RFC 3339
	Server       string `json:"server"`  // that made it
	Program      string `json:"program"` // its version
	Block        uint64 `json:"block"`   // the last one in it
	Digest       string `json:"digest"`  // of it, hex
	Entries      uint64 `json:"entries"` // of the journal
	LedgerUnixMs int64  `json:"ledger_unix_ms"`
	Accounts     uint32 `json:"accounts"`
	Leases       uint64 `json:"leases"`
	StateBytes   int64  `json:"state_bytes"`
}

// Source is what a backup is made of; it must hold still.
type Source struct {
	State  *ledger.State
	Extra  []byte // the snapshot's own last part
	Block  uint64
	Digest ledger.Digest
	Blocks iter.Seq2[[]byte, error] // from the first on; it may have more than Block
}

// Write writes a backup.
func Write(w io.Writer, m Meta, src Source) error {
	// The state is encoded twice, since an archive wants sizes beforehand.
	var size counter
	if err := wire.WriteState(&size, src.State, src.Extra); err != nil {
		return err
	}
	m.Format, m.Block, m.Digest = formatVersion, src.Block, fmt.Sprintf("%x", src.Digest)
	m.Entries, m.LedgerUnixMs, m.StateBytes = src.State.EntryCount, int64(src.State.Now), size.n
	m.Accounts, m.Leases = uint32(src.State.Balances.Count), src.State.Leases.Count
	if m.Created == "" {
		m.Created = time.Now().UTC().Format(time.RFC3339)
	}
	gz := gzip.NewWriter(w)
	a := &archive{tar: tar.NewWriter(gz)}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	a.file(metaName, append(text, '\n'))
	a.begin(stateName, size.n)
	if a.err == nil {
		a.err = wire.WriteState(a, src.State, src.Extra)
	}
	a.end()
	if err := a.journal(src); err != nil {
		return err
	}
	a.file(sumsName, a.sums.Bytes())
	if a.err != nil {
		return fmt.Errorf("write backup: %w", a.err)
	}
	if err := errors.Join(a.tar.Close(), gz.Close()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// archive keeps its first error.
type archive struct {
	tar  *tar.Writer
	name string
	sum  hash.Hash
	sums bytes.Buffer
	err  error
}

func (a *archive) begin(name string, size int64) {
	a.name, a.sum = name, sha256.New()
	if a.err == nil {
		a.err = a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, Typeflag: tar.TypeReg})
	}
}

func (a *archive) Write(p []byte) (int, error) {
	n, err := a.tar.Write(p)
	a.sum.Write(p[:n])
	return n, err
}

func (a *archive) end() { fmt.Fprintf(&a.sums, "%x  %s\n", a.sum.Sum(nil), a.name) }

func (a *archive) file(name string, content []byte) {
	a.begin(name, int64(len(content)))
	if a.err == nil {
		_, a.err = a.Write(content)
	}
	a.end()
}

func (a *archive) journal(src Source) error {
	var part []byte
	var seq uint64
	parts := 0
	flush := func() {
		parts++
		a.file(fmt.Sprintf("%s%08d", partPrefix, parts), part)
		part = part[:0]
	}
	for encoded, err := range src.Blocks {
		if seq == src.Block {
			break
		}
		if err != nil {
			return fmt.Errorf("read journal block %d: %w", seq+1, err)
		}
		part = binary.LittleEndian.AppendUint32(part, uint32(len(encoded)))
		part = append(part, encoded...)
		if seq++; len(part) >= partBytes {
			flush()
		}
		if a.err != nil {
			return fmt.Errorf("write backup: %w", a.err)
		}
	}
	if seq != src.Block {
		return fmt.Errorf("the journal ends at block %d, the state at %d", seq, src.Block)
	}
	if len(part) > 0 {
		flush()
	}
	return nil
}
