package directory_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

func (w *world) consent(q auth.Principal, p auth.Purpose, granted bool) {
	w.T.Helper()
	n := w.Auth.Notice()
	if _, err := w.Auth.SetConsent(w.T.Context(), q, p, granted, auth.NoticeAck{Version: n.Version, Hash: n.Hash}, "en"); err != nil {
		w.T.Fatal(err)
	}
}

// By name, peers find those alone who consented to it, and everybody else looks
// like nobody.
func TestPeersFindWhoConsented(t *testing.T) {
	tokens := map[clearbox.UID]clearbox.DeliveryToken{}
	failing := false
	w := newWorld(t, directory.Options{LookupsPerMinute: -1, TokenOf: func(_ context.Context, uid clearbox.UID) (clearbox.DeliveryToken, error) {
		if failing {
			return clearbox.DeliveryToken{}, errors.New("boom")
		}
		if tokens[uid] == (clearbox.DeliveryToken{}) {
			return clearbox.DeliveryToken{}, clearbox.Errorf(clearbox.CodeConsentRequired, "none")
		}
		return tokens[uid], nil
	}})
	bob, p := w.join("bob")
	ask := func(h clearbox.Handle) (directory.Account, error) { return w.dir.PeerResolve(t.Context(), "b.test", h) }
	refused := func(h clearbox.Handle) {
		t.Helper()
		_, err := ask(h)
		if clearbox.CodeOf(err) != clearbox.CodeConsentRequired || err.Error() != "ask this person to accept you first" {
			t.Fatalf("%s: %v", h, err)
		}
	}
	refused("bob")
	refused("nobody")
	w.consent(p, auth.PurposeDirectoryListing, true)
	refused("bob") // that is for people here
	w.consent(p, auth.PurposeOpenReachability, true)
	refused("bob") // without a token nothing could be sent
	tokens[bob.User.UID] = clearbox.DeliveryToken{7}
	a, err := ask("bob")
	if err != nil || a.User != bob.User || string(a.Token) != string([]byte{7, 15: 0}) || string(a.DeviceList) != string(bob.Signed()) {
		t.Fatalf("%+v, %v", a, err)
	}
	refused("nobody")
	failing = true
	if _, err := ask("bob"); clearbox.CodeOf(err) != clearbox.CodeInternal {
		t.Fatalf("a store that fails: %v", err)
	}
	refused("nobody") // it is not asked about nobody
	failing = false
	for _, state := range []storage.UserState{storage.UserBanned, storage.UserErased} {
		w.Update(func(tx *storage.Tx) error { return tx.SetUserState(p.UserNo, state) })
		refused("bob")
	}
	_, q := w.join("carol")
	tokens[q.User.UID] = clearbox.DeliveryToken{8}
	w.consent(q, auth.PurposeOpenReachability, true)
	if _, err := ask("carol"); err != nil {
		t.Fatal(err)
	}
	w.consent(q, auth.PurposeOpenReachability, false)
	refused("carol")
}

// A name elsewhere is never answered from what is known of a person by id.
func TestNamesElsewhereAreOpenOrNothing(t *testing.T) {
	b := new(elsewhere)
	w := newWorld(t, directory.Options{Remote: b, LookupsPerMinute: -1})
	_, alice := w.join("alice")
	bob := w.PersonAt("bob", "b.test")
	look := func(id string) (directory.Account, error) { return w.dir.Lookup(t.Context(), alice, id) }
	b.answer = account(bob)
	if _, err := look(bob.User.String()); err != nil {
		t.Fatal(err)
	}
	for _, code := range []clearbox.Code{clearbox.CodeConsentRequired, clearbox.CodeRecipientUnavailable, clearbox.CodeNotFound} {
		b.set(func() { b.err = clearbox.Errorf(code, "x") })
		for _, name := range []string{"bob@b.test", "nobody@b.test"} {
			_, err := look(name)
			if clearbox.CodeOf(err) != clearbox.CodeConsentRequired || err.Error() != "ask this person to accept you first" {
				t.Fatalf("%s, %s: %v", code, name, err)
			}
		}
	}
	b.set(func() { b.err = errDown })
	_, err := look("bob@b.test")
	wantCode(t, err, clearbox.CodePeerUnreachable)

	b.set(func() { b.err = nil })
	a, err := look("bob@b.test")
	if err != nil || string(a.Token) != string(good) || a.User != bob.User {
		t.Fatalf("%+v, %v", a, err)
	}
	b.set(func() { b.err = errDown })
	w.Clock.Fly(2 * time.Hour)
	if a, err := look("bob@b.test"); err != nil || string(a.Token) != string(good) {
		t.Fatalf("while b.test is away: %v", err)
	}
	b.set(func() { b.err = clearbox.Errorf(clearbox.CodeConsentRequired, "x") })
	_, err = look("bob@b.test")
	wantCode(t, err, clearbox.CodeConsentRequired) // withdrawn
	b.set(func() { b.err = errDown })
	_, err = look("bob@b.test")
	wantCode(t, err, clearbox.CodePeerUnreachable)

	b.set(func() { b.err = nil; b.answer.Token = nil })
	_, err = look("bob@b.test")
	wantCode(t, err, clearbox.CodeConsentRequired)
	b.set(func() { b.answer.Token = []byte("short") })
	_, err = look("bob@b.test")
	wantCode(t, err, clearbox.CodePeerUnreachable)
}
