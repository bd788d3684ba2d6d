package federation_test

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

const someUID clearbox.UID = "aaaqeayeaudaocajbifqydiob4"

func uidOf(i int) clearbox.UID {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	return clearbox.UID(fmt.Sprintf("aaaqeayeaudaocajbifqydi%c%ca", letters[i/32%32], letters[i%32]))
}

func seen(i int, value string) federation.Fleeting {
	return federation.Fleeting{Seen: &federation.PresenceSeen{User: uidOf(i), Value: value}}
}

func typing(size int) federation.Fleeting {
	return federation.Fleeting{Signal: &federation.Signal{User: someUID, Token: make([]byte, 16), Envelopes: []federation.ItemEnvelope{
		{Device: 2, Registration: 77, Type: clearbox.ContentSealed, Content: make([]byte, size)},
	}}}
}

func fleetings() []federation.Fleeting {
	w := federation.Fleeting{At: 5, Watch: &federation.PresenceWatch{User: someUID, Token: bytes.Repeat([]byte{7}, 16), For: 10 * time.Minute}}
	s, g := seen(3, "recent"), typing(512)
	s.At, g.At = 6, 7
	return []federation.Fleeting{w, s, g}
}

func TestEphemeralWire(t *testing.T) {
	want := fleetings()
	b, n, err := federation.EncodeEphemeral(want)
	if err != nil || n != 3 {
		t.Fatal(n, err)
	}
	if got, err := federation.DecodeEphemeral(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	// One that is not as it must be is left out, and its neighbours live.
	many := []federation.Fleeting{seen(1, "active"), {}, typing(300), typing(2048), {Watch: &federation.PresenceWatch{User: "x", Token: make([]byte, 16)}},
		{Watch: &federation.PresenceWatch{User: someUID, Token: make([]byte, 3)}}, {Signal: &federation.Signal{User: someUID, Token: make([]byte, 16)}}, seen(2, "away")}
	open := typing(256)
	open.Signal.Envelopes[0].Type = clearbox.ContentWhisper
	b, _, err = federation.EncodeEphemeral(append(many, open))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := federation.DecodeEphemeral(b); err != nil || len(got) != 2 || got[0].Seen.User != uidOf(1) || got[1].Seen.Value != "away" {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := federation.DecodeEphemeral(make([]byte, federation.MaxEphemeral+1)); clearbox.CodeOf(err) != clearbox.CodeTooLarge {
		t.Error(err)
	}
	// What fits one request is taken, the rest is for the next.
	var large []federation.Fleeting
	for range 100 {
		large = append(large, typing(1024))
	}
	b, n, err = federation.EncodeEphemeral(large)
	if err != nil || len(b) > federation.MaxEphemeral || n < 50 || n >= 64 {
		t.Fatalf("%d items in %d bytes, %v", n, len(b), err)
	}
	large = large[:0]
	for i := range 300 {
		large = append(large, seen(i, "active"))
	}
	if _, n, _ = federation.EncodeEphemeral(large); n != federation.MaxFleeting {
		t.Fatalf("%d items in one request", n)
	}
}

// brief runs fn with two nodes that know each other's clock.
func brief(t *testing.T, fn func(w *world, a, b *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.test", "b.test")
		w.nodes["b.test"].offset = 40 * time.Second // not enough for the profile to notice
		w.start()
		defer w.stop()
		a, b := w.nodes["a.test"], w.nodes["b.test"]
		for _, n := range []*node{a, b} {
			for _, o := range []*node{a, b} {
				if o == n {
					continue
				}
				if _, err := n.client.FetchDocument(t.Context(), o.name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := a.client.Hello(t.Context(), "b.test"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // everything runs
		fn(w, a, b)
	})
}

func TestEphemeralArrives(t *testing.T) {
	brief(t, func(w *world, a, b *node) {
		a.brief.Send("b.test", seen(1, "active"))
		synctest.Wait()
		a.brief.Send("b.test", typing(256))
		synctest.Wait()
		got := b.heard.take()
		if len(got) != 2 || got[0].Seen == nil || got[0].Seen.Value != "active" || got[1].Signal == nil || a.brief.Dropped() != 0 {
			t.Fatalf("%+v, %d dropped", got, a.brief.Dropped())
		}
	})
}

// What is older than ten seconds by its server's clock is worth nothing.
func TestEphemeralGrowsOld(t *testing.T) {
	for delay, want := range map[time.Duration]int{9 * time.Second: 1, 12 * time.Second: 0} {
		brief(t, func(w *world, a, b *node) {
			w.set(func(w *wire) { w.latency = 2 * delay }) // half of it on the way there
			a.brief.Send("b.test", seen(1, "active"))
			time.Sleep(time.Minute)
			if got := b.heard.take(); len(got) != want {
				t.Errorf("after %v: %d items", delay, len(got))
			}
		})
	}
}

// The age is judged by the clock that the last greeting told.
func TestEphemeralByThePeersClock(t *testing.T) {
	for step, want := range map[time.Duration]int{0: 1, 9 * time.Second: 1, 12 * time.Second: 0, -12 * time.Second: 0} {
		brief(t, func(w *world, a, b *node) {
			b.offset += step // since the greeting
			a.brief.Send("b.test", seen(1, "active"))
			synctest.Wait()
			if got := b.heard.take(); len(got) != want {
				t.Errorf("after a step of %v: %d items", step, len(got))
			}
			if n := a.brief.Dropped(); n != 0 {
				t.Errorf("the sender was told of %d", n)
			}
		})
	}
}

// Nothing waits for a peer that is away, and nothing is sent twice.
func TestEphemeralIsDroppedWhileAPeerIsAway(t *testing.T) {
	brief(t, func(w *world, a, b *node) {
		w.set(func(w *wire) { w.cut = true; w.attempts = 0 })
		for i := range 50 {
			a.brief.Send("b.test", seen(i, "active"))
		}
		synctest.Wait()
		for i := range 50 {
			a.brief.Send("b.test", seen(i, "away"))
			synctest.Wait()
		}
		if n := w.attempts(); n != 1 {
			t.Errorf("%d requests to a peer that is away", n)
		}
		if n := a.brief.Dropped(); n != 100 {
			t.Errorf("%d were dropped, want all 100", n)
		}
		w.set(func(w *wire) { w.cut = false })
		time.Sleep(11 * time.Second)
		if got := b.heard.take(); len(got) != 0 {
			t.Errorf("%d came late", len(got))
		}
		a.brief.Send("b.test", seen(1, "recent"))
		synctest.Wait()
		if got := b.heard.take(); len(got) != 1 || got[0].Seen.Value != "recent" {
			t.Errorf("%+v after the peer is back", got)
		}
	})
}

// A slow peer has one request under way; beside it one presence for each person
// waits, and no more than fits one request.
func TestEphemeralUnderPressure(t *testing.T) {
	brief(t, func(w *world, a, b *node) {
		w.set(func(w *wire) { w.latency = 4 * time.Second })
		a.brief.Send("b.test", seen(0, "active"))
		synctest.Wait()
		for i := range 40 { // of one person
			a.brief.Send("b.test", seen(7, fmt.Sprint("v", i)))
		}
		for i := range 300 {
			a.brief.Send("b.test", seen(100+i, "active"))
		}
		time.Sleep(time.Minute)
		got := b.heard.take()
		if len(got) != 1+federation.MaxFleeting || b.heard.requests != 2 {
			t.Errorf("%d items in %d requests", len(got), b.heard.requests)
		}
		if n := a.brief.Dropped(); n != 301-federation.MaxFleeting {
			t.Errorf("%d were dropped", n)
		}
		of7 := 0
		for _, f := range got {
			if f.Seen.User == uidOf(7) {
				if of7++; f.Seen.Value != "v39" {
					t.Errorf("an older presence came: %s", f.Seen.Value)
				}
			}
		}
		if of7 != 1 {
			t.Errorf("%d of one person", of7)
		}
	})
}

// A peer that asks too often is slowed down, like everything that it asks.
func TestEphemeralIsLimited(t *testing.T) {
	brief(t, func(w *world, a, b *node) {
		for i := range 400 {
			a.brief.Send("b.test", seen(i, "active"))
			synctest.Wait()
		}
		if n := len(b.heard.take()); n < 100 || n > 120 {
			t.Errorf("%d requests were taken in one moment", n)
		}
	})
}

func TestEphemeralAfterTheEnd(t *testing.T) {
	brief(t, func(w *world, a, b *node) {
		a.stop()
		a.brief.Send("b.test", seen(1, "active"))
		if n := a.brief.Dropped(); n != 1 {
			t.Errorf("%d were dropped", n)
		}
	})
}
