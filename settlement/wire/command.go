package wire

import (
	"fmt"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
)

const commandBatchVersion = 1

// commandBatchHead is what stands before a batch's envelopes: version and time.
const commandBatchHead = 1 + 8

// CommandBatch is one entry of the Raft log: commands and the time that the
// leader stamped on them.
type CommandBatch struct {
	Time      ledger.Time
	Envelopes []ledger.Envelope
}

// AppendCommandBatch appends the batch's bytes. A nil command is the caller's
// fault and panics.
func AppendCommandBatch(dst []byte, b *CommandBatch) []byte {
	dst = slices.Grow(dst, commandBatchSize(b))
	dst = append(dst, commandBatchVersion)
	dst = appendI64(dst, int64(b.Time))
	return appendEnvelopes(dst, b.Envelopes)
}

// commandBatchSize is the size of a batch's usage batches, and room for its
// other commands.
func commandBatchSize(b *CommandBatch) int {
	n := commandBatchHead + 4
	for i := range b.Envelopes {
		n += 128
		switch c := b.Envelopes[i].Command.(type) {
		case *ledger.UsageBatch:
			n += BatchSize(len(c.Records))
		case *SignedBatch:
			n += len(c.Batch)
		}
	}
	return n
}

// DecodeCommandBatch is the inverse of AppendCommandBatch. It reuses the memory
// of into: its Envelopes, and the usage batches that it finds among them, so
// nothing of an earlier decoding into the same value may still be in use. After
// an error into is unspecified. An unknown version or command kind is
// ErrUnknownVersion.
func DecodeCommandBatch(b []byte, into *CommandBatch) error {
	d := decoder{what: "command batch", b: b}
	d.version("version", commandBatchVersion)
	into.Time = ledger.Time(d.i64("time"))
	into.Envelopes = d.envelopes(into.Envelopes)
	return d.end()
}

// envelopeSizeMin is the least an envelope can take: a key and a kind.
const envelopeSizeMin = 4 + 2

func appendEnvelopes(dst []byte, envs []ledger.Envelope) []byte {
	dst = appendU32(dst, uint32(len(envs)))
	for i := range envs {
		dst = appendStr(dst, envs[i].Key)
		dst = AppendCommand(dst, envs[i].Command)
	}
	return dst
}

func (d *decoder) envelopes(reuse []ledger.Envelope) []ledger.Envelope {
	n := d.count("envelopes", envelopeSizeMin)
	envs := reuse[:0]
	if cap(envs) < n {
		envs = append(make([]ledger.Envelope, 0, n), reuse[:cap(reuse)]...)[:0]
	}
	d.push("envelopes")
	for i := 0; i < n && d.err == nil; i++ {
		d.at(i)
		envs = envs[:i+1]
		old, _ := envs[i].Command.(*ledger.UsageBatch)
		envs[i].Key = d.str("key")
		envs[i].Command = d.command(old)
	}
	d.pop()
	return envs
}

// AppendCommand appends a command's kind and its fields in the order of its
// type. It is also what identifies a command's input.
func AppendCommand(dst []byte, cmd ledger.Command) []byte {
	dst = appendU16(dst, uint16(cmd.Kind()))
	switch c := cmd.(type) {
	case *ledger.CreateCustomer:
		dst = appendStr(dst, c.Name)
		dst = appendStr(dst, c.Namespace)
		return append(dst, byte(c.PayIn))
	case *ledger.CreateSupplier:
		return appendStr(dst, c.Name)
	case *ledger.EnrollHost:
		dst = appendStr(dst, c.Name)
		dst = appendStr(dst, c.Supplier)
		dst = append(dst, byte(c.Class))
		return append(dst, c.PublicKey[:]...)
	case *ledger.SetOffer:
		dst = appendStr(dst, c.Host)
		return appendPrices(dst, &c.Prices)
	case *ledger.SetRate:
		return appendI64(dst, int64(c.NUSDPerJoule))
	case *ledger.SetPolicy:
		dst = appendU32(dst, c.FeePPM)
		return appendU32(dst, c.SliceMs)
	case *ledger.Deposit:
		dst = appendStr(dst, c.Customer)
		dst = append(dst, byte(c.Currency))
		dst = appendI64(dst, c.Amount)
		return appendStr(dst, c.Ref)
	case *ledger.Mint:
		dst = appendI64(dst, int64(c.Amount))
		return appendStr(dst, c.Ref)
	case *ledger.Withdraw:
		dst = append(dst, byte(c.Party))
		dst = appendStr(dst, c.Name)
		dst = append(dst, byte(c.Currency))
		dst = appendI64(dst, c.Amount)
		return appendStr(dst, c.Ref)
	case *ledger.OpenLease:
		for _, s := range []string{c.Host, c.Namespace, c.Job, c.Group, c.Task, c.Alloc, c.Invocation} {
			dst = appendStr(dst, s)
		}
		dst = appendResources(dst, &c.Resources)
		dst = appendPrices(dst, &c.MaxPrices)
		return appendI64(dst, int64(c.Budget))
	case *ledger.TopUpLease:
		dst = appendU64(dst, uint64(c.Lease))
		return appendU32(dst, c.Slices)
	case *ledger.CloseLease:
		dst = appendU64(dst, uint64(c.Lease))
		dst = append(dst, byte(c.Reason))
		return appendU32(dst, uint32(c.Host))
	case *ledger.UsageBatch:
		dst = appendU32(dst, uint32(BatchSize(len(c.Records))))
		dst = AppendBatch(dst, c.Host, c.Boot, c.Records)
		return append(dst, c.Signature[:]...)
	case *SignedBatch:
		dst = appendU32(dst, uint32(len(c.Batch)))
		dst = append(dst, c.Batch...)
		return append(dst, c.Signature[:]...)
	}
	if dst, ok := appendLaterCommand(dst, cmd); ok {
		return dst
	}
	panic(fmt.Sprintf("wire: encode command: unknown type %T", cmd))
}

