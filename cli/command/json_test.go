package command

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// PlainJSON is a message under the API's own names.
func PlainJSON(m proto.Message) json.Marshaler {
	return message{m, func(_ protoreflect.Message, field protoreflect.FieldDescriptor) string { return string(field.Name()) }}
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
      "balance": -9000000000000000000,
      "id": 0
    },
    {
      "name": "\u001b\"<b>",
      "currency": null,
      "balance": 0,
      "id": 0
    },
    {
      "name": "",
      "currency": 77,
      "balance": 0,
      "id": 0
    }
  ],
  "more": false
}
`
	var buf bytes.Buffer
	if err := output.JSON(&buf, PlainJSON(m)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Errorf("json (-want +got):\n%s", diff)
	}
}

func TestJSONPresenceAndNames(t *testing.T) {
	name := func(_ protoreflect.Message, field protoreflect.FieldDescriptor) string {
		switch field.Name() {
		case "connected", "last_heard_ms", "retired":
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
			"{\n  \"name\": \"h\",\n  \"supplier\": \"\",\n  \"class\": \"\",\n  \"offer\": null,\n  \"leases_open\": 0,\n  \"id\": 0\n}\n"},
		{"no fields", &joulev1.SetOfferResponse{}, "{}\n"},
		{"bytes are hex", &joulev1.Proof{Signature: []byte{0xde, 0xad}}, "{\n  \"signature\": \"dead\"\n}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := output.JSON(&buf, message{tt.m, name}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, buf.String()); diff != "" {
				t.Errorf("json (-want +got):\n%s", diff)
			}
		})
	}
}
