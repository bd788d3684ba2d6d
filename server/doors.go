package server

import (
	"crypto/tls"
	"net/http"
	"strings"

	"github.com/clearbox-im/clearbox/federation"
)

// doors sends requests of peers to peers and all others to clients. A nil peers
// is a server without federation. TLS 1.2 is an opt-in for clients alone.
func doors(clients, peers http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != federation.PathWellKnown && !strings.HasPrefix(r.URL.Path, "/fed/"):
			clients.ServeHTTP(w, r)
		case peers == nil:
			http.Error(w, "federation is closed", http.StatusNotFound)
		case r.TLS != nil && r.TLS.Version < tls.VersionTLS13:
			http.Error(w, "federation needs TLS 1.3", http.StatusUpgradeRequired)
		default:
			peers.ServeHTTP(w, r)
		}
	})
}
