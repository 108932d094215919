package daemon

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/settlement/server"
)

// The example is valid, has every key there is, and its limits are the
// defaults.
func TestExampleIsWhole(t *testing.T) {
	cfg, err := Load("server.hcl")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("server.hcl")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(text))
	var keys func(reflect.Type)
	keys = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		for i := range typ.NumField() {
			name, kind, _ := strings.Cut(typ.Field(i).Tag.Get("hcl"), ",")
			if name != "" && kind != "label" && !slices.Contains(words, name) {
				t.Errorf("server.hcl is without %s", name)
			}
			if kind == "block" {
				keys(typ.Field(i).Type)
			}
		}
	}
	keys(reflect.TypeFor[Config]())
	got, err := cfg.Limits.limits()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(server.Default().Limits, got); diff != "" {
		t.Errorf("limits that are not the defaults (-default +server.hcl):\n%s", diff)
	}
	d := Default()
	if cfg.LogLevel != d.LogLevel || cfg.LogFormat != d.LogFormat || cfg.MetricsPublic != d.MetricsPublic ||
		cfg.Listen != d.Listen || cfg.RaftAddr != d.RaftAddr || cfg.Nomad != d.Nomad {
		t.Errorf("got %+v, want the defaults %+v", cfg, d)
	}
}

// A limit that is given is the server's; the others stay.
func TestLimitsBlock(t *testing.T) {
	cfg, err := load(t, "data_dir = \"/x\"\nlimits {\n  requests = 300\n  batch_bytes = 2097152\n}")
	if err != nil {
		t.Fatal(err)
	}
	want := server.Default().Limits
	want.Requests, want.BatchBytes = 300, 2<<20
	got, err := cfg.Limits.limits()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// Every fault of the block is reported at once, with its field and value.
func TestLimitsFaults(t *testing.T) {
	_, err := load(t, `data_dir = "/x"
log_format = "xml"
limits {
  requests        = 100
  client_requests = 101
  client_rate     = 0
  client_burst    = -1
  sessions        = 10
  batch_bytes     = 5
  heartbeat_rate  = 10
  message_bytes   = 99999999
  session_message = 1000
}`)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"log_format: want text or json, got \"xml\"", "client_requests: want at most requests, which is 100, got 101", "client_rate: want 1 to 1000000, got 0", "client_burst", "got -1",
		"client_sessions: want at most sessions, which is 10, got 5000", "batch_bytes", "got 5", "heartbeat_rate", "got 10",
		"message_bytes", "got 99999999", "session_message", "got 1000"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if _, err := load(t, "data_dir = \"/x\"\nlimits {\n  request = 1\n}"); err == nil || !strings.Contains(err.Error(), "request") {
		t.Errorf("an unknown limit: got %v", err)
	}
}

func TestLogFormats(t *testing.T) {
	for format, isJSON := range map[string]bool{"text": false, "json": true} {
		var out bytes.Buffer
		cfg := Config{LogLevel: "warn", LogFormat: format}
		log, err := cfg.Logger(&out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("not shown")
		log.Warn("shown", "peer", "s2")
		var line struct{ Level, Msg, Peer string }
		err = json.Unmarshal(out.Bytes(), &line)
		if (err == nil) != isJSON || strings.Contains(out.String(), "not shown") || !strings.Contains(out.String(), "s2") {
			t.Errorf("%s: got %s", format, out.Bytes())
		}
		if isJSON && (line.Level != "WARN" || line.Msg != "shown" || line.Peer != "s2") {
			t.Errorf("got %+v", line)
		}
	}
}
