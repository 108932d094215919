package output_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

func TestTable(t *testing.T) {
	table := output.NewTable(output.Column{Title: "NAME"}, output.Column{Title: "COUNT", Align: output.Right},
		output.Column{Title: "USD", Align: output.Point}, output.Column{Title: "NOTE"})
	table.Row("größe", "7", "12.50", "last cell")
	table.Row("b", "1234567", "0.000232")
	table.Row("c", "", "3", "surplus", "dropped")
	var buf bytes.Buffer
	if err := table.Write(&buf); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"NAME     COUNT        USD  NOTE\n" +
		"größe        7  12.50      last cell\n" +
		"b      1234567   0.000232\n" +
		"c                3         surplus\n"
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestTableWithoutRowsPrintsNothing(t *testing.T) {
	var buf bytes.Buffer
	if err := output.NewTable(output.Column{Title: "NAME"}).Write(&buf); err != nil || buf.Len() != 0 {
		t.Errorf("empty table: got %q, %v, want nothing", buf.String(), err)
	}
}

func TestFields(t *testing.T) {
	var f output.Fields
	f.Add("server", "%s", "s1")
	f.Add("applied index", "%d", 42)
	f.Add("digest", "%s", "")
	var buf bytes.Buffer
	if err := f.Write(&buf); err != nil {
		t.Fatal(err)
	}
	want := "server         s1\napplied index  42\ndigest\n"
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

// A stranger's text can't move the cursor, recolour the terminal or break a
// table's lines.
func TestCleanEscapesWhatDoesNotPrint(t *testing.T) {
	for in, want := range map[string]string{
		"plain":               "plain",
		"größe ✓":             "größe ✓",
		"\x1b[31mred":         `\x1b[31mred`,
		"two\nlines\t":        `two\nlines\t`,
		"over\u202eride":      `over\u202eride`,
		"bad\xffbyte":         `bad\xffbyte`,
		"del\x7f":             `del\x7f`,
		"c1\u009b31m":         `c1\u009b31m`,
		"back\\slash stays":   `back\slash stays`,
		`quote " stays`:       `quote " stays`,
		"zero width\u200b.":   `zero width\u200b.`,
		"no-break\u00a0blank": `no-break\u00a0blank`,
	} {
		if got := output.Clean(in); got != want {
			t.Errorf("Clean(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestJSONKeepsEveryFieldAndWholeNumbers(t *testing.T) {
	m := &joulev1.ListAccountsResponse{Accounts: []*joulev1.Account{
		{Name: "issuance", Currency: joulev1.Currency_CURRENCY_JOULE, Balance: -9_000_000_000_000_000_000},
		{Name: "\x1b\"<b>"},
		{Currency: 77},
	}}
	want := `{
  "accounts": [
    {
      "name": "issuance",
      "currency": "JOULE",
      "balance": -9000000000000000000
    },
    {
      "name": "\u001b\"<b>",
      "currency": null,
      "balance": 0
    },
    {
      "name": "",
      "currency": 77,
      "balance": 0
    }
  ]
}
`
	var buf bytes.Buffer
	if err := output.JSON(&buf, m, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Errorf("json (-want +got):\n%s", diff)
	}
}

func TestJSONPresenceAndNames(t *testing.T) {
	name := func(_ protoreflect.Message, field protoreflect.FieldDescriptor) string {
		switch field.Name() {
		case "connected", "last_heard_ms":
			return ""
		case "open_leases":
			return "leases_open"
		}
		return string(field.Name())
	}
	for _, tt := range []struct {
		name string
		m    proto.Message
		want string
	}{
		{"an absent message is null", &joulev1.Host{Name: "h"},
			"{\n  \"name\": \"h\",\n  \"supplier\": \"\",\n  \"class\": \"\",\n  \"offer\": null,\n  \"leases_open\": 0\n}\n"},
		{"no fields", &joulev1.SetOfferResponse{}, "{}\n"},
		{"bytes are hex", &joulev1.Proof{Signature: []byte{0xde, 0xad}}, "{\n  \"signature\": \"dead\"\n}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := output.JSON(&buf, tt.m, name); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, buf.String()); diff != "" {
				t.Errorf("json (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValue(t *testing.T) {
	var buf bytes.Buffer
	if err := output.Value(&buf, struct {
		N int64 `json:"n"`
	}{1 << 60}); err != nil || buf.String() != "{\n  \"n\": 1152921504606846976\n}\n" {
		t.Errorf("Value: got %q, %v", buf.String(), err)
	}
	if err := output.Value(&buf, func() {}); err == nil {
		t.Error("Value of a function: got no error, want one")
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

func TestWriteErrorsAreReturned(t *testing.T) {
	table := output.NewTable(output.Column{Title: "A"})
	table.Row("x")
	var f output.Fields
	f.Add("a", "x")
	for name, err := range map[string]error{
		"table":  table.Write(brokenPipe{}),
		"fields": f.Write(brokenPipe{}),
		"json":   output.JSON(brokenPipe{}, &joulev1.Account{}, nil),
		"value":  output.Value(brokenPipe{}, 1),
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s on a broken pipe: got %v, want its error", name, err)
		}
	}
}
