package ledger

import "slices"

// Capture is a ledger as it was at one moment. Taking one copies no rows: its
// pages are the ledger's own until the ledger writes to them.
//
// Capture and Release belong to whoever calls Apply, between two commands.
// State, and all that is read through it, may be used by one other goroutine
// while Apply goes on, until Release.
type Capture struct{ frozen Ledger }

// Capture captures the ledger. Release gives it back, soon: while a capture is
// open, the first write to a page copies it.
//
// Tables of rows that change are slabs; the others only grow, so their length
// is all that has to be kept.
func (l *Ledger) Capture() *Capture {
	return &Capture{frozen: Ledger{
		now: l.now, policy: l.policy, entryCount: l.entryCount,
		rates:       slices.Clip(l.rates),
		inForce:     l.inForce,
		pause:       l.pause,
		pauseSince:  l.pauseSince,
		override:    l.override,
		convertNext: l.convertNext,
		texts:       arena{chunks: slices.Clip(l.texts.chunks)},
		accounts:    l.accounts.capture(),
		withdrawing: l.withdrawing,
		escrow:      l.escrow,
		customers:   l.customers.capture(),
		suppliers:   l.suppliers.capture(),
		hosts:       l.hosts.capture(),
		jobNames:    l.jobNames.capture(),
		leases:      l.leases.capture(),
		leaseTerms:  l.leaseTerms.capture(),
		withdrawals: l.withdrawals.capture(),
		corrections: l.corrections.capture(),
		unbondings:  l.unbondings.capture(),
		fines:       l.fines.capture(),
		offences:    l.offences.capture(),
		marks:       slices.Clip(l.marks),
		keys:        l.keys.capture(),
	}}
}

// Release ends a capture that this ledger made. Nothing may read it any more.
func (l *Ledger) Release(*Capture) {
	l.accounts.release()
	l.customers.release()
	l.suppliers.release()
	l.hosts.release()
	l.jobNames.release()
	l.leases.release()
	l.leaseTerms.release()
	l.withdrawals.release()
	l.corrections.release()
	l.unbondings.release()
	l.fines.release()
	l.offences.release()
	l.keys.release()
}

// State returns the state that was captured.
func (c *Capture) State() *State { return c.frozen.State() }
