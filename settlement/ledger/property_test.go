package ledger_test

import (
	"bytes"
	"fmt"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Random commands, valid and not, against the slow model: the same codes,
// charges, balances and leases. Every invariant holds after each command; a
// replay gives the same digest; a ledger that went through snapshots on the way
// goes on exactly like one that did not.
func TestModel(t *testing.T) { rapid.Check(t, checkModel) }

type driver struct {
	t     *rapid.T
	m     *model
	l     *ledger.Ledger
	twin  *ledger.Ledger // goes through a snapshot now and then
	block [2]ledger.Digest
	log   []wire.CommandBatch
	last  map[ledger.LeaseID]ledger.Record // the host's own totals
	sent  map[ledger.LeaseID]ledger.Record // what it told of them
	n     int

	captured []*ledger.Capture
	bytes    [][]byte // of the ledger when it was captured
}

func checkModel(t *rapid.T) {
	d := &driver{t: t, m: newModel(), l: ledger.New(), twin: ledger.New(), last: make(map[ledger.LeaseID]ledger.Record), sent: make(map[ledger.LeaseID]ledger.Record)}
	d.setUp()
	for range rapid.IntRange(1, 60).Draw(t, "commands") {
		d.step()
	}
	for len(d.captured) > 0 {
		d.release()
	}
	again, digest := ledger.New(), ledger.Digest{}
	for i := range d.log {
		digest = applyBlock(again, digest, uint64(i+1), &d.log[i])
	}
	if digest != d.block[0] {
		t.Fatalf("replay gives digest %x, want %x", digest, d.block[0])
	}
}

// applyBlock applies a batch and returns the digest of its block.
func applyBlock(l *ledger.Ledger, prev ledger.Digest, seq uint64, b *wire.CommandBatch) ledger.Digest {
	blk := wire.Block{Seq: seq, Time: b.Time, Envelopes: b.Envelopes}
	for i := range b.Envelopes {
		blk.Results = append(blk.Results, l.Apply(b.Time, &b.Envelopes[i]))
	}
	blk.Entries = l.TakeEntries()
	wire.AppendBlock(nil, prev, &blk)
	return blk.Digest
}

// release compares the oldest capture with the ledger as it was then.
func (d *driver) release() {
	if got := stateBytes(d.t, d.captured[0].State()); !bytes.Equal(got, d.bytes[0]) {
		d.t.Fatal("a capture changed with the ledger")
	}
	d.l.Release(d.captured[0])
	d.captured, d.bytes = d.captured[1:], d.bytes[1:]
}

// apply applies a command to the ledger and its twin.
func (d *driver) apply(cmd ledger.Command) ledger.Result {
	env := ledger.Envelope{Command: cmd}
	if keyed(cmd) {
		d.n++
		env.Key = fmt.Sprintf("k%d", d.n)
	}
	batch := wire.CommandBatch{Time: ledger.Time(d.m.now), Envelopes: []ledger.Envelope{env}}
	seq := uint64(len(d.log) + 1)
	d.log = append(d.log, batch)
	if rapid.IntRange(0, 9).Draw(d.t, "snapshot") == 0 {
		d.twin = throughSnapshot(d.t, d.twin)
	}
	switch rapid.IntRange(0, 9).Draw(d.t, "capture") {
	case 0:
		d.bytes = append(d.bytes, snapshotBytes(d.t, d.l))
		d.captured = append(d.captured, d.l.Capture())
	case 1:
		if len(d.captured) > 0 {
			d.release()
		}
	}
	d.block[1] = applyBlock(d.twin, d.block[1], seq, &batch)
	blk := wire.Block{Seq: seq, Time: batch.Time, Envelopes: batch.Envelopes}
	res := d.l.Apply(batch.Time, &batch.Envelopes[0])
	blk.Results, blk.Entries = []ledger.Result{res}, d.l.TakeEntries()
	d.m.took(blk.Entries)
	wire.AppendBlock(nil, d.block[0], &blk)
	d.block[0] = blk.Digest
	if d.block[0] != d.block[1] {
		d.t.Fatalf("%T: the restored ledger's digest differs", cmd)
	}
	if err := d.l.Verify(); err != nil {
		d.t.Fatalf("%T %+v: %v", cmd, cmd, err)
	}
	return res
}

func (d *driver) check(cmd ledger.Command, want ledger.Code) ledger.Result {
	res := d.apply(cmd)
	if res.Code != want {
		d.t.Fatalf("%T %+v: got %v %q, want %v", cmd, cmd, res.Code, res.Msg, want)
	}
	if diff := d.m.differences(d.l); diff != nil {
		d.t.Fatalf("%T %+v: %q", cmd, cmd, diff)
	}
	return res
}

func (d *driver) setUp() {
	d.m.begin()
	d.m.stake.UnbondMs = rapid.SampledFrom([]uint64{60_000, 90_001}).Draw(d.t, "unbond")
	d.check(&ledger.SetStakePolicy{StakePolicy: d.m.stake}, ledger.CodeOK)
	for name, cur := range map[string]ledger.Currency{"usd": ledger.USD} {
		d.m.customers[name] = cur
		d.apply(&ledger.CreateCustomer{Name: name, Namespace: name, PayIn: cur})
	}
	d.m.customers["joule"] = ledger.JOULE
	d.apply(&ledger.CreateCustomer{Name: "joule", Namespace: "joule", PayIn: ledger.JOULE})
	for i, n := range []string{"a", "b"} {
		d.apply(&ledger.CreateSupplier{Name: n})
		d.apply(&ledger.EnrollHost{Name: "h" + n, Supplier: n, Class: ledger.ClassCrowd, PublicKey: [32]byte{byte(i + 1)}})
		d.m.hosts["h"+n] = &modelHost{id: ledger.HostID(i + 1), supplier: n}
	}
	// So that most runs get to usage; some still begin with nothing.
	if rapid.IntRange(0, 9).Draw(d.t, "furnished") > 0 {
		d.setRate()
		d.setOffer("ha")
		d.setOffer("hb")
		d.deposit("usd", ledger.USD)
		d.mint()
		d.withdraw(ledger.PartyTreasury, "", ledger.JOULE)
		d.deposit("joule", ledger.JOULE)
	}
}

func (d *driver) customer() string {
	return rapid.SampledFrom([]string{"usd", "joule"}).Draw(d.t, "customer")
}

func (d *driver) host() string { return rapid.SampledFrom([]string{"ha", "hb"}).Draw(d.t, "host") }

func (d *driver) step() {
	d.m.now += rapid.SampledFrom([]int64{0, 0, 1, 500, 2000, 30_000}).Draw(d.t, "later")
	d.m.begin()
	switch op := rapid.IntRange(0, 39).Draw(d.t, "op"); op {
	case 0:
		d.setRate()
	case 1:
		d.setOffer(d.host())
	case 2:
		p := ledger.SetPolicy{FeePPM: uint32(rapid.SampledFrom([]int{0, 1, 20_000, 333_333, 500_000}).Draw(d.t, "fee")),
			SliceMs: uint32(rapid.SampledFrom([]int{1, 777, 5_000, 60_000}).Draw(d.t, "slice"))}
		d.m.fee, d.m.slice = int64(p.FeePPM), int64(p.SliceMs)
		d.check(&p, ledger.CodeOK)
	case 3, 4:
		d.deposit(d.customer(), rapid.SampledFrom([]ledger.Currency{ledger.USD, ledger.JOULE}).Draw(d.t, "currency"))
	case 5, 6:
		d.mint()
	case 7:
		d.withdraw(ledger.PartyCustomer, d.customer(), rapid.SampledFrom([]ledger.Currency{ledger.USD, ledger.JOULE}).Draw(d.t, "currency"))
	case 8:
		d.withdraw(ledger.PartySupplier, rapid.SampledFrom([]string{"a", "b"}).Draw(d.t, "supplier"), ledger.JOULE)
	case 9:
		d.withdraw(ledger.PartyTreasury, "", rapid.SampledFrom([]ledger.Currency{ledger.USD, ledger.JOULE}).Draw(d.t, "currency"))
	case 10:
		d.topUp()
	case 11:
		d.close()
	default:
		switch {
		case op < 16 || len(d.m.leases) == 0:
			d.open()
		case op < 25:
			d.later()
		default:
			d.usage()
		}
	}
}

func (d *driver) setRate() {
	v := rapid.SampledFrom([]int64{1, 999, 1_000_003, 50_000_000, 51_234_567, 7_000_000_000}).Draw(d.t, "rate")
	d.m.addRate(v, false)
	d.check(&ledger.SetRate{NUSDPerJoule: ledger.NUSD(v)}, ledger.CodeOK)
}

func (d *driver) setOffer(host string) {
	price := rapid.SampledFrom([]ledger.NUSD{0, 1, 12_345, 360_000_001, 36_000_000_000})
	p := ledger.Prices{Base: price.Draw(d.t, "base"), CPU: price.Draw(d.t, "cpu"), GPU: price.Draw(d.t, "gpu"), Memory: price.Draw(d.t, "memory")}
	if d.m.hosts[host].retired {
		d.check(&ledger.SetOffer{Host: host, Prices: p}, ledger.CodeClosed)
		return
	}
	d.m.hosts[host].offer = &p
	d.check(&ledger.SetOffer{Host: host, Prices: p}, ledger.CodeOK)
}

func amount(t *rapid.T) int64 {
	return rapid.SampledFrom([]int64{1, 1000, 3_333_333, 400_000_000, 90_000_000_000}).Draw(t, "amount")
}

func (d *driver) deposit(customer string, cur ledger.Currency) {
	c := &ledger.Deposit{Customer: customer, Currency: cur, Amount: amount(d.t), Ref: "r"}
	want := ledger.CodeOK
	if cur == ledger.JOULE && d.m.get("external", ledger.JOULE).Cmp(bi(c.Amount)) < 0 {
		want = ledger.CodeInsufficient
	} else {
		d.m.move("external", "customer/"+customer, cur, bi(c.Amount))
	}
	d.check(c, want)
}

func (d *driver) mint() {
	c := &ledger.Mint{Amount: ledger.NJ(amount(d.t)), Ref: "r"}
	d.m.move("issuance", "treasury", ledger.JOULE, bi(int64(c.Amount)))
	d.m.convertWaiting()
	d.check(c, ledger.CodeOK)
}

func (d *driver) withdraw(party ledger.Party, name string, cur ledger.Currency) {
	c := &ledger.Withdraw{Party: party, Name: name, Currency: cur, Amount: amount(d.t), Ref: "r"}
	account := map[ledger.Party]string{ledger.PartyCustomer: "customer/" + name, ledger.PartySupplier: "supplier/" + name, ledger.PartyTreasury: "treasury"}[party]
	want := ledger.CodeInsufficient
	if d.m.get(account, cur).Cmp(bi(c.Amount)) >= 0 {
		want = ledger.CodeOK
		d.m.move(account, "external", cur, bi(c.Amount))
	}
	d.check(c, want)
}

func (d *driver) open() {
	n := rapid.SampledFrom([]uint32{0, 1, 3})
	c := &ledger.OpenLease{Host: d.host(), Namespace: d.customer(), Job: rapid.SampledFrom([]string{"j1", "j2"}).Draw(d.t, "job"),
		Group: "g", Task: "t", Alloc: fmt.Sprintf("a%d", d.n), Invocation: "i",
		Resources: ledger.Resources{MilliCores: 777 * n.Draw(d.t, "cores"), MemoryMiB: 100 * n.Draw(d.t, "memory"), GPUs: n.Draw(d.t, "gpus")},
		MaxPrices: ledger.Prices{Base: rapid.SampledFrom([]ledger.NUSD{0, 0, 0, 12_345}).Draw(d.t, "max")},
		Budget:    ledger.NUSD(rapid.SampledFrom([]int64{0, 0, 1_000_000, 5_000_000_000}).Draw(d.t, "budget"))}
	d.check(c, d.m.open(c))
}

// lease draws an id that is mostly one there is.
func (d *driver) lease() ledger.LeaseID {
	return ledger.LeaseID(rapid.IntRange(0, len(d.m.leases)+1).Draw(d.t, "lease"))
}

func (d *driver) topUp() {
	c := &ledger.TopUpLease{Lease: d.lease(), Slices: uint32(rapid.IntRange(1, 4).Draw(d.t, "slices"))}
	if c.Lease == 0 || int(c.Lease) > len(d.m.leases) {
		d.check(c, ledger.CodeNotFound)
		return
	}
	le := d.m.leases[c.Lease-1]
	if le.reason != 0 {
		d.check(c, ledger.CodeClosed)
		return
	}
	target := add(le.owed(), new(big.Int).Mul(sliceOf(le.slice, le.res, le.prices), bi(int64(c.Slices))))
	if sub(target, le.held).Cmp(d.m.room(le)) > 0 && target.Cmp(le.held) > 0 ||
		sub(d.m.need(le, target), le.hold).Cmp(d.m.get("customer/"+le.customer, le.payIn)) > 0 {
		d.check(c, ledger.CodeInsufficient)
		return
	}
	d.m.raise(le, target)
	d.m.charge(le)
	d.check(c, ledger.CodeOK)
}

func (d *driver) close() {
	c := &ledger.CloseLease{Lease: d.lease(), Reason: rapid.SampledFrom([]ledger.CloseReason{ledger.CloseOperator, ledger.CloseHostLost}).Draw(d.t, "reason"),
		Host: ledger.HostID(rapid.IntRange(0, 2).Draw(d.t, "by"))}
	if c.Lease == 0 || int(c.Lease) > len(d.m.leases) {
		d.check(c, ledger.CodeNotFound)
		return
	}
	le := d.m.leases[c.Lease-1]
	switch {
	case c.Host != 0 && c.Host != le.host.id:
		d.check(c, ledger.CodeForbidden)
	case le.reason == c.Reason:
		d.check(c, ledger.CodeOK)
	case le.reason != 0:
		d.check(c, ledger.CodeClosed)
	default:
		d.m.raise(le, le.owed())
		d.m.charge(le)
		d.m.end(le, c.Reason)
		if c.Reason == ledger.CloseHostLost {
			d.m.offences[modelOffence{c.Lease, ledger.FineHostLost}] = true
		}
		d.check(c, ledger.CodeOK)
	}
}

func (d *driver) usage() {
	batch := &ledger.UsageBatch{Host: d.m.hosts[d.host()].id}
	var records []ledger.Record
	for range rapid.IntRange(1, 4).Draw(d.t, "records") {
		records = append(records, d.record(batch))
	}
	batch.Records = records
	type outcome struct {
		status  ledger.RecordStatus
		charged *big.Int
		stop    bool
	}
	var want []outcome
	for i := range records {
		status, charged, stop := d.m.usage(batch.Host, &records[i])
		want = append(want, outcome{status, charged, stop})
	}
	res := d.check(batch, ledger.CodeOK)
	for i, got := range res.Records {
		w := want[i]
		if got.Status != w.status || bi(int64(got.Charged)).Cmp(w.charged) != 0 || (got.Stop != 0) != w.stop {
			d.t.Fatalf("record %+v: got %+v, want status %d, charged %d, stop %v", records[i], got, w.status, w.charged, w.stop)
		}
	}
}

// record makes a record that mostly goes on from the lease's last one.
func (d *driver) record(batch *ledger.UsageBatch) ledger.Record {
	id := d.lease()
	if rapid.IntRange(0, 7).Draw(d.t, "known lease") > 0 {
		id = ledger.LeaseID(rapid.IntRange(1, len(d.m.leases)).Draw(d.t, "lease"))
		batch.Host = d.m.leases[id-1].host.id
	}
	sent, any := d.sent[id]
	r := d.last[id]
	switch kind := rapid.IntRange(0, 19).Draw(d.t, "kind"); {
	case kind == 0 && any: // again
		return sent
	case kind == 1 && any: // another content under the same sequence
		sent.GPUBusyMs++
		return sealed(sent)
	case kind == 2 && sent.Seq > 1: // an old one
		sent.Seq--
		return sealed(sent)
	case kind == 3: // off the chain
		r.Prev = ledger.Hash{0xff}
	case kind == 4 && r.Active.WallMs > 0: // a decreasing total
		r.Active.WallMs--
		r.Prev = sent.Hash
	default:
		r.Prev = sent.Hash
	}
	ms := rapid.SampledFrom([]uint64{0, 1, 137, 2000, 30_000, 1 << 20})
	few := rapid.IntRange(0, 3)
	r.Lease, r.Epoch, r.Seq = id, 1, r.Seq+uint64(rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(d.t, "gap"))
	r.Known = rapid.SampledFrom([]ledger.Known{ledger.KnownAll, ledger.KnownAll, ledger.KnownWall, 0}).Draw(d.t, "known")
	r.Active.WallMs += ms.Draw(d.t, "wall")
	r.Active.CPUMs += ms.Draw(d.t, "cpu")
	if few.Draw(d.t, "other") == 0 {
		r.Active.GPUMs += ms.Draw(d.t, "gpu")
		r.Active.MemoryMiBMs += ms.Draw(d.t, "mem")
		r.Standby.WallMs += ms.Draw(d.t, "standby")
		r.Standby.CPUMs += ms.Draw(d.t, "standby cpu")
	}
	r.Final = rapid.IntRange(0, 11).Draw(d.t, "final") == 0
	d.last[id] = r
	for i, known := range knownBits {
		if r.Known&known == 0 {
			*totalsField(&r.Active, i), *totalsField(&r.Standby, i) = 0, 0
		}
	}
	r = sealed(r)
	d.sent[id] = r
	return r
}

func totalsField(t *ledger.Totals, i int) *uint64 {
	return []*uint64{&t.WallMs, &t.CPUMs, &t.GPUMs, &t.MemoryMiBMs}[i]
}
