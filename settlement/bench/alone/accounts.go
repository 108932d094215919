package alone

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/joulecloud/joule/settlement/bench/proc"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Accounted is what a ledger of many accounts took.
type Accounted struct {
	Accounts        int     `json:"accounts"`
	BytesPerAccount float64 `json:"bytes_per_account"` // heap, with its name, its share of the customer, of the key and of the indexes
	WriteS          float64 `json:"write_s"`
	Bytes           int64   `json:"bytes"`
	RestoreS        float64 `json:"restore_s"`
	RestoreCPUS     float64 `json:"restore_cpu_s"`
}

// Accounts makes a ledger of customers, each with its four accounts, writes a
// snapshot of it and restores that.
func Accounts(ctx context.Context, n int) (*Accounted, error) {
	before := heap()
	l := ledger.New()
	for i := 0; int(l.AccountCount()) < n; i++ {
		name := fmt.Sprintf("customer-%d", i)
		env := ledger.Envelope{Key: fmt.Sprintf("create-%d", i), Command: &ledger.CreateCustomer{Name: name, Namespace: name, PayIn: ledger.USD}}
		if res := l.Apply(start, &env); res.Code != ledger.CodeOK {
			return nil, res.Err()
		}
		l.TakeEntries()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	out := &Accounted{Accounts: int(l.AccountCount())}
	out.BytesPerAccount = float64(heap()-before) / float64(out.Accounts)
	file, err := os.CreateTemp("", "joule-bench-snapshot-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	t0 := time.Now()
	w := bufio.NewWriterSize(file, 1<<20)
	if err := wire.WriteState(w, l.State(), nil); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	out.WriteS = time.Since(t0).Seconds()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	out.Bytes = info.Size()
	l = nil
	runtime.GC()
	back, err := restore(file, &out.RestoreS, &out.RestoreCPUS)
	if err != nil {
		return nil, err
	}
	if got := int(back.AccountCount()); got != out.Accounts {
		return nil, fmt.Errorf("restored %d accounts, want %d", got, out.Accounts)
	}
	return out, nil
}

// restore reads a ledger back and says what that took.
func restore(file *os.File, seconds, cpu *float64) (*ledger.Ledger, error) {
	if _, err := file.Seek(0, 0); err != nil {
		return nil, err
	}
	before, err := proc.OwnCPU()
	if err != nil {
		return nil, err
	}
	t0 := time.Now()
	l, _, err := wire.ReadSnapshot(file)
	if err != nil {
		return nil, err
	}
	*seconds = time.Since(t0).Seconds()
	after, err := proc.OwnCPU()
	*cpu = (after - before).Seconds()
	return l, err
}
