package output_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/cli/output"
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

func TestJSON(t *testing.T) {
	var buf bytes.Buffer
	if err := output.JSON(&buf, struct {
		N int64  `json:"n"`
		S string `json:"s"`
	}{1 << 60, "<b>"}); err != nil || buf.String() != "{\n  \"n\": 1152921504606846976,\n  \"s\": \"<b>\"\n}\n" {
		t.Errorf("JSON: got %q, %v", buf.String(), err)
	}
	if err := output.JSON(&buf, func() {}); err == nil {
		t.Error("JSON of a function: got no error, want one")
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
		"json":   output.JSON(brokenPipe{}, 1),
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s on a broken pipe: got %v, want its error", name, err)
		}
	}
}
