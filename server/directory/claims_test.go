package directory_test

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// stock uploads so that the person's first device has n one-time keys of a kind.
func (w *world) stock(p *authtest.Person, q auth.Principal, n int) {
	w.T.Helper()
	st, err := w.dir.UploadKeys(w.T.Context(), q, p.OneTime(100, n-2)) // 2 came with the registration
	if err != nil || st.OneTime != n || st.KEM != n {
		w.T.Fatalf("%+v, %v", st, err)
	}
}

func (w *world) left(q auth.Principal) directory.Status {
	w.T.Helper()
	st, err := w.dir.KeyStatus(w.T.Context(), q)
	if err != nil {
		w.T.Fatal(err)
	}
	return st
}

func TestUploadKeysAndStatus(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, p := w.join("bob")
	if st := w.left(p); st != (directory.Status{OneTime: 2, KEM: 2, Low: true}) {
		t.Fatalf("%+v", st)
	}
	st, err := w.dir.UploadKeys(t.Context(), p, bob.OneTime(100, 23))
	if err != nil || st != (directory.Status{OneTime: 25, KEM: 25, Low: true}) {
		t.Fatalf("%+v, %v", st, err)
	}
	st, err = w.dir.UploadKeys(t.Context(), p, bob.OneTime(200, 1))
	if err != nil || st.Low {
		t.Fatalf("%+v, %v", st, err)
	}
	signed, last := bob.PreKey(2, true), bob.KEM(3)
	if _, err := w.dir.UploadKeys(t.Context(), p, directory.Keys{Signed: &signed, LastResort: &last}); err != nil {
		t.Fatal(err)
	}
	_, alice := w.join("alice")
	bs, err := w.dir.ClaimKeys(t.Context(), alice, "1", bob.User, nil, nil)
	if err != nil || len(bs) != 1 || !reflect.DeepEqual(bs[0].Signed, signed) {
		t.Fatalf("%+v, %v", bs, err)
	}
	if err := bs[0].Check(bob.Identity.Public()); err != nil {
		t.Fatal(err)
	}
}

func TestUploadKeysRefuses(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, p := w.join("bob")
	eve := w.Person("eve")
	for _, c := range []struct {
		name string
		keys func() directory.Keys
		code clearbox.Code
	}{
		{"KEM key with a bad signature", func() directory.Keys { k := bob.OneTime(100, 3); k.KEM[2].Signature[7] ^= 1; return k }, clearbox.CodeBadSignature},
		{"keys of another identity", func() directory.Keys { return eve.OneTime(100, 1) }, clearbox.CodeBadSignature},
		{"signed prekey of another identity", func() directory.Keys { return eve.Keys(0) }, clearbox.CodeBadSignature},
		{"malformed", func() directory.Keys { return directory.Keys{OneTime: []directory.PreKey{{ID: 5}}} }, clearbox.CodeBadRequest},
		{"more than fit", func() directory.Keys { return bob.OneTime(100, 99) }, clearbox.CodeQuota},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := w.dir.UploadKeys(t.Context(), p, c.keys())
			wantCode(t, err, c.code)
			if st := w.left(p); st.OneTime != 2 || st.KEM != 2 {
				t.Fatalf("something was kept: %+v", st)
			}
		})
	}
	bare := p
	bare.Device, bare.DeviceNo = 0, 0
	_, err := w.dir.UploadKeys(t.Context(), bare, bob.OneTime(100, 1))
	wantCode(t, err, clearbox.CodeForbidden)
	_, err = w.dir.KeyStatus(t.Context(), bare)
	wantCode(t, err, clearbox.CodeForbidden)
	_, err = w.dir.ClaimKeys(t.Context(), bare, "1", bob.User, nil, nil)
	wantCode(t, err, clearbox.CodeForbidden)
	for range 10 {
		_, err = w.dir.UploadKeys(t.Context(), p, directory.Keys{})
	}
	wantCode(t, err, clearbox.CodeRateLimited)
}

