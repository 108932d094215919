package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Run audits the journal in dir, which it only reads; a server may be writing
// it. A fault of the journal is a finding in the report. An error means that
// the audit could not be made: dir is no journal, can't be read, was written by
// a later version, or ctx ended.
func Run(ctx context.Context, dir string) (*Report, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("audit journal: %w", err)
	}
	a := &auditor{r: newReport(dir), replay: ledger.New()}
	a.books.init(a.r)
	last := ""
	for f, err := range journal.Scan(dir) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("audit journal: %w", err)
		}
		last = f.File
		var torn *journal.TornError
		var corrupt *journal.CorruptError
		switch {
		case err == nil:
			a.block(f)
		case errors.Is(err, wire.ErrUnknownVersion):
			return nil, fmt.Errorf("audit journal: %w", err)
		case errors.As(err, &torn):
			a.r.Note = torn.Error()
		case errors.As(err, &corrupt):
			a.r.find(CheckFiles, 0, 0, "%v", err)
			for _, c := range checks[1:] {
				a.r.stop(c, "the journal can't be read behind block %d", a.seq)
			}
		default:
			return nil, fmt.Errorf("audit journal: %w", err)
		}
	}
	if last == "" {
		return nil, fmt.Errorf("audit journal: %q holds no journal", dir)
	}
	if err := a.checkLinks(ctx, dir); err != nil {
		return nil, fmt.Errorf("audit journal: %w", err)
	}
	a.finish()
	return a.r, nil
}

// auditor goes through the blocks once.
type auditor struct {
	r      *Report
	books  books
	replay *ledger.Ledger // nil: it parted from the journal

	seq     uint64
	entries uint64
	time    ledger.Time
	digest  ledger.Digest
	buf     []byte
}

func (a *auditor) block(f journal.Frame) {
	b := f.Block
	a.r.checked(CheckFiles)
	a.chain(f)
	a.r.Blocks++
	a.r.Commands += uint64(len(b.Envelopes))
	if a.r.Blocks == 1 {
		a.r.From = b.Time
	}
	a.r.To = b.Time
	if a.replay != nil {
		a.replayBlock(b)
	}
	// Keys are enrolled before they sign: entries of this block come after its
	// batches only where the batch was refused.
	a.books.block = b.Seq
	for i := range b.Entries {
		a.r.Entries++
		a.books.entry(&b.Entries[i])
	}
	a.books.endBlock()
	a.signatures(b)
}

// chain checks the block's place. After a fault it goes on from what the block
// says of itself, so that one fault is reported once.
func (a *auditor) chain(f journal.Frame) {
	b := f.Block
	a.r.checked(CheckChain)
	if b.Seq != a.seq+1 {
		a.r.find(CheckChain, b.Seq, 0, "block %d follows block %d in %q at offset %d", b.Seq, a.seq, f.File, f.Offset)
	}
	want, err := wire.BlockDigest(a.digest, f.Encoded)
	switch {
	case err != nil:
		a.r.find(CheckChain, b.Seq, 0, "%v", err)
	case want != b.Digest:
		a.r.find(CheckChain, b.Seq, 0, "the digest is %x, the block and the one before give %x", b.Digest, want)
	}
	if b.Time < a.time {
		a.r.find(CheckChain, b.Seq, 0, "ledger time goes back from %d to %d ms", a.time, b.Time)
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Seq != a.entries+1 {
			a.r.find(CheckChain, b.Seq, e.Seq, "entry %d follows entry %d", e.Seq, a.entries)
		}
		if e.Time != b.Time {
			a.r.find(CheckChain, b.Seq, e.Seq, "the entry's time is %d ms, its block's %d", e.Time, b.Time)
		}
		a.entries = e.Seq
	}
	a.seq, a.time, a.digest = b.Seq, b.Time, b.Digest
}

