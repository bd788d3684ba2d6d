package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
)

// routes builds the mux from the table. HEAD is GET without a body.
func (a *API) routes() *chi.Mux {
	mux := chi.NewMux()
	ops := operations()
	for i := range ops {
		op := &ops[i]
		mux.Method(op.method, op.path, a.operation(op))
		if op.method == http.MethodGet && op.path != "/ws" && op.path != "/sync" {
			mux.Method(http.MethodHead, op.path, a.operation(op))
		}
	}
	anybody := grants{other, both, both, both, both, both, both, both}
	mux.NotFound(a.operation(&operation{may: anybody, run: func(*call) error {
		return clearbox.Errorf(clearbox.CodeNotFound, "there is nothing here")
	}}))
	mux.MethodNotAllowed(a.operation(&operation{may: anybody, run: func(c *call) error {
		c.w.Header().Set("Allow", strings.Join(allowed(mux, c.r.URL.Path), ", ")) // RFC 9110, 15.5.6
		return clearbox.Errorf(clearbox.CodeMethod, "this method is not for this address")
	}}))
	return mux
}

// allowed lists the methods that a path has.
func allowed(mux *chi.Mux, path string) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if mux.Match(chi.NewRouteContext(), m, path) {
			out = append(out, m)
		}
	}
	return out
}

type localKey struct{}

// outer is what every request passes first: an id, the headers, and a catch
// for panics.
func (a *API) outer(next http.Handler, isLocal bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := a.newRequestID()
		ctx := context.WithValue(r.Context(), requestIDKey{}, id)
		if isLocal {
			ctx = context.WithValue(ctx, localKey{}, true)
		}
		r = r.WithContext(ctx)
		a.headers(w.Header(), id)
		defer a.recovered(w, r)
		next.ServeHTTP(w, r)
	})
}

// headers are on every answer. Nothing here is a page, so nothing may run,
// frame or be cached unless the operation says so.
func (a *API) headers(h http.Header, id string) {
	h.Set("X-Request-Id", id)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Strict-Transport-Security", "max-age=63072000")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// recovered turns a panic into a problem, counts and logs it.
func (a *API) recovered(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v) // net/http's own way to hang up
	}
	a.panicked(v, requestID(r.Context()), routeOf(r))
	a.writeProblem(w, r, clearbox.Wrap(clearbox.CodeInternal, "", fmt.Errorf("panic: %T", v)))
}

// panicked counts and logs a panic. The value is not logged: it may hold
// anything; the stack says where it was.
func (a *API) panicked(v any, id, route string) {
	a.panics.Add(1)
	stack := debug.Stack()
	if i := bytes.IndexByte(stack, '\n'); i >= 0 {
		stack = stack[i+1:]
	}
	a.o.Log.Error("handler panicked", "request_id", id, "route", route, "kind", fmt.Sprintf("%T", v), "stack", string(stack))
}

// operation is the way of a request through its row of the table: who is it,
// may he, is the body of a size, then the deed.
func (a *API) operation(op *operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := &call{api: a, w: w, r: r, op: op}
		started := a.o.Now()
		defer c.bound()()
		err := c.admit()
		if err == nil {
			err = c.limitBody()
		}
		if err == nil {
			err = op.run(c)
		}
		if err != nil {
			c.answerWithin(WriteTimeout)
			a.writeProblem(w, c.r, err)
		}
		a.o.Log.Debug("request", "request_id", requestID(r.Context()), "method", op.method, "route", op.path,
			"code", string(codeOf(err)), "took_ms", a.o.Now().Sub(started).Milliseconds())
	}
}

// admit finds out who calls and asks the table.
func (c *call) admit() error {
	if isLocal, _ := c.ctx().Value(localKey{}).(bool); isLocal {
		c.class = byLocal
	}
	if err := c.checkAddress(); err != nil {
		return err
	}
	err := c.identify()
	if c.op.path != "/ws" {
		err = c.charge(err)
	}
	if err != nil {
		return err
	}
	may := c.op.may[c.class]
	if may == both {
		return nil
	}
	if may == none {
		return c.refusal()
	}
	mine := c.class != byAnyone && c.class != byLocal && !strings.HasPrefix(c.op.path, "/admin/")
	if c.op.mine != nil {
		if mine, err = c.op.mine(c); err != nil {
			return err
		}
	}
	if mine && may&own == 0 || !mine && may&other == 0 {
		return c.refusal()
	}
	return nil
}

func (c *call) refusal() error {
	switch c.class {
	case byAnyone:
		return clearbox.Errorf(clearbox.CodeUnauthorized, "an access token is needed")
	case byNoDevice:
		return clearbox.Errorf(clearbox.CodeForbidden, "this session has no device: log in with a device")
	}
	return clearbox.Errorf(clearbox.CodeForbidden, "your role does not allow this")
}

// identify takes the caller from the listener or the token. A public operation
// does not look at a token at all.
func (c *call) identify() error {
	if c.class == byLocal || c.op.may[byAnyone] != none {
		return nil
	}
	token := bearer(c.r)
	if token == "" {
		return nil
	}
	p, err := c.api.parts.Auth.Verify(c.ctx(), token)
	if err != nil {
		return err
	}
	c.who, c.class = p, classOf(p)
	c.r = c.r.WithContext(auth.With(c.ctx(), p))
	return nil
}

// classOf is the column of the table for p. A session without a device has the
// same rights whatever the role.
func classOf(p auth.Principal) class {
	if !p.HasDevice() {
		return byNoDevice
	}
	switch p.Role {
	case auth.RoleAdmin:
		return byAdmin
	case auth.RoleModerator:
		return byModerator
	case auth.RoleRights:
		return byRights
	case auth.RoleDPO:
		return byDPO
	}
	return byMember
}

// limitBody refuses a body that is announced too large before reading any of
// it (RFC 9110, 15.5.14), and cuts one that turns out so.
func (c *call) limitBody() error {
	limit := c.op.maxBody
	if c.r.ContentLength > max(limit, 0) && limit > 0 {
		c.w.Header().Set("Connection", "close") // the rest is not read
		return bodyTooLarge(limit)
	}
	if limit == 0 {
		// Some clients send {} where there is nothing to say.
		limit = 1 << 10
	}
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, limit)
	return nil
}
