package api_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
)

func TestSocketPresence(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	a := alice.open(wire.CBOR)
	a.send(&wire.ClientFrame{Type: wire.FrameWatch, Users: []clearbox.UserID{bob.User}})
	a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: bob.message("x")})
	if f := a.next(); f.Type != wire.FrameSent { // the watch is in place
		t.Fatalf("%+v", f)
	}
	b := bob.open(wire.JSON) // without consent: nothing is told
	b.next()
	bob.consent(auth.PurposePresence)
	b.ws.CloseNow()
	eventually(t, "bob has gone", func() bool { return w.api.Sockets() == 1 })
	b = bob.open(wire.JSON)
	if f := a.next(); f.Type != wire.FrameOnline || f.User != bob.User || !*f.Online {
		t.Fatalf("%+v", f)
	}
	var c wire.Consent
	bob.do("DELETE", "/me/consents/presence", nil).into(t, &c)
	if f := a.next(); f.Type != wire.FrameOnline || *f.Online {
		t.Errorf("%+v", f)
	}
	_ = b
}

func TestDrain(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	a, b := alice.open(wire.CBOR), bob.open(wire.CBOR)
	polled := make(chan answer, 1)
	carol := w.join("carol")
	go func() { polled <- carol.do("GET", "/sync?timeout=25", nil) }()
	eventually(t, "carol polls", func() bool { return w.api.Polls(carol.tokens.Session) == 1 })
	drained := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		w.api.Drain(ctx)
		close(drained)
	}()
	for _, p := range []*peer{a, b} {
		if f := p.next(); f.Type != wire.FrameDrain || f.RetryAfter < 500 {
			t.Errorf("%+v", f)
		}
		if code := p.closed(); code != wire.CloseDraining {
			t.Errorf("closed with %d", code)
		}
	}
	<-drained
	var sync wire.Sync
	(<-polled).into(t, &sync)
	if w.api.Sockets() != 0 {
		t.Error("sockets are left")
	}
	res := w.do("GET", "/readyz", "", nil)
	if res.status != 503 || !strings.Contains(string(res.body), `"draining":true`) {
		t.Errorf("%d %s", res.status, res.body)
	}
	alice.do("POST", "/messages/send", bob.message("x")).want(t, 503, clearbox.CodeUnavailable, "")
	if _, res, err := w.dial(wire.CBOR, http.Header{"Authorization": {"Bearer " + alice.tokens.Access}}, ""); err == nil || res.StatusCode != 503 {
		t.Error("a socket opens while draining:", err)
	}
	w.do("GET", "/livez", "", nil).into(t, &wire.Live{})
}

// R13 in small: sockets that come and go leave nothing; TestMain looks for
// goroutines.
func TestSocketsLeaveNothing(t *testing.T) {
	w := newWorld(t, setup{})
	bob := w.join("bob")
	for i := range 60 {
		p := bob.open(wire.CBOR)
		if i%2 == 0 {
			p.ws.CloseNow()
		} else if err := p.ws.Close(1000, ""); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "every socket is forgotten", func() bool { return w.api.Sockets() == 0 })
	if w.hub.Online(bob.User) {
		t.Error("bob is online")
	}
}
