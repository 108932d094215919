package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/anishathalye/porcupine"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// What a client does with its account.
type input struct {
	kind   byte // 'd'eposit, 'w'ithdraw, 'r'ead
	amount int64
}

type output struct {
	refused bool  // of a withdrawal
	balance int64 // of a read
}

// model is an account: a balance from 0 that never goes below it.
var model = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, in, out any) (bool, any) {
		have, i, o := state.(int64), in.(input), out.(output)
		switch i.kind {
		case 'd':
			return true, have + i.amount
		case 'w':
			if o.refused {
				return have < i.amount, have
			}
			return have >= i.amount, have - i.amount
		default:
			return o.balance == have, have
		}
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}

// load is a round's clients.
type load struct {
	apis  []joulev1connect.SettlementServiceClient
	round int
	clock atomic.Int64

	mu      sync.Mutex
	history map[string][]porcupine.Operation
	acked   map[string]bool // key → whether money moved
	sum     map[string]int64
	calls   int
	faults  []error
}

func (l *load) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Errorf(format, args...))
}

const (
	accountsPerRound  = 3
	clientsPerAccount = 3
)

// run makes calls until stop is closed; each client finishes the one that it
// has begun, however long that takes.
func (l *load) run(ctx context.Context, stop <-chan struct{}, seed uint64) {
	l.history, l.acked, l.sum = map[string][]porcupine.Operation{}, map[string]bool{}, map[string]int64{}
	var wg sync.WaitGroup
	for a := range accountsPerRound {
		name := fmt.Sprintf("r%d-a%d", l.round, a)
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(a)))
			l.call(ctx, r, "create-"+name, func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
				_, err := api.CreateCustomer(ctx, &joulev1.CreateCustomerRequest{Key: key, Name: name, Namespace: name, PayIn: joulev1.Currency_CURRENCY_USD})
				return err
			})
			for c := range clientsPerAccount {
				wg.Go(func() { l.client(ctx, stop, name, a*10+c, rand.New(rand.NewPCG(seed, uint64(100+a*10+c)))) })
			}
		})
	}
	wg.Wait()
}

func (l *load) client(ctx context.Context, stop <-chan struct{}, account string, id int, r *rand.Rand) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		default:
		}
		key := fmt.Sprintf("%s-c%d-%d", account, id, n)
		in, out := input{kind: "ddwrr"[r.IntN(5)], amount: 1 + r.Int64N(1000)}, output{}
		called := l.clock.Add(1)
		ok := l.call(ctx, r, key, func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			switch in.kind {
			case 'd':
				_, err := api.Deposit(ctx, &joulev1.DepositRequest{Key: key, Customer: account, Currency: joulev1.Currency_CURRENCY_USD, Amount: in.amount, Ref: key})
				return err
			case 'w':
				_, err := api.Withdraw(ctx, &joulev1.WithdrawRequest{Key: key, Party: joulev1.Party_PARTY_CUSTOMER, Name: account,
					Currency: joulev1.Currency_CURRENCY_USD, Amount: in.amount, Ref: key})
				if reasonOf(err) == joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT {
					out.refused, err = true, nil
				}
				return err
			default:
				resp, err := api.ListAccounts(ctx, &joulev1.ListAccountsRequest{Prefix: "customer/" + account})
				if err != nil {
					return err
				}
				for _, a := range resp.Accounts {
					if a.Name == "customer/"+account && a.Currency == joulev1.Currency_CURRENCY_USD {
						out.balance = a.Balance
						return nil
					}
				}
				l.fault("account %s, which was acknowledged, is not there", account)
				return nil
			}
		})
		if !ok {
			l.fault("%s: never answered", key)
			return
		}
		l.mu.Lock()
		l.calls++
		l.history[account] = append(l.history[account], porcupine.Operation{ClientId: id, Input: in, Call: called, Output: out, Return: l.clock.Add(1)})
		if in.kind != 'r' {
			l.acked[key] = !out.refused
		}
		switch {
		case in.kind == 'd':
			l.sum[account] += in.amount
		case in.kind == 'w' && !out.refused:
			l.sum[account] -= in.amount
		}
		l.mu.Unlock()
	}
}

// call is one request to one server, under a key.
type call func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error

// call tries one server after another, under the same key, until one answers.
func (l *load) call(ctx context.Context, r *rand.Rand, key string, try call) bool {
	for ctx.Err() == nil {
		tctx, cancel := context.WithTimeout(ctx, time.Duration(500+r.IntN(3000))*time.Millisecond)
		err := try(tctx, l.apis[r.IntN(len(l.apis))], key)
		cancel()
		if err == nil {
			return true
		}
		switch reasonOf(err) {
		case joulev1.ErrorReason_ERROR_REASON_UNSPECIFIED, joulev1.ErrorReason_ERROR_REASON_NOT_LEADER,
			joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, joulev1.ErrorReason_ERROR_REASON_OVERLOADED:
		default:
			l.fault("%s: %v", key, err)
			return false
		}
		t := time.NewTimer(time.Duration(10+r.IntN(100)) * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return false
}

// reasonOf is the reason that a server gave; unspecified where none answered.
func reasonOf(err error) joulev1.ErrorReason {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return joulev1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if e, ok := v.(*joulev1.Error); ok {
				return e.Reason
			}
		}
	}
	return joulev1.ErrorReason_ERROR_REASON_UNSPECIFIED
}
