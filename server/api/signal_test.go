package api_test

import (
	"context"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/afar"
	"github.com/clearbox-im/clearbox/server/wire"
)

func typingTo(s *someone, e wire.Outgoing) *wire.ClientFrame {
	return &wire.ClientFrame{Type: wire.FrameSignal, To: &wire.Recipient{User: s.User, Envelopes: []wire.Outgoing{e}}}
}

var keystroke = wire.Outgoing{Device: 1, Registration: 1001, Type: clearbox.ContentWhisper, Content: []byte("opaque")}

// A signal reaches the open socket of its device, or nobody, and is nowhere
// stored.
func TestSignalOnSockets(t *testing.T) {
	for _, format := range formats {
		t.Run(format.Subprotocol(), func(t *testing.T) {
			w := newWorld(t, setup{})
			alice, bob, carol := w.join("alice"), w.join("bob"), w.join("carol")
			a := alice.open(format)
			a.send(typingTo(bob, keystroke)) // nobody is there
			a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 9, Submission: carol.message("x")})
			a.next() // frames are handled in their order
			b := bob.open(format)
			other, sealed := keystroke, keystroke
			other.Device = 2
			sealed.Type, sealed.Content = clearbox.ContentSealed, make([]byte, 256)
			a.send(typingTo(bob, other))
			a.send(typingTo(bob, sealed))
			a.send(typingTo(bob, keystroke))
			f := b.next()
			if f.Type != wire.FrameSignal || f.Signal == nil || f.Seq != 0 || f.Signal.Sender != alice.User || f.Signal.SenderDevice != 1 ||
				f.Signal.Recipient != bob.User || f.Signal.Device != 1 || string(f.Signal.Content) != "opaque" || f.Signal.ID != (clearbox.MessageID{}) {
				t.Fatalf("%+v %+v", f, f.Signal)
			}
			// A message that is sent afterwards is the only thing in the mailbox.
			m := bob.message("to keep")
			a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: m})
			if f := b.next(); f.Type != wire.FrameReceive || f.Seq != 1 || f.Envelope.ID != m.ID {
				t.Fatalf("%+v", f)
			}
			if f := a.next(); f.Type != wire.FrameSent {
				t.Errorf("%+v: a signal has no answer", f)
			}
			var mail wire.Sync
			b.ws.CloseNow()
			bob.do("GET", "/sync?timeout=0", nil).into(t, &mail)
			if len(mail.Events) != 1 {
				t.Errorf("%+v", mail)
			}
		})
	}
}

// More than twenty at once are dropped without a word, and the socket goes on.
func TestSignalsAreLimited(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	a, b := alice.open(wire.CBOR), bob.open(wire.CBOR)
	a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 2, Submission: bob.message("first")})
	if f := b.next(); f.Type != wire.FrameReceive { // from here on bob's socket is open
		t.Fatalf("%+v", f)
	}
	for range 50 {
		a.send(typingTo(bob, keystroke))
	}
	a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: bob.message("last")})
	n := 0
	for b.next().Type == wire.FrameSignal {
		n++
	}
	if n != 20 { // the world's clock stands still
		t.Errorf("%d signals came", n)
	}
}

// What a client asks of people elsewhere goes there, and what comes is shown.
func TestPresenceAndSignalsAfarOnSockets(t *testing.T) {
	token := []byte("sixteen bytes ok")
	sent := make(chan federation.Fleeting, 10)
	var far *afar.Service
	w := newWorld(t, setup{afar: func(w *world) *afar.Service {
		far = afar.New(home, w.hub, afar.Options{
			Now:      w.Clock.Now,
			Allows:   func(context.Context, clearbox.ServerName, string) bool { return true },
			MayReach: func(context.Context, clearbox.ServerName, clearbox.UID, []byte) (bool, error) { return true, nil },
			Person:   func(context.Context, clearbox.UID) (afar.Person, error) { return afar.Person{Shown: true}, nil },
			Send:     func(_ clearbox.ServerName, f federation.Fleeting) { sent <- f },
			Deliver:  func(e clearbox.Envelope) { w.api.Signal(e) },
		})
		return far
	}})
	alice, bob := w.join("alice"), w.PersonAt("bob", "b.test")
	a := alice.open(wire.CBOR)
	a.send(&wire.ClientFrame{Type: wire.FrameWatch, Users: []clearbox.UserID{bob.User}, Tokens: []wire.WatchToken{{User: bob.User, Token: token}}})
	if f := <-sent; f.Watch == nil || f.Watch.User != bob.User.UID || string(f.Watch.Token) != string(token) {
		t.Errorf("%+v", f)
	}
	far.Ephemeral(t.Context(), "b.test", []federation.Fleeting{{Seen: &federation.PresenceSeen{User: bob.User.UID, Value: "recent"}}})
	if f := a.next(); f.Type != wire.FrameOnline || f.User != bob.User || f.Online == nil || *f.Online || f.Presence != wire.PresenceRecent {
		t.Errorf("%+v", f)
	}
	far.Ephemeral(t.Context(), "b.test", []federation.Fleeting{{Signal: &federation.Signal{User: alice.User.UID, Token: token,
		Envelopes: []federation.ItemEnvelope{{Device: 1, Registration: 1001, Type: clearbox.ContentSealed, Content: make([]byte, 256)}}}}})
	if f := a.next(); f.Type != wire.FrameSignal || f.Signal.Origin != "b.test" || !f.Signal.Sender.IsZero() || f.Signal.Recipient != alice.User {
		t.Errorf("%+v", f)
	}
	sealed := wire.Outgoing{Device: 3, Registration: 5, Type: clearbox.ContentSealed, Content: make([]byte, 512)}
	a.send(&wire.ClientFrame{Type: wire.FrameSignal, To: &wire.Recipient{User: bob.User, Token: token, Envelopes: []wire.Outgoing{sealed}}})
	if f := <-sent; f.Signal == nil || f.Signal.User != bob.User.UID || len(f.Signal.Envelopes) != 1 || f.Signal.Envelopes[0].Device != 3 {
		t.Errorf("%+v", f)
	}
	// A socket that closes watches nobody.
	a.ws.CloseNow()
	eventually(t, "the socket is gone", func() bool { return w.api.Sockets() == 0 })
}
