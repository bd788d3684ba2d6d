package directory_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*authtest.World
	dir *directory.Service
}

func newWorld(t *testing.T, o directory.Options) *world {
	w := &world{World: authtest.New(t, auth.Options{LoginsPerMinute: -1})}
	w.dir = w.service(o)
	return w
}

// good opens the way to everybody here, and other tokens open none.
var good = []byte("sixteen bytes ok")

func (w *world) service(o directory.Options) *directory.Service {
	o.MayReach = func(_ context.Context, _ clearbox.ServerName, _ clearbox.UID, token []byte) (bool, error) {
		return string(token) == string(good), nil
	}
	if o.TokenOf == nil {
		o.TokenOf = func(context.Context, clearbox.UID) (clearbox.DeliveryToken, error) {
			return clearbox.DeliveryToken(good), nil
		}
	}
	o.Now, o.Random = w.Clock.Now, w.Random
	return directory.New(w.Store, w.Auth, authtest.Server, o)
}

// join registers someone and gives the first device's principal.
func (w *world) join(h clearbox.Handle) (*authtest.Person, auth.Principal) {
	w.T.Helper()
	p, tokens := w.Join(h)
	return p, w.Principal(tokens.Access)
}

func wantCode(t *testing.T, err error, code clearbox.Code) {
	t.Helper()
	if got := clearbox.CodeOf(err); got != code {
		t.Fatalf("code %q (%v), want %q", got, err, code)
	}
}

func ids(bs []directory.Bundle) (out []clearbox.DeviceID) {
	for _, b := range bs {
		out = append(out, b.Device)
	}
	return out
}

func TestLookup(t *testing.T) {
	w := newWorld(t, directory.Options{})
	_, alice := w.join("alice")
	bob, _ := w.join("bob")
	for _, id := range []string{"bob@a.test", bob.User.String()} {
		a, err := w.dir.Lookup(t.Context(), alice, id)
		if err != nil {
			t.Fatal(err)
		}
		if a.User != bob.User || a.Address.String() != "bob@a.test" || !bytes.Equal(a.DeviceList, bob.Signed()) || a.Version != 1 || len(a.Withdrawn) != 0 {
			t.Fatalf("%s: %+v", id, a)
		}
	}
	for _, bad := range []string{"bob", "", "@a.test", "BOB@a.test", "bob@A.TEST"} {
		if _, err := w.dir.Lookup(t.Context(), alice, bad); err == nil {
			t.Errorf("%q was found", bad)
		}
	}
	_, err := w.dir.Lookup(t.Context(), alice, "carol@b.test")
	wantCode(t, err, clearbox.CodeNoRoutePolicy)
	bare := alice
	bare.Device, bare.DeviceNo = 0, 0
	_, err = w.dir.Lookup(t.Context(), bare, "bob@a.test")
	wantCode(t, err, clearbox.CodeForbidden)
}

// Unknown, banned and erased people look alike, to people here and to peers.
func TestAbsentPeopleLookAlike(t *testing.T) {
	w := newWorld(t, directory.Options{})
	_, alice := w.join("alice")
	state := func(h clearbox.Handle, s storage.UserState) clearbox.UserID {
		p, q := w.join(h)
		w.Update(func(tx *storage.Tx) error { return tx.SetUserState(q.UserNo, s) })
		return p.User
	}
	people := map[clearbox.Handle]clearbox.UserID{
		"nobody": w.Person("nobody").User, "banned": state("banned", storage.UserBanned), "erased": state("erased", storage.UserErased),
	}
	n := 0
	for h, u := range people {
		asks := map[string]func() error{
			"by address": func() error { _, err := w.dir.Lookup(t.Context(), alice, string(h)+"@a.test"); return err },
			"by id":      func() error { _, err := w.dir.Lookup(t.Context(), alice, u.String()); return err },
			"claim":      func() error { _, err := w.dir.ClaimKeys(t.Context(), alice, fmt.Sprint(n), u, nil, nil); return err },
			"peer by id": func() error { _, err := w.dir.PeerDevices(t.Context(), "b.test", u.UID); return err },
			"peer claim": func() error {
				_, err := w.dir.PeerClaim(t.Context(), "b.test", fmt.Sprint(n), u.UID, good, nil)
				return err
			},
		}
		for name, ask := range asks {
			n++
			err := ask()
			if clearbox.CodeOf(err) != clearbox.CodeNotFound || err.Error() != "there is no such account" {
				t.Errorf("%s, %s: %v", h, name, err)
			}
		}
		w.View(func(tx *storage.Tx) error {
			_, err := w.dir.Current(tx, u)
			if clearbox.CodeOf(err) != clearbox.CodeRecipientUnavailable || err.Error() != "the recipient is not available" {
				t.Errorf("%s, for delivery: %v", h, err)
			}
			return nil
		})
	}
}