func TestClaimIsIdempotent(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, p := w.join("bob")
	alice, a := w.join("alice")
	w.stock(bob, p, 50)
	claims := map[string]func(id string, devices ...clearbox.DeviceID) ([]directory.Bundle, error){
		"here": func(id string, devices ...clearbox.DeviceID) ([]directory.Bundle, error) {
			return w.dir.ClaimKeys(t.Context(), a, id, bob.User, nil, devices)
		},
		"by a peer": func(id string, devices ...clearbox.DeviceID) ([]directory.Bundle, error) {
			return w.dir.PeerClaim(t.Context(), "b.test", id, bob.User.UID, good, devices)
		},
	}
	for name, claim := range claims {
		t.Run(name, func(t *testing.T) {
			before := w.left(p).OneTime
			first, err := claim("one")
			if err != nil || len(first) != 1 || first[0].OneTime == nil {
				t.Fatalf("%+v, %v", first, err)
			}
			again, err := claim("one")
			if err != nil || !reflect.DeepEqual(again, first) {
				t.Fatalf("another answer: %+v, %v", again, err)
			}
			w.dir = w.service(directory.Options{}) // and after a restart
			if again, err := claim("one"); err != nil || !reflect.DeepEqual(again, first) {
				t.Fatalf("another answer: %+v, %v", again, err)
			}
			if n := w.left(p).OneTime; n != before-1 {
				t.Fatalf("%d keys were taken", before-n)
			}
			_, err = claim("one", 1)
			wantCode(t, err, clearbox.CodeConflict)
			second, err := claim("two")
			if err != nil || second[0].OneTime.ID == first[0].OneTime.ID || second[0].KEM.ID == first[0].KEM.ID {
				t.Fatalf("a one-time key came twice: %+v, %v", second, err)
			}
			w.Clock.Fly(24*time.Hour + time.Millisecond)
			third, err := claim("one")
			if err != nil || reflect.DeepEqual(third, first) {
				t.Fatalf("after a day: %+v, %v", third, err)
			}
		})
	}
	// Two claimers with the same id get keys of their own.
	_, c := w.join("carol")
	x, err1 := w.dir.ClaimKeys(t.Context(), a, "same", bob.User, nil, nil)
	y, err2 := w.dir.ClaimKeys(t.Context(), c, "same", bob.User, nil, nil)
	z, err3 := w.dir.PeerClaim(t.Context(), "b.test", "same", bob.User.UID, good, nil)
	if err := errors.Join(err1, err2, err3); err != nil || reflect.DeepEqual(x, y) || reflect.DeepEqual(y, z) {
		t.Fatalf("%v: claimers share an answer", err)
	}
	_, err := w.dir.ClaimKeys(t.Context(), a, "same", alice.User, nil, nil)
	wantCode(t, err, clearbox.CodeConflict)
	for _, id := range []string{"", string(make([]byte, 65))} {
		_, err := w.dir.ClaimKeys(t.Context(), a, id, bob.User, nil, nil)
		wantCode(t, err, clearbox.CodeBadRequest)
		_, err = w.dir.PeerClaim(t.Context(), "b.test", id, bob.User.UID, good, nil)
		wantCode(t, err, clearbox.CodeBadRequest)
	}
}

func TestClaimOfDevicesThatAreNotThere(t *testing.T) {
	w := newWorld(t, directory.Options{})
	bob, _ := w.join("bob")
	_, alice := w.join("alice")
	bs, err := w.dir.ClaimKeys(t.Context(), alice, "1", bob.User, nil, []clearbox.DeviceID{2, 127})
	if err != nil || bs == nil || len(bs) != 0 {
		t.Fatalf("%+v, %v", bs, err)
	}
}

