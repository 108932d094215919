// Package workload makes the load that every benchmark of settlement works
// through: customers, suppliers, hosts, leases, and the hosts' usage records.
// It is a function of its Spec alone, so that two systems can be given the
// same batches and must come to the same charges.
package workload

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/joulecloud/joule/settlement/ledger"
)

// Spec sizes a workload.
type Spec struct {
	Leases    int
	Hosts     int // each of a supplier of its own; the leases are spread over them at random
	Suppliers int // at least Hosts: the others have accounts and nothing to do
	Customers int
	// StepMs is the time between two records of a lease. Usage is paid only as
	// far as ledger time has passed since the lease opened (rule U6), so the
	// load must not come faster than this for each lease.
	StepMs uint64
}

// Sized is a workload of n leases.
func Sized(n int) Spec {
	return Spec{Leases: n, Hosts: max(1, min(256, n/2048)), Suppliers: min(10_000, max(n/100, 256)),
		Customers: max(1, min(1000, n/100)), StepMs: uint64(max(2, n/1_000_000*1000, n/1000))}
}

// What every lease is granted, and what every host asks: each dimension costs.
var (
	Resources = ledger.Resources{MilliCores: 2000, MemoryMiB: 8192, GPUs: 1}
	Prices    = ledger.Prices{Base: 10_000_000, CPU: 40_000_000, GPU: 2_500_000_000, Memory: 5_000_000}
)

// Rate and Policy are in force throughout.
const (
	Rate    ledger.NUSD = 51_234_567
	FeePPM              = 20_000
	SliceMs             = 3_600_000
	Minted  ledger.NJ   = 4_000_000_000 * joule
)

const (
	usd   = 1_000_000_000
	joule = 1_000_000_000
)

// mix spreads numbers (SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// HostOf is the host of a lease.
func (s Spec) HostOf(lease ledger.LeaseID) ledger.HostID {
	return ledger.HostID(mix(uint64(lease))%uint64(s.Hosts)) + 1
}

// SpreadOf is a supplier that a lease could have if it were not its host's.
func (s Spec) SpreadOf(lease ledger.LeaseID) ledger.SupplierID {
	return ledger.SupplierID(mix(uint64(lease)<<1)%uint64(s.Suppliers)) + 1
}

// HostName is the name under which a host is enrolled.
func HostName(id ledger.HostID) string { return fmt.Sprintf("host-%d", id) }

// HostKey is the host's key. It guards nothing.
func HostKey(id ledger.HostID) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "joule benchmark host %d", id))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Alloc is the allocation of a lease, as long as Nomad's ids are.
func Alloc(lease ledger.LeaseID) string {
	a, b := mix(uint64(lease)), mix(^uint64(lease))
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", a>>32, a>>16&0xffff, a&0xffff, b>>48, b&0xffffffffffff)
}

// Setup yields the commands that make the workload's customers, suppliers,
// hosts and leases in an empty ledger, whose ids then are 1 to Spec's numbers.
func (s Spec) Setup() iter.Seq[ledger.Envelope] {
	return func(yield func(ledger.Envelope) bool) {
		n := 0
		do := func(cmd ledger.Command) bool {
			n++
			return yield(ledger.Envelope{Key: fmt.Sprintf("setup-%d", n), Command: cmd})
		}
		ok := do(&ledger.SetRate{NUSDPerJoule: Rate}) &&
			do(&ledger.SetPolicy{FeePPM: FeePPM, SliceMs: SliceMs}) &&
			do(&ledger.Mint{Amount: Minted, Ref: "benchmark"})
		for i := 1; ok && i <= s.Suppliers; i++ {
			ok = do(&ledger.CreateSupplier{Name: fmt.Sprintf("supplier-%d", i)})
		}
		for i := 1; ok && i <= s.Hosts; i++ {
			c := &ledger.EnrollHost{Name: HostName(ledger.HostID(i)), Supplier: fmt.Sprintf("supplier-%d", i), Class: ledger.ClassDatacenter}
			copy(c.PublicKey[:], HostKey(ledger.HostID(i)).Public().(ed25519.PublicKey))
			ok = do(c) && do(&ledger.SetOffer{Host: c.Name, Prices: Prices})
		}
		for i := 1; ok && i <= s.Customers; i++ {
			name := fmt.Sprintf("customer-%d", i)
			ok = do(&ledger.CreateCustomer{Name: name, Namespace: name, PayIn: ledger.USD}) &&
				do(&ledger.Deposit{Customer: name, Currency: ledger.USD, Amount: 1_000_000 * usd, Ref: "benchmark"})
		}
		for i := 1; ok && i <= s.Leases; i++ {
			id := ledger.LeaseID(i)
			ok = do(&ledger.OpenLease{
				Host: HostName(s.HostOf(id)), Namespace: fmt.Sprintf("customer-%d", i%s.Customers+1),
				Job: fmt.Sprintf("job-%d", i/s.Customers/100), Group: "serve", Task: "api",
				Alloc: Alloc(id), Invocation: fmt.Sprintf("%08x", uint32(mix(uint64(i)+7))), Resources: Resources,
			})
		}
	}
}

