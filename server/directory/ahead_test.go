package directory_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// faraway is a person of b.test whose keys are claimed from here.
type faraway struct {
	*world
	b     *elsewhere
	alice auth.Principal
	bob   *authtest.Person
	n     int
}

func newFaraway(t *testing.T) *faraway {
	t.Helper()
	b := new(elsewhere)
	f := &faraway{world: newWorld(t, directory.Options{Remote: b}), b: b}
	_, f.alice = f.join("alice")
	f.bob = f.PersonAt("bob", "b.test")
	f.bob.AddDevice(2)
	b.answer = account(f.bob)
	b.bundles = f.bundles(true)
	return f
}

// bundles are those of Bob's two devices.
func (f *faraway) bundles(oneTime bool) []directory.Bundle {
	var out []directory.Bundle
	for id := clearbox.DeviceID(1); id <= 2; id++ {
		k := f.bob.Keys(1)
		b := directory.Bundle{Device: id, Registration: 1000 + uint16(id), Identity: f.bob.Identity.Public().Bytes(), Signed: *k.Signed, KEM: k.KEM[0]}
		if oneTime {
			b.OneTime = &k.OneTime[0]
		}
		out = append(out, b)
	}
	return out
}

func (f *faraway) claim(devices ...clearbox.DeviceID) ([]directory.Bundle, error) {
	f.n++
	return f.dir.ClaimKeys(f.T.Context(), f.alice, fmt.Sprint(f.n), f.bob.User, good, devices)
}

// fetch lets what is due after d be fetched, and tells how many claims that were.
func (f *faraway) fetch(d time.Duration) int {
	f.T.Helper()
	f.Clock.Fly(d)
	before := len(f.b.claims)
	f.dir.FetchAhead(f.T.Context())
	return len(f.b.claims) - before
}

// A session begins while the other server is away, with keys that are nobody's
// one-time keys.
func TestKeysAreFetchedAhead(t *testing.T) {
	f := newFaraway(t)
	if bs, err := f.claim(); err != nil || len(bs) != 2 {
		t.Fatalf("%v, %v", ids(bs), err)
	}
	if n := f.fetch(0); n != 0 {
		t.Fatal("fetched in the same moment")
	}
	last := f.bundles(false)
	f.b.set(func() { f.b.bundles = last })
	if n := f.fetch(2 * time.Minute); n != 1 {
		t.Fatalf("%d claims, want one", n)
	}
	if tokens := f.b.tokens; tokens[0] != string(good) || tokens[1] != "" {
		t.Fatalf("tokens %q: keys are fetched ahead without one", tokens)
	}
	down := func(err error) { f.b.set(func() { f.b.err = err }) }
	down(errDown)
	if bs, err := f.claim(); err != nil || !reflect.DeepEqual(bs, last) {
		t.Fatalf("%+v, %v", bs, err)
	}
	if bs, err := f.claim(2, 9); err != nil || !reflect.DeepEqual(bs, last[1:]) {
		t.Fatalf("%+v, %v", bs, err)
	}
	down(errors.New("dial"))
	if bs, err := f.claim(); err != nil || len(bs) != 2 {
		t.Fatalf("%+v, %v", bs, err)
	}
	f.dir = f.service(directory.Options{Remote: f.b}) // and after a restart
	if bs, err := f.claim(); err != nil || len(bs) != 2 {
		t.Fatalf("%+v, %v", bs, err)
	}
	// That somebody is not there, or that they do not want it, is an answer.
	for _, code := range []clearbox.Code{clearbox.CodeNotFound, clearbox.CodePeerBlocked, clearbox.CodeIdentityChanged} {
		down(clearbox.Errorf(code, "x"))
		_, err := f.claim()
		wantCode(t, err, code)
	}
}

func TestKeysAheadGrowOld(t *testing.T) {
	f := newFaraway(t)
	f.dir = f.service(directory.Options{Remote: f.b, RemoteStale: 90 * 24 * time.Hour})
	if _, err := f.claim(); err != nil {
		t.Fatal(err)
	}
	if n := f.fetch(2 * time.Minute); n != 1 {
		t.Fatal("nothing was fetched")
	}
	// Every three days, as long as somebody wanted them within thirty.
	n := 0
	for range 20 * 24 {
		n += f.fetch(time.Hour)
	}
	if n < 5 || n > 9 {
		t.Fatalf("fetched %d times in 20 days", n)
	}
	f.b.set(func() { f.b.err = errDown })
	n = 0
	for range 48 {
		n += f.fetch(time.Hour)
	}
	for range 5 * 24 {
		n += f.fetch(time.Hour)
	}
	if n < 24 || n > 170 {
		t.Fatalf("tried %d times in 7 days", n)
	}
	if bs, err := f.claim(); err != nil || len(bs) != 2 {
		t.Fatalf("%v, %v", ids(bs), err)
	}
	f.Clock.Fly(31 * 24 * time.Hour)
	_, err := f.claim()
	wantCode(t, err, clearbox.CodePeerUnreachable) // too old
	f.Update(func(tx *storage.Tx) error {
		n, err := tx.ExpireKeysAhead(tx.Now()-clearbox.Millis((30*24*time.Hour).Milliseconds()), 10)
		if n != 1 {
			t.Errorf("%d were forgotten", n)
		}
		return err
	})
	if n := f.fetch(24 * time.Hour); n != 0 {
		t.Error("fetched for nobody")
	}
}

