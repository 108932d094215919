package ledger

import "cmp"

// tickMax bounds how much falls due in one Tick; the next goes on.
const tickMax = 1024

// dueItem is something that happens by a Tick at a time. Items fall due in the
// order of (at, kind, id) (rule F5).
type dueItem struct {
	at   Time
	kind uint8
	id   uint32
}

const (
	dueUnbonding = 1
	dueFine      = 2
)

func (a dueItem) compare(b dueItem) int {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.kind, b.kind), cmp.Compare(a.id, b.id))
}

// dueHeap is a binary heap of items, the first to fall due on top. An item
// whose row has moved on since stays in it, and is passed over when it is
// popped.
type dueHeap []dueItem

func (h *dueHeap) push(x dueItem) {
	*h = append(*h, x)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if s[up].compare(s[i]) <= 0 {
			return
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

func (h *dueHeap) pop() dueItem {
	s := *h
	top := s[0]
	last := len(s) - 1
	s[0], s = s[last], s[:last]
	*h = s
	for i := 0; ; {
		least := i
		for _, down := range [2]int{2*i + 1, 2*i + 2} {
			if down < last && s[down].compare(s[least]) < 0 {
				least = down
			}
		}
		if least == i {
			return top
		}
		s[least], s[i] = s[i], s[least]
		i = least
	}
}

// tick does what is due (rule F5).
func (l *Ledger) tick(key string) Result {
	if key != "" {
		return refuse(CodeInvalid, "key must be empty for a tick, got %s", quote(key))
	}
	for n := 0; n < tickMax && len(l.due) > 0 && l.due[0].at <= l.now; n++ {
		switch item := l.due.pop(); item.kind {
		case dueUnbonding:
			l.matureUnbonding(UnbondingID(item.id))
		case dueFine:
			l.fineDue(FineID(item.id))
		}
	}
	if l.convertNext != 0 {
		l.convertOn()
	}
	return Result{}
}

// NextDue returns when a Tick next has something to do; false if nothing waits
// for time to pass. It may be before Now, which means at once.
func (l *Ledger) NextDue() (Time, bool) {
	if l.convertNext != 0 {
		return l.now, true
	}
	at, ok := l.rateDue()
	if len(l.due) > 0 && (!ok || l.due[0].at < at) {
		at, ok = l.due[0].at, true
	}
	return at, ok && at < timeMax
}
