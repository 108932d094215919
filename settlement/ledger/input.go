package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// InputHash identifies the input of a command (rule M7): the SHA-256 of its
// kind and fields, each string preceded by its length.
type InputHash [32]byte

type inputWriter []byte

func (w *inputWriter) str(s string) {
	w.num(uint64(len(s)))
	*w = append(*w, s...)
}

func (w *inputWriter) num(v uint64) { *w = binary.LittleEndian.AppendUint64(*w, v) }

func (w *inputWriter) prices(p *Prices) {
	for _, d := range p.dimensions() {
		w.num(uint64(d.price))
	}
}

// hashInput covers every command but UsageBatch, which has no key. ok is false
// for a command of a foreign type.
func hashInput(cmd Command) (_ InputHash, ok bool) {
	w := make(inputWriter, 0, 256)
	if cmd == nil {
		return InputHash{}, false
	}
	w.num(uint64(cmd.Kind()))
	switch c := cmd.(type) {
	case *CreateCustomer:
		w.str(c.Name)
		w.str(c.Namespace)
		w.num(uint64(c.PayIn))
	case *CreateSupplier:
		w.str(c.Name)
	case *EnrollHost:
		w.str(c.Name)
		w.str(c.Supplier)
		w.num(uint64(c.Class))
		w = append(w, c.PublicKey[:]...)
	case *SetOffer:
		w.str(c.Host)
		w.prices(&c.Prices)
	case *SetRate:
		w.num(uint64(c.NUSDPerJoule))
	case *SetPolicy:
		w.num(uint64(c.FeePPM))
		w.num(uint64(c.SliceMs))
	case *Deposit:
		w.str(c.Customer)
		w.num(uint64(c.Currency))
		w.num(uint64(c.Amount))
		w.str(c.Ref)
	case *Mint:
		w.num(uint64(c.Amount))
		w.str(c.Ref)
	case *Withdraw:
		w.num(uint64(c.Party))
		w.str(c.Name)
		w.num(uint64(c.Currency))
		w.num(uint64(c.Amount))
		w.str(c.Ref)
	case *OpenLease:
		for _, s := range []string{c.Host, c.Namespace, c.Job, c.Group, c.Task, c.Alloc, c.Invocation} {
			w.str(s)
		}
		w.num(uint64(c.Resources.MilliCores))
		w.num(uint64(c.Resources.MemoryMiB))
		w.num(uint64(c.Resources.GPUs))
		w.prices(&c.MaxPrices)
		w.num(uint64(c.Budget))
	case *TopUpLease:
		w.num(uint64(c.Lease))
		w.num(uint64(c.Slices))
	case *CloseLease:
		w.num(uint64(c.Lease))
		w.num(uint64(c.Reason))
		w.num(uint64(c.Host))
	default:
		if !w.later(cmd) {
			return InputHash{}, false
		}
	}
	return sha256.Sum256(w), true
}

// keyRow is an idempotency key, kept for ever with what it was used for and
// what came of that.
type keyRow struct {
	input   InputHash
	texts   textRef // the key, Result.Msg
	id      uint64  // Result.ID
	hold    int64   // of the grant
	code    Code
	granted bool // the result has a grant, of lease id
}

// applyKeyed applies a command at most once per key (rule M7). Every outcome
// is kept, refusals too; only a malformed key leaves no trace.
func (l *Ledger) applyKeyed(env *Envelope) Result {
	if n := len(env.Key); n == 0 || n > KeyBytesMax {
		return refuse(CodeInvalid, "key must be 1 to %d bytes, got %d", KeyBytesMax, n)
	}
	input, ok := hashInput(env.Command)
	if !ok {
		return refuse(CodeInvalid, "command: unknown type %T", env.Command)
	}
	if i, ok := keyNamed(l, env.Key); ok {
		row := l.keys.get(i)
		if row.input != input {
			return refuse(CodeConflict, "key %q was used before with another input", env.Key)
		}
		return l.keptResult(row)
	}
	res := l.dispatch(env.Command, &input)
	row := keyRow{input: input, id: res.ID, code: res.Code}
	if g := res.Lease; g != nil {
		row.granted, row.hold = true, g.Hold
	}
	addKey(l, &row, env.Key, res.Msg)
	return res
}

func addKey[T string | []byte](l *Ledger, row *keyRow, key, msg T) {
	record := appendText(l.newRecord(), key)
	n := len(record)
	record = appendText(record, msg)
	i, k := l.keys.add()
	*k = *row
	k.texts = l.texts.add(record)
	l.keyIndex.add(l.hash(record[:n]), i)
}

// keptResult is what came of a key's command. All that a grant says beside its
// hold is the lease's own and never changes.
func (l *Ledger) keptResult(k *keyRow) Result {
	if k.granted {
		return l.granted(LeaseID(k.id), k.hold)
	}
	return Result{Code: k.code, Msg: string(l.texts.text(k.texts, 1)), ID: k.id}
}

func (l *Ledger) dispatch(cmd Command, input *InputHash) Result {
	switch c := cmd.(type) {
	case *CreateCustomer:
		return l.createCustomer(c)
	case *CreateSupplier:
		return l.createSupplier(c)
	case *EnrollHost:
		return l.enrollHost(c)
	case *SetOffer:
		return l.setOffer(c)
	case *SetRate:
		return l.setRate(c)
	case *SetPolicy:
		return l.setPolicy(c)
	case *Deposit:
		return l.deposit(c)
	case *Mint:
		return l.mint(c)
	case *Withdraw:
		return l.withdraw(c)
	case *OpenLease:
		return l.openLease(c, input)
	case *TopUpLease:
		return l.topUpLease(c)
	case *CloseLease:
		return l.closeLease(c)
	}
	if res, ok := l.dispatchLater(cmd); ok {
		return res
	}
	panic(fmt.Sprintf("ledger: command %T hashed but not dispatched", cmd))
}
