package api_test

import (
	"context"
	"slices"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/wire"
)

func TestServersAndCertificateOverHTTP(t *testing.T) {
	var root *curve.PrivateKey
	w := newWorld(t, setup{directory: directory.Options{SenderRoot: func() (*curve.PrivateKey, error) { return root, nil }}})
	var err error
	if root, err = curve.GeneratePrivateKey(w.Random); err != nil {
		t.Fatal(err)
	}
	bob := w.join("bob")
	var cert wire.SenderCertificate
	bob.do("GET", "/contacts/certificate", nil).into(t, &cert)
	c, err := certificate.ParseSender(cert.Certificate)
	if err != nil || c.Subject().Identity != bob.Identity.Public() || c.Subject().Expires.UnixMilli() != int64(cert.Expires) {
		t.Fatalf("%v: %+v", err, cert)
	}
	for range 10 {
		bob.do("GET", "/contacts/certificate", nil)
	}
	bob.do("GET", "/contacts/certificate", nil).want(t, 429, clearbox.CodeRateLimited, "")

	var info wire.ServerInfo
	bob.do("GET", "/servers/b.test", nil).into(t, &info)
	if info.Server != "b.test" || info.State != wire.ServerUnreachable || info.Since != 5 || info.Controller != "Clinic" || len(info.Roots) != 1 {
		t.Errorf("%+v", info)
	}
	bob.do("GET", "/servers/B.test", nil).want(t, 404, clearbox.CodeNotFound, "")
	bob.do("GET", "/servers/nothing", nil).want(t, 404, clearbox.CodeNotFound, "")

	w = newWorld(t, setup{})
	w.join("carol").do("GET", "/contacts/certificate", nil).want(t, 501, clearbox.CodeNotImplemented, "")
}

// anyRoute is a server that is peered with every other but closed.test.
type anyRoute struct{}

func (anyRoute) Route(_ context.Context, peer clearbox.ServerName) error {
	if peer == "closed.test" {
		return clearbox.Errorf(clearbox.CodePeerBlocked, "no peering")
	}
	return nil
}

func TestKnocksOverHTTP(t *testing.T) {
	w := newWorld(t, setup{peers: anyRoute{}})
	alice := w.join("alice")
	knock := func(to string) wire.KnockRequest { return wire.KnockRequest{ID: newID(t), To: to} }
	first := knock("bob@b.test")
	var rc, again wire.Receipt
	a := alice.do("POST", "/contacts/knocks", first)
	a.into(t, &rc)
	if a.status != 202 || rc.ID != first.ID || rc.Status != wire.StateAccepted || rc.AcceptedAt == 0 {
		t.Fatalf("%d %+v", a.status, rc)
	}
	alice.do("POST", "/contacts/knocks", first).into(t, &again)
	if again != rc {
		t.Errorf("the second answer is %+v, the first was %+v", again, rc)
	}
	other := first
	other.To = "carol@b.test"
	alice.do("POST", "/contacts/knocks", other).want(t, 409, clearbox.CodeConflict, "")
	alice.do("POST", "/contacts/knocks", knock("carol@a.test")).want(t, 400, clearbox.CodeBadRequest, "/to")
	alice.do("POST", "/contacts/knocks", knock("bob")).want(t, 400, clearbox.CodeBadRequest, "/to")
	alice.do("POST", "/contacts/knocks", wire.KnockRequest{To: "bob@b.test"}).want(t, 400, clearbox.CodeBadRequest, "/id")
	alice.do("POST", "/contacts/knocks", knock("bob@closed.test")).want(t, 403, clearbox.CodePeerBlocked, "")
	for range 2 {
		alice.do("POST", "/contacts/knocks", knock("bob@b.test")).into(t, &rc)
	}
	alice.do("POST", "/contacts/knocks", knock("bob@b.test")).want(t, 429, clearbox.CodeRateLimited, "")

	path := "/contacts/knocks/" + first.ID.String()
	alice.do("POST", path, wire.KnockAnswer{Action: "shout"}).want(t, 400, clearbox.CodeBadRequest, "/action")
	alice.do("POST", path, wire.KnockAnswer{Action: wire.KnockClose}).into204(t)
	alice.do("POST", "/contacts/knocks/"+newID(t).String(), wire.KnockAnswer{Action: wire.KnockBlock}).into204(t)
	alice.do("POST", "/contacts/knocks/99", wire.KnockAnswer{Action: wire.KnockClose}).want(t, 404, clearbox.CodeNotFound, "")
	alice.do("POST", "/contacts/knocks", knock("bob@b.test")).into(t, &rc) // there is room again
	for range 60 {
		alice.do("POST", path, wire.KnockAnswer{Action: wire.KnockClose})
	}
	alice.do("POST", path, wire.KnockAnswer{Action: wire.KnockClose}).want(t, 429, clearbox.CodeRateLimited, "")
}

