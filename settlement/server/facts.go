package server

import (
	"fmt"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// nj prints an amount in words.
func nj(n ledger.NJ) string { return fmt.Sprintf("%d nJ", n) }

func instant(t ledger.Time) string {
	return time.UnixMilli(int64(t)).UTC().Format(time.RFC3339)
}

// laterFact says a fact about parties, policy, rates, stakes or fines in words.
func (n names) laterFact(out *joulev1.JournalEntry, fact ledger.Fact) {
	say := func(kind, format string, args ...any) { out.Kind, out.Text = kind, fmt.Sprintf(format, args...) }
	switch f := fact.(type) {
	case *ledger.CustomerCreated:
		say("customer created", "%s, namespace %s, pays in %s", f.Name, f.Namespace, currencyName(f.PayIn))
	case *ledger.SupplierCreated:
		say("supplier created", "%s", f.Name)
	case *ledger.HostEnrolled:
		say("host enrolled", "%s of %s, class %s", f.Name, n.supplier(f.Supplier), className(f.Class))
	case *ledger.OfferSet:
		say("offer set", "%s: nUSD per hour base %d, cpu %d, gpu %d, memory %d", n.host(f.Host), f.Prices.Base, f.Prices.CPU, f.Prices.GPU, f.Prices.Memory)
	case *ledger.PolicySet:
		say("policy set", "fee %d ppm, slice %d ms", f.FeePPM, f.SliceMs)
	case *ledger.RateProposed:
		out.RateId = uint32(f.ID)
		say("rate proposed", "%d nUSD per JOULE, average %d", f.NUSDPerJoule, f.Average)
		if f.Doubtful {
			out.Text += ": doubtful, not in force"
		}
	case *ledger.RateOverridden:
		out.RateId = uint32(f.Rate)
		say("rate overridden", "until %s by %s: %s", instant(f.Until), f.Operator, f.Why)
	case *ledger.ConversionChanged:
		out.RateId = uint32(f.Rate)
		if f.Paused == ledger.PauseNone {
			say("conversion goes on", "at rate %d", f.Rate)
		} else {
			say("conversion pauses", "rate %d is %s", f.Rate, pauseName(f.Paused))
		}
	case *ledger.RateGuardSet:
		say("rate guard set", "age %d ms, deviation %d ppm, window %d ms", f.MaxAgeMs, f.DeviationPPM, f.WindowMs)
	case *ledger.WithdrawalRequested:
		say("withdrawal requested", "withdrawal %d of %s to %s", f.ID, n.account(f.Account), f.To)
	case *ledger.WithdrawalEnded:
		if f.Confirmed {
			say("withdrawal confirmed", "withdrawal %d, reference %s", f.ID, f.Text)
		} else {
			say("withdrawal failed", "withdrawal %d: %s", f.ID, f.Text)
		}
	case *ledger.CorrectionMade:
		out.LeaseId = uint64(f.Lease)
		say("correction", "correction %d of entry %d by %s: %s", f.ID, f.Corrects, f.Operator, f.Why)
	case *ledger.StakePolicySet:
		say("stake policy set", "base %s per host, factor %d ppm, unbonding %d ms", nj(f.BasePerHost), f.FactorPPM, f.UnbondMs)
	case *ledger.StakeBought:
		out.RateId = uint32(f.Rate)
		say("stake bought", "%s for %s: %d nUSD", nj(f.Amount), n.supplier(f.Supplier), f.Paid)
	case *ledger.HostRetired:
		say("host retired", "%s", n.host(f.ID))
	case *ledger.UnbondingStarted:
		say("unbonding started", "unbonding %d of %s: %s until %s", f.ID, n.supplier(f.Supplier), nj(f.Amount), instant(f.Matures))
	case *ledger.UnbondingEnded:
		say("unbonding ended", "unbonding %d: %s", f.ID, nj(f.Amount))
	case *ledger.FineScheduleSet:
		say("fine schedule set", "%d rules, appeal %d ms", len(f.Rules), f.AppealMs)
	case *ledger.FineProposed:
		out.LeaseId = uint64(f.Lease)
		say("fine proposed", "fine %d of %s for %s by %s: %s", f.ID, n.supplier(f.Supplier), f.Reason, f.Operator, f.Why)
	case *ledger.FineIssued:
		out.LeaseId = uint64(f.Plan.Lease)
		say("fine issued", "fine %d of %s for %s: %s", f.ID, n.supplier(f.Plan.Supplier), f.Plan.Reason, nj(f.Plan.Amount))
	case *ledger.FineChanged:
		say("fine "+fineStateName(f.State), "fine %d", f.ID)
		if f.By != "" || f.Why != "" {
			out.Text += fmt.Sprintf(" by %s: %s", f.By, f.Why)
		}
	default:
		out.Kind = "fact"
	}
}
