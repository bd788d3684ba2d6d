package api

import (
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox/server/auth"
)

// Time limits of the listener. A client that is slow with its headers, its
// body or with reading its answer is cut within 15 seconds.
const (
	ReadHeaderTimeout = 10 * time.Second
	ReadTimeout       = 15 * time.Second // headers and body together
	WriteTimeout      = 15 * time.Second // from the end of the headers to the end of the answer; /sync has its own
	IdleTimeout       = 75 * time.Second // between requests of a connection
	MaxHeaderBytes    = 16 << 10
)

// ConfigureServer sets the time and size limits that this API relies on.
func ConfigureServer(s *http.Server) {
	s.ReadHeaderTimeout = ReadHeaderTimeout
	s.ReadTimeout = ReadTimeout
	s.WriteTimeout = WriteTimeout
	s.IdleTimeout = IdleTimeout
	s.MaxHeaderBytes = MaxHeaderBytes
}

// rateHeaders describe a limit that was hit, as the working-group draft
// "RateLimit header fields for HTTP" has them.
func (a *API) rateHeaders(h http.Header, name string, perSecond int, after time.Duration) {
	h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=1", name, perSecond))
	h.Set("RateLimit", fmt.Sprintf("%q;r=0;t=%d", name, max(1, int(math.Ceil(after.Seconds())))))
}

// allowSend takes one of the account's messages per second. Sockets and REST
// share the limit.
func (a *API) allowSend(p auth.Principal) (time.Duration, bool) {
	if a.sends == nil {
		return 0, true
	}
	return a.sends.Allow(a.o.Now(), string(p.User.UID))
}
