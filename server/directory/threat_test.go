package directory_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/directory"
)

// federation.md 15, threat 12: 10,000 claims by one hostile peer against one
// device, which knows the delivery token or does not, leave the reserve, and
// others still get keys. The device is asked to upload more.
func TestThreat12(t *testing.T) {
	for name, c := range map[string]struct {
		token []byte
		taken int
	}{
		"without a token":      {nil, 0},
		"with a wrong token":   {[]byte("sixteen bytes no"), 0},
		"with the right token": {good, 5},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, directory.Options{})
			bob, p := w.join("bob")
			_, alice := w.join("alice")
			w.stock(bob, p, 100)
			for i := range 10_000 {
				bs, err := w.dir.PeerClaim(t.Context(), "hostile.test", fmt.Sprint(i), bob.User.UID, c.token, nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(bs) != 1 || bs[0].KEM.ID == 0 || (bs[0].OneTime != nil) != (i < c.taken) {
					t.Fatalf("claim %d: %+v", i, bs)
				}
			}
			if st := w.left(p); st.OneTime != 100-c.taken || st.KEM != 100-c.taken {
				t.Fatalf("%+v are left, want %d", st, 100-c.taken)
			}
			for name, claim := range map[string]func() ([]directory.Bundle, error){
				"someone here": func() ([]directory.Bundle, error) {
					return w.dir.ClaimKeys(t.Context(), alice, "x", bob.User, nil, nil)
				},
				"another peer": func() ([]directory.Bundle, error) {
					return w.dir.PeerClaim(t.Context(), "good.test", "x", bob.User.UID, good, nil)
				},
			} {
				if bs, err := claim(); err != nil || bs[0].OneTime == nil {
					t.Errorf("%s: %+v, %v", name, bs, err)
				}
			}
		})
	}
}

// With the token and much patience a hostile peer gets to the reserve, and then
// one key a day.
func TestThreat12Patience(t *testing.T) {
	w := newWorld(t, directory.Options{})
	var low []int64
	w.dir.OnLow(func(no int64) { low = append(low, no) })
	bob, p := w.join("bob")
	_, alice := w.join("alice")
	w.stock(bob, p, 100)
	begin := w.Clock.Now()
	for i := 0; w.Clock.Now().Sub(begin) < 5*24*time.Hour; i++ {
		w.Clock.Fly(time.Hour)
		if _, err := w.dir.PeerClaim(t.Context(), "hostile.test", fmt.Sprint("p", i), bob.User.UID, good, nil); err != nil {
			t.Fatal(err)
		}
	}
	// 80 in as many hours, then one in each of the two days that are left.
	if st := w.left(p); st.OneTime != directory.Reserve-2 || st.KEM != directory.Reserve-2 {
		t.Fatalf("%+v are left", st)
	}
	if len(low) < 5 || slices.ContainsFunc(low, func(no int64) bool { return no != p.DeviceNo }) {
		t.Fatalf("told of %v, want the device %d from 25 keys on", low, p.DeviceNo)
	}
	if bs, err := w.dir.ClaimKeys(t.Context(), alice, "x", bob.User, nil, nil); err != nil || bs[0].OneTime == nil {
		t.Fatalf("someone here: %+v, %v", bs, err)
	}
}

// A claim that takes nothing of a device that has enough disturbs nobody.
func TestLowIsToldWhenItIs(t *testing.T) {
	w := newWorld(t, directory.Options{})
	var low []int64
	w.dir.OnLow(func(no int64) { low = append(low, no) })
	bob, p := w.join("bob")
	_, alice := w.join("alice")
	w.stock(bob, p, 27)
	claim := func(id string, told int) {
		t.Helper()
		if _, err := w.dir.ClaimKeys(t.Context(), alice, id, bob.User, nil, nil); err != nil {
			t.Fatal(err)
		}
		if len(low) != told {
			t.Fatalf("told %d times, want %d", len(low), told)
		}
	}
	claim("1", 0)
	claim("1", 0)
	claim("2", 1) // 25 are left
	claim("2", 1)
	claim("3", 2)
	if _, err := w.dir.PeerClaim(t.Context(), "b.test", "4", bob.User.UID, nil, nil); err != nil || len(low) != 2 {
		t.Fatalf("told %d times, %v", len(low), err)
	}
	if low[0] != p.DeviceNo {
		t.Error("another device was told")
	}
	if _, err := w.dir.PeerClaim(t.Context(), "b.test", "5", clearbox.UID(w.Person("x").User.UID), good, nil); clearbox.CodeOf(err) != clearbox.CodeNotFound {
		t.Error(err)
	}
}
