package ledger

// Bounds on claims (rule U6) allow for what an honest host may be ahead of the
// ledger:
//
//   - The ledger's clock is the leader's wall clock and may stand still for as
//     long as a new leader's clock is behind the old one's; hosts and servers
//     that keep time by NTP agree to well within witnessGraceMs.
//   - A host meters by its own monotonic clock, which the kernel slews by at
//     most 500 ppm; over a lease of days that adds up, so the bound grows by
//     1/witnessDrift of the time witnessed.
//   - CPU counters are charged to a task tick by tick, so a reading can be
//     ahead of the wall clock's by a tick of each core; cpuSlackMs is two 10 ms
//     ticks.
const (
	witnessGraceMs = 1000
	witnessDrift   = 2000
	cpuSlackMs     = 20
)

// usageBatch gives each record its own outcome; the batch itself is refused
// only when it cannot be anyone's.
func (l *Ledger) usageBatch(key string, b *UsageBatch) Result {
	if key != "" {
		return refuse(CodeInvalid, "key must be empty for a usage batch, got %s", quote(key))
	}
	if n := len(b.Records); n == 0 || n > BatchRecordsMax {
		return refuse(CodeInvalid, "records must be 1 to %d, got %d", BatchRecordsMax, n)
	}
	if b.Host == 0 || int(b.Host) > l.hosts.len() {
		return refuse(CodeNotFound, "host %d not found", b.Host)
	}
	first := len(l.records)
	for i := range b.Records {
		if i%touchAhead == 0 {
			l.touch(b.Records[i:min(i+touchAhead, len(b.Records))])
		}
		l.records = append(l.records, l.record(b.Host, &b.Records[i]))
	}
	return Result{Records: l.records[first:len(l.records):len(l.records)]}
}

// record applies one record (rules U2 to U4, U6). The checks come in this
// order: form; lease; host; sequence and chain; totals; closed lease.
func (l *Ledger) record(host HostID, r *Record) RecordResult {
	res := RecordResult{Lease: r.Lease, Seq: r.Seq}
	le, ok := l.lease(r.Lease)
	switch {
	case !r.wellFormed():
		res.Status = RecordInvalid
	case !ok:
		res.Status = RecordUnknownLease
	case le.Host != host:
		res.Status = RecordWrongHost
	default:
		open := le.Reason == CloseNone
		switch res.Status = le.judge(r); {
		case res.Status == RecordAccepted && open:
			res.Charged = l.accept(r, le)
		case res.Status == RecordAccepted:
			res.Status = RecordLeaseClosed
		}
		switch {
		case le.Reason == CloseNone:
			res.Stop = le.Stop
		case res.Status == RecordLeaseClosed && !r.Final:
			res.Stop = le.Reason // the task still runs
		}
	}
	switch res.Status {
	case RecordAccepted, RecordRepeat, RecordOld:
	default:
		l.emit(EntryRecordRefused).Fact = &RecordRefused{Host: host, Status: res.Status, Record: *r}
		if res.Status == RecordEquivocation {
			l.offend(r.Lease, FineEquivocation, r.Hash)
		}
	}
	return res
}

// wellFormed says whether the record could be right for any lease without a
// pool: such a lease has one epoch.
func (r *Record) wellFormed() bool {
	if r.Seq == 0 || r.Epoch != leaseEpoch || r.Known&^KnownAll != 0 {
		return false
	}
	a, s := &r.Active, &r.Standby
	return (r.Known&KnownWall != 0 || a.WallMs|s.WallMs == 0) &&
		(r.Known&KnownCPU != 0 || a.CPUMs|s.CPUMs == 0) &&
		(r.Known&KnownGPU != 0 || a.GPUMs|s.GPUMs == 0) &&
		(r.Known&KnownMemory != 0 || a.MemoryMiBMs|s.MemoryMiBMs == 0)
}

// judge says whether the record follows on what the lease has (rule U3). Gaps
// in the sequence are fine: a later record says all that a lost one did.
func (le *LeaseRow) judge(r *Record) RecordStatus {
	switch {
	case r.Seq < le.LastSeq:
		return RecordOld
	case r.Seq == le.LastSeq && r.Hash == le.LastHash:
		return RecordRepeat
	case r.Seq == le.LastSeq, r.Seq-le.LastSeq == 1 && r.Prev != le.LastHash:
		return RecordEquivocation
	case r.Active.below(&le.Claimed, r.Known), r.Standby.below(&le.ClaimedStandby, r.Known):
		return RecordDecreasing
	}
	return RecordAccepted
}

// below says whether a known total is less than that of u.
func (t *Totals) below(u *Totals, known Known) bool {
	return known&KnownWall != 0 && t.WallMs < u.WallMs ||
		known&KnownCPU != 0 && t.CPUMs < u.CPUMs ||
		known&KnownGPU != 0 && t.GPUMs < u.GPUMs ||
		known&KnownMemory != 0 && t.MemoryMiBMs < u.MemoryMiBMs
}