func TestLookupsAreLimited(t *testing.T) {
	w := newWorld(t, directory.Options{LookupsPerMinute: 3})
	_, alice := w.join("alice")
	_, bob := w.join("bob")
	for range 3 {
		if _, err := w.dir.Lookup(t.Context(), alice, "bob@a.test"); err != nil {
			t.Fatal(err)
		}
		_, err := w.dir.PeerResolve(t.Context(), "b.test", "bob")
		wantCode(t, err, clearbox.CodeConsentRequired)
	}
	_, err := w.dir.Lookup(t.Context(), alice, "nobody@a.test")
	wantCode(t, err, clearbox.CodeRateLimited)
	_, err = w.dir.PeerDevices(t.Context(), "b.test", alice.User.UID)
	wantCode(t, err, clearbox.CodeRateLimited)
	if _, err := w.dir.Lookup(t.Context(), bob, "alice@a.test"); err != nil {
		t.Fatalf("somebody else: %v", err)
	}
	_, err = w.dir.PeerResolve(t.Context(), "c.test", "bob")
	wantCode(t, err, clearbox.CodeConsentRequired)
}

func TestCurrentOfPeopleHere(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, p := w.join("bob")
	w.View(func(tx *storage.Tx) error {
		r, err := w.dir.Current(tx, bob.User)
		if err != nil || r.UserNo != p.UserNo || r.Key != p.Key || r.Version != 1 || len(r.Devices) != 1 ||
			r.Devices[0] != (directory.Device{No: p.DeviceNo, ID: 1, Registration: 1001}) {
			t.Errorf("%+v, %v", r, err)
		}
		return nil
	})
}

func TestPublishListAddsAndRemoves(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, p := w.join("bob")
	_, alice := w.join("alice")
	bob.AddDevice(2)
	keys := map[clearbox.DeviceID]directory.Keys{2: bob.Keys(1)}
	a, err := w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed(), Keys: keys, Names: map[clearbox.DeviceID]string{2: "desk"}})
	if err != nil || a.Version != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	tokens, err := w.Auth.Login(t.Context(), bob.Login(2))
	if err != nil {
		t.Fatal(err)
	}
	second := w.Principal(tokens.Access)
	own, err := w.dir.Devices(t.Context(), second)
	if err != nil || len(own.Devices) != 2 || own.Devices[1].Name != "desk" || !own.Devices[1].Current || own.Devices[0].Current || own.Version != 2 {
		t.Fatalf("%+v, %v", own, err)
	}
	bundles, err := w.dir.ClaimKeys(t.Context(), alice, "1", bob.User, nil, nil)
	if err != nil || len(bundles) != 2 || bundles[1].Device != 2 || bundles[1].Registration != 1002 {
		t.Fatalf("%v, %v", ids(bundles), err)
	}

	// The same list again, as after a lost answer.
	if _, err := w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed(), Keys: keys}); err != nil {
		t.Fatal(err)
	}

	// Mail for the device that goes dies with it.
	w.Update(func(tx *storage.Tx) error {
		_, err := tx.PutMail(second.DeviceNo, storage.Sealed{Payload: []byte("p"), Wrapped: []byte("w")}, tx.Now()+1e9)
		return err
	})
	var closed []string
	w.Auth.OnRevoke(func(s []string) { closed = append(closed, s...) })
	bob.DropDevice(2)
	if _, err := w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed()}); err != nil {
		t.Fatal(err)
	}
	if len(closed) != 1 || closed[0] != tokens.Session {
		t.Fatalf("closed %v", closed)
	}
	_, err = w.Auth.Verify(t.Context(), tokens.Access)
	if !errors.Is(err, auth.ErrTokenRevoked) {
		t.Fatal(err)
	}
	w.Clock.Fly(time.Second)
	_, err = w.Auth.Login(t.Context(), bob.Login(2))
	wantCode(t, err, clearbox.CodeNoDevice)
	w.View(func(tx *storage.Tx) error {
		if mail, err := tx.MailAfter(second.DeviceNo, 0, 10, 1000); len(mail) != 0 || err != nil {
			t.Errorf("%d mails are left, %v", len(mail), err)
		}
		if ec, kem, err := tx.PreKeyCounts(second.DeviceNo); ec+kem != 0 || err != nil {
			t.Errorf("%d keys are left, %v", ec+kem, err)
		}
		return nil
	})
}

