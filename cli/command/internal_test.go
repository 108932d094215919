package command

import (
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"pgregory.net/rapid"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// Every number in a result says its unit in its JSON name, or is on the list
// of numbers that have none.
func TestNumbersCarryTheirUnits(t *testing.T) {
	plain := []string{"id", "customer_id", "supplier_id", "host_id", "rate_id", "lease_id", "seq", "last_seq", "entries",
		"applied_index", "sessions", "entry", "hosts", "prior", "grace", "fine_id", "withdrawal_id", "leases", "open_leases", "gpus", "milli_cores", "quantity"} // quantity has its unit beside it
	suffixes := []string{"_nusd", "_nj", "_ms", "_ppm", "_mib", "_nusd_per_hour", "nusd_per_joule"}
	seen := map[protoreflect.FullName]bool{}
	var check func(protoreflect.MessageDescriptor)
	check = func(d protoreflect.MessageDescriptor) {
		if seen[d.FullName()] {
			return
		}
		seen[d.FullName()] = true
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			switch f.Kind() {
			case protoreflect.MessageKind:
				check(f.Message())
			case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
				name := units(usd)(withCurrency(t, d), f)
				hasUnit := slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
				if !hasUnit && !slices.Contains(plain, name) {
					t.Errorf("%s: printed as %q, which says no unit", f.FullName(), name)
				}
			}
		}
	}
	methods := joulev1.File_joule_v1_settlement_proto.Services().ByName("SettlementService").Methods()
	for i := range methods.Len() {
		check(methods.Get(i).Output())
	}
	if len(seen) < 20 {
		t.Errorf("messages checked: got %d, want every result's", len(seen))
	}
}

// withCurrency is a message of d whose currencies are set, as in real answers.
func withCurrency(t *testing.T, d protoreflect.MessageDescriptor) protoreflect.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	m := typ.New()
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.Enum() != nil && f.Enum() == joule.Descriptor() {
			m.Set(f, protoreflect.ValueOfEnum(joule.Number()))
		}
	}
	return m
}

func TestAmountUnits(t *testing.T) {
	field := func(m proto.Message, name protoreflect.Name) string {
		return units(joule)(m.ProtoReflect(), m.ProtoReflect().Descriptor().Fields().ByName(name))
	}
	for _, tt := range []struct {
		name, got, want string
	}{
		{"an account in USD", field(&joulev1.Account{Currency: usd}, "balance"), "balance_nusd"},
		{"an account in JOULE", field(&joulev1.Account{Currency: joule}, "balance"), "balance_nj"},
		{"an entry that moves nothing", field(&joulev1.JournalEntry{}, "amount"), ""},
		{"a hold of a USD payer", field(&joulev1.Lease{PayIn: usd}, "hold"), "hold_nusd"},
		{"a hold of one who never said", field(&joulev1.Lease{}, "hold"), "hold_nusd"},
		{"a hold of a JOULE payer", field(&joulev1.Lease{PayIn: joule}, "hold"), "hold_nj"},
		{"a balance asked for in JOULE", field(&joulev1.DepositResponse{}, "balance"), "balance_nj"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestArrange(t *testing.T) {
	app := App(Deps{Out: io.Discard, Err: io.Discard, Version: "v1",
		RunDemo: nil, RunServer: nil})
	app.Setup()
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "joule", "joule"},
		{"flags after arguments", "joule deposit acme 5 --ref r", "joule deposit --ref r -- acme 5"},
		{"flags between", "joule deposit acme --ref r 5", "joule deposit --ref r -- acme 5"},
		{"one dash", "joule deposit acme 5 -ref r", "joule deposit -ref r -- acme 5"},
		{"joined values", "joule deposit acme --ref=r 5", "joule deposit --ref=r -- acme 5"},
		{"switches take no value", "joule lease close --yes L1", "joule lease close --yes -- L1"},
		{"global flags anywhere", "joule lease --output json list --open --addr x", "joule --output json --addr x lease list --open"},
		{"negative numbers are arguments", "joule mint -5 --ref r", "joule mint --ref r -- -5"},
		{"a value may begin with a dash", "joule deposit a 5 --ref -x", "joule deposit --ref -x -- a 5"},
		{"two dashes end the flags", "joule bill -- --job x", "joule bill -- --job x"},
		{"help drops the rest", "joule deposit acme --ref r --help", "joule deposit --help"},
		{"help first", "joule help lease list", "joule lease list --help"},
		{"help of a customer named help", "joule bill help", "joule bill -- help"},
		{"help of nothing known", "joule help nothing", "joule -- nothing"},
		{"an unknown flag stays", "joule status --frob x", "joule status --frob -- x"},
		{"an unknown global flag stays", "joule --frob status", "joule --frob status"},
		{"a flag without its value ends the line", "joule mint 1 --ref", "joule mint --ref"},
		{"a global one as well", "joule status --addr", "joule --addr"},
		{"an unknown command", "joule lese list --open", "joule --open -- lese list"},
	} {
		if got := strings.Join(arrange(app, strings.Fields(tt.in)), " "); got != tt.want {
			t.Errorf("%s: arrange(%q): got %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

// Whatever is typed, no word is invented, none is lost without a reason, and
// nothing panics.
func TestArrangeKeepsWords(t *testing.T) {
	app := App(Deps{Out: io.Discard, Err: io.Discard})
	app.Setup()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"deposit", "lease", "list", "acme", "5", "-5", "--ref", "--ref=r", "--output",
			"json", "--open", "--", "-", "", "--frob", "L1", "--addr=x"})
		args := append([]string{"joule"}, rapid.SliceOfN(word, 0, 10).Draw(t, "args")...)
		got := arrange(app, args)
		for _, w := range got {
			if w != "--" && !slices.Contains(args, w) {
				t.Fatalf("arrange(%q): got %q, which has a new word %q", args, got, w)
			}
		}
		if again := arrange(app, got); !slices.Equal(again, got) {
			t.Fatalf("arrange(%q) = %q; again: got %q, want no change", args, got, again)
		}
	})
}

func TestVersionOf(t *testing.T) {
	vcs := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: modified}}
	}
	for _, tt := range []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"a released module", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3"},
		{"a checkout", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: vcs("false")}, "devel-0123456789ab"},
		{"a changed checkout", debug.BuildInfo{Settings: vcs("true")}, "devel-0123456789ab+dirty"},
		{"a test binary", debug.BuildInfo{}, "devel"},
	} {
		if got := versionOf(&tt.info); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNearest(t *testing.T) {
	cmds := App(Deps{}).Commands
	for in, want := range map[string]string{"lese": "lease", "lease": "lease", "bil": "bill", "depposit": "deposit",
		"zzzz": "", "": "", "statuss": "status"} {
		if got := nearest(in, cmds); got != want {
			t.Errorf("nearest(%q): got %q, want %q", in, got, want)
		}
	}
}
