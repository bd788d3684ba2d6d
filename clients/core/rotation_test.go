package core_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// shared gives the account's token and profile key, as p's device has them.
func (p *person) shared() (token, profile []byte) {
	p.t.Helper()
	token, profile, err := core.Shared(ctx, p.brain)
	if err != nil {
		p.t.Fatal(err)
	}
	return token, profile
}

// tokenAt gives p's token, and signedAt the id of its first device's signed
// prekey, as their server has them.
func (w *world) tokenAt(p *person) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.accounts[p.user].token
}

func (w *world) signedAt(p *person) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.accounts[p.user].devices[1].keys.Signed.ID
}

// acquainted are people of two servers of whom bob accepted ada, has a profile and
// a recovery key, and a lost phone besides.
func acquainted(t *testing.T) (w *world, ada, bob, phone *person) {
	w, ada, bob = strangers(t)
	ada.start()
	bob.start()
	ada.write(bob, "one")
	settle(time.Minute)
	bob.accepts()
	settle(time.Minute)
	if err := bob.brain.SetProfile(ctx, "Bob", nil); err != nil {
		t.Fatal(err)
	}
	bob.secured()
	settle(time.Minute)
	bob.stop()
	return w, ada, bob, bob.linked()
}

// TestRemovalRotates: what a removed device knew is replaced: the token, of which
// contacts and own other devices are told, the profile's key, the signed prekey.
// That it knows the archive's secrets is said until there is a new recovery key.
func TestRemovalRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob, phone := acquainted(t)
		tablet := bob.linked()
		bob.start()
		tablet.start()
		settle(time.Minute)
		token, profile := phone.shared()
		signed := w.signedAt(bob)
		if !bytes.Equal(token, w.tokenAt(bob)) || bob.backup().Exposed {
			t.Fatal("the phone does not know the token, or is gone already")
		}
		if err := bob.brain.RemoveDevice(ctx, 2); err != nil {
			t.Fatal(err)
		}
		settle(10 * time.Minute)
		newToken, newProfile := bob.shared()
		if bytes.Equal(newToken, token) || !bytes.Equal(newToken, w.tokenAt(bob)) {
			t.Error("the server has the token that the removed device knows")
		}
		if bytes.Equal(newProfile, profile) {
			t.Error("the removed device knows the profile's key")
		}
		if x, y := tablet.shared(); !bytes.Equal(x, newToken) || !bytes.Equal(y, newProfile) {
			t.Error("the other device was not told")
		}
		if w.signedAt(bob) == signed {
			t.Error("the signed prekey is the one before")
		}
		w.mu.Lock()
		w.accounts[bob.user].tokenBefore = nil // a day later
		knocks := len(w.accounts[bob.user].knocks)
		w.mu.Unlock()
		ada.write(bob, "two")
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		want(t, "the tablet heard", tablet.heard(ada), []string{"one", "two"})
		w.mu.Lock()
		if len(w.accounts[bob.user].knocks) != knocks {
			t.Error("ada had to knock")
		}
		w.mu.Unlock()
		if !bob.backup().Exposed {
			t.Error("the removed device is said not to know the archive's secrets")
		}
		bob.secured()
		if bob.backup().Exposed {
			t.Error("a new recovery key changes nothing")
		}
		stopAll(ada, bob, tablet)
	})
}

// TestRemovalInterrupted: the list was taken and the answer lost, or the server
// withdrew the device: what it knew is replaced once the list says so, and not
// before.
func TestRemovalInterrupted(t *testing.T) {
	breaks := func(fault string) func(*testing.T, *world, *person) {
		return func(t *testing.T, w *world, bob *person) {
			w.setFault(func(method, path string) string {
				if method == "PUT" && path == "/devices/list" {
					return fault
				}
				return ""
			})
			if err := bob.brain.RemoveDevice(ctx, 2); err == nil {
				t.Error("nothing was interrupted")
			}
			w.setFault(nil)
		}
	}
	for name, remove := range map[string]func(*testing.T, *world, *person){
		"the answer is lost":  breaks("unheard"),
		"the request is lost": breaks("lost"),
		"the server withdrew it": func(_ *testing.T, w *world, bob *person) {
			w.mu.Lock()
			defer w.mu.Unlock()
			delete(w.accounts[bob.user].devices, clearbox.DeviceID(2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ada, bob, phone := acquainted(t)
				before, _ := phone.shared()
				remove(t, w, bob)
				if now, _ := bob.shared(); !bytes.Equal(now, before) {
					t.Error("replaced before the list was known to say so")
				}
				bob.start()
				settle(2 * time.Hour)
				after, _ := bob.shared()
				if bytes.Equal(after, before) || !bytes.Equal(after, w.tokenAt(bob)) {
					t.Error("the server has the token that the removed device knows")
				}
				bob.stop()
				bob.start()
				settle(2 * time.Hour)
				if again, _ := bob.shared(); !bytes.Equal(again, after) {
					t.Error("replaced twice")
				}
				stopAll(ada, bob)
			})
		})
	}
}
