package conformance_test

import (
	"crypto/ed25519"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/conformance"
)

func runner(t *testing.T, a, b *node, h http.Handler) *conformance.Runner {
	return &conformance.Runner{
		Maker: conformance.Maker{
			Origin: "a.test", Destination: "b.test", Base: b.self.Document().Endpoints[0].URL, Version: federation.Version,
			Key: a.self.SigningKey(), Other: federation.SigningKey{Private: identityOf(77)}, Random: fixed(5),
		},
		Document: b.self.Document(), Greeting: a.greeting(t, b), Now: func() time.Time { return b.now },
		Do: func(r *http.Request) (*http.Response, error) { return serve(h, r) },
	}
}

// A peer of this build keeps the protocol, and nothing changed at it.
func TestRun(t *testing.T) {
	a, b := two(t)
	results := runner(t, a, b, b.inbox).Run(t.Context())
	attacks := 0
	for _, r := range results {
		if !r.OK {
			t.Errorf("%s: %s, want %s", r.Name, r.Got, r.Want)
		}
		if strings.HasPrefix(r.Want, "4") {
			attacks++
		}
	}
	if attacks < 40 {
		t.Errorf("only %d attacks", attacks)
	}
	if b.memory.writes != 0 {
		t.Errorf("%d things changed at the peer", b.memory.writes)
	}
}

// Peers that do not keep the protocol are found out, each check by some peer.
func TestRunFindsOut(t *testing.T) {
	a, b := two(t)
	found := map[string]bool{}
	for name, h := range map[string]http.Handler{
		"yes to everything": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }),
		"no to everything": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"code":"bad_signature"}`, http.StatusUnauthorized)
		}),
		"unsigned": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			b.inbox.ServeHTTP(rec, r)
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		}),
	} {
		failed := 0
		for _, r := range runner(t, a, b, h).Run(t.Context()) {
			if !r.OK {
				found[r.Name] = true
				failed++
			}
		}
		if failed == 0 {
			t.Errorf("%s: nothing was found", name)
		}
	}
	for _, r := range runner(t, a, b, b.inbox).Run(t.Context()) {
		if !found[r.Name] {
			t.Errorf("%s cannot fail", r.Name)
		}
	}
}

// A peer that asks to slow down is asked again.
func TestRunWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := two(t)
		asked := 0
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked%3 == 0 {
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			b.inbox.ServeHTTP(w, r)
		})
		for _, r := range runner(t, a, b, h).Run(t.Context()) {
			if !r.OK {
				t.Errorf("%s: %s, want %s", r.Name, r.Got, r.Want)
			}
		}
	})
}

func keysOf(r *conformance.Runner) federation.KeyFor {
	return func(kid string) (ed25519.PublicKey, bool) { return r.Document.FedSign(kid, r.Now()) }
}
