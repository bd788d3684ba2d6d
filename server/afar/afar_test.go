package afar_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/afar"
	"github.com/clearbox-im/clearbox/server/presence"
	"github.com/clearbox-im/clearbox/server/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice clearbox.UID = "aaaqeayeaudaocajbifqydiob4"
	bob   clearbox.UID = "ceirceirceirceirceirceirce"
)

var token = []byte("sixteen bytes ok")

// house is one server. What it sends is carried at once.
type house struct {
	name  clearbox.ServerName
	hub   *presence.Hub
	afar  *afar.Service
	world *world

	mu      sync.Mutex // guards what follows
	people  map[clearbox.UID]afar.Person
	allows  []string
	failing bool
	sent    []federation.Fleeting
	came    []clearbox.Envelope
}

type world struct {
	a, b *house
	cut  bool // guarded by a.mu
}

// pair runs fn with two servers that allow everything, on each of which the
// person of the same number is seen.
func pair(t *testing.T, fn func(a, b *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.a, w.b = newHouse(w, "a.test", alice), newHouse(w, "b.test", bob)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, h := range []*house{w.a, w.b} {
			running.Go(func() { h.afar.Run(ctx) })
		}
		fn(w.a, w.b)
		cancel()
		running.Wait()
	})
}

func newHouse(w *world, name clearbox.ServerName, person clearbox.UID) *house {
	h := &house{name: name, hub: presence.New(), world: w, people: map[clearbox.UID]afar.Person{person: {Shown: true}},
		allows: []string{afar.FeaturePresence, afar.FeatureTyping}}
	h.afar = afar.New(name, h.hub, afar.Options{
		Allows: func(_ context.Context, _ clearbox.ServerName, feature string) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return slices.Contains(h.allows, feature)
		},
		MayReach: func(_ context.Context, _ clearbox.ServerName, uid clearbox.UID, shown []byte) (bool, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.failing {
				return false, errors.New("boom")
			}
			_, known := h.people[uid]
			return known && string(shown) == string(token), nil
		},
		Person: func(_ context.Context, uid clearbox.UID) (afar.Person, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.failing {
				return afar.Person{}, errors.New("boom")
			}
			return h.people[uid], nil
		},
		Send: h.send,
		Deliver: func(e clearbox.Envelope) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.came = append(h.came, e)
		},
	})
	return h
}

func (h *house) send(peer clearbox.ServerName, f federation.Fleeting) {
	h.mu.Lock()
	h.sent = append(h.sent, f)
	h.mu.Unlock()
	h.world.a.mu.Lock()
	cut := h.world.cut
	h.world.a.mu.Unlock()
	other := h.world.a
	if h == other {
		other = h.world.b
	}
	if !cut {
		f.At = clearbox.Millis(time.Now().UnixMilli())
		other.afar.Ephemeral(context.Background(), h.name, []federation.Fleeting{f})
	}
}

// updates are the presences that h sent since the last time.
func (h *house) updates() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.sent {
		if f.Seen != nil {
			out = append(out, f.Seen.Value)
		}
	}
	h.sent = nil
	return out
}

func (h *house) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// told is what a socket saw.
type told struct {
	mu     sync.Mutex
	values []wire.Presence
}

func (w *told) tell(u clearbox.UserID, p wire.Presence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.values = append(w.values, p)
}

func (w *told) want(t *testing.T, want ...wire.Presence) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.values, want) {
		t.Fatalf("saw %q, want %q", w.values, want)
	}
	w.values = nil
}

var (
	here  = clearbox.UserID{UID: bob, Server: "b.test"}
	watch = []wire.WatchToken{{User: here, Token: token}}
)

// Bob of b.test comes and goes, and Alice of a.test sees it coarsely.
func TestPresenceAfar(t *testing.T) {
	pair(t, func(a, b *house) {
		var seen told
		w := a.afar.Watch(alice, seen.tell)
		w.Set(t.Context(), watch)
		seen.want(t, wire.PresenceAway)
		time.Sleep(2 * time.Minute)
		b.hub.Arrive(here, true)
		time.Sleep(10 * time.Second)
		seen.want(t, wire.PresenceActive)
		b.hub.Leave(here)
		time.Sleep(30 * time.Second)
		seen.want(t) // not within the minute
		time.Sleep(time.Minute)
		seen.want(t, wire.PresenceRecent)
		time.Sleep(48 * time.Hour)
		seen.want(t, wire.PresenceAway) // the second day after, by the day alone
		w.Close()
	})
}

