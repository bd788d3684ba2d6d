package core_test

import (
	"crypto/ed25519"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// link gives p's account another device, as linking will.
func (p *person) link(t *testing.T) *person {
	t.Helper()
	second := &person{t: t, w: p.w, name: p.name, user: p.user, opts: p.opts, net: &network{w: p.w, server: p.name.Server}, store: &memvault.Vault{}}
	second.vault = second.store
	if err := core.Link(ctx, p.brain, second.vault, "phone"); err != nil {
		t.Fatal(err)
	}
	second.open()
	if err := second.brain.Login(ctx, "secret"); err != nil {
		t.Fatal(err)
	}
	return second
}

// TestDeviceComesAndGoes: a new device gets what is written from then on, own
// messages included; a removed one gets nothing more.
func TestDeviceComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		bob.send(ada, "re: one")
		settle(5 * time.Second)
		phone := bob.link(t)
		phone.start()
		settle(time.Second)
		ada.send(bob, "two")
		settle(5 * time.Second) // ada learns of the phone
		bob.send(ada, "re: two")
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		want(t, "the phone heard", phone.heard(ada), []string{"two"})
		want(t, "ada heard", ada.heard(bob), []string{"re: one", "<devices_changed>", "re: two"})
		lines, err := phone.brain.Messages(ctx, ada.user, 0, 0)
		if err != nil || len(lines) != 2 || !lines[1].Outgoing && !lines[0].Outgoing {
			t.Errorf("the phone has %+v, %v", lines, err)
		}
		phone.send(ada, "from the phone")
		settle(10 * time.Second)
		want(t, "ada heard", ada.heard(bob), []string{"re: one", "<devices_changed>", "re: two", "from the phone"})
		if err := bob.brain.RemoveDevice(ctx, 2); err != nil {
			t.Fatal(err)
		}
		phone.stop()
		ada.send(bob, "three")
		bob.send(ada, "re: three")
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three"})
		want(t, "the phone heard", phone.heard(ada), []string{"two"})
		want(t, "ada heard", ada.heard(bob), []string{"re: one", "<devices_changed>", "re: two", "from the phone", "re: three"})
		ada.stop()
		bob.stop()
	})
}

// TestWithdrawnDevice: the server removed a device before a list said so.
func TestWithdrawnDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		phone := bob.link(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(5 * time.Second)
		w.mu.Lock()
		delete(w.accounts[bob.user].devices, 2)
		w.accounts[bob.user].withdrawn = []int{2}
		w.mu.Unlock()
		ada.send(bob, "two")
		bob.send(ada, "re")
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		want(t, "ada heard", ada.heard(bob), []string{"re"})
		_ = phone
		ada.stop()
		bob.stop()
	})
}

func TestPreKeysAreTended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, _ := pair(t)
		bob := newPerson(t, w, "rob@b.test")
		bob.preKeys = 0
		bob.open()
		bob.join()
		status := func() (left, kem int, signed uint32) {
			w.mu.Lock()
			defer w.mu.Unlock()
			d := w.accounts[bob.user].devices[1]
			return len(d.keys.OneTime), len(d.keys.OneTimeKEM), d.keys.Signed.ID
		}
		_, _, first := status()
		w.mu.Lock()
		d := w.accounts[bob.user].devices[1]
		d.keys.OneTime, d.keys.OneTimeKEM = d.keys.OneTime[:20], d.keys.OneTimeKEM[:30]
		w.mu.Unlock()
		bob.start()
		settle(time.Minute)
		if ec, kem, signed := status(); ec != 90 || kem != 100 || signed != first {
			t.Errorf("%d and %d one-time keys, signed %d then %d", ec, kem, first, signed)
		}
		asleep(8*24*time.Hour, bob)
		settle(time.Minute)
		_, _, second := status()
		if second == first {
			t.Error("the signed prekey was not rotated in eight days")
		}
		// A message that was begun with the old keys is still read.
		w.mu.Lock()
		for _, id := range []clearbox.DeviceID{1} {
			w.accounts[bob.user].devices[id].keys.OneTime = nil
			w.accounts[bob.user].devices[id].keys.OneTimeKEM = nil
		}
		w.mu.Unlock()
		ada.start()
		bob.stop()
		ada.send(bob, "with the last resort")
		settle(time.Minute)
		asleep(20*24*time.Hour, ada)
		bob.start()
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"with the last resort"})
		ada.stop()
		bob.stop()
	})
}

func TestLoginProofVerifies(t *testing.T) {
	w := newWorld(t)
	ada := newPerson(t, w, "ada@a.test").join()
	if err := ada.brain.Logout(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := ada.brain.Devices(ctx); err == nil {
		t.Error("logged out, and still served")
	}
	if err := ada.brain.Login(ctx, "secret"); err != nil {
		t.Fatal(err)
	}
	key := w.accounts[ada.user].parsed.Devices[0].Key
	if len(key) != ed25519.PublicKeySize {
		t.Fatal("no device key")
	}
}
