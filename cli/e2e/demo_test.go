package e2e

import (
	"encoding/json"
	"math"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/joulecloud/joule/cli/demo"
)

// runDemo runs `joule demo` as make does and returns what it printed and left.
func runDemo(t *testing.T, args ...string) (output string, bill demo.Bill) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a whole cluster: not with -short")
	}
	p, missing, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	if missing != "" {
		t.Skip(missing)
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	args = append([]string{"demo", "-nomad", p.Nomad, "-runc", p.Runtime, "-out", out}, args...)
	cmd := exec.CommandContext(t.Context(), p.Joule, args...)
	cmd.Dir = root
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("joule %s: %v\n%s", strings.Join(args, " "), err, b)
	}
	j, err := os.ReadFile(filepath.Join(out, "bill.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(j, &bill); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), out, "build/demo"), bill
}

// checkBill derives every amount of the bill again, from bill.json alone.
func checkBill(t *testing.T, bill demo.Bill, leases int) {
	t.Helper()
	if len(bill.Leases) != leases {
		t.Errorf("got %d leases, want %d", len(bill.Leases), leases)
	}
	sums := map[string]*big.Int{"USD": new(big.Int), "JOULE": new(big.Int)}
	balance := map[string]int64{}
	for _, a := range bill.Accounts {
		sums[a.Currency].Add(sums[a.Currency], big.NewInt(a.Balance))
		balance[a.Name+" "+a.Currency] = a.Balance
	}
	for currency, sum := range sums {
		if sum.Sign() != 0 {
			t.Errorf("%s balances sum to %s, want 0", currency, sum)
		}
	}
	paid := map[string]int64{}
	var charged, fees int64
	for _, l := range bill.Leases {
		if d := float64(l.WallMs) - l.OutsideWallMs; math.Abs(d) > 1 {
			t.Errorf("lease %d on %s: billed %d ms, outside %.3f ms: %+.3f ms apart", l.LeaseID, l.Host, l.WallMs, l.OutsideWallMs, d)
		}
		cost := new(big.Rat)
		for _, part := range []struct {
			quantity uint64
			price    int64
			per      int64
		}{{l.WallMs, l.PriceBase, 3_600_000}, {l.CPUMs, l.PriceCPU, 3_600_000},
			{l.GPUMs, l.PriceGPU, 3_600_000}, {l.MemoryMiBMs, l.PriceMemory, 3_600_000 * 1024}} {
			n := new(big.Int).Mul(new(big.Int).SetUint64(part.quantity), big.NewInt(part.price))
			cost.Add(cost, new(big.Rat).SetFrac(n, big.NewInt(part.per)))
		}
		if want := new(big.Int).Quo(cost.Num(), cost.Denom()); want.Cmp(big.NewInt(l.ChargedNUSD)) != 0 {
			t.Errorf("lease %d: charged %d nUSD, want %s", l.LeaseID, l.ChargedNUSD, want)
		}
		gross := new(big.Int).Mul(big.NewInt(l.ChargedNUSD), big.NewInt(1_000_000_000))
		gross.Quo(gross, big.NewInt(l.RateNUSDPerJoule))
		if got := l.PaidNJ + l.FeeNJ; gross.Cmp(big.NewInt(got)) != 0 {
			t.Errorf("lease %d: paid %d nJ with the fee, want %s", l.LeaseID, got, gross)
		}
		paid[l.Supplier] += l.PaidNJ
		charged += l.ChargedNUSD
		fees += l.FeeNJ
	}
	for supplier, nj := range paid {
		if got := balance["supplier/"+supplier+" JOULE"]; got != nj {
			t.Errorf("supplier %s has %d nJ, its leases paid %d", supplier, got, nj)
		}
	}
	if got := balance["customer/acme USD"]; got != 5_000_000_000-charged {
		t.Errorf("customer acme has %d nUSD, want %d", got, 5_000_000_000-charged)
	}
	if got := balance["fees JOULE"]; got != fees {
		t.Errorf("the fees are %d nJ, want %d", got, fees)
	}
	if len(bill.Digest) != 64 {
		t.Errorf("got digest %q, want 64 hex digits", bill.Digest)
	}
}

// The transcript in the README is what the demo prints, but for the numbers.
func TestDemoPrintsTheREADMETranscript(t *testing.T) {
	output, bill := runDemo(t)
	checkBill(t, bill, 2)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(readme), "<!-- transcript: kept true by cli/e2e -->\n```\n")
	transcript, _, ok2 := strings.Cut(after, "```")
	if !ok || !ok2 || len(strings.TrimSpace(transcript)) == 0 {
		t.Fatal("README.md has no transcript of the demo")
	}
	// Which supplier's lease comes first is Nomad's choice, so the order is free.
	printed := shapes(output)
	for _, line := range shapes(transcript) {
		if line != "..." && !slices.Contains(printed, line) {
			t.Errorf("the demo does not print, as the README has it: %q", line)
		}
	}
	if t.Failed() {
		t.Logf("the demo printed:\n%s", output)
	}
}

var variable = regexp.MustCompile(`[0-9a-f]{16,}|[-+]?[0-9][0-9.:]*`)

// shapes are the lines of a text without what changes from run to run.
func shapes(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(variable.ReplaceAllString(line, "#")), " ")
		if line != "" {
			out = append(out, line)
		}
	}
	return out
}

// Very short tasks, many at once, on a machine that is busy.
func TestDemoOfManyShortTasksUnderLoad(t *testing.T) {
	_, bill := runDemo(t, "-crowd", "0.037s", "-datacenter", "0.403s", "-repeat", "8", "-load")
	checkBill(t, bill, 16)
}
