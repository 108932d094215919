package server_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/joulecloud/joule/settlement/server"
)

// Health checks need no token. Metrics need an operator's, unless they are
// public; a server without tokens gives them to its own machine.
func TestProbesAndTokens(t *testing.T) {
	f := start(t)
	metrics := func(c *server.Config) {
		c.Metrics = func(*server.Server) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "joule_up 1\n") })
		}
	}
	get := func(path, token string, want int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
		f.ok(err)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		f.ok(err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s with token %.6q: got HTTP status %d, want %d", path, token, resp.StatusCode, want)
		}
	}
	reopen := func(configure ...func(*server.Config)) {
		f.close()
		f.configure = func(c *server.Config) {
			for _, fn := range configure {
				fn(c)
			}
		}
		f.open()
	}
	reopen(metrics)
	get("/metrics", "", http.StatusOK)
	tokens := f.withTokens()
	tokened := f.configure
	reopen(metrics, tokened)
	get("/metrics", "", http.StatusUnauthorized)
	get("/metrics", "joule-wrong", http.StatusUnauthorized)
	get("/metrics", tokens["c1"], http.StatusForbidden)
	get("/metrics", tokens["s1"], http.StatusForbidden)
	get("/metrics", tokens["alice"], http.StatusOK)
	for _, path := range []string{"/healthz", "/readyz", "/livez"} {
		get(path, "", http.StatusOK)
	}
	reopen(metrics, tokened, func(c *server.Config) { c.MetricsPublic = true })
	get("/metrics", "", http.StatusOK)
}
