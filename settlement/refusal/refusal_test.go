package refusal

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// Every ledger code and every reason has exactly one row, in the order of the
// reasons' numbers, with an exit code and a meaning.
func TestTableIsWhole(t *testing.T) {
	byCode, reasons := map[ledger.Code]int{}, map[joulev1.ErrorReason]int{}
	for i, r := range Table() {
		byCode[r.Ledger]++
		reasons[r.Reason]++
		if r.Exit <= ExitInternal || r.Exit > ExitUnavailable || r.Meaning == "" || r.HTTP() == 0 {
			t.Errorf("%s: exit code %d, HTTP status %d, meaning %q", r.Name(), r.Exit, r.HTTP(), r.Meaning)
		}
		if i > 0 && Table()[i-1].Reason >= r.Reason {
			t.Errorf("%s: out of order", r.Name())
		}
		if got, ok := Of(r.Reason); !ok || got != r {
			t.Errorf("%s: looked up as %v", r.Name(), got)
		}
	}
	last := ledger.CodeInvalid
	for !strings.HasPrefix(last.String(), "code ") { // one that has no name does not exist
		if byCode[last] != 1 {
			t.Errorf("ledger code %v has %d rows, want 1", last, byCode[last])
		}
		if r, ok := OfLedger(last); !ok || r.Ledger != last {
			t.Errorf("ledger code %v: looked up as %v", last, r)
		}
		last++
	}
	if last <= ledger.CodeSameOperator {
		t.Errorf("walked the ledger's codes up to %d only", last)
	}
	for n := range joulev1.ErrorReason_name {
		if r := joulev1.ErrorReason(n); r != 0 && reasons[r] != 1 {
			t.Errorf("reason %v has %d rows, want 1", r, reasons[r])
		}
	}
}

// The HTTP statuses are those that the Connect library writes.
func TestHTTPStatuses(t *testing.T) {
	codes := []connect.Code{}
	for c := connect.CodeCanceled; c <= connect.CodeUnauthenticated; c++ {
		codes = append(codes, c)
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/x", nil)
		r.Header.Set("Content-Type", "application/json")
		if err := connect.NewErrorWriter().Write(w, r, connect.NewError(c, errors.New("x"))); err != nil {
			t.Fatal(err)
		}
		if w.Code != httpOf[c] {
			t.Errorf("%v: got HTTP status %d, the table says %d", c, w.Code, httpOf[c])
		}
	}
	for _, r := range Table() {
		if !slices.Contains(codes, r.Connect) {
			t.Errorf("%s: Connect code %v is none", r.Name(), r.Connect)
		}
	}
}
