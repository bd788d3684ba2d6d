package server

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestDoors(t *testing.T) {
	named := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(name)) })
	}
	for _, c := range []struct {
		path    string
		version uint16
		peers   http.Handler
		status  int
		body    string
	}{
		{"/auth/login", tls.VersionTLS12, named("peers"), 200, "clients"},
		{"/.well-known/clearbox-other", tls.VersionTLS13, named("peers"), 200, "clients"},
		{"/fed/v1/txn", tls.VersionTLS13, named("peers"), 200, "peers"},
		{"/fed/v1/txn", 0, named("peers"), 200, "peers"}, // behind a proxy that ended TLS
		{"/fed/v1/txn", tls.VersionTLS12, named("peers"), 426, "federation needs TLS 1.3\n"},
		{"/fed/v1/txn", tls.VersionTLS13, nil, 404, "federation is closed\n"},
	} {
		r := httptest.NewRequest("POST", c.path, nil)
		if c.version != 0 {
			r.TLS = &tls.ConnectionState{Version: c.version}
		}
		w := httptest.NewRecorder()
		doors(named("clients"), c.peers).ServeHTTP(w, r)
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%s with TLS %x: %d %q, want %d %q", c.path, c.version, w.Code, w.Body, c.status, c.body)
		}
	}
}