// Beyond the limits, and when nothing is left, the answer comes without a
// one-time key and with the last-resort KEM key.
func TestClaimWithoutOneTimeKey(t *testing.T) {
	w := newWorld(t, directory.Options{LocalKeysPerHour: 3, PeerKeysPerHour: 2})
	bob, p := w.join("bob")
	_, alice := w.join("alice")
	_, carol := w.join("carol")
	w.stock(bob, p, 24)
	n := 0
	claim := func(q auth.Principal) directory.Bundle {
		t.Helper()
		n++
		bs, err := w.dir.ClaimKeys(t.Context(), q, fmt.Sprint(n), bob.User, nil, nil)
		if err != nil || len(bs) != 1 {
			t.Fatalf("%v, %v", bs, err)
		}
		return bs[0]
	}
	peer := func(name clearbox.ServerName) directory.Bundle {
		t.Helper()
		n++
		bs, err := w.dir.PeerClaim(t.Context(), name, fmt.Sprint(n), bob.User.UID, good, nil)
		if err != nil || len(bs) != 1 {
			t.Fatalf("%v, %v", bs, err)
		}
		return bs[0]
	}
	with := func(b directory.Bundle, want bool) {
		t.Helper()
		if (b.OneTime != nil) != want || (b.KEM.ID != 1) != want {
			t.Fatalf("claim %d: one-time key %t, KEM key %d", n, b.OneTime != nil, b.KEM.ID)
		}
		if err := b.Check(bob.Identity.Public()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		with(claim(alice), true)
	}
	with(claim(alice), false)
	with(claim(carol), true)   // 20 are left
	with(peer("b.test"), true) // one a day of the reserve
	with(peer("b.test"), false)
	if n := w.left(p); n.OneTime != 19 || n.KEM != 19 {
		t.Fatalf("the reserve is not kept: %+v", n)
	}
	w.Clock.Fly(30 * time.Minute) // one more for b.test
	w.stock2(bob, p, 11)
	with(peer("b.test"), true)
	with(peer("b.test"), false) // the one above counted as well
	with(peer("c.test"), true)
	w.Clock.Fly(time.Hour)
	with(peer("b.test"), true)
	with(claim(alice), true)
	// Until nothing is left.
	for range 40 {
		w.Clock.Fly(20 * time.Minute)
		claim(carol)
	}
	with(claim(carol), false)
}

func (w *world) stock2(p *authtest.Person, q auth.Principal, n int) {
	w.T.Helper()
	if _, err := w.dir.UploadKeys(w.T.Context(), q, p.OneTime(1000, n)); err != nil {
		w.T.Fatal(err)
	}
}

// A peer gets one-time keys at a bounded pace, whomever it asks for.
func TestPeerRate(t *testing.T) {
	w := newWorld(t, directory.Options{})
	with := 0
	for i := range 14 {
		p, q := w.join(clearbox.Handle(fmt.Sprint("p", i)))
		w.stock(p, q, directory.Reserve+1)
		bs, err := w.dir.PeerClaim(t.Context(), "b.test", fmt.Sprint(i), p.User.UID, good, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bs[0].OneTime != nil {
			with++
		}
	}
	if with != 10 {
		t.Fatalf("%d one-time keys in a moment, want 10", with)
	}
}

func TestClaimsForNobodyAreBounded(t *testing.T) {
	w := newWorld(t, directory.Options{})
	for i := range 300 {
		w.Clock.Fly(time.Second / 10)
		_, err := w.dir.PeerClaim(t.Context(), "hostile.test", fmt.Sprint(i), w.Person("x").User.UID, good, nil)
		wantCode(t, err, clearbox.CodeNotFound)
	}
	w.Update(func(tx *storage.Tx) error {
		n, err := tx.ExpireClaims(tx.Now()+1e12, 10_000)
		if n < 1 || n > 61 {
			t.Errorf("%d claims were written down", n)
		}
		return err
	})
}

// Nobody gets a key that somebody else got, whatever happens at the same time.
func TestOneTimeKeysAreGivenOnce(t *testing.T) {
	w := newWorld(t, directory.Options{LocalKeysPerHour: 100})
	bob, p := w.join("bob")
	_, alice := w.join("alice")
	w.stock(bob, p, 30)
	var mu sync.Mutex
	seen := make(map[uint32]string)
	var all sync.WaitGroup
	for i := range 20 {
		for range 2 { // each claim twice at once
			all.Go(func() {
				id := fmt.Sprint(i)
				bs, err := w.dir.ClaimKeys(t.Context(), alice, id, bob.User, nil, nil)
				if err != nil || bs[0].OneTime == nil {
					t.Errorf("%v, %v", bs, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if by, ok := seen[bs[0].OneTime.ID]; ok && by != id {
					t.Errorf("claims %s and %s got the same key", by, id)
				}
				seen[bs[0].OneTime.ID] = id
			})
		}
	}
	all.Wait()
	if n := w.left(p).OneTime; n != 10 || len(seen) != 20 {
		t.Fatalf("%d left, %d given", n, len(seen))
	}
}

func TestClaimFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		w := newWorld(t, directory.Options{})
		bob, p := w.join("bob")
		_, alice := w.join("alice")
		w.Faults.Set(func(step storage.FaultStep, a bool, _ string) error {
			if step == storage.FaultCommit && a == after {
				return errors.New("boom")
			}
			return nil
		})
		if _, err := w.dir.ClaimKeys(t.Context(), alice, "1", bob.User, nil, nil); err == nil {
			t.Fatal("a failure was reported as success")
		}
		w.Faults.Set(nil)
		if n := w.left(p).OneTime; (n == 1) != after {
			t.Fatalf("%d are left", n)
		}
		bs, err := w.dir.ClaimKeys(t.Context(), alice, "1", bob.User, nil, nil)
		if err != nil || bs[0].OneTime == nil || w.left(p).OneTime != 1 {
			t.Fatalf("the second try: %+v, %v, %d left", bs, err, w.left(p).OneTime)
		}
		if _, err := curve.ParsePublicKey(bs[0].OneTime.Public); err != nil {
			t.Fatal(err)
		}
	}
}
