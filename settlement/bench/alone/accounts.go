package alone

import (
	"context"
	"fmt"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// Accounted is what a ledger of many accounts took.
type Accounted struct {
	Accounts        int      `json:"accounts"`
	BuildS          float64  `json:"build_s"`
	BytesPerAccount float64  `json:"bytes_per_account"` // heap, with its share of the customer, of the key and of the indexes
	Snapshot        Snapshot `json:"snapshot"`
}

// Accounts makes a ledger of customers, each with its four accounts, writes a
// snapshot of it while deposits come in, and restores that.
func Accounts(ctx context.Context, n int, quiet time.Duration) (*Accounted, error) {
	before := heap()
	t0 := time.Now()
	l := ledger.New()
	customer := func(i int) string { return fmt.Sprintf("customer-%d", i) }
	for i := 0; int(l.AccountCount()) < n; i++ {
		env := ledger.Envelope{Key: fmt.Sprintf("create-%d", i), Command: &ledger.CreateCustomer{Name: customer(i), Namespace: customer(i), PayIn: ledger.USD}}
		if res := l.Apply(start, &env); res.Code != ledger.CodeOK {
			return nil, res.Err()
		}
		l.TakeEntries()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	out := &Accounted{Accounts: int(l.AccountCount()), BuildS: time.Since(t0).Seconds()}
	out.BytesPerAccount = float64(heap()-before) / float64(out.Accounts)
	customers, deposits := uint64(l.CustomerCount()), uint64(0)
	next := func() ledger.Envelope {
		deposits++
		return ledger.Envelope{Key: fmt.Sprintf("deposit-%d", deposits), Command: &ledger.Deposit{
			Customer: customer(int(deposits * stride % customers)), Currency: ledger.USD, Amount: 1000, Ref: "benchmark"}}
	}
	back, err := there(ctx, l, quiet, next, func() ledger.Time { return start }, &out.Snapshot)
	if err != nil {
		return nil, err
	}
	if usd, joule := back.Sums(); usd != 0 || joule != 0 {
		return nil, fmt.Errorf("restored balances add up to %d and %d", usd, joule)
	}
	return out, nil
}

// stride visits the customers in an order that the memory cannot foresee.
const stride = 7_919_317