func TestTokenAndBlocksOverHTTP(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.join("alice")
	alice.do("PUT", "/contacts/token", wire.TokenUpdate{Token: []byte("sixteen bytes ok")}).into204(t)
	if ok, err := w.router.MayReach(t.Context(), "b.test", alice.User.UID, []byte("sixteen bytes ok")); err != nil || !ok {
		t.Errorf("%t, %v", ok, err)
	}
	for _, bad := range [][]byte{nil, []byte("short"), make([]byte, 16)} {
		alice.do("PUT", "/contacts/token", wire.TokenUpdate{Token: bad}).want(t, 400, clearbox.CodeBadRequest, "/token")
	}
	var got wire.Blocks
	alice.do("GET", "/contacts/blocks", nil).into(t, &got)
	if got.Users == nil || len(got.Users) != 0 {
		t.Errorf("%+v", got)
	}
	want := []clearbox.UserID{w.PersonAt("bob", "b.test").User, w.PersonAt("carol", "c.test").User}
	alice.do("PUT", "/contacts/blocks", wire.Blocks{Users: want}).into(t, &got)
	alice.do("GET", "/contacts/blocks", nil).into(t, &got)
	less := func(a, b clearbox.UserID) int { return slices.Compare([]string{a.String()}, []string{b.String()}) }
	slices.SortFunc(got.Users, less)
	slices.SortFunc(want, less)
	if !slices.Equal(got.Users, want) {
		t.Errorf("%v, want %v", got.Users, want)
	}
	alice.do("PUT", "/contacts/blocks", wire.Blocks{Users: []clearbox.UserID{alice.User}}).want(t, 400, clearbox.CodeBadRequest, "/users")
	alice.do("PUT", "/contacts/blocks", "{}").into(t, &got)
	alice.do("GET", "/contacts/blocks", nil).into(t, &got)
	if len(got.Users) != 0 {
		t.Errorf("%+v", got)
	}
}

// knocked is a mailbox with a knock in it.
type knocked struct{ api.Mailbox }

func (knocked) Read(_ context.Context, after int64, _, _ int) ([]delivery.Delivery, error) {
	if after > 0 {
		return nil, nil
	}
	return []delivery.Delivery{{Seq: 1, Knock: &delivery.Knock{
		ID: clearbox.MessageID{1}, From: clearbox.UserID{UID: "aaaqeayeaudaocajbifqydiob4", Server: "b.test"}, Handle: "eve",
		AcceptedAt: 5, Controller: "Clinic", Country: "AT",
	}}}, nil
}

// A knock comes the same way over the socket and over /sync.
func TestKnockIsDelivered(t *testing.T) {
	w := newWorld(t, setup{mailbox: func(m api.Mailbox) api.Mailbox { return knocked{m} }})
	alice := w.join("alice")
	want := wire.Knock{ID: clearbox.MessageID{1}, From: clearbox.UserID{UID: "aaaqeayeaudaocajbifqydiob4", Server: "b.test"}, Address: "eve@b.test",
		AcceptedAt: 5, Controller: "Clinic", Country: "AT"}
	var sync wire.Sync
	alice.do("GET", "/sync?timeout=0", nil).into(t, &sync)
	if len(sync.Events) != 1 || sync.Events[0].Knock == nil || *sync.Events[0].Knock != want || sync.Events[0].Envelope != nil {
		t.Fatalf("%+v", sync)
	}
	for _, format := range []wire.Format{wire.CBOR, wire.JSON} {
		s := alice.open(format)
		if f := s.next(); f.Knock == nil || *f.Knock != want || f.Seq != 1 {
			t.Errorf("%+v", f)
		}
		s.ws.CloseNow()
	}
}

// A device whose one-time keys run low is told on its open socket.
func TestKeysLowIsTold(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	b := bob.open(wire.CBOR)
	var got wire.Bundles
	alice.do("POST", "/keys/claim", wire.KeyClaim{ClaimID: newID(t), User: bob.User}).into(t, &got)
	if f := b.next(); f.Type != wire.FrameKeysLow {
		t.Errorf("%+v", f)
	}
	var st wire.KeyStatus
	bob.do("GET", "/keys/status", nil).into(t, &st)
	if !st.Low || st.OneTime != 1 {
		t.Errorf("%+v", st)
	}
}
