package api_test

import (
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/wire"
)

// An address that brings no valid token is limited; people behind the same
// address are limited one by one.
func TestRequestLimits(t *testing.T) {
	w := newWorld(t, setup{api: api.Options{Limits: api.Limits{RequestsPerSecond: 1}}})
	alice, bob := w.join("alice"), w.join("bob")
	spend := func(do func() answer) answer {
		t.Helper()
		for range 20 {
			if res := do(); res.status == 429 {
				return res
			}
		}
		t.Fatal("there is no limit")
		return answer{}
	}
	res := spend(func() answer { return alice.do("GET", "/me", nil) })
	res.want(t, 429, clearbox.CodeRateLimited, "")
	if res.header.Get("RateLimit-Policy") != `"account";q=1;w=1` || res.header.Get("RateLimit") == "" {
		t.Error(res.header)
	}
	bob.do("GET", "/me", nil).into(t, &wire.Me{}) // behind the same address
	res = spend(func() answer { return w.do("GET", "/me", "nonsense", nil) })
	res.want(t, 429, clearbox.CodeRateLimited, "")
	if res.header.Get("RateLimit-Policy") != `"address";q=1;w=1` {
		t.Error(res.header)
	}
	w.do("GET", "/livez", "", nil).want(t, 429, clearbox.CodeRateLimited, "")
	var status wire.AdminStatus
	w.admin("GET", "/admin/status", nil).into(t, &status) // never limited
	w.api.SetLimits(api.Limits{RequestsPerSecond: -1})
	for range 50 {
		w.do("GET", "/livez", "", nil).into(t, &wire.Live{})
	}
}

func TestSocketLimit(t *testing.T) {
	w := newWorld(t, setup{api: api.Options{Limits: api.Limits{Sockets: 1}}})
	alice, bob := w.join("alice"), w.join("bob")
	alice.open(wire.CBOR)
	_, res, err := w.dial(wire.CBOR, bearerOf(bob), "")
	if err == nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("%v, %v", res, err)
	}
}
