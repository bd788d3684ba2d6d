package peering_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/peering"
	"github.com/clearbox-im/clearbox/storage"
)

// open runs two sites that know nothing of each other, in mode open.
func open(t *testing.T, rules peering.Open, fn func(t *testing.T, l *lab, a, b *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		a := l.siteIn("a.test", 1, &rules)
		b := l.siteIn("b.test", 2, &peering.Open{Basis: "test"})
		defer b.close()
		defer a.close()
		fn(t, l, a, b)
	})
}

func (s *site) hello(to clearbox.ServerName) error {
	_, err := s.client.Hello(context.Background(), to)
	return err
}

// meet makes peers of two strangers by the first contact of one of them.
func meet(t *testing.T, a, b *site) {
	t.Helper()
	var refused *federation.RefusedError
	err := a.hello(b.name)
	if !errors.As(err, &refused) || refused.Code != clearbox.CodeUnknownPeer || refused.RetryAfter <= 0 || refused.RetryAfter > 5*time.Second {
		t.Fatalf("the first contact: %v", err)
	}
	time.Sleep(refused.RetryAfter)
	must(t, a.hello(b.name))
}

// Row 7, first part: whom the first contact made a peer is pinned and on
// probation for a week.
func TestThreat07FirstContactIsOnProbation(t *testing.T) {
	open(t, peering.Open{Basis: "test"}, func(t *testing.T, _ *lab, a, b *site) {
		if err := a.table.Route(t.Context(), "b.test"); err != nil {
			t.Errorf("before the first contact: %v", err)
		}
		meet(t, a, b)
		for s, o := range map[*site]*site{a: b, b: a} {
			p, known := s.table.Stored(o.name)
			pin := o.self.Document().Pin()
			if !known || p.State != storage.PeerActive || !p.FirstUse || string(p.Pin) != string(pin[:]) || p.Country != "DE" {
				t.Errorf("%s knows %+v of %s", s.name, p, o.name)
			}
			if left := time.Until(time.UnixMilli(int64(p.ProbationUntil))); left > 7*24*time.Hour || left < 7*24*time.Hour-time.Minute {
				t.Errorf("probation for %v", left)
			}
			quota := func() string {
				seen, err := s.table.Peer(t.Context(), o.name)
				must(t, err)
				return fmt.Sprint(seen.Envelopes, " ", seen.Bytes, " ", seen.Features)
			}
			if got := quota(); got != "10 262144 []" {
				t.Errorf("on probation: %s", got)
			}
			if !slices.Contains(s.audits(), "peer.first_use "+string(o.name)) || !slices.Contains(s.audits(), "federation.open ") {
				t.Errorf("audit: %v", s.audits())
			}
		}
		time.Sleep(7*24*time.Hour + time.Minute)
		seen, err := a.table.Peer(t.Context(), "b.test")
		if err != nil || seen.Envelopes != 200 || seen.Bytes != 5<<20 {
			t.Errorf("after probation: %+v, %v", seen, err)
		}
	})
}

// Row 7 again: who names somebody else's server gets nothing made, neither by a
// request in its name nor, later, by another identity at its address.
func TestThreat07FirstContactInAnothersName(t *testing.T) {
	open(t, peering.Open{Basis: "test"}, func(t *testing.T, l *lab, a, b *site) {
		thief := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{66}, 32))
		if got := a.knock(t, "b.test", federation.SigningKey{KID: b.self.SigningKey().KID, Private: thief}); got.Code != http.StatusForbidden || got.Header().Get("Retry-After") == "" {
			t.Errorf("a forged first contact: %d", got.Code)
		}
		time.Sleep(10 * time.Second)
		if _, known := a.table.Stored("b.test"); known {
			t.Fatal("a forged request made a peer")
		}
		l.mu.Lock()
		l.asked = nil
		l.mu.Unlock()
		if got := a.knock(t, "b.test", federation.SigningKey{KID: b.self.SigningKey().KID, Private: thief}); got.Header().Get("Retry-After") != "" {
			t.Error("a stranger whose proof was no good is looked at again at once")
		}
		time.Sleep(time.Second)
		l.mu.Lock()
		if len(l.asked) != 0 {
			t.Errorf("looked up for a second forgery: %v", l.asked)
		}
		l.mu.Unlock()
		meet(t, b, a) // the true server does not wait for what the false one did
		before, _ := a.table.Stored("b.test")
		b.close()
		impostor := l.siteIn("b.test", 9, &peering.Open{Basis: "test"})
		defer impostor.close()
		if err := a.hello("b.test"); err == nil {
			t.Error("the impostor was greeted")
		}
		if _, err := a.client.FetchDocument(t.Context(), "b.test"); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
			t.Errorf("the impostor's document: %v", err)
		}
		if after, _ := a.table.Stored("b.test"); string(after.Pin) != string(before.Pin) || after.Seq != before.Seq {
			t.Error("the pin was replaced")
		}
		if got := a.alerts(); !slices.Equal(got, []string{"b.test identity_changed 1"}) {
			t.Errorf("alerts: %v", got)
		}
	})
}