func TestPublishListRefuses(t *testing.T) {
	cases := []struct {
		name   string
		change func(w *world, bob *authtest.Person, u *directory.ListUpdate)
		code   clearbox.Code
	}{
		{"altered", func(_ *world, _ *authtest.Person, u *directory.ListUpdate) { u.Signed[len(u.Signed)-1] ^= 1 }, clearbox.CodeBadSignature},
		{"malformed", func(_ *world, _ *authtest.Person, u *directory.ListUpdate) { u.Signed = []byte("x") }, clearbox.CodeBadRequest},
		{"huge", func(_ *world, _ *authtest.Person, u *directory.ListUpdate) { u.Signed = make([]byte, 1<<20) }, clearbox.CodeBadRequest},
		{"of another account", func(w *world, _ *authtest.Person, u *directory.ListUpdate) { u.Signed = w.Person("eve").Signed() }, clearbox.CodeBadRequest},
		{"with another root key", func(w *world, bob *authtest.Person, u *directory.ListUpdate) {
			eve := w.Person("eve")
			bob.Root, bob.List.Root = eve.Root, eve.List.Root
			u.Signed = bob.Signed()
		}, clearbox.CodeBadSignature},
		{"not newer", func(_ *world, bob *authtest.Person, u *directory.ListUpdate) {
			bob.List.Version = 1
			u.Signed = bob.Signed()
		}, clearbox.CodeConflict},
		{"without its history", func(_ *world, bob *authtest.Person, u *directory.ListUpdate) {
			bob.List.Devices = bob.List.Devices[1:]
			u.Signed = bob.Signed()
		}, clearbox.CodeBadRequest},
		{"with another identity that nothing says of", func(w *world, bob *authtest.Person, u *directory.ListUpdate) {
			bob.Identity = w.Person("eve").Identity
			bob.List.Identity = bob.Identity.Public()
			u.Signed, u.Keys[1], u.Keys[2] = bob.Signed(), bob.Keys(1), bob.Keys(1)
		}, clearbox.CodeBadRequest},
		{"with a new identity and old keys", func(_ *world, bob *authtest.Person, u *directory.ListUpdate) {
			u.Keys[1] = bob.Keys(1)
			bob.Renew()
			u.Signed, u.Keys[2] = bob.Signed(), bob.Keys(1)
		}, clearbox.CodeBadSignature},
		{"with a new identity and a device without keys", func(_ *world, bob *authtest.Person, u *directory.ListUpdate) {
			bob.Renew()
			u.Signed, u.Keys[2] = bob.Signed(), bob.Keys(1)
		}, clearbox.CodeBadRequest},
		{"adding without keys", func(_ *world, _ *authtest.Person, u *directory.ListUpdate) { u.Keys = nil }, clearbox.CodeBadRequest},
		{"keys for a device it does not add", func(_ *world, bob *authtest.Person, u *directory.ListUpdate) { u.Keys[3] = bob.Keys(1) }, clearbox.CodeBadRequest},
		{"keys for a device that is there", func(_ *world, bob *authtest.Person, u *directory.ListUpdate) { u.Keys[1] = bob.Keys(1) }, clearbox.CodeBadRequest},
		{"keys with a bad signature", func(_ *world, _ *authtest.Person, u *directory.ListUpdate) {
			u.Keys[2].KEM[0].Signature[0] ^= 1
		}, clearbox.CodeBadSignature},
		{"keys without a signed prekey", func(_ *world, bob *authtest.Person, u *directory.ListUpdate) { u.Keys[2] = bob.OneTime(1, 1) }, clearbox.CodeBadRequest},
		{"a name that is too long", func(_ *world, _ *authtest.Person, u *directory.ListUpdate) {
			u.Names = map[clearbox.DeviceID]string{2: string(make([]byte, 65))}
		}, clearbox.CodeBadRequest},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, directory.Options{})
			bob, p := w.join("bob")
			before := bob.Signed()
			bob.AddDevice(2)
			u := directory.ListUpdate{Signed: bob.Signed(), Keys: map[clearbox.DeviceID]directory.Keys{2: bob.Keys(1)}}
			c.change(w, bob, &u)
			_, err := w.dir.PublishList(t.Context(), p, u)
			wantCode(t, err, c.code)
			own, err := w.dir.Devices(t.Context(), p)
			if err != nil || !bytes.Equal(own.DeviceList, before) || own.Version != 1 || len(own.Devices) != 1 {
				t.Fatalf("something changed: %+v, %v", own, err)
			}
		})
	}
}

