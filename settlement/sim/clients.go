package sim

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// client sends commands, one after another, until each is answered.
type client struct {
	c    *cluster
	h    *history
	name string
	n    int
}

func (cl *client) key() string {
	cl.n++
	return fmt.Sprintf("%s-%d", cl.name, cl.n)
}

// do sends a command under the client's next key.
func (cl *client) do(ctx context.Context, cmd ledger.Command) (ledger.Result, bool) {
	return cl.send(ctx, ledger.Envelope{Key: cl.key(), Command: cmd})
}

// send tries one server after another until one answers; now and then two at
// once, as a client does that lost patience. false: ctx ended first.
func (cl *client) send(ctx context.Context, env ledger.Envelope) (ledger.Result, bool) {
	o := cl.h.begin(cl.name, env)
	for ctx.Err() == nil {
		o.tries++
		n := 1
		if cl.c.rng.n(8) == 0 {
			n = 2
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range n {
			wg.Go(func() {
				if res, ok := cl.try(ctx, env); ok {
					mu.Lock()
					defer mu.Unlock()
					if o.acked != 0 && env.Key != "" && !reflect.DeepEqual(res, o.result) {
						cl.c.tb.Errorf("%s: key %q was answered %+v and %+v", cl.name, env.Key, o.result, res)
					}
					cl.h.ack(o, res)
				}
			})
		}
		wg.Wait()
		if o.acked != 0 {
			return o.result, true
		}
		cl.c.pause(ctx, 10*time.Millisecond, 300*time.Millisecond)
	}
	return ledger.Result{}, false
}

// try asks one server. An answer that came from a process that had died by
// then reached nobody.
func (cl *client) try(ctx context.Context, env ledger.Envelope) (ledger.Result, bool) {
	s := cl.c.servers[cl.c.rng.n(len(cl.c.servers))]
	n, life := s.live()
	if n == nil {
		return ledger.Result{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, cl.c.rng.between(500*time.Millisecond, 5*time.Second))
	defer cancel()
	res, err := n.Submit(ctx, env)
	if _, now := s.live(); err != nil || now != life {
		return ledger.Result{}, false
	}
	return res, true
}

// must is for what has to succeed in the end.
func (cl *client) must(ctx context.Context, cmd ledger.Command) ledger.Result {
	res, ok := cl.do(ctx, cmd)
	if !ok || res.Code != ledger.CodeOK {
		cl.c.tb.Errorf("%s: %T: got %+v, answered %t", cl.name, cmd, res, ok)
	}
	return res
}

const (
	dollar = 1_000_000_000
	hosts  = 2
)

// world sets up who takes part.
func (cl *client) world(ctx context.Context, keys []ed25519.PrivateKey) {
	cl.must(ctx, &ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD})
	cl.must(ctx, &ledger.CreateCustomer{Name: "joulers", Namespace: "joulers", PayIn: ledger.JOULE})
	cl.must(ctx, &ledger.SetRate{NUSDPerJoule: 50_000_001})
	cl.must(ctx, &ledger.Mint{Amount: 1000 * dollar, Ref: "first"})
	cl.must(ctx, &ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 500 * dollar, Ref: "sold"})
	cl.must(ctx, &ledger.Deposit{Customer: "joulers", Currency: ledger.JOULE, Amount: 500 * dollar, Ref: "bought"})
	cl.must(ctx, &ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 40 * dollar, Ref: "first"})
	for i, k := range keys {
		name := fmt.Sprint("h", i+1)
		cl.must(ctx, &ledger.CreateSupplier{Name: name + "-owner"})
		host := &ledger.EnrollHost{Name: name, Supplier: name + "-owner", Class: ledger.ClassCrowd}
		copy(host.PublicKey[:], k.Public().(ed25519.PublicKey))
		cl.must(ctx, host)
		cl.must(ctx, &ledger.SetOffer{Host: name, Prices: ledger.Prices{Base: 3 * dollar, CPU: 7 * dollar, Memory: dollar / 3}})
	}
}

