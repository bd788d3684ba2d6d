package core_test

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

func (p *person) typing() []clearbox.UserID { return p.brain.Typing() }

func (p *person) setTyping(to *person) {
	p.t.Helper()
	if err := p.brain.SetTyping(ctx, to.user); err != nil {
		p.t.Fatal(err)
	}
}

// TestTyping: at most one signal in five seconds tells an accepted contact, here
// and elsewhere; it ends by itself or with the message, and nothing of it stays.
func TestTyping(t *testing.T) {
	for _, name := range []string{"bob@b.test", "bob@a.test"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				ada, bob := newPerson(t, w, "ada@a.test").join(), newPerson(t, w, name).join()
				ada.start()
				bob.start()
				settle(time.Second)
				ada.send(bob, "one")
				settle(time.Minute)
				ada.setTyping(bob) // he never wrote: there is no session of both sides
				settle(time.Second)
				if w.signals != 0 || len(bob.typing()) != 0 {
					t.Errorf("%d signals to a stranger", w.signals)
				}
				bob.send(ada, "re: one")
				settle(time.Minute)
				changed, stop := bob.brain.Watch()
				defer stop()
				for range 5 {
					ada.setTyping(bob)
				}
				settle(time.Second)
				if w.signals != 1 || !slices.Equal(bob.typing(), []clearbox.UserID{ada.user}) {
					t.Errorf("%d signals, bob sees %v", w.signals, bob.typing())
				}
				<-changed
				settle(8 * time.Second)
				if len(bob.typing()) != 1 {
					t.Error("it ended early")
				}
				settle(2 * time.Second)
				if len(bob.typing()) != 0 {
					t.Error("it did not end")
				}
				<-changed
				ada.setTyping(bob)
				settle(time.Second)
				if w.signals != 2 || len(bob.typing()) != 1 {
					t.Errorf("%d signals, bob sees %v", w.signals, bob.typing())
				}
				ada.send(bob, "two")
				settle(time.Second)
				if len(bob.typing()) != 0 {
					t.Error("it did not end with the message")
				}
				want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
				if left := w.mailOf(bob); len(left) != 0 {
					t.Errorf("%d frames in the mailbox", len(left))
				}
				ada.stop()
				bob.stop()
				ada.setTyping(bob) // without a connection it is nothing
			})
		})
	}
}

// TestTypingToNobody: signals that are lost do not harm the conversation, and
// there is an end to them.
func TestTypingToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(time.Minute)
		bob.send(ada, "re: one")
		settle(time.Minute)
		bob.stop()
		for range 150 {
			ada.setTyping(bob)
			settle(6 * time.Second)
		}
		if w.signals != 100 {
			t.Errorf("%d signals", w.signals)
		}
		ada.send(bob, "two")
		bob.open()
		bob.start()
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		bob.send(ada, "re: two")
		settle(time.Minute)
		ada.setTyping(bob)
		settle(time.Second)
		if len(bob.typing()) != 1 {
			t.Error("nothing is told after an answer")
		}
		ada.stop()
		bob.stop()
	})
}

// TestSignalRefusals: a signal that cannot be read, or holds something else,
// leaves nothing behind.
func TestSignalRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(time.Minute)
		bob.send(ada, "re: one")
		settle(time.Minute)
		bob.stop()
		ada.send(bob, "a message")
		settle(time.Minute)
		message := w.mailOf(bob)[0].Envelope
		w.mu.Lock()
		mail := w.accounts[bob.user].devices[1].mail
		w.accounts[bob.user].devices[1].mail = nil
		w.mu.Unlock()
		bob.open()
		bob.start()
		settle(time.Second)
		before, err := bob.brain.Contacts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		noise := w.forge(bob, "a.test", ada.user, time.Now().Add(time.Hour))
		altered := bytes.Clone(noise)
		altered[40] ^= 1
		for _, env := range []*wire.Envelope{
			message, // a text is not what a signal may hold
			{Origin: "a.test", Recipient: bob.user, Device: 1, Type: clearbox.ContentSealed, AcceptedAt: millis(time.Now()), Content: noise},
			{Origin: "a.test", Recipient: bob.user, Device: 1, Type: clearbox.ContentSealed, AcceptedAt: millis(time.Now()), Content: altered},
			{Origin: "a.test", Recipient: bob.user, Device: 1, Type: clearbox.ContentSealed, AcceptedAt: millis(time.Now()), Content: make([]byte, 256)},
			{Origin: "c.test", Recipient: bob.user, Device: 1, Type: clearbox.ContentSealed, AcceptedAt: millis(time.Now()), Content: noise},
			{Sender: ada.user, SenderDevice: 1, Recipient: bob.user, Device: 1, Type: clearbox.ContentWhisper, AcceptedAt: 1, Content: []byte("noise")},
		} {
			w.mu.Lock()
			w.toSockets(bob.user, 1, &wire.ServerFrame{Type: wire.FrameSignal, Signal: env})
			w.mu.Unlock()
			settle(10 * time.Millisecond)
			if st, err := bob.brain.Status(ctx); err != nil || !st.Online {
				t.Errorf("it ended the connection: %v, %v", st.Err, err)
			}
		}
		if len(bob.typing()) != 0 {
			t.Error("somebody types")
		}
		want(t, "bob heard", bob.heard(ada), []string{"one"})
		after, err := bob.brain.Contacts(ctx)
		if err != nil || len(after) != len(before) {
			t.Errorf("contacts %v, %v", after, err)
		}
		w.mu.Lock()
		for _, f := range mail {
			w.deliver(bob.user, 1, f)
		}
		w.mu.Unlock()
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "a message"})
		ada.stop()
		bob.stop()
	})
}

// TestPresence: who is observed is asked for with what they gave us, again with
// each connection; what is seen is forgotten with it.
func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(time.Minute)
		if err := ada.brain.Observe(ctx, bob.user); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		w.mu.Lock()
		token := w.accounts[bob.user].token
		if len(w.watched) != 1 || len(w.watched[0].Users) != 0 || len(w.watched[0].Tokens) != 1 || w.watched[0].Tokens[0].User != bob.user || !slices.Equal(w.watched[0].Tokens[0].Token, token) {
			t.Errorf("watched %+v", w.watched)
		}
		yes := true
		w.toSockets(ada.user, 1, &wire.ServerFrame{Type: wire.FrameOnline, User: bob.user, Online: &yes, Presence: wire.PresenceRecent})
		w.mu.Unlock()
		settle(time.Second)
		if p := ada.brain.Presence(bob.user); p != wire.PresenceRecent {
			t.Errorf("bob is %s", p)
		}
		w.mu.Lock()
		w.toSockets(ada.user, 1, &wire.ServerFrame{Type: wire.FrameOnline, User: ada.user, Online: &yes, Presence: wire.PresenceActive})
		w.mu.Unlock()
		settle(time.Second)
		if p := ada.brain.Presence(ada.user); p != wire.PresenceAway {
			t.Errorf("somebody who is not observed is %s", p)
		}
		ada.stop()
		if p := ada.brain.Presence(bob.user); p != wire.PresenceAway {
			t.Errorf("without a connection bob is %s", p)
		}
		ada.start()
		settle(time.Second)
		w.mu.Lock()
		if len(w.watched) != 2 {
			t.Errorf("asked %d times", len(w.watched))
		}
		w.mu.Unlock()
		ada.stop()
		bob.stop()
	})
}