// TestRenewedIdentity: with a new identity, prekeys that it signed take the place
// of all that devices have here, also of those that are away, and those are told
// that they have none left to be used once.
func TestRenewedIdentity(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, p := w.join("bob")
	_, alice := w.join("alice")
	bob.AddDevice(2)
	_, err := w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed(), Keys: map[clearbox.DeviceID]directory.Keys{2: bob.Keys(3)}})
	if err != nil {
		t.Fatal(err)
	}
	standing, err := w.dir.StandingKeys(t.Context(), p)
	if err != nil || len(standing) != 2 || standing[2].Signed == nil || standing[2].LastResort == nil || len(standing[2].OneTime) != 0 {
		t.Fatalf("%+v, %v", standing, err)
	}
	var low []int64
	w.dir.OnLow(func(no int64) { low = append(low, no) })
	bob.Renew()
	away := bob.Resign(standing[2])
	_, err = w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed(), Keys: map[clearbox.DeviceID]directory.Keys{1: bob.Keys(2), 2: away}})
	if err != nil {
		t.Fatal(err)
	}
	if len(low) != 2 {
		t.Errorf("told of few keys: %v", low)
	}
	bundles, err := w.dir.ClaimKeys(t.Context(), alice, "1", bob.User, nil, nil)
	if err != nil || len(bundles) != 2 {
		t.Fatalf("%v, %v", ids(bundles), err)
	}
	for i := range bundles {
		if err := bundles[i].Check(bob.Identity.Public()); err != nil {
			t.Errorf("device %d: %v", bundles[i].Device, err)
		}
		if (bundles[i].OneTime != nil) != (bundles[i].Device == 1) {
			t.Errorf("device %d has one-time keys: %v", bundles[i].Device, bundles[i].OneTime != nil)
		}
		if bundles[i].Device == 2 && !bytes.Equal(bundles[i].KEM.Public, standing[2].LastResort.Public) {
			t.Error("the last-resort key of the device that is away is another one")
		}
	}
}