// command decodes one command; old, if not nil, is reused for a usage batch.
func (d *decoder) command(old *ledger.UsageBatch) ledger.Command {
	at := d.off
	kind := ledger.CommandKind(d.u16("kind"))
	if d.err != nil {
		return nil
	}
	switch kind {
	case ledger.KindCreateCustomer:
		return &ledger.CreateCustomer{Name: d.str("name"), Namespace: d.str("namespace"),
			PayIn: ledger.Currency(d.u8("pay_in"))}
	case ledger.KindCreateSupplier:
		return &ledger.CreateSupplier{Name: d.str("name")}
	case ledger.KindEnrollHost:
		c := &ledger.EnrollHost{Name: d.str("name"), Supplier: d.str("supplier"), Class: ledger.Class(d.u8("class"))}
		copy(c.PublicKey[:], d.take("public_key", len(c.PublicKey)))
		return c
	case ledger.KindSetOffer:
		return &ledger.SetOffer{Host: d.str("host"), Prices: d.prices("prices")}
	case ledger.KindSetRate:
		return &ledger.SetRate{NUSDPerJoule: ledger.NUSD(d.i64("nusd_per_joule"))}
	case ledger.KindSetPolicy:
		return &ledger.SetPolicy{FeePPM: d.u32("fee_ppm"), SliceMs: d.u32("slice_ms")}
	case ledger.KindDeposit:
		return &ledger.Deposit{Customer: d.str("customer"), Currency: ledger.Currency(d.u8("currency")),
			Amount: d.i64("amount"), Ref: d.str("ref")}
	case ledger.KindMint:
		return &ledger.Mint{Amount: ledger.NJ(d.i64("amount")), Ref: d.str("ref")}
	case ledger.KindWithdraw:
		return &ledger.Withdraw{Party: ledger.Party(d.u8("party")), Name: d.str("name"),
			Currency: ledger.Currency(d.u8("currency")), Amount: d.i64("amount"), Ref: d.str("ref")}
	case ledger.KindOpenLease:
		return &ledger.OpenLease{Host: d.str("host"), Namespace: d.str("namespace"), Job: d.str("job"),
			Group: d.str("group"), Task: d.str("task"), Alloc: d.str("alloc"), Invocation: d.str("invocation"),
			Resources: d.resources("resources"), MaxPrices: d.prices("max_prices"), Budget: ledger.NUSD(d.i64("budget"))}
	case ledger.KindTopUpLease:
		return &ledger.TopUpLease{Lease: ledger.LeaseID(d.u64("lease")), Slices: d.u32("slices")}
	case ledger.KindCloseLease:
		return &ledger.CloseLease{Lease: ledger.LeaseID(d.u64("lease")), Reason: ledger.CloseReason(d.u8("reason")),
			Host: ledger.HostID(d.u32("host"))}
	case ledger.KindUsageBatch:
		if old == nil {
			old = new(ledger.UsageBatch)
		}
		d.signedBatch(old)
		return old
	}
	if cmd := d.laterCommand(kind); cmd != nil {
		return cmd
	}
	d.fail("kind", at, ErrUnknownVersion, "got %d", kind)
	return nil
}

// signedBatch decodes a batch, carried whole as its host signed it, and the
// signature.
func (d *decoder) signedBatch(into *ledger.UsageBatch) {
	n := d.count("batch", 1)
	sub := decoder{what: d.what, path: d.path, deep: d.deep, base: d.base + d.off}
	sub.b = d.take("batch", n)
	sub.err = d.err
	sub.push("batch")
	sub.batch(into)
	if err := sub.end(); err != nil {
		d.err = err
	}
	into.Signature = [64]byte{}
	copy(into.Signature[:], d.take("signature", len(into.Signature)))
}

func appendPrices(dst []byte, p *ledger.Prices) []byte {
	dst = appendI64(dst, int64(p.Base))
	dst = appendI64(dst, int64(p.CPU))
	dst = appendI64(dst, int64(p.GPU))
	return appendI64(dst, int64(p.Memory))
}

func (d *decoder) prices(field string) ledger.Prices {
	return ledger.Prices{Base: ledger.NUSD(d.i64(field)), CPU: ledger.NUSD(d.i64(field)),
		GPU: ledger.NUSD(d.i64(field)), Memory: ledger.NUSD(d.i64(field))}
}

func appendResources(dst []byte, r *ledger.Resources) []byte {
	dst = appendU32(dst, r.MilliCores)
	dst = appendU32(dst, r.MemoryMiB)
	return appendU32(dst, r.GPUs)
}

func (d *decoder) resources(field string) ledger.Resources {
	return ledger.Resources{MilliCores: d.u32(field), MemoryMiB: d.u32(field), GPUs: d.u32(field)}
}
