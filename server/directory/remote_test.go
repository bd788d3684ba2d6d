package directory_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// elsewhere is b.test as federation shows it.
type elsewhere struct {
	mu      sync.Mutex
	asked   int
	err     error
	answer  directory.RemoteAccount
	bundles []directory.Bundle
	claims  []string
	tokens  []string // of the claims
	about   []clearbox.UserID
	gate    chan struct{} // when set, answers wait for it
}

func (e *elsewhere) Resolve(ctx context.Context, a clearbox.Address) (directory.RemoteAccount, error) {
	return e.account(ctx)
}

func (e *elsewhere) Devices(ctx context.Context, u clearbox.UserID) (directory.RemoteAccount, error) {
	return e.account(ctx)
}

func (e *elsewhere) account(ctx context.Context) (directory.RemoteAccount, error) {
	e.mu.Lock()
	e.asked++
	gate, answer, err := e.gate, e.answer, e.err
	e.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return directory.RemoteAccount{}, ctx.Err()
		}
	}
	return answer, err
}

func (e *elsewhere) Claim(ctx context.Context, u clearbox.UserID, id string, token []byte, devices []clearbox.DeviceID) ([]directory.Bundle, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.claims, e.tokens = append(e.claims, id), append(e.tokens, string(token))
	e.about = append(e.about, u)
	return e.bundles, e.err
}

func (e *elsewhere) set(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn()
}

func (e *elsewhere) count(t *testing.T, want int) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.asked != want {
		t.Fatalf("b.test was asked %d times, want %d", e.asked, want)
	}
}

func account(p *authtest.Person) directory.RemoteAccount {
	return directory.RemoteAccount{
		User: p.User, Address: clearbox.Address{Handle: p.Handle, Server: p.User.Server}, DeviceList: p.Signed(), Version: p.List.Version, Token: good,
	}
}

var errDown = clearbox.Errorf(clearbox.CodePeerUnreachable, "b.test does not answer")

func TestRemoteAccountIsCached(t *testing.T) {
	b := new(elsewhere)
	w := newWorld(t, directory.Options{Remote: b})
	_, alice := w.join("alice")
	bob := w.PersonAt("bob", "b.test")
	b.answer = account(bob)
	look := func(id string) directory.Account {
		t.Helper()
		a, err := w.dir.Lookup(t.Context(), alice, id)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	first := look("bob@b.test")
	if !reflect.DeepEqual(first, b.answer) {
		t.Fatalf("%+v", first)
	}
	byID := first
	byID.Token = nil // who asks by id has it from Bob
	if again := look(bob.User.String()); !reflect.DeepEqual(again, byID) {
		t.Fatalf("by id: %+v", again)
	}
	look("bob@b.test")
	b.count(t, 1)
	w.Clock.Fly(time.Hour)
	look("bob@b.test")
	b.count(t, 2)

	// Its server is away: what is known is served for 14 days.
	b.set(func() { b.err = errDown })
	w.Clock.Fly(14*24*time.Hour - time.Second)
	if a := look("bob@b.test"); !bytes.Equal(a.DeviceList, first.DeviceList) {
		t.Fatal("another list")
	}
	b.count(t, 3)
	w.Clock.Fly(time.Second)
	_, err := w.dir.Lookup(t.Context(), alice, "bob@b.test")
	wantCode(t, err, clearbox.CodePeerUnreachable)
	_, err = w.dir.Lookup(t.Context(), alice, "carol@b.test")
	wantCode(t, err, clearbox.CodePeerUnreachable)
	b.set(func() { b.err = errors.New("dial tcp 10.0.0.1: refused") })
	_, err = w.dir.Lookup(t.Context(), alice, "carol@b.test")
	wantCode(t, err, clearbox.CodePeerUnreachable)
	if err.Error() != "the other server cannot be reached" {
		t.Fatalf("the text says too much: %v", err)
	}

	// Bob is gone there: that is an answer.
	b.set(func() { b.err = clearbox.Errorf(clearbox.CodeNotFound, "x") })
	_, err = w.dir.Lookup(t.Context(), alice, bob.User.String())
	wantCode(t, err, clearbox.CodeNotFound)
}

func TestRemoteAnswerRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world, bob *authtest.Person, a *directory.RemoteAccount)
		code   clearbox.Code
	}{
		{"another address", func(_ *world, _ *authtest.Person, a *directory.RemoteAccount) { a.Address.Handle = "rob" }, clearbox.CodePeerUnreachable},
		{"a person of a third server", func(w *world, _ *authtest.Person, a *directory.RemoteAccount) {
			address := a.Address
			*a = account(w.PersonAt("bob", "c.test"))
			a.Address = address
		}, clearbox.CodePeerUnreachable},
		{"a person of this server", func(w *world, _ *authtest.Person, a *directory.RemoteAccount) {
			address := a.Address
			*a = account(w.Person("bob"))
			a.Address = address
		}, clearbox.CodePeerUnreachable},
		{"the list of another account", func(w *world, _ *authtest.Person, a *directory.RemoteAccount) {
			a.DeviceList = w.PersonAt("bob", "b.test").Signed()
		}, clearbox.CodePeerUnreachable},
		{"an altered list", func(_ *world, _ *authtest.Person, a *directory.RemoteAccount) { a.DeviceList[len(a.DeviceList)-1] ^= 1 }, clearbox.CodePeerUnreachable},
		{"no list", func(_ *world, _ *authtest.Person, a *directory.RemoteAccount) { a.DeviceList = nil }, clearbox.CodePeerUnreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := new(elsewhere)
			w := newWorld(t, directory.Options{Remote: b})
			_, alice := w.join("alice")
			bob := w.PersonAt("bob", "b.test")
			b.answer = account(bob)
			c.change(w, bob, &b.answer)
			_, err := w.dir.Lookup(t.Context(), alice, "bob@b.test")
			wantCode(t, err, c.code)
			w.View(func(tx *storage.Tx) error {
				if _, err := w.dir.Current(tx, bob.User); !errors.Is(err, directory.ErrNotCached) {
					t.Errorf("it was cached: %v", err)
				}
				return nil
			})
		})
	}
}

