package core_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// impostor is who a server says that p is: another vault under p's uid and name,
// with a device that claims to have been there since the beginning.
func (w *world) impostor(t *testing.T, p *person) *person {
	t.Helper()
	w.mu.Lock()
	delete(w.names, p.name.String())
	w.mu.Unlock()
	eve := newPerson(t, w, p.name.String())
	if err := core.RegisterAs(eve.brain, ctx, eve.registration(), p.user.UID, time.Now().Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	eve.user = p.user
	return eve
}

// TestKnocksWithoutEnd: the server of an accepted contact brings knocks of theirs
// without end. Some are answered, as a contact who lost a token needs it.
func TestKnocksWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		knock := func(n int) {
			for range n {
				id, err := clearbox.NewMessageID(cryptoRandom)
				if err != nil {
					t.Fatal(err)
				}
				w.mu.Lock()
				w.accounts[bob.user].knocks[id] = true
				w.deliver(ada.user, 1, wire.ServerFrame{Type: wire.FrameReceive, Knock: &wire.Knock{ID: id, From: bob.user, Address: bob.name.String(), AcceptedAt: millis(time.Now())}})
				w.mu.Unlock()
			}
			settle(5 * time.Minute)
		}
		answers := 0 // setRefuse calls it under w's lock
		w.setRefuse(func(*wire.Submission) error { answers++; return nil })
		knock(1)
		w.mu.Lock()
		if answers == 0 {
			t.Error("a contact's knock was not answered")
		}
		w.mu.Unlock()
		knock(200)
		w.mu.Lock()
		if answers > 8 {
			t.Errorf("%d messages answer 201 knocks", answers)
		}
		w.mu.Unlock()
		if open, err := ada.brain.Requests(ctx); err != nil || len(open) != 0 {
			t.Errorf("requests: %v, %v", open, err)
		}
		stopAll(ada, bob)
	})
}

// TestImpostorAsksForTexts: a contact's server puts other keys in the place of
// theirs, which were never compared. Who has those is not sent what the contact
// has read.
func TestImpostorAsksForTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		secret := ada.send(bob, "for bob alone")
		settle(5 * time.Second)
		bob.stop()
		unread := ada.send(bob, "which bob never got")
		settle(5 * time.Second)
		eve := w.impostor(t, bob)
		eve.start()
		eve.contact(ada.name.String())
		eve.send(ada, "hello, this is bob")
		settle(10 * time.Second)
		for range 3 {
			if err := core.SendRenew(ctx, eve.brain, ada.user, 1, secret, unread); err != nil {
				t.Fatal(err)
			}
			settle(10 * time.Second)
		}
		want(t, "eve heard", eve.heard(ada), []string{"which bob never got"})
		stopAll(ada, eve)
	})
}