func TestKeysAheadThatCannotBeUsed(t *testing.T) {
	for name, change := range map[string]func(f *faraway){
		"of another identity": func(f *faraway) {
			eve := f.PersonAt("eve", "b.test")
			f.bob.Identity = eve.Identity
		},
		"with a bad signature": func(f *faraway) {},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFaraway(t)
			if _, err := f.claim(); err != nil {
				t.Fatal(err)
			}
			change(f)
			bad := f.bundles(false)
			bad[1].Signed.Signature[0] ^= 1
			f.b.set(func() { f.b.bundles = bad })
			f.fetch(2 * time.Minute)
			f.b.set(func() { f.b.err = errDown })
			_, err := f.claim()
			wantCode(t, err, clearbox.CodePeerUnreachable)
		})
	}
	t.Run("of a device that is gone", func(t *testing.T) {
		f := newFaraway(t)
		if _, err := f.claim(); err != nil {
			t.Fatal(err)
		}
		f.b.set(func() { f.b.bundles = f.bundles(false) })
		f.fetch(2 * time.Minute)
		f.bob.DropDevice(2)
		f.b.set(func() { f.b.answer = account(f.bob) })
		f.Clock.Fly(time.Hour)
		if _, err := f.dir.Lookup(t.Context(), f.alice, f.bob.User.String()); err != nil {
			t.Fatal(err)
		}
		f.b.set(func() { f.b.err = errDown })
		if bs, err := f.claim(); err != nil || len(bs) != 1 || bs[0].Device != 1 {
			t.Fatalf("%v, %v", ids(bs), err)
		}
	})
	t.Run("of nobody", func(t *testing.T) {
		f := newFaraway(t)
		if _, err := f.claim(); err != nil {
			t.Fatal(err)
		}
		f.b.set(func() { f.b.err = clearbox.Errorf(clearbox.CodeNotFound, "x") })
		if n := f.fetch(2 * time.Minute); n != 1 {
			t.Fatal(n)
		}
		if n := f.fetch(24 * time.Hour); n != 0 {
			t.Fatal("asked again for nobody")
		}
	})
}

// A server that is away is asked once an hour for all of its people together.
func TestKeysAheadOfAServerThatIsAway(t *testing.T) {
	f := newFaraway(t)
	f.b.err = clearbox.Errorf(clearbox.CodePeerUnreachable, "away")
	f.Update(func(tx *storage.Tx) error {
		for i := range 20 {
			if err := tx.WantKeysAhead(f.PersonAt(clearbox.Handle(fmt.Sprint("p", i)), "b.test").User, tx.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	asked := 0
	for range 24 * 60 {
		asked += f.fetch(time.Minute)
	}
	if asked < 24*3/5 || asked > 24*4/3+1 {
		t.Errorf("asked %d times in a day", asked)
	}
	for i, user := range f.b.about[1:] {
		if user == f.b.about[i] {
			t.Fatal("asked twice in a row about the same person")
		}
	}
}

// At most four people's keys are fetched in one minute, and their names do not
// lie readable in the file.
func TestKeysAheadInSmallNumbers(t *testing.T) {
	f := newFaraway(t)
	f.Update(func(tx *storage.Tx) error {
		for i := range 9 {
			if err := tx.WantKeysAhead(f.PersonAt(clearbox.Handle(fmt.Sprint("p", i)), "b.test").User, tx.Now()); err != nil {
				return err
			}
		}
		return tx.WantKeysAhead(f.bob.User, tx.Now())
	})
	total := 0
	for range 3 {
		n := f.fetch(0)
		if n > 4 {
			t.Fatalf("%d at once", n)
		}
		total += n
	}
	if total != 10 {
		t.Fatalf("%d were asked for", total)
	}
	for _, name := range []string{"a.db", "a.db-wal"} {
		if contains(t, f.Dir+"/"+name, string(f.bob.User.UID)) {
			t.Errorf("%s tells whose keys were fetched", name)
		}
	}
}