func TestRemoteListMustContinue(t *testing.T) {
	b := new(elsewhere)
	w := newWorld(t, directory.Options{Remote: b})
	_, alice := w.join("alice")
	bob := w.PersonAt("bob", "b.test")
	b.answer = account(bob)
	old := account(bob)
	look := func() (directory.Account, error) {
		w.Clock.Fly(time.Hour)
		return w.dir.Lookup(t.Context(), alice, bob.User.String())
	}
	devices := func() (ids []clearbox.DeviceID) {
		w.View(func(tx *storage.Tx) error {
			r, err := w.dir.Current(tx, bob.User)
			for _, d := range r.Devices {
				ids = append(ids, d.ID)
			}
			return err
		})
		return ids
	}
	if _, err := look(); err != nil {
		t.Fatal(err)
	}
	bob.AddDevice(2)
	newer := account(bob)
	b.set(func() { b.answer = newer })
	if a, err := look(); err != nil || a.Version != 2 || len(devices()) != 2 {
		t.Fatalf("%d, %v", a.Version, err)
	}
	b.set(func() { b.answer = old }) // a backup, or a rollback: what is known stays
	if a, err := look(); err != nil || a.Version != 2 || len(devices()) != 2 {
		t.Fatalf("%d, %v", a.Version, err)
	}
	b.set(func() { b.answer = newer; b.answer.Withdrawn = []clearbox.DeviceID{2, 99} })
	if a, err := look(); err != nil || len(a.Withdrawn) != 1 || !reflect.DeepEqual(devices(), []clearbox.DeviceID{1}) {
		t.Fatalf("%v, %v, %v", a.Withdrawn, devices(), err)
	}

	forge := func(name string, a directory.RemoteAccount) {
		t.Helper()
		b.set(func() { b.answer = a })
		_, err := look()
		if clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(devices(), []clearbox.DeviceID{1}) {
			t.Fatalf("%s: something changed", name)
		}
	}
	eve := w.PersonAt("bob", "b.test")
	eve.List.Account, eve.List.Version = bob.List.Account, 9
	fake := account(eve)
	fake.User = bob.User
	forge("another root key", fake)
	two := bob.List
	two.Devices = append(two.Devices[:1:1], eve.List.Devices[0])
	two.Devices[1].ID = 2
	signed, err := two.Sign(bob.Root)
	if err != nil {
		t.Fatal(err)
	}
	fake = newer
	fake.DeviceList = signed
	forge("the same version with other devices", fake)
	two.Devices, two.Version = two.Devices[1:], 1
	if fake.DeviceList, err = two.Sign(bob.Root); err != nil {
		t.Fatal(err)
	}
	forge("an older version that never was", fake)
}

func TestManyAskersOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &elsewhere{gate: make(chan struct{})}
		w := newWorld(t, directory.Options{Remote: b})
		_, alice := w.join("alice")
		b.answer = account(w.PersonAt("bob", "b.test"))
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := w.dir.Lookup(t.Context(), alice, "bob@b.test"); err != nil {
					t.Error(err)
				}
			})
		}
		gone, cancel := context.WithCancel(t.Context())
		all.Go(func() {
			_, err := w.dir.Lookup(gone, alice, "bob@b.test")
			if clearbox.CodeOf(err) != clearbox.CodeUnavailable {
				t.Errorf("who gave up: %v", err)
			}
		})
		synctest.Wait()
		cancel() // does not take the answer from the others
		synctest.Wait()
		close(b.gate)
		all.Wait()
		b.count(t, 1)
	})
}

func TestServerThatNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &elsewhere{gate: make(chan struct{})}
		w := newWorld(t, directory.Options{Remote: b})
		_, alice := w.join("alice")
		begin := time.Now()
		_, err := w.dir.Lookup(t.Context(), alice, "bob@b.test")
		wantCode(t, err, clearbox.CodePeerUnreachable)
		if d := time.Since(begin); d != 15*time.Second {
			t.Fatalf("it took %v", d)
		}
	})
}

func TestRefreshRemote(t *testing.T) {
	b := new(elsewhere)
	w := newWorld(t, directory.Options{Remote: b})
	bob := w.PersonAt("bob", "b.test")
	b.answer = account(bob)
	refresh := func(version int64, asked int) {
		t.Helper()
		if err := w.dir.RefreshRemote(t.Context(), bob.User, version); err != nil {
			t.Fatal(err)
		}
		b.count(t, asked)
	}
	refresh(1, 1)
	refresh(1, 1)
	bob.AddDevice(2)
	b.set(func() { b.answer = account(bob) })
	refresh(2, 1) // asked a moment ago
	w.Clock.Fly(30 * time.Second)
	refresh(2, 2)
	refresh(2, 2)
}

func TestRemoteClaim(t *testing.T) {
	b := new(elsewhere)
	w := newWorld(t, directory.Options{Remote: b})
	_, alice := w.join("alice")
	_, carol := w.join("carol")
	bob := w.PersonAt("bob", "b.test")
	bob.AddDevice(2)
	b.answer = account(bob)
	bundle := func(id clearbox.DeviceID) directory.Bundle {
		k := bob.Keys(1)
		return directory.Bundle{Device: id, Registration: 1000 + uint16(id), Identity: bob.Identity.Public().Bytes(), Signed: *k.Signed, OneTime: &k.OneTime[0], KEM: k.KEM[0]}
	}
	b.bundles = []directory.Bundle{bundle(1), bundle(2)}
	bs, err := w.dir.ClaimKeys(t.Context(), alice, "one", bob.User, nil, nil)
	if err != nil || !reflect.DeepEqual(bs, b.bundles) {
		t.Fatalf("%v, %v", ids(bs), err)
	}
	w.dir.ClaimKeys(t.Context(), alice, "one", bob.User, nil, nil)
	w.dir.ClaimKeys(t.Context(), carol, "one", bob.User, nil, nil)
	if c := b.claims; len(c) != 3 || c[0] != c[1] || c[0] == c[2] || c[0] == "one" {
		t.Fatalf("claim ids at the peer: %v", c)
	}

	// A device without keys makes the list look old, once in a while.
	b.count(t, 1)
	b.set(func() { b.bundles = b.bundles[:1] })
	w.Clock.Fly(time.Minute)
	bs, err = w.dir.ClaimKeys(t.Context(), alice, "two", bob.User, nil, nil)
	if err != nil || len(bs) != 1 {
		t.Fatalf("%v, %v", ids(bs), err)
	}
	b.count(t, 2)
	w.dir.ClaimKeys(t.Context(), alice, "three", bob.User, nil, nil)
	b.count(t, 2)

	for name, c := range map[string]struct {
		change func()
		code   clearbox.Code
	}{
		"a bad signature":  {func() { b.bundles = []directory.Bundle{bundle(1)}; b.bundles[0].Signed.Signature[0] ^= 1 }, clearbox.CodeBadSignature},
		"another identity": {func() { b.bundles = []directory.Bundle{bundle(1)}; b.bundles[0].Identity = bob.PreKey(1, false).Public }, clearbox.CodeBadSignature},
		"a device twice":   {func() { b.bundles = []directory.Bundle{bundle(1), bundle(1)} }, clearbox.CodePeerUnreachable},
		"nobody there":     {func() { b.err = clearbox.Errorf(clearbox.CodeNotFound, "x") }, clearbox.CodeNotFound},
		"no answer":        {func() { b.err = errors.New("dial") }, clearbox.CodePeerUnreachable},
		"blocked":          {func() { b.err = clearbox.Errorf(clearbox.CodePeerBlocked, "x") }, clearbox.CodePeerBlocked},
	} {
		b.set(func() { b.err = nil; c.change() })
		_, err := w.dir.ClaimKeys(t.Context(), alice, name, bob.User, nil, nil)
		if clearbox.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whom the people here write to cannot be read from the file.
func TestRemotePeopleAreSealedAtRest(t *testing.T) {
	b := new(elsewhere)
	w := newWorld(t, directory.Options{Remote: b})
	_, alice := w.join("alice")
	bob := w.PersonAt("bob.canary", "b.test")
	b.answer = account(bob)
	if _, err := w.dir.Lookup(t.Context(), alice, "bob.canary@b.test"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.db", "a.db-wal"} {
		for _, secret := range []string{"bob.canary", string(bob.User.UID)} {
			if contains(t, w.Dir+"/"+name, secret) {
				t.Errorf("%s contains %q", name, secret)
			}
		}
	}
}
