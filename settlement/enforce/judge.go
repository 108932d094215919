package enforce

import (
	"time"
)

// Rules say when a host is lost.
type Rules struct {
	Silence   time.Duration // for which a majority of the servers has not heard it
	MassPPM   uint32        // where more than this share of the hosts is silent at once, nobody is lost (rule T3)
	LeaderAge time.Duration // before which a leader judges nobody
}

// facts are what is known at one moment.
type facts struct {
	leading time.Duration     // for how long this server has led
	voters  int               // servers with a vote
	answers [][]time.Duration // of each witness that answered: for how long it has not heard each suspect
	hosts   int               // that are at work: with open leases, or heard
	silent  int               // of them, suspects
}

// verdict says why nobody is lost, or "".
func (r *Rules) verdict(f *facts) string {
	switch {
	case f.leading < r.LeaderAge:
		return "this server leads for too short a time"
	case 2*len(f.answers) <= f.voters:
		return "no majority of the servers has answered"
	case uint64(f.silent)*1_000_000 > uint64(r.MassPPM)*uint64(f.hosts):
		return "too many hosts are silent at once: that is the network's fault, or the servers'"
	}
	return ""
}

// lost says whether no witness has heard suspect i within the time.
func (r *Rules) lost(f *facts, i int) bool {
	for _, ages := range f.answers {
		if ages[i] < r.Silence {
			return false
		}
	}
	return true
}
