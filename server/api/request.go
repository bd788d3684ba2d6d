package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
)

type requestIDKey struct{}

// requestID is the id of the request that ctx belongs to.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newRequestID draws 80 bits. Randomness that fails costs the id, not the request.
func (a *API) newRequestID() string {
	var b [10]byte
	if _, err := io.ReadFull(a.o.Random, b[:]); err != nil {
		return ""
	}
	return idEncoding.EncodeToString(b[:])
}

// routeOf is the pattern of the route, never the path: paths and queries hold
// names and tokens.
func routeOf(r *http.Request) string {
	if rc := chi.RouteContext(r.Context()); rc != nil {
		return rc.RoutePattern()
	}
	return ""
}

// call is one request on its way through its operation.
type call struct {
	api   *API
	w     http.ResponseWriter
	r     *http.Request
	who   auth.Principal // zero for anonymous callers and the local admin
	class class
	op    *operation
}

func (c *call) ctx() context.Context { return c.r.Context() }

// param is a part of the path.
func (c *call) param(name string) string { return chi.URLParam(c.r, name) }

// client is the opaque key of the caller's address for limits elsewhere.
func (c *call) client() string { return c.api.addressKey(c.r) }

// body reads the JSON body strictly into v. Its size was limited before; the
// error is for the client.
func (c *call) body(v any) error {
	if err := c.mediaType(); err != nil {
		return err
	}
	data, err := io.ReadAll(c.r.Body)
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return bodyTooLarge(large.Limit)
		}
		return clearbox.Wrap(clearbox.CodeBadRequest, "the body could not be read", err)
	}
	return wire.Decode(wire.JSON, data, v)
}

// mediaType demands JSON without any coding.
func (c *call) mediaType() error {
	if c.r.Header.Get("Content-Encoding") != "" {
		return clearbox.Errorf(clearbox.CodeUnsupportedMedia, "bodies are sent without a content encoding")
	}
	t, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || t != "application/json" || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return clearbox.Errorf(clearbox.CodeUnsupportedMedia, "the body must be application/json")
	}
	return nil
}

func bodyTooLarge(limit int64) error {
	return clearbox.Errorf(clearbox.CodeTooLarge, "the body has at most %d bytes", limit)
}

// reply answers with v as JSON.
func (c *call) reply(status int, v any) error {
	body, err := wire.Append(wire.JSON, nil, v)
	if err != nil {
		return err
	}
	c.answerWithin(WriteTimeout)
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body) // a client that left needs no answer
	return nil
}

// done answers without a body.
func (c *call) done() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// queryInt reads a number of the query; absent is 0.
func (c *call) queryInt(name string, least, most int64) (int64, error) {
	s := c.r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		return 0, &clearbox.Error{Code: clearbox.CodeBadRequest, Field: "?" + name,
			Text: "the parameter " + name + " is a number from " + strconv.FormatInt(least, 10) + " to " + strconv.FormatInt(most, 10)}
	}
	return n, nil
}

// knownQuery refuses parameters that the operation does not have: a misspelt
// one must not be ignored in silence.
func (c *call) knownQuery(names ...string) error {
	query := c.r.URL.Query()
next:
	for name := range query {
		for _, known := range names {
			if name == known {
				continue next
			}
		}
		return clearbox.Errorf(clearbox.CodeBadRequest, "there is a query parameter that is not known")
	}
	return nil
}

// bearer is the token of the Authorization header (RFC 6750, 2.1), or "".
func bearer(r *http.Request) string {
	h := r.Header.Get("Authorization")
	if len(h) > 7 && strings.EqualFold(h[:7], "bearer ") {
		return h[7:]
	}
	return ""
}

// address is where the request came from; behind a trusted proxy, what the
// proxy says (its own entry is the last of X-Forwarded-For).
func (a *API) address(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	addr = addr.Unmap()
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(forwarded) - 1; i >= 0 && a.trusted(addr); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(forwarded[i]))
		if err != nil {
			break
		}
		addr = next.Unmap()
	}
	return addr
}

func (a *API) trusted(addr netip.Addr) bool {
	for _, p := range a.o.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// addressKeys turns addresses into keys for limits. The secret lives in memory
// for a day, so that no address is kept anywhere (gdpr: minimisation).
type addressKeys struct {
	mu     sync.Mutex // guards both
	secret []byte
	until  time.Time
}

// addressKey is the keyed hash of the request's address; of an IPv6 address
// the first 64 bits count, since a household has all of the rest.
func (a *API) addressKey(r *http.Request) string {
	addr := a.address(r)
	if addr.Is6() {
		if p, err := addr.WithZone("").Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	now := a.o.Now()
	k := &a.addresses
	k.mu.Lock()
	if k.secret == nil || !now.Before(k.until) {
		secret := make([]byte, 32)
		if _, err := io.ReadFull(a.o.Random, secret); err != nil {
			k.mu.Unlock()
			return "" // all addresses share one limit until randomness is back
		}
		k.secret, k.until = secret, now.Add(24*time.Hour)
	}
	secret := k.secret
	k.mu.Unlock()
	mac := hmac.New(sha256.New, secret)
	b, _ := addr.MarshalBinary() // never fails
	mac.Write(b)
	return string(mac.Sum(nil)[:16])
}