// A forged request in a server's name does not keep people here from writing to
// it: else anybody could cut any two servers off.
func TestForgedFirstContactBarsNobody(t *testing.T) {
	open(t, peering.Open{Basis: "test"}, func(t *testing.T, _ *lab, a, b *site) {
		thief := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{66}, 32))
		a.knock(t, "b.test", federation.SigningKey{KID: b.self.SigningKey().KID, Private: thief})
		time.Sleep(10 * time.Second)
		if got := a.knock(t, "b.test", federation.SigningKey{KID: b.self.SigningKey().KID, Private: thief}); got.Header().Get("Retry-After") != "" {
			t.Error("the forged request was not found out")
		}
		meet(t, a, b)
		if p, known := a.table.Stored("b.test"); !known || p.State != storage.PeerActive {
			t.Errorf("the peering: %+v", p)
		}
	})
}

// A first-use peer that moves to a country from which none may come rests, and so
// does one that an operator's new rule excludes.
func TestRulesForCountriesHoldAfterwards(t *testing.T) {
	open(t, peering.Open{Basis: "test", Countries: []string{"DE"}}, func(t *testing.T, _ *lab, a, b *site) {
		meet(t, a, b)
		must(t, a.table.Route(t.Context(), "b.test"))
		b.close()
		b.country = "AT"
		b.open()
		b.listen()
		_, err := a.client.FetchDocument(t.Context(), "b.test")
		must(t, err)
		if p, _ := a.table.Stored("b.test"); p.Country != "AT" {
			t.Errorf("b is in %q", p.Country)
		}
		if err := a.table.Route(t.Context(), "b.test"); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("after it moved: %v", err)
		}
		if p, err := a.table.Peer(t.Context(), "b.test"); err != nil || p.State != federation.PeerSuspended {
			t.Errorf("after it moved: %+v, %v", p.State, err)
		}
		if !slices.Contains(a.audits(), "peer.country b.test") {
			t.Errorf("audit: %v", a.audits())
		}
	})
}

// knock hands a signed greeting in somebody's name to the site's inbox.
func (s *site) knock(t *testing.T, origin clearbox.ServerName, key federation.SigningKey) *httptest.ResponseRecorder {
	t.Helper()
	body := []byte{0xa0}
	r, err := http.NewRequest(http.MethodPost, "https://"+string(s.name)+federation.PathHello, bytes.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", federation.TypeCBOR)
	_, err = federation.SignRequest(r, body, origin, s.name, key, time.Now(), rand.Reader)
	must(t, err)
	r.RequestURI = federation.PathHello
	w := httptest.NewRecorder()
	s.inbox.ServeHTTP(w, r)
	return w
}

func (s *site) alerts() (out []string) {
	must(s.lab.t, s.store.View(context.Background(), func(tx *storage.Tx) error {
		out = nil
		list, err := tx.PeerAlerts()
		for _, a := range list {
			out = append(out, fmt.Sprint(a.Peer, " ", a.Kind, " ", a.Count))
		}
		return err
	}))
	return out
}

// Row 8: a stranger's name that leads inside is not followed, whoever begins.
func TestThreat08FirstContactLeadsInside(t *testing.T) {
	open(t, peering.Open{Basis: "test"}, func(t *testing.T, l *lab, a, b *site) {
		for i, inside := range []string{"127.0.0.1", "169.254.169.254", "10.1.2.3", "192.168.0.1", "::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"} {
			name := clearbox.ServerName(fmt.Sprintf("n%d.inside.test", i))
			l.mu.Lock()
			l.forged = map[string]netip.Addr{string(name): netip.MustParseAddr(inside)}
			l.dialled = nil
			l.mu.Unlock()
			if err := a.hello(name); err == nil {
				t.Errorf("%s was reached", inside)
			}
			a.knock(t, name, b.self.SigningKey())
			time.Sleep(10 * time.Second)
			l.mu.Lock()
			if len(l.dialled) != 0 {
				t.Errorf("%s: dialled %v", inside, l.dialled)
			}
			l.mu.Unlock()
			if _, known := a.table.Stored(name); known {
				t.Errorf("%s became a peer", inside)
			}
		}
	})
}

// What strangers cost is bounded, and peers do not pay for it.
func TestStrangersAreBounded(t *testing.T) {
	open(t, peering.Open{Basis: "test"}, func(t *testing.T, l *lab, a, b *site) {
		meet(t, b, a)
		l.mu.Lock()
		l.asked = nil
		l.mu.Unlock()
		for i := range 1000 {
			if got := a.knock(t, clearbox.ServerName(fmt.Sprintf("s%d.crowd.test", i)), b.self.SigningKey()); got.Code != http.StatusForbidden {
				t.Fatalf("stranger %d: %d", i, got.Code)
			}
		}
		time.Sleep(20 * time.Second)
		l.mu.Lock()
		if n := len(l.asked); n > 10 || n == 0 {
			t.Errorf("%d lookups for 1,000 strangers at one moment", n)
		}
		l.mu.Unlock()
		must(t, b.hello("a.test"))
		if got := len(a.table.All()); got != 1 {
			t.Errorf("%d peers", got)
		}
	})
}

// One domain does not become a thousand peers.
func TestFirstContactsBelowOneDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		a := l.siteIn("a.test", 1, &peering.Open{Basis: "test"})
		defer a.close()
		for i := range 20 {
			s := l.site(clearbox.ServerName(fmt.Sprintf("%c.evil.test", 'b'+i)), byte(i+10))
			err := a.table.Adopt(t.Context(), s.self.Document())
			if i < 16 && err != nil || i >= 16 && clearbox.CodeOf(err) != clearbox.CodeQuota {
				t.Errorf("%s: %v", s.name, err)
			}
			s.close()
		}
	})
}

