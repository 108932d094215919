package ledger

// RetireHost takes a host out of service for good: it gets no more leases, those
// that it has go on to their ends, and then no stake is asked for it (rule F1).
// Its name and key stay taken.
type RetireHost struct{ Host string }

// Kind implements Command.
func (*RetireHost) Kind() CommandKind { return KindRetireHost }

// HostRetired records that a host gets no more leases.
type HostRetired struct{ ID HostID }

func (*HostRetired) entryKind() EntryKind { return EntryHostRetired }

func (l *Ledger) retireHost(c *RetireHost) Result {
	var ck check
	ck.name("host", c.Host)
	if res, ok := ck.result(); !ok {
		return res
	}
	id, ok := hostNamed(l, c.Host)
	if !ok {
		return refuse(CodeNotFound, "host %q not found", c.Host)
	}
	h := l.hosts.edit(int(id))
	if h.retired {
		return refuse(CodeClosed, "host %q is retired", c.Host)
	}
	h.retired = true
	l.emit(EntryHostRetired).Fact = &HostRetired{ID: id}
	l.releaseHost(h)
	return Result{}
}

// staked says whether stake is asked for the host: it may have leases.
func (h *host) staked() bool { return !h.retired || h.openLeases > 0 }

// releaseHost lets go of the stake of a retired host whose last lease has
// ended.
func (l *Ledger) releaseHost(h *host) {
	if !h.staked() {
		l.suppliers.edit(int(h.supplier)).hosts--
	}
}