func TestRemoveDeviceBeforeANewListIsSigned(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, p := w.join("bob")
	_, alice := w.join("alice")
	bob.AddDevice(2)
	_, err := w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed(), Keys: map[clearbox.DeviceID]directory.Keys{2: bob.Keys(1)}})
	if err != nil {
		t.Fatal(err)
	}
	lost, err := w.Auth.Login(t.Context(), bob.Login(2))
	if err != nil {
		t.Fatal(err)
	}
	w.Principal(lost.Access)
	tokens, err := w.Auth.Login(t.Context(), bob.Login(0)) // with the password only
	if err != nil {
		t.Fatal(err)
	}
	bare := w.Principal(tokens.Access)
	if err := w.dir.RemoveDevice(t.Context(), bare, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Auth.Verify(t.Context(), lost.Access); !errors.Is(err, auth.ErrTokenRevoked) {
		t.Fatal(err)
	}
	wantCode(t, w.dir.RemoveDevice(t.Context(), bare, 2), clearbox.CodeNotFound)
	wantCode(t, w.dir.RemoveDevice(t.Context(), bare, 99), clearbox.CodeNotFound)
	wantCode(t, w.dir.RemoveDevice(t.Context(), alice, 2), clearbox.CodeNotFound) // not Alice's

	a, err := w.dir.Lookup(t.Context(), alice, "bob@a.test")
	if err != nil || len(a.Withdrawn) != 1 || a.Withdrawn[0] != 2 {
		t.Fatalf("%+v, %v", a.Withdrawn, err)
	}
	w.View(func(tx *storage.Tx) error {
		r, err := w.dir.Current(tx, bob.User)
		if err != nil || len(r.Devices) != 1 || r.Devices[0].ID != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		return nil
	})
	if bundles, err := w.dir.ClaimKeys(t.Context(), alice, "1", bob.User, nil, []clearbox.DeviceID{1, 2}); err != nil || len(bundles) != 1 {
		t.Fatalf("%v, %v", ids(bundles), err)
	}

	// A list that still has it is refused, one that says so is fine.
	bob.List.Version++
	_, err = w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed()})
	wantCode(t, err, clearbox.CodeBadRequest)
	_, err = w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed(), Keys: map[clearbox.DeviceID]directory.Keys{2: bob.Keys(1)}})
	wantCode(t, err, clearbox.CodeBadRequest)
	bob.DropDevice(2)
	a, err = w.dir.PublishList(t.Context(), p, directory.ListUpdate{Signed: bob.Signed()})
	if err != nil || len(a.Withdrawn) != 0 {
		t.Fatalf("%+v, %v", a, err)
	}
}

// A list whose transaction fails is there as a whole or not at all.
func TestPublishListFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("kept %t", after), func(t *testing.T) {
			w := newWorld(t, directory.Options{})
			bob, p := w.join("bob")
			bob.AddDevice(2)
			bob.DropDevice(1)
			w.Faults.Set(func(step storage.FaultStep, a bool, _ string) error {
				if step == storage.FaultCommit && a == after {
					return errors.New("boom")
				}
				return nil
			})
			u := directory.ListUpdate{Signed: bob.Signed(), Keys: map[clearbox.DeviceID]directory.Keys{2: bob.Keys(1)}}
			if _, err := w.dir.PublishList(t.Context(), p, u); err == nil {
				t.Fatal("a failure was reported as success")
			}
			w.Faults.Set(nil)
			w.View(func(tx *storage.Tx) error {
				ds, err := tx.Devices(p.UserNo)
				if err != nil || len(ds) != 1 {
					t.Fatalf("%+v, %v", ds, err)
				}
				user, err := tx.UserByNo(p.UserNo)
				if err != nil || (ds[0].ID == 2) != after || (user.DevicesVersion > 1) != after {
					t.Errorf("device %d, version %d, %v", ds[0].ID, user.DevicesVersion, err)
				}
				return nil
			})
			if _, err := w.dir.PublishList(t.Context(), p, u); err != nil {
				t.Fatalf("the second try: %v", err)
			}
		})
	}
}

func contains(t *testing.T, file, what string) bool {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(raw, []byte(what))
}