// Totals is what a lease has used at its record seq.
func (s Spec) Totals(seq uint64) ledger.Totals {
	wall := s.StepMs * seq
	return ledger.Totals{WallMs: wall, CPUMs: wall * 7 / 8, GPUMs: wall, MemoryMiBMs: wall * uint64(Resources.MemoryMiB)}
}

// Feed makes one host's records: its leases in an order that the memory cannot
// foresee, each once per round.
type Feed struct {
	spec   Spec
	host   ledger.HostID
	leases []ledger.LeaseID
	hashes []ledger.Hash // of each lease's last record
	hash   func(*ledger.Record) ledger.Hash
	next   int
	seq    uint64
}

// Feeds returns every host's feed; hash computes a record's identity.
func (s Spec) Feeds(hash func(*ledger.Record) ledger.Hash) []*Feed {
	feeds := make([]*Feed, s.Hosts)
	for i := range feeds {
		feeds[i] = &Feed{spec: s, host: ledger.HostID(i + 1), hash: hash, seq: 1}
	}
	for id := ledger.LeaseID(1); id <= ledger.LeaseID(s.Leases); id++ {
		f := feeds[s.HostOf(id)-1]
		f.leases = append(f.leases, id)
	}
	for _, f := range feeds {
		f.hashes = make([]ledger.Hash, len(f.leases))
		for i := len(f.leases) - 1; i > 0; i-- {
			j := int(mix(uint64(f.leases[i])+uint64(i)<<32) % uint64(i+1))
			f.leases[i], f.leases[j] = f.leases[j], f.leases[i]
		}
	}
	return feeds
}

// Host is whose records these are.
func (f *Feed) Host() ledger.HostID { return f.host }

// Leases is how many leases the host has: one round of the feed.
func (f *Feed) Leases() int { return len(f.leases) }

// Round is the sequence that the next record will have.
func (f *Feed) Round() uint64 { return f.seq }

// Rest is how many leases are left in this round.
func (f *Feed) Rest() int { return len(f.leases) - f.next }

// Fill makes the next len(records) records. With no more than Leases of them,
// no lease comes up twice.
func (f *Feed) Fill(records []ledger.Record) {
	for i := range records {
		r := &records[i]
		*r = ledger.Record{
			Lease: f.leases[f.next], Seq: f.seq, Epoch: 1, Prev: f.hashes[f.next],
			Known: ledger.KnownAll, Active: f.spec.Totals(f.seq),
		}
		r.Hash = f.hash(r)
		f.hashes[f.next] = r.Hash
		if f.next++; f.next == len(f.leases) {
			f.next = 0
			f.seq++
		}
	}
}

// CheapHash stands for a record's identity where no bytes are sent: the ledger
// only compares them.
func CheapHash(r *ledger.Record) (h ledger.Hash) {
	binary.LittleEndian.PutUint64(h[:], mix(uint64(r.Lease)))
	binary.LittleEndian.PutUint64(h[8:], r.Seq)
	return h
}

// Charged is what a lease has been charged, and what its supplier and the fees
// got of it, once its record seq is settled: by the rules, not by the ledger's
// code. The floors are taken of the whole, so the way there does not matter
// (rules M3, M4).
func (s Spec) Charged(seq uint64) (charged ledger.NUSD, paid, fee ledger.NJ) {
	charged = ledger.CostNUSD(s.Totals(seq), Prices)
	gross := gross(charged)
	fee = ledger.NJ(int64(gross) / 1_000_000 * FeePPM)
	fee += ledger.NJ(int64(gross) % 1_000_000 * FeePPM / 1_000_000)
	return charged, gross - fee, fee
}

// gross is ⌊charged×10⁹/Rate⌋ in parts that fit int64.
func gross(charged ledger.NUSD) ledger.NJ {
	const rate = int64(Rate)
	c := int64(charged)
	return ledger.NJ(c/rate*joule + (c%rate)*joule/rate)
}