// banker moves money in and out, changes the rate, mints, and sends nonsense.
func (cl *client) banker(ctx context.Context) {
	for cl.c.pause(ctx, 0, 2*time.Second) {
		amount := int64(1 + cl.c.rng.n(5*dollar))
		ref := fmt.Sprint(cl.name, " ", cl.n)
		switch cl.c.rng.n(10) {
		case 0, 1, 2:
			cl.do(ctx, &ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: amount, Ref: ref})
		case 3, 4:
			cl.do(ctx, &ledger.Withdraw{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: amount, Ref: ref})
		case 5:
			cl.do(ctx, &ledger.SetRate{NUSDPerJoule: ledger.NUSD(49_000_000 + cl.c.rng.n(2_000_000))})
		case 6:
			cl.do(ctx, &ledger.Mint{Amount: ledger.NJ(amount), Ref: ref})
		case 7: // a key used again for something else
			env := ledger.Envelope{Key: cl.key(), Command: &ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: amount, Ref: ref}}
			if _, ok := cl.send(ctx, env); !ok {
				return
			}
			n, _ := cl.c.servers[cl.c.rng.n(len(cl.c.servers))].live()
			if n == nil {
				continue
			}
			env.Command = &ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: amount + 1, Ref: ref}
			tctx, cancel := context.WithTimeout(ctx, time.Second)
			if res, err := n.Submit(tctx, env); err == nil && res.Code != ledger.CodeConflict {
				cl.c.tb.Errorf("%s: key %q with another input: got %+v, want a conflict", cl.name, env.Key, res)
			}
			cancel()
		case 8:
			cl.do(ctx, &ledger.Withdraw{Party: ledger.PartySupplier, Name: "nobody", Currency: ledger.JOULE, Amount: amount, Ref: ref})
		case 9:
			cl.do(ctx, &ledger.SetPolicy{FeePPM: uint32(cl.c.rng.n(100_000)), SliceMs: uint32(1000 + cl.c.rng.n(60_000))})
		}
	}
}

// reader makes linearizable reads of whichever server says that it leads.
func (cl *client) reader(ctx context.Context) {
	for cl.c.pause(ctx, 0, 300*time.Millisecond) {
		s := cl.c.servers[cl.c.rng.n(len(cl.c.servers))]
		n, life := s.live()
		if n == nil {
			continue
		}
		r := &read{called: cl.h.clock.Add(1)}
		tctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := n.ReadDigest(tctx, func(l *ledger.Ledger, d ledger.Digest) error {
			r.digest, r.entries = d, l.EntryCount()
			return nil
		})
		cancel()
		r.answered = cl.h.clock.Add(1)
		if _, now := s.live(); err == nil && now == life {
			cl.h.addRead(r)
		}
	}
}

// host runs leases: it opens one, sends its usage, more than once at times,
// tops it up when it is to stop, ends it, opens the next.
func (cl *client) host(ctx context.Context, id ledger.HostID, key ed25519.PrivateKey) {
	namespaces := []string{"acme", "joulers"}
	for i := 0; ctx.Err() == nil; i++ {
		res, ok := cl.do(ctx, &ledger.OpenLease{Host: fmt.Sprint("h", id), Namespace: namespaces[i%2], Job: "job", Group: "g", Task: "t",
			Alloc: fmt.Sprintf("%s alloc %d", cl.name, i), Invocation: "1", Resources: ledger.Resources{MilliCores: 2000, MemoryMiB: 512}})
		if !ok {
			return
		}
		if res.Code != ledger.CodeOK {
			cl.c.pause(ctx, time.Second, 5*time.Second)
			continue
		}
		cl.run(ctx, id, key, res.Lease.Lease)
	}
}

func (cl *client) run(ctx context.Context, id ledger.HostID, key ed25519.PrivateKey, lease ledger.LeaseID) {
	start := time.Now()
	var last ledger.Record
	var sent []ledger.Envelope
	records := 3 + cl.c.rng.n(12)
	for i := range records {
		if !cl.c.pause(ctx, 100*time.Millisecond, 3*time.Second) {
			return
		}
		ms := uint64(time.Since(start).Milliseconds())
		r := ledger.Record{Lease: lease, Seq: last.Seq + 1, Epoch: 1, Prev: last.Hash, Known: ledger.KnownAll, Final: i == records-1,
			Active: ledger.Totals{WallMs: ms, CPUMs: ms * 3 / 2, MemoryMiBMs: ms * 512}}
		r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
		last = r
		batch := &ledger.UsageBatch{Host: id, Boot: [16]byte{byte(id)}, Records: []ledger.Record{r}}
		sig := ed25519.Sign(key, wire.BatchSigningBytes(wire.AppendBatch(nil, id, batch.Boot, batch.Records)))
		copy(batch.Signature[:], sig)
		env := ledger.Envelope{Command: batch}
		sent = append(sent, env)
		if cl.c.rng.n(6) == 0 && !r.Final {
			continue // lost: the next record says it all
		}
		res, ok := cl.send(ctx, env)
		if !ok {
			return
		}
		if cl.c.rng.n(4) == 0 { // an old batch again
			cl.send(ctx, sent[cl.c.rng.n(len(sent))])
		}
		if len(res.Records) == 1 && res.Records[0].Stop == ledger.CloseFunds && !r.Final {
			cl.do(ctx, &ledger.TopUpLease{Lease: lease, Slices: 1})
		}
	}
	if cl.c.rng.n(3) == 0 {
		cl.do(ctx, &ledger.CloseLease{Lease: lease, Reason: ledger.CloseFinished, Host: id})
	}
}
