package core_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// forget deletes what p's vault has under a prefix.
func (p *person) forget(prefix string) {
	p.t.Helper()
	err := p.store.Update(ctx, func(tx core.Tx) error {
		entries, err := tx.List(core.Range{Prefix: prefix})
		for _, e := range entries {
			err = errors.Join(err, tx.Delete(e.Key))
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) healing() core.Healing {
	p.t.Helper()
	st, err := p.brain.Status(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return st.Healing
}

// talked gives two people who are online and have accepted each other.
func talked(t *testing.T) (w *world, ada, bob *person) {
	t.Helper()
	w, ada, bob = pair(t)
	ada.start()
	bob.start()
	ada.send(bob, "one")
	bob.send(ada, "re: one")
	settle(5 * time.Second)
	ada.send(bob, "two")
	settle(5 * time.Second)
	return w, ada, bob
}

// TestBrokenSessionHeals: bob lost his sessions; what he cannot read is asked for
// and comes again, once, under the same id, and its sender learns that it arrived.
func TestBrokenSessionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := talked(t)
		bob.forget("session/")
		ada.net.setAway(true)
		three := ada.send(bob, "three")
		ada.send(bob, "four")
		ada.net.setAway(false)
		settle(20 * time.Second)
		ada.send(bob, "five")
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three", "four", "five"})
		if s := ada.state(three); s != core.StateDelivered {
			t.Errorf("three is %s", s)
		}
		bob.send(ada, "re: four")
		settle(10 * time.Second)
		want(t, "ada heard", ada.heard(bob), []string{"re: one", "re: four"})
		if b, a := bob.healing(), ada.healing(); b.Lost != 2 || b.Healed != 2 || b.Asked < 1 || b.Asked > 2 || a.Resent < 2 || a.Lost != 0 {
			t.Errorf("bob's healing %+v, ada's %+v", b, a)
		}
		// The line that stood for it is gone, shown or not.
		unshown, err := bob.brain.Unshown(ctx, 0)
		if err != nil || slices.ContainsFunc(unshown, func(m core.Message) bool { return m.Kind == core.MessageUndecryptable }) {
			t.Errorf("unshown %+v, %v", unshown, err)
		}
		ada.stop()
		bob.stop()
	})
}

// TestLineWhileItHeals: until the message comes there is one line that says so;
// it says that no more once nobody is asked, and goes when the message comes.
func TestLineWhileItHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := talked(t)
		bob.stop()
		bob.forget("session/")
		ada.send(bob, "three")
		settle(time.Second)
		ada.stop()
		bob.start()
		settle(5 * time.Second)
		line := func() core.Message {
			t.Helper()
			want(t, "bob heard", bob.heard(ada), []string{"one", "two", "<undecryptable>"})
			lines, err := bob.brain.Recent(ctx, ada.user, 1)
			if err != nil {
				t.Fatal(err)
			}
			return lines[0]
		}
		if m := line(); !m.Asked {
			t.Errorf("the line is %+v", m)
		}
		settle(6 * time.Hour)
		if m := line(); m.Asked {
			t.Errorf("the line is still %+v", m)
		}
		if h := bob.healing(); h.Asked != 3 {
			t.Errorf("bob's healing %+v", h)
		}
		ada.start()
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three"})
		bob.stop()
		ada.stop()
	})
}

// TestOldBackupHeals is R21: bob's device goes on from an older copy of its memory. What
// is written from then on is read after one round trip, in both directions. It prints one JSON line.
func TestOldBackupHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := talked(t)
		old := bob.store.Clone()
		for i := range 3 { // ratchets turn
			ada.send(bob, fmt.Sprint("forgotten ", i))
			settle(5 * time.Second)
			bob.send(ada, fmt.Sprint("re: forgotten ", i))
			settle(5 * time.Second)
		}
		bob.stop()
		ada.send(bob, "three")
		settle(time.Second)
		bob.store, bob.vault = old, old
		bob.open()
		bob.start()
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three"})
		bob.send(ada, "back again")
		ada.send(bob, "four")
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three", "four"})
		if heard := ada.heard(bob); heard[len(heard)-1] != "back again" || slices.Contains(heard, "<undecryptable>") {
			t.Errorf("ada heard %q", heard)
		}
		if h := bob.healing(); h.Rewound != 1 || h.Healed != 1 {
			t.Errorf("bob's healing %+v", h)
		}
		// No message key of the copy was used a second time: nothing that bob sent was
		// a duplicate to ada.
		if h := ada.healing(); h.Lost != 0 {
			t.Errorf("ada's healing %+v", h)
		}
		h := bob.healing()
		fmt.Printf(`{"test":"healing","rewound":%d,"unreadable":%d,"asked":%d,"healed":%d}`+"\n", h.Rewound, h.Lost, h.Asked, h.Healed)
		ada.stop()
		bob.stop()
	})
}