// Who became a peer and exchanges nothing gives the place back after the
// probation; who exchanged something, or is waited for, keeps it.
func TestIdleFirstContactsAreForgotten(t *testing.T) {
	open(t, peering.Open{Basis: "test"}, func(t *testing.T, l *lab, a, b *site) {
		c := l.site("c.test", 3)
		defer c.close()
		d := l.site("d.test", 4)
		defer d.close()
		for _, s := range []*site{b, c, d} {
			must(t, a.table.Adopt(t.Context(), s.self.Document()))
		}
		must(t, a.store.Update(t.Context(), func(tx *storage.Tx) error {
			return tx.SetInStream("c.test", storage.ClassMessage, storage.InStream{Stream: []byte("stream"), LastPos: 1})
		}))
		a.queue("d.test")
		time.Sleep(7*24*time.Hour - time.Minute)
		a.service.Tend(t.Context())
		if got := len(a.table.All()); got != 3 {
			t.Fatalf("%d peers before the end of the probation", got)
		}
		time.Sleep(2 * time.Minute)
		a.service.Tend(t.Context())
		if _, known := a.table.Stored("b.test"); known || len(a.table.All()) != 2 || !slices.Contains(a.audits(), "peer.idle b.test") {
			t.Errorf("peers %d, audit %v", len(a.table.All()), a.audits())
		}
		must(t, a.table.Adopt(t.Context(), b.self.Document())) // and may come again
	})
}

// Servers of other countries are no peers, in either direction.
func TestCountriesOfStrangers(t *testing.T) {
	open(t, peering.Open{Basis: "test", Countries: []string{"AT", "FR"}}, func(t *testing.T, _ *lab, a, b *site) {
		if err := a.hello("b.test"); clearbox.CodeOf(err) != clearbox.CodeNoRoutePolicy {
			t.Errorf("a server in another country: %v", err)
		}
		if err := a.client.Barred("b.test"); clearbox.CodeOf(err) != clearbox.CodeNoRoutePolicy {
			t.Errorf("what is queued: %v", err)
		}
		if err := b.hello("a.test"); clearbox.CodeOf(err) != clearbox.CodeUnknownPeer {
			t.Errorf("it comes itself: %v", err)
		}
		time.Sleep(2 * time.Minute)
		must(t, ignore(b.hello("a.test"), clearbox.CodeUnknownPeer))
		time.Sleep(10 * time.Second)
		if _, known := a.table.Stored("b.test"); known {
			t.Error("it became a peer")
		}
	})
}

func ignore(err error, code clearbox.Code) error {
	if clearbox.CodeOf(err) == code {
		return nil
	}
	return err
}

// When the mode is changed back, the peers of the first contact rest, and one
// that an administrator vouched for does not.
func TestModeOpenEnds(t *testing.T) {
	open(t, peering.Open{Basis: "test"}, func(t *testing.T, l *lab, a, b *site) {
		c := l.siteIn("c.test", 3, &peering.Open{Basis: "test"})
		defer c.close()
		meet(t, b, a)
		meet(t, c, a)
		must(t, a.service.Set(t.Context(), deed("peer.set"), "c.test", listed()))
		a.close()
		a.rules = nil
		a.open()
		a.listen()
		active, err := a.table.Active(t.Context())
		if must(t, err); !slices.Equal(active, []clearbox.ServerName{"c.test"}) {
			t.Errorf("active: %v", active)
		}
		if err := a.table.Route(t.Context(), "b.test"); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("to b.test: %v", err)
		}
		if err := b.hello("a.test"); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("b.test comes: %v", err)
		}
		must(t, c.hello("a.test"))
		d := l.site("d.test", 4)
		defer d.close()
		if err := a.hello("d.test"); clearbox.CodeOf(err) != clearbox.CodeUnknownPeer {
			t.Errorf("a stranger in mode allowlist: %v", err)
		}
		if got := a.knock(t, "d.test", d.self.SigningKey()); got.Header().Get("Retry-After") != "" || !strings.Contains(got.Body.String(), "unknown_peer") {
			t.Errorf("a stranger's request in mode allowlist: %s", got.Body)
		}
	})
}