// However often Bob comes and goes, one update a minute is told, and a watch is
// asked for every five minutes for as long as it lasts.
func TestPresenceIsCoalesced(t *testing.T) {
	pair(t, func(a, b *house) {
		var one, two told
		w1, w2 := a.afar.Watch(alice, one.tell), a.afar.Watch(alice, two.tell)
		w1.Set(t.Context(), watch)
		w2.Set(t.Context(), watch)
		synctest.Wait()
		b.updates()
		for range 600 { // ten minutes
			b.hub.Arrive(here, true)
			time.Sleep(500 * time.Millisecond)
			b.hub.Leave(here)
			time.Sleep(500 * time.Millisecond)
		}
		synctest.Wait() // what is due at this very instant has been sent
		if n := len(b.updates()); n < 2 || n > 12 {
			t.Errorf("%d updates in ten minutes", n)
		}
		a.set(func() {
			watches := 0
			for _, f := range a.sent {
				if f.Watch != nil {
					watches++
				}
			}
			if watches < 2 || watches > 3 {
				t.Errorf("asked %d times in ten minutes", watches)
			}
		})
		w1.Close()
		w2.Close()
		a.updates()
		time.Sleep(30 * time.Minute)
		a.set(func() {
			for _, f := range a.sent {
				if f.Watch != nil {
					t.Error("a watch outlived its sockets")
				}
			}
		})
		b.updates()
		b.hub.Arrive(here, true)
		time.Sleep(5 * time.Minute)
		if got := b.updates(); len(got) != 0 {
			t.Errorf("told %q when nobody watches", got)
		}
		b.hub.Leave(here)
	})
}

// Neither side sees who did not consent, at either server, or whose token it
// does not know, or where the peering does not allow it.
func TestPresenceNeedsEveryConsent(t *testing.T) {
	for name, change := range map[string]func(a, b *house, q *[]wire.WatchToken){
		"Bob's consent":      func(a, b *house, _ *[]wire.WatchToken) { b.people[bob] = afar.Person{} },
		"Alice's consent":    func(a, b *house, _ *[]wire.WatchToken) { a.people[alice] = afar.Person{} },
		"b.test's allowance": func(a, b *house, _ *[]wire.WatchToken) { b.allows = nil },
		"a.test's allowance": func(a, b *house, _ *[]wire.WatchToken) { a.allows = []string{afar.FeatureTyping} },
		"the token": func(a, b *house, q *[]wire.WatchToken) {
			*q = []wire.WatchToken{{User: here, Token: []byte("sixteen bytes no")}}
		},
		"somebody": func(a, b *house, _ *[]wire.WatchToken) { delete(b.people, bob) },
		"a store":  func(a, b *house, _ *[]wire.WatchToken) { b.failing = true },
		"a store for Alice": func(a, b *house, _ *[]wire.WatchToken) {
			a.failing = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			pair(t, func(a, b *house) {
				q := watch
				change(a, b, &q)
				b.hub.Arrive(here, true)
				var seen told
				w := a.afar.Watch(alice, seen.tell)
				w.Set(t.Context(), q)
				time.Sleep(10 * time.Minute)
				seen.want(t)
				if got := b.updates(); len(got) != 0 {
					t.Errorf("told %q", got)
				}
				w.Close()
				b.hub.Leave(here)
			})
		})
	}
}

// A consent that is withdrawn shows at once, within the minute, and for good.
func TestPresenceConsentWithdrawn(t *testing.T) {
	pair(t, func(a, b *house) {
		b.hub.Arrive(here, true)
		var seen told
		w := a.afar.Watch(alice, seen.tell)
		w.Set(t.Context(), watch)
		seen.want(t, wire.PresenceActive)
		time.Sleep(2 * time.Minute)
		b.set(func() { b.people[bob] = afar.Person{} })
		b.afar.Consented(t.Context(), bob)
		seen.want(t, wire.PresenceAway)
		b.updates()
		b.hub.Leave(here)
		b.hub.Arrive(here, true)
		time.Sleep(time.Hour)
		seen.want(t)
		if got := b.updates(); len(got) != 0 {
			t.Errorf("told %q", got)
		}
		b.set(func() { b.people[bob] = afar.Person{Shown: true} })
		time.Sleep(6 * time.Minute)
		seen.want(t, wire.PresenceActive) // by the next renewal
		a.set(func() { a.people[alice] = afar.Person{} })
		a.afar.Consented(t.Context(), alice)
		b.hub.Leave(here)
		time.Sleep(10 * time.Minute)
		seen.want(t) // she does not see who does not show
		w.Close()
	})
}