// TestHealingEnds: where both sides lose whatever the other one sends, they ask
// less and less, and stop.
func TestHealingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		sent := 0
		w.setRefuse(func(*wire.Submission) error { sent++; return nil })
		for i := range 12 { // nothing that either begins can be read by the other
			for _, p := range []*person{ada, bob} {
				p.forget("session/")
				p.forget("prekey/e/")
				p.forget("prekey/k/")
				p.forget("prekey/s/")
			}
			if i == 0 {
				ada.send(bob, "three")
				bob.send(ada, "re: three")
			}
			settle(time.Hour)
		}
		settle(2 * 24 * time.Hour)
		w.mu.Lock()
		total := sent
		w.mu.Unlock()
		if total > 60 {
			t.Errorf("%d messages were sent about two", total)
		}
		settle(3 * 24 * time.Hour)
		w.mu.Lock()
		rest := sent - total
		w.mu.Unlock()
		if rest > 4 {
			t.Errorf("%d more were sent in the three days after", rest)
		}
		t.Logf("%d, then %d", total, rest)
		ada.stop()
		bob.stop()
	})
}

// TestOnlyForWhomItWas: whoever asks gets nothing that was not for that very
// device, and not without end.
func TestOnlyForWhomItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		eve := newPerson(t, w, "eve@b.test").join()
		eve.start()
		eve.send(ada, "hello")
		settle(5 * time.Second)
		ada.send(eve, "hello eve")
		secret := ada.send(bob, "for bob alone")
		settle(5 * time.Second)
		ask := func(p *person, device clearbox.DeviceID) int {
			t.Helper()
			before := ada.healing().Resent
			if err := core.SendRenew(ctx, p.brain, ada.user, device, secret); err != nil {
				t.Fatal(err)
			}
			settle(5 * time.Second)
			return int(ada.healing().Resent - before)
		}
		if n := ask(eve, 1); n != 0 {
			t.Errorf("eve was sent %d messages", n)
		}
		want(t, "eve heard", eve.heard(ada), []string{"hello eve"})
		if n := ask(bob, 2); n != 0 {
			t.Errorf("a device sent %d messages of another one", n)
		}
		phone := bob.link(t)
		phone.start()
		settle(time.Second)
		phone.contact("ada@a.test")
		if n := ask(phone, 1); n != 0 {
			t.Errorf("a device that was added later was sent %d messages", n)
		}
		want(t, "the phone heard", phone.heard(ada), nil)
		// To bob's first device, it is sent as often as a day allows, and shown once.
		total := 0
		times := rounds(300, 10)
		for range times {
			total += ask(bob, 1)
		}
		if total != min(256, times) {
			t.Errorf("it was sent %d times", total)
		}
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "for bob alone"})
		want(t, "the phone heard", phone.heard(ada), nil)
		for _, p := range []*person{ada, bob, phone, eve} {
			p.stop()
		}
	})
}

// TestLostControl: what was lost was no message, so that its line goes when the
// sender says so.
func TestLostControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := talked(t)
		ada.forget("session/")
		ada.send(bob, "three") // a new session, which bob's receipt goes into
		settle(5 * time.Second)
		bob.forget("session/")
		if err := core.SendRenew(ctx, ada.brain, bob.user, 7); err != nil { // for nobody: a message without a line
			t.Fatal(err)
		}
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three"})
		if h := bob.healing(); h.Lost != 1 {
			t.Errorf("bob's healing %+v", h)
		}
		ada.stop()
		bob.stop()
	})
}
