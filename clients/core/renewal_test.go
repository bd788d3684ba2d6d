package core_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

const renewedLine = "<" + string(core.MessageRenewed) + ">"

// renew gives p's account a new identity, which p's device draws.
func (p *person) renew() {
	p.t.Helper()
	if err := p.brain.RenewIdentity(ctx); err != nil {
		p.t.Fatal(err)
	}
}

// listed gives the list of p's account as the server has it.
func (w *world) listed(p *person) *keys.DeviceList {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.accounts[p.user].parsed
}

// renewing tells whether p's device is not done with it, or was not told.
func (p *person) renewing() (begun, missed bool) {
	p.t.Helper()
	begun, missed, err := p.brain.Renewing(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return begun, missed
}

// TestRenewedIdentity: an account with one device takes another identity. What was
// on its way is read, contacts are told in one calm line, also one who compared the
// safety number, whose root key vouches for the new one; the number is another one,
// and the same on both sides.
func TestRenewedIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		bob.send(ada, "re: one")
		settle(time.Minute)
		if err := ada.brain.Verify(ctx, bob.user, true); err != nil {
			t.Fatal(err)
		}
		number := func(p, of *person) string {
			n, err := p.brain.SafetyNumber(ctx, of.user)
			if err != nil {
				t.Fatal(err)
			}
			return n.Digits()
		}
		before := number(ada, bob)
		bob.net.setAway(true)
		ada.send(bob, "to the old keys")
		settle(time.Minute)
		ada.net.setAway(true)
		ada.send(bob, "written before ada knew")
		bob.send(ada, "written before bob renewed")
		bob.net.setAway(false)
		bob.renew()
		if begun, missed := bob.renewing(); begun || missed || len(w.listed(bob).Former) != 1 {
			t.Fatal("an account with one device was not done at once")
		}
		settle(5 * time.Minute)
		ada.net.setAway(false)
		settle(5 * time.Minute)
		bob.send(ada, "under the new keys")
		ada.send(bob, "to the new keys")
		settle(5 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "to the old keys", "written before ada knew", "to the new keys"})
		heard := ada.heard(bob)
		want(t, "ada heard", slices.DeleteFunc(slices.Clone(heard), func(s string) bool { return s == renewedLine }),
			[]string{"re: one", "written before bob renewed", "under the new keys"})
		if len(heard) != 4 {
			t.Errorf("ada was told %q", heard)
		}
		if c := ada.contact(bob.user.String()); c.Trust != core.TrustVerified || c.Changed {
			t.Errorf("contact %+v", c)
		}
		if after := number(ada, bob); after == before || after != number(bob, ada) {
			t.Error("the safety number is the one before, or not the same on both sides")
		}
		if st, _ := ada.brain.Status(ctx); st.Held != 0 {
			t.Errorf("%d messages are held", st.Held)
		}
		stopAll(ada, bob)
	})
}

// TestRenewedWithDevices: bob has three devices, of which one is away. It reads what
// is written to it under the new identity, which it is told by its mail before; and
// what it had written under the old one arrives. Contacts elsewhere, too.
func TestRenewedWithDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob, phone := acquainted(t)
		phone.start()
		settle(time.Minute)
		phone.stop()
		tablet := bob.linked()
		bob.start()
		tablet.start()
		phone.start()
		settle(10 * time.Minute)
		bob.write(ada, "from bob")
		settle(time.Minute)
		phone.write(ada, "from the phone")
		settle(time.Minute)
		phone.net.setAway(true)
		phone.write(ada, "the phone is away")
		settle(time.Minute)
		bob.renew()
		settle(10 * time.Minute)
		if begun, _ := bob.renewing(); begun || len(w.listed(bob).Former) != 1 {
			t.Fatal("the new identity was not published")
		}
		if begun, missed := tablet.renewing(); begun || missed {
			t.Error("the tablet was not told")
		}
		ada.write(bob, "to all devices")
		settle(time.Minute)
		tablet.write(ada, "from the tablet")
		settle(10 * time.Minute)
		phone.net.setAway(false)
		settle(3 * time.Hour)
		if _, missed := phone.renewing(); missed {
			t.Error("the phone was not told")
		}
		phone.write(ada, "the phone is back")
		settle(time.Minute)
		ada.write(bob, "to all devices again")
		settle(10 * time.Minute)
		for name, p := range map[string]*person{"bob": bob, "the tablet": tablet, "the phone": phone} {
			want(t, name+" heard", p.heard(ada), []string{"one", "to all devices", "to all devices again"})
		}
		heard := slices.DeleteFunc(ada.heard(bob), func(s string) bool { return s[0] == '<' })
		want(t, "ada heard", heard, []string{"from bob", "from the phone", "from the tablet", "the phone is away", "the phone is back"})
		if n := len(ada.heard(bob)) - len(heard); n > 3 { // two devices, new keys
			t.Errorf("ada was told %q", ada.heard(bob))
		}
		want(t, "the tablet has", slices.Sorted(slices.Values(tablet.all(ada))), slices.Sorted(slices.Values(bob.all(ada))))
		stopAll(ada, bob, tablet, phone)
	})
}

