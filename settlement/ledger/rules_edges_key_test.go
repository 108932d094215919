package ledger_test

import (
	"reflect"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// M7: every field of a command is part of its input: the same key with any one
// of them changed is a conflict.
func TestM7_EveryFieldIsPartOfTheInput(t *testing.T) {
	fineCase := ledger.FineCase{Supplier: "s", Lease: 1, Reason: ledger.FineBreach, Evidence: []ledger.Evidence{{Entry: 2}}}
	for _, cmd := range []ledger.Command{
		&ledger.ProposeRate{}, &ledger.OverrideRate{}, &ledger.SetRateGuard{}, &ledger.RequestWithdrawal{}, &ledger.ConfirmWithdrawal{},
		&ledger.FailWithdrawal{}, &ledger.Correct{Legs: []ledger.CorrectionLeg{{}}}, &ledger.SetStakePolicy{}, &ledger.Bond{}, &ledger.Unbond{},
		&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{Rules: []ledger.FineRule{{}}}}, &ledger.IssueFine{FineCase: fineCase},
		&ledger.ProposeFine{FineCase: fineCase}, &ledger.ApproveFine{}, &ledger.AppealFine{}, &ledger.VoidFine{},
	} {
		l := ledger.New()
		l.Apply(1, &ledger.Envelope{Key: "k", Command: cmd})
		changes := 0
		eachField(reflect.ValueOf(cmd).Elem(), "", func(path string) {
			changes++
			if res := l.Apply(1, &ledger.Envelope{Key: "k", Command: cmd}); res.Code != ledger.CodeConflict {
				t.Errorf("%T with another %s: got %v, want conflict", cmd, path, res.Code)
			}
		})
		if changes == 0 {
			t.Errorf("%T: no field was changed", cmd)
		}
		if res := l.Apply(1, &ledger.Envelope{Key: "k", Command: cmd}); res.Code == ledger.CodeConflict {
			t.Errorf("%T as it was: got %v", cmd, res.Code)
		}
	}
}

// eachField changes one field after the other, calls f, and puts it back.
func eachField(v reflect.Value, path string, f func(path string)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			eachField(v.Field(i), path+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			eachField(v.Index(i), path, f)
		}
	default:
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		switch {
		case v.Kind() == reflect.String:
			v.SetString(v.String() + "x")
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		default:
			v.SetUint(v.Uint() + 1)
		}
		f(path)
		v.Set(old)
	}
}

// M6: an override that is in force is so after a restore.
func TestM6_AnOverrideSurvivesARestore(t *testing.T) {
	b := proposed(t, ledger.USD)
	b.now += 60_000
	b.must(&ledger.ProposeRate{NUSDPerJoule: 60_000_000})
	b.must(&ledger.OverrideRate{Rate: 2, ForMs: 5000, Operator: "ann", Why: "w"})
	b.l = throughSnapshot(t, b.l)
	b.now += 4999
	b.must(&ledger.Tick{})
	if st, _ := b.l.RateState(); st.Paused != ledger.PauseNone || st.OverrideUntil != b.now+1 {
		t.Errorf("got %+v, want the override", st)
	}
}

// F5: what falls due at one moment does so in the order of kind and id.
func TestF5_OneMomentHasAnOrder(t *testing.T) {
	b := staked(t)
	b.must(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: day, RepeatMs: day, DayCapPPM: 1_000_000, Rules: []ledger.FineRule{
		{Reason: ledger.FineEquivocation, SharePPM: 10_000, RepeatPPM: 1_000_000}}}})
	b.must(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 100 * joule, UnbondMs: day}})
	a, c := b.equivocate("a"), b.equivocate("b")
	b.fine(a, ledger.FineEquivocation)
	b.fine(c, ledger.FineEquivocation)
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: joule})
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: joule})
	b.now += day
	b.l.TakeEntries()
	b.must(&ledger.Tick{})
	var order []int
	for _, e := range b.l.TakeEntries() {
		switch f := e.Fact.(type) {
		case *ledger.UnbondingEnded:
			order = append(order, int(f.ID))
		case *ledger.FineChanged:
			order = append(order, 10+int(f.ID))
		}
	}
	if want := []int{1, 2, 11, 12}; !reflect.DeepEqual(order, want) {
		t.Errorf("got %v, want unbondings 1, 2, then fines 1, 2", order)
	}
}
