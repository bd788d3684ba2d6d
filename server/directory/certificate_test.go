package directory_test

import (
	"errors"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// roots is the world's root of sender certificates, as federation keeps it.
func (w *world) root() *curve.PrivateKey {
	w.T.Helper()
	k, err := curve.GeneratePrivateKey(w.Random)
	if err != nil {
		w.T.Fatal(err)
	}
	return k
}

func TestSenderCertificate(t *testing.T) {
	w := newWorld(t, directory.Options{})
	root := w.root()
	w.dir = w.service(directory.Options{SenderRoot: func() (*curve.PrivateKey, error) { return root, nil }})
	bob, p := w.join("bob")
	get := func(q auth.Principal) *certificate.Sender {
		t.Helper()
		raw, expires, err := w.dir.SenderCertificate(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		c, err := certificate.ParseSender(raw)
		if err != nil {
			t.Fatal(err)
		}
		s := c.Subject()
		if s.Account != keys.AccountServiceID(bob.User.String()) || s.Identity != bob.Identity.Public() || s.Device != uint8(q.Device) {
			t.Fatalf("it says %+v", s)
		}
		if until := w.Clock.Now().Add(24 * time.Hour); !s.Expires.Equal(until) || int64(expires) != until.UnixMilli() {
			t.Fatalf("it lives until %v (%d), want %v", s.Expires, expires, until)
		}
		return c
	}
	first := get(p)
	if err := first.Validate(w.Clock.Now(), root.Public()); err != nil {
		t.Fatal(err)
	}
	if err := first.Validate(w.Clock.Now(), w.root().Public()); !errors.Is(err, certificate.ErrUntrusted) {
		t.Fatalf("under another root: %v", err)
	}
	w.Clock.Fly(time.Hour)
	if c := get(p); c.Server().Key() != first.Server().Key() {
		t.Error("the server's key changed within its day")
	}
	w.Clock.Fly(24 * time.Hour)
	second := get(p)
	if second.Server().Key() == first.Server().Key() || second.Server().ID() == first.Server().ID() {
		t.Error("the server's key did not change in a day")
	}
	root = w.root() // rotated
	if err := get(p).Validate(w.Clock.Now(), root.Public()); err != nil {
		t.Fatalf("after the root changed: %v", err)
	}
}

func TestSenderCertificateRefused(t *testing.T) {
	w := newWorld(t, directory.Options{})
	root := w.root()
	_, p := w.join("bob")
	_, _, err := w.dir.SenderCertificate(t.Context(), p)
	wantCode(t, err, clearbox.CodeNotImplemented) // no peers, no certificates

	w.dir = w.service(directory.Options{SenderRoot: func() (*curve.PrivateKey, error) { return root, nil }})
	refused := func(q auth.Principal, code clearbox.Code) {
		t.Helper()
		_, _, err := w.dir.SenderCertificate(t.Context(), q)
		wantCode(t, err, code)
	}
	bare := p
	bare.Device, bare.DeviceNo = 0, 0
	refused(bare, clearbox.CodeForbidden)
	other := p
	other.Device = 2
	refused(other, clearbox.CodeForbidden) // a device that the session is not of
	for _, state := range []storage.UserState{storage.UserBanned, storage.UserErased} {
		w.Update(func(tx *storage.Tx) error { return tx.SetUserState(p.UserNo, state) })
		refused(p, clearbox.CodeForbidden)
	}
	w.Update(func(tx *storage.Tx) error { return tx.SetUserState(p.UserNo, storage.UserActive) })
	if _, _, err := w.dir.SenderCertificate(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_, _, err = w.dir.SenderCertificate(t.Context(), p)
	}
	wantCode(t, err, clearbox.CodeRateLimited)
	w.Clock.Fly(time.Minute)
	if _, _, err := w.dir.SenderCertificate(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	w.Clock.Fly(time.Hour)
	if err := w.dir.RemoveDevice(t.Context(), p, p.Device); err != nil {
		t.Fatal(err)
	}
	refused(p, clearbox.CodeForbidden)

	_, q := w.join("carol")
	w.dir = w.service(directory.Options{SenderRoot: func() (*curve.PrivateKey, error) { return nil, errors.New("boom") }})
	refused(q, clearbox.CodeInternal)
}