// TestRenewedInGroup: who has another identity stays a member: talks and is read,
// signs operations, is seen as one by who comes later.
func TestRenewedInGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, people := crew(t, "ada@a.test", "bob@b.test", "carol@a.test", "dave@b.test")
		ada, bob, carol, dave := people[0], people[1], people[2], people[3]
		id := circle(t, ada, bob, carol)
		dave.start()
		bob.tell(id, "one")
		ada.tell(id, "two")
		settle(time.Minute)
		bob.renew()
		ada.tell(id, "three")
		settle(time.Minute)
		bob.tell(id, "four")
		settle(time.Minute)
		if err := ada.brain.SetGroupRole(ctx, id, bob.user, 2); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if err := bob.brain.SetGroupInfo(ctx, id, "named by bob", ""); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		ada.bring(dave, id)
		settle(10 * time.Minute)
		dave.tell(id, "five")
		settle(10 * time.Minute)
		carol.tell(id, "six")
		bob.tell(id, "seven")
		settle(10 * time.Minute)
		for _, p := range people[:3] {
			got := p.within(id)
			slices.Sort(got)
			want(t, p.name.String(), got, []string{"ada: three", "ada: two", "bob: four", "bob: one", "bob: seven", "carol: six", "dave: five"})
			for _, m := range p.group(id).Members {
				if m.Foreign {
					t.Errorf("%s sees %s as somebody else", p.name, m.User)
				}
			}
		}
		got := dave.within(id)
		slices.Sort(got)
		want(t, "dave", got, []string{"bob: seven", "carol: six", "dave: five"})
		if g := dave.group(id); g.Title != "named by bob" || g.Alarm != "" {
			t.Errorf("dave sees %+v", g)
		}
		stopAll(people...)
	})
}

// TestRenewalInterrupted: whatever is lost on the way, the next look goes on, with
// one identity; what is archived before it is published restores it.
func TestRenewalInterrupted(t *testing.T) {
	for name, path := range map[string]string{"the list": "/devices/list", "the keys": "/keys/standing", "the archive": "/messages/history"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ada, bob := pair(t)
				key := bob.secured()
				ada.start()
				ada.send(bob, "one")
				breaks := func(fault string) {
					w.setFault(func(_, p string) string {
						if p == path {
							return fault
						}
						return ""
					})
				}
				breaks("lost")
				if err := bob.brain.RenewIdentity(ctx); err == nil {
					t.Error("nothing was interrupted")
				}
				breaks("unheard")
				_ = bob.brain.RenewIdentity(ctx)
				w.setFault(nil)
				bob.start()
				settle(2 * time.Hour)
				if begun, missed := bob.renewing(); begun || missed || len(w.listed(bob).Former) != 1 {
					t.Fatalf("not done, or twice: %d former identities", len(w.listed(bob).Former))
				}
				ada.send(bob, "two")
				settle(10 * time.Minute)
				want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
				bob.stop()
				fresh, _, err := bob.recovered(key)
				if err != nil {
					t.Fatal(err)
				}
				if begun, missed := fresh.renewing(); begun || missed {
					t.Error("the archive does not have the new identity")
				}
				stopAll(ada)
			})
		})
	}
}

// TestRenewalOfAnother: who renews nothing of ours is not believed: a list with an
// identity that the account's root did not sign, an older list, a message under keys
// that nobody vouches for.
func TestRenewalOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		bob.send(ada, "re: one")
		settle(time.Minute)
		w.mu.Lock()
		old, oldParsed := w.accounts[bob.user].list, w.accounts[bob.user].parsed
		w.mu.Unlock()
		bob.renew()
		settle(10 * time.Minute)
		bob.stop()
		// The server goes back to the list with the old identity.
		w.mu.Lock()
		now, nowParsed := w.accounts[bob.user].list, w.accounts[bob.user].parsed
		w.accounts[bob.user].list, w.accounts[bob.user].parsed = old, oldParsed
		w.mu.Unlock()
		if _, err := ada.brain.Lookup(ctx, bob.name); err != nil {
			t.Errorf("an older list: %v", err)
		}
		ada.send(bob, "two")
		settle(10 * time.Minute)
		w.mu.Lock()
		w.accounts[bob.user].list, w.accounts[bob.user].parsed = now, nowParsed
		w.mu.Unlock()
		bob.start()
		settle(10 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		want(t, "ada heard", ada.heard(bob), []string{"re: one", renewedLine})
		if c := ada.contact(bob.user.String()); c.Changed {
			t.Error("an older list changed the keys")
		}
		// A copy of the only device from before knows its root, and goes on with that.
		if _, err := bob.brain.Devices(ctx); clearbox.CodeOf(err) != "" {
			t.Error(err)
		}
		stopAll(ada, bob)
	})
}