// replayBlock applies the block's commands to the fresh ledger. At the first
// difference the two have parted, and comparing on would only repeat it.
func (a *auditor) replayBlock(b *wire.Block) {
	defer func() {
		if p := recover(); p != nil {
			a.part(b, 0, "the ledger refuses to go on: %v", p)
		}
	}()
	a.r.checked(CheckReplay)
	results := make([]ledger.Result, 0, len(b.Envelopes))
	for i := range b.Envelopes {
		results = append(results, a.replay.Apply(b.Time, &b.Envelopes[i]))
	}
	entries := a.replay.TakeEntries()
	// Equal bytes mean equal blocks, and encoding is the cheapest comparison.
	again := wire.Block{Seq: b.Seq, Index: b.Index, Time: a.replay.Now(), Envelopes: b.Envelopes, Results: results, Entries: entries}
	a.buf = wire.AppendBlock(a.buf[:0], ledger.Digest{}, &again)
	stored := *b
	if bytes.Equal(a.buf, wire.AppendBlock(nil, ledger.Digest{}, &stored)) {
		return
	}
	switch {
	case again.Time != b.Time:
		a.part(b, 0, "the ledger's time is %d ms, the block's %d", again.Time, b.Time)
	case len(results) != len(b.Results):
		a.part(b, 0, "%d commands have %d results", len(results), len(b.Results))
	case len(entries) != len(b.Entries):
		a.part(b, 0, "the commands make %d entries, the block has %d", len(entries), len(b.Entries))
	}
	for i := range min(len(entries), len(b.Entries)) {
		if x, y := wire.AppendEntry(nil, &entries[i]), wire.AppendEntry(nil, &b.Entries[i]); !bytes.Equal(x, y) {
			a.part(b, b.Entries[i].Seq, "the commands make entry %s, the block has %s", show(&entries[i]), show(&b.Entries[i]))
		}
	}
	for i := range min(len(results), len(b.Results)) {
		if !sameResult(&results[i], &b.Results[i]) {
			a.part(b, 0, "command %d gives result %+v, the block has %+v", i+1, results[i], b.Results[i])
		}
	}
	if a.replay != nil {
		a.part(b, 0, "the commands give another block")
	}
}

func (a *auditor) part(b *wire.Block, entry uint64, format string, args ...any) {
	if a.replay == nil {
		return
	}
	a.r.find(CheckReplay, b.Seq, entry, format, args...)
	a.r.stop(CheckReplay, "replay parted from the journal at block %d", b.Seq)
	a.replay = nil
}

func sameResult(x, y *ledger.Result) bool {
	return x.Code == y.Code && x.Msg == y.Msg && x.ID == y.ID && reflect.DeepEqual(x.Lease, y.Lease) && slices.Equal(x.Records, y.Records)
}

// show prints an entry without the members that its kind leaves empty.
func show(e *ledger.Entry) string {
	switch e.Kind {
	case ledger.EntryTransfer:
		return fmt.Sprintf("%+v", e.Transfer)
	case ledger.EntryUsage:
		return fmt.Sprintf("%+v", e.Usage)
	}
	return fmt.Sprintf("%T%+v", e.Fact, reflect.Indirect(reflect.ValueOf(e.Fact)))
}

// signatures checks the block's usage batches against their hosts' keys.
func (a *auditor) signatures(b *wire.Block) {
	for i := range b.Envelopes {
		batch, ok := b.Envelopes[i].Command.(*ledger.UsageBatch)
		if !ok {
			continue
		}
		a.r.Batches++
		a.r.Records += uint64(len(batch.Records))
		if i < len(b.Results) && b.Results[i].Code != ledger.CodeOK {
			continue // refused whole: it changed nothing
		}
		a.r.checked(CheckSignatures)
		host, ok := a.books.hosts[batch.Host]
		if !ok {
			a.r.find(CheckSignatures, b.Seq, 0, "a usage batch of host %d, which was never enrolled", batch.Host)
			continue
		}
		a.buf = wire.AppendBatch(a.buf[:0], batch.Host, batch.Boot, batch.Records)
		if !wire.VerifyBatch(host.PublicKey[:], a.buf, batch.Signature[:]) {
			a.r.find(CheckSignatures, b.Seq, 0, "a usage batch of %d records is not signed by the key of host %q", len(batch.Records), host.Name)
		}
	}
}

// finish compares the ends.
func (a *auditor) finish() {
	a.r.Digest = a.digest
	a.r.Leases = uint64(len(a.books.leases))
	a.books.report(a.r)
	if a.replay == nil {
		return
	}
	if err := a.replay.Verify(); err != nil {
		a.r.find(CheckReplay, a.seq, 0, "the replayed ledger breaks an invariant: %v", err)
	}
	n := ledger.AccountID(0)
	for _, have := range a.r.Accounts {
		n++
		want, ok := a.replay.Account(have.ID)
		if !ok || want.Name != have.Name || want.Currency != have.Currency || want.Balance != have.Balance {
			a.r.find(CheckBalances, 0, 0, "account %d: the transfers give %+v, the replayed ledger %+v", have.ID, have, want)
		}
	}
	if want := a.replay.AccountCount(); a.r.Blocks > 0 && n != want {
		a.r.find(CheckBalances, 0, 0, "the journal opens %d accounts, the replayed ledger has %d", n, want)
	}
}