// A peer that is away shows nobody for longer than twelve minutes.
func TestPresenceOfAPeerThatIsAway(t *testing.T) {
	pair(t, func(a, b *house) {
		b.hub.Arrive(here, true)
		var seen told
		w := a.afar.Watch(alice, seen.tell)
		w.Set(t.Context(), watch)
		seen.want(t, wire.PresenceActive)
		a.set(func() { a.world.cut = true })
		time.Sleep(11 * time.Minute)
		seen.want(t)
		time.Sleep(2 * time.Minute)
		seen.want(t, wire.PresenceAway)
		a.set(func() { a.world.cut = false })
		time.Sleep(5 * time.Minute)
		seen.want(t, wire.PresenceActive)
		w.Set(t.Context(), watch) // a frame that says the same again
		seen.want(t, wire.PresenceActive)
		w.Set(t.Context(), nil)
		b.hub.Leave(here)
		time.Sleep(5 * time.Minute)
		seen.want(t)
		w.Close()
	})
}

// What a peer says unasked, or in words that are unknown, is nothing.
func TestPresenceUnasked(t *testing.T) {
	pair(t, func(a, b *house) {
		var seen told
		w := a.afar.Watch(alice, seen.tell)
		say := func(uid clearbox.UID, value string) {
			a.afar.Ephemeral(t.Context(), "b.test", []federation.Fleeting{{Seen: &federation.PresenceSeen{User: uid, Value: value}}})
		}
		say(bob, "active")
		w.Set(t.Context(), watch)
		seen.want(t, wire.PresenceAway)
		say(bob, "at the dentist")
		say(alice, "active")
		a.afar.Ephemeral(t.Context(), "c.test", []federation.Fleeting{{Seen: &federation.PresenceSeen{User: bob, Value: "active"}}})
		seen.want(t)
		say(bob, "active")
		seen.want(t, wire.PresenceActive)
		w.Close()
	})
}

// Typing comes to the device that it is for, and names the server alone.
func TestSignalAfar(t *testing.T) {
	pair(t, func(a, b *house) {
		envelope := wire.Outgoing{Device: 2, Registration: 7, Type: clearbox.ContentSealed, Content: make([]byte, 256)}
		send := func(to clearbox.UserID, token []byte, e wire.Outgoing) {
			a.afar.Signal(t.Context(), to, token, []wire.Outgoing{e})
			synctest.Wait()
		}
		count := func(want int) {
			t.Helper()
			b.set(func() {
				if len(b.came) != want {
					t.Fatalf("%d signals came, want %d", len(b.came), want)
				}
			})
		}
		send(here, token, envelope)
		count(1)
		b.set(func() {
			e := b.came[0]
			if e.Origin != "a.test" || !e.Sender.IsZero() || e.Recipient != here || e.Device != 2 || e.Type != clearbox.ContentSealed ||
				len(e.Content) != 256 || e.ID != (clearbox.MessageID{}) || e.AcceptedAt == 0 {
				t.Errorf("%+v", e)
			}
		})
		send(here, []byte("sixteen bytes no"), envelope)
		send(here, nil, envelope)
		send(clearbox.UserID{UID: alice, Server: "b.test"}, token, envelope)
		send(clearbox.UserID{UID: alice, Server: "a.test"}, token, envelope)
		open, large := envelope, envelope
		open.Type = clearbox.ContentWhisper
		large.Content = make([]byte, 2048)
		send(here, token, open)
		send(here, token, large)
		count(1)
		b.set(func() { b.allows = []string{afar.FeaturePresence} })
		send(here, token, envelope)
		count(1)
		b.set(func() { b.allows = []string{afar.FeatureTyping} })
		a.set(func() { a.allows = nil })
		send(here, token, envelope)
		count(1)
		a.set(func() { a.allows = []string{afar.FeatureTyping} })
		send(here, token, envelope)
		count(2)
	})
}
