package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
)

// Time limits of the listener. A client that is slow with its headers, its
// body or with reading its answer is cut within 15 seconds: net/http lingers
// half a second after a body that came too late, and crypto/tls waits 5
// seconds more to say goodbye to a client that does not read. The rest is for a
// machine that is busy.
const (
	ReadHeaderTimeout = 10 * time.Second
	ReadTimeout       = 13 * time.Second // headers and body together
	WriteTimeout      = 8 * time.Second  // for the client to read an answer, once there is one
	IdleTimeout       = 75 * time.Second // between requests of a connection
	MaxHeaderBytes    = 16 << 10
)

// The limits above are for requests. A connection over HTTP/2 that stops in the
// middle of a frame cannot answer a ping, and one that takes nothing lets no
// byte be written: both are cut within 15 seconds too.
const (
	pingHTTP2After  = 7 * time.Second // without a frame
	pingHTTP2Within = 6 * time.Second
)

// requestTimeout bounds what happens between a request and its answer; /sync,
// /ws and attachments have their own time.
const requestTimeout = 30 * time.Second

// ConfigureServer sets the time and size limits that this API relies on.
func ConfigureServer(s *http.Server) {
	s.ReadHeaderTimeout = ReadHeaderTimeout
	s.ReadTimeout = ReadTimeout
	s.WriteTimeout = WriteTimeout
	s.IdleTimeout = IdleTimeout
	s.MaxHeaderBytes = MaxHeaderBytes
	s.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingHTTP2After, PingTimeout: pingHTTP2Within, WriteByteTimeout: WriteTimeout}
}

// ownTime are the routes that bound themselves.
var ownTime = map[string]bool{"/sync": true, "/ws": true, "/media/{object}": true, "/media/{server}/{object}": true}

// bound gives the operation its time: the listener's limit for the answer
// would otherwise begin with the request's headers.
func (c *call) bound() context.CancelFunc {
	c.answerWithin(requestTimeout + WriteTimeout)
	if ownTime[c.op.path] {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(c.ctx(), requestTimeout)
	c.r = c.r.WithContext(ctx)
	return cancel
}

// answerWithin moves the moment at which the connection is cut. A test's
// recorder has no such moment. Connections have the world's clock, whatever the
// server's says.
func (c *call) answerWithin(d time.Duration) {
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(d))
}

// Limits bound what callers may do. Zero means the default, negative none.
type Limits struct {
	// SendsPerSecond counts messages of one account, over REST and sockets
	// together: 2,000, five times as many in a burst.
	SendsPerSecond int
	// RequestsPerSecond counts HTTP requests: 500, five times as many in a burst.
	// A request with a valid token counts for its account, since a whole
	// organisation may share one address; every other counts for its address.
	RequestsPerSecond int
	// Sockets is how many may be open at a time: 20,000.
	Sockets int
}

// limits are Limits at work.
type limits struct {
	Limits
	sends     *throttle.Buckets // by account; nil: no limit
	accounts  *throttle.Buckets // requests by account; nil: no limit
	addresses *throttle.Buckets // requests by address; nil: no limit
}

// SetLimits replaces the limits. Who was at an old one begins anew.
func (a *API) SetLimits(l Limits) {
	def := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&l.SendsPerSecond, 2_000)
	def(&l.RequestsPerSecond, 500)
	def(&l.Sockets, 20_000)
	a.limits.Store(&limits{Limits: l, sends: buckets(l.SendsPerSecond), accounts: buckets(l.RequestsPerSecond), addresses: buckets(l.RequestsPerSecond)})
}

// buckets makes a limit of n a second with a burst of five times as many.
func buckets(n int) *throttle.Buckets {
	if n < 0 {
		return nil
	}
	return throttle.New(5*n, time.Second/time.Duration(n), 50_000)
}

// checkAddress refuses an address that is at its limit, whatever it brings.
func (c *call) checkAddress() error {
	l := c.api.limits.Load()
	if l.addresses == nil || c.class == byLocal {
		return nil
	}
	return c.rate("address", l.RequestsPerSecond, l.addresses.Check(c.api.o.Now(), c.client()))
}

// charge counts the request, now that it is known who calls: for the account,
// or for the address when there is none.
func (c *call) charge(err error) error {
	l := c.api.limits.Load()
	if l.addresses == nil || c.class == byLocal {
		return err
	}
	if err != nil || c.who.UserNo == 0 {
		refused := l.addresses.Take(c.api.o.Now(), c.client())
		if err == nil {
			err = c.rate("address", l.RequestsPerSecond, refused)
		}
		return err
	}
	return c.rate("account", l.RequestsPerSecond, l.accounts.Take(c.api.o.Now(), string(c.who.User.UID)))
}

// rate describes a limit that was hit, as the working-group draft "RateLimit
// header fields for HTTP" has it, and gives err back.
func (c *call) rate(name string, perSecond int, err error) error {
	after, ok := throttle.RetryAfter(err)
	if !ok || clearbox.CodeOf(err) != clearbox.CodeRateLimited {
		return err
	}
	h := c.w.Header()
	h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=1", name, perSecond))
	h.Set("RateLimit", fmt.Sprintf("%q;r=0;t=%d", name, max(1, int(math.Ceil(after.Seconds())))))
	return err
}

// allowSend takes one of the account's messages per second. Sockets and REST
// share the limit.
func (a *API) allowSend(p auth.Principal) error {
	l := a.limits.Load()
	if l.sends == nil {
		return nil
	}
	return l.sends.Take(a.o.Now(), string(p.User.UID))
}