// take replaces the totals that u knows; the others stay as they were (rule
// U4: unknown is not zero).
func (t *Totals) take(u *Totals, known Known) {
	if known&KnownWall != 0 {
		t.WallMs = u.WallMs
	}
	if known&KnownCPU != 0 {
		t.CPUMs = u.CPUMs
	}
	if known&KnownGPU != 0 {
		t.GPUMs = u.GPUMs
	}
	if known&KnownMemory != 0 {
		t.MemoryMiBMs = u.MemoryMiBMs
	}
}

// accept takes a record that follows on the lease's last one: claims, bounds,
// hold, charge, and on a final record the close.
func (l *Ledger) accept(r *Record, le *LeaseRow) (charged NUSD) {
	id := r.Lease
	le.LastSeq, le.LastHash = r.Seq, r.Hash
	le.Known, le.Quality = r.Known, le.Quality|r.Quality
	le.Claimed.take(&r.Active, r.Known)
	le.ClaimedStandby.take(&r.Standby, r.Known)
	le.bound(l.now)

	l.emit(EntryUsage).Usage = Usage{Lease: id, Seq: r.Seq, Billed: le.Billed, Standby: le.Standby,
		Refused: le.refused(), Bounds: le.Bounds, Known: r.Known, Quality: le.Quality, Final: r.Final}

	owed := le.owed()
	if r.Final || le.Stop != CloseNone {
		// Nothing is set aside for a task that is not to run on.
		l.raise(id, le, owed)
	} else if !l.covers(le, addSat(int64(owed), int64(le.Slice))) {
		l.raise(id, le, NUSD(addSat(int64(owed), addSat(int64(le.Slice), int64(le.Slice)))))
	}
	charged = l.charge(id, le)
	switch {
	case r.Final:
		reason := CloseFinished
		if le.Stop != CloseNone {
			reason = le.Stop
		}
		l.end(id, le, reason)
	case !l.goesOn(le):
		le.Stop = CloseFunds // a stop once asked for stands, whatever comes in later
	}
	return charged
}

// goesOn says whether the task may run on: what it used is charged, or can be
// once there is a rate again, and the next slice is covered.
func (l *Ledger) goesOn(le *LeaseRow) bool {
	owed := le.owed()
	return (owed == 0 || le.Deferred) && l.covers(le, addSat(int64(owed), int64(le.Slice)))
}

// covers says whether the hold is good for an amount of USD.
func (l *Ledger) covers(le *LeaseRow, amount int64) bool {
	return int64(le.HeldNUSD) >= amount && le.Hold >= l.inPayIn(le, NUSD(amount))
}

// bound cuts the claims (rule U6). Each bound only grows with time and with
// the totals under it, so that refused time may become billed by a later
// record, and never the reverse.
func (le *LeaseRow) bound(now Time) {
	witnessed := uint64(now - le.Opened)
	witnessed += witnessGraceMs + witnessed/witnessDrift
	// The active and the standby state share the time there was.
	le.cut(&le.Billed, &le.Claimed, witnessed-le.Standby.WallMs)
	le.cut(&le.Standby, &le.ClaimedStandby, witnessed-le.Billed.WallMs)
}

// cut sets t to the claim within its bounds.
func (le *LeaseRow) cut(t, claim *Totals, wallMost uint64) {
	r := &le.Resources
	t.WallMs = le.least(claim.WallMs, wallMost, BoundWitnessed)
	t.CPUMs = le.least(claim.CPUMs, mulSat(t.WallMs, uint64(r.MilliCores))/1000+cpuSlackMs, BoundCores)
	t.GPUMs = le.least(claim.GPUMs, mulSat(t.WallMs, uint64(r.GPUs)), BoundGPUs)
	t.MemoryMiBMs = le.least(claim.MemoryMiBMs, mulSat(t.WallMs, uint64(r.MemoryMiB)), BoundMemory)
}

func (le *LeaseRow) least(claim, most uint64, bound Bound) uint64 {
	if claim <= most {
		return claim
	}
	le.Bounds |= bound
	return most
}

// refused is what was claimed and cut.
func (le *LeaseRow) refused() Totals {
	return Totals{
		WallMs:      satSum(le.Claimed.WallMs-le.Billed.WallMs, le.ClaimedStandby.WallMs-le.Standby.WallMs),
		CPUMs:       satSum(le.Claimed.CPUMs-le.Billed.CPUMs, le.ClaimedStandby.CPUMs-le.Standby.CPUMs),
		GPUMs:       satSum(le.Claimed.GPUMs-le.Billed.GPUMs, le.ClaimedStandby.GPUMs-le.Standby.GPUMs),
		MemoryMiBMs: satSum(le.Claimed.MemoryMiBMs-le.Billed.MemoryMiBMs, le.ClaimedStandby.MemoryMiBMs-le.Standby.MemoryMiBMs),
	}
}
