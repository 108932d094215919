package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/joulecloud/joule/cli/outside"
	"github.com/joulecloud/joule/driver/hostapi"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// Bill is bill.json: what the demo leaves for programs to check.
type Bill struct {
	Leases   []BillLease   `json:"leases"`
	Accounts []BillAccount `json:"accounts"`
	Digest   string        `json:"digest"`
}

// BillLease is one lease of the bill, with its outside run time.
type BillLease struct {
	LeaseID          uint64  `json:"lease_id"`
	AllocID          string  `json:"alloc_id"`
	Host             string  `json:"host"`
	Supplier         string  `json:"supplier"`
	Class            string  `json:"class"`
	WallMs           uint64  `json:"wall_ms"`
	CPUMs            uint64  `json:"cpu_ms"`
	GPUMs            uint64  `json:"gpu_ms"`
	MemoryMiBMs      uint64  `json:"memory_mib_ms"`
	OutsideWallMs    float64 `json:"outside_wall_ms"`
	PriceBase        int64   `json:"price_base_nusd_per_hour"`
	PriceCPU         int64   `json:"price_cpu_nusd_per_hour"`
	PriceGPU         int64   `json:"price_gpu_nusd_per_hour"`
	PriceMemory      int64   `json:"price_memory_nusd_per_hour"`
	ChargedNUSD      int64   `json:"charged_nusd"`
	PaidNJ           int64   `json:"paid_nj"`
	FeeNJ            int64   `json:"fee_nj"`
	RateID           uint32  `json:"rate_id"`
	RateNUSDPerJoule int64   `json:"rate_nusd_per_joule"`
}

// BillAccount is one balance, in nUSD or nJ.
type BillAccount struct {
	Name     string `json:"name"`
	Currency string `json:"currency"`
	Balance  int64  `json:"balance"`
}

// report puts the outside run times beside the bill, writes bill.json and
// checks the promise.
func (d *demo) report(ctx context.Context, runs []outside.Run) error {
	r, err := d.cluster.API.GetBill(ctx, &joulev1.GetBillRequest{Customer: "acme"})
	if err != nil {
		return err
	}
	accounts, err := d.cluster.API.ListAccounts(ctx, &joulev1.ListAccountsRequest{})
	if err != nil {
		return err
	}
	bill := Bill{Digest: r.Proof.Digest}
	for _, a := range accounts.Accounts {
		currency := "USD"
		if a.Currency == joulev1.Currency_CURRENCY_JOULE {
			currency = "JOULE"
		}
		bill.Accounts = append(bill.Accounts, BillAccount{a.Name, currency, a.Balance})
	}
	byContainer := map[string]outside.Run{}
	for _, run := range runs {
		byContainer[run.Container] = run
	}
	fmt.Fprintf(d.out, "measured from outside (tracefs sched_process_exec to sched_process_exit):\n")
	fmt.Fprintf(d.out, "  %-6s %-8s %12s %12s %14s\n", "lease", "host", "billed ms", "outside ms", "difference ms")
	var errs []error
	var worst float64
	for _, l := range r.Leases {
		run, ok := byContainer[containerID(l)]
		if !ok || run.Exit == 0 {
			errs = append(errs, fmt.Errorf("lease L%d: the outside observer did not see its run", l.Id))
			continue
		}
		outsideMs := float64(run.Wall().Microseconds()) / 1000
		difference := float64(l.Billed.WallMs) - outsideMs
		if math.Abs(difference) > math.Abs(worst) {
			worst = difference
		}
		fmt.Fprintf(d.out, "  %-6s %-8s %12d %12.3f %+14.3f\n", fmt.Sprintf("L%d", l.Id), l.Host, l.Billed.WallMs, outsideMs, difference)
		bill.Leases = append(bill.Leases, BillLease{
			LeaseID: l.Id, AllocID: l.AllocId, Host: l.Host, Supplier: l.Supplier, Class: l.Class,
			WallMs: l.Billed.WallMs, CPUMs: l.Billed.CpuMs, GPUMs: l.Billed.GpuMs, MemoryMiBMs: l.Billed.MemoryMibMs,
			OutsideWallMs: outsideMs,
			PriceBase:     l.Prices.BaseNusdPerHour, PriceCPU: l.Prices.CpuNusdPerHour,
			PriceGPU: l.Prices.GpuNusdPerHour, PriceMemory: l.Prices.MemoryNusdPerHour,
			ChargedNUSD: l.ChargedNusd, PaidNJ: l.PaidNj, FeeNJ: l.FeeNj,
			RateID: l.RateId, RateNUSDPerJoule: l.RateNusdPerJoule,
		})
	}
	fmt.Fprintf(d.out, "largest difference: %+.3f ms (at most %d is promised)\n\n", worst, DifferenceMax/time.Millisecond)
	if limit := float64(DifferenceMax) / float64(time.Millisecond); math.Abs(worst) > limit {
		errs = append(errs, fmt.Errorf("a billed run time is %+.3f ms from the outside one, more than %g ms", worst, limit))
	}
	if r.Proof.RecomputedNusd != r.ChargedNusd || r.Proof.UsdSum != 0 || r.Proof.JouleSum != 0 {
		errs = append(errs, fmt.Errorf("the proof fails: charged %d nUSD, recomputed %d nUSD, sums %d nUSD and %d nJ",
			r.ChargedNusd, r.Proof.RecomputedNusd, r.Proof.UsdSum, r.Proof.JouleSum))
	}
	return errors.Join(append(errs, writeJSON(filepath.Join(d.Out, "bill.json"), bill))...)
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// containerID is the name of the lease's container on its host.
func containerID(l *joulev1.Lease) string {
	return hostapi.ContainerID(l.AllocId + "/" + l.Task + "/" + l.Invocation)
}
