package core_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// pairOfDevices gives somebody with two devices, and a contact; all are online.
func pairOfDevices(t *testing.T) (ada, laptop, phone *person) {
	t.Helper()
	_, ada, laptop = talked(t)
	phone = laptop.blank()
	laptop.stop()
	if _, _, err := laptop.linking(phone, true); err != nil {
		t.Fatal(err)
	}
	laptop.start()
	phone.start()
	settle(time.Minute)
	return ada, laptop, phone
}

// spoken gives what p's device shows of the conversation with other, and of what
// own devices said that it could not read.
func (p *person) spoken(other *person) []string {
	p.t.Helper()
	var out []string
	for _, with := range []*person{other, p} {
		lines, err := p.brain.Messages(ctx, with.user, 0, 0)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, m := range lines {
			text := m.Text
			if m.Kind != core.MessageText {
				text = "<" + string(m.Kind) + ">"
			}
			for _, r := range m.Shown() {
				text += " " + r.Emoji
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// TestOwnDevicesHeal: what an own device could not read comes again: messages,
// changes and decisions. No line of it stays.
func TestOwnDevicesHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ada, laptop, phone := pairOfDevices(t)
		one := core.Ref{ID: ada.send(laptop, "for both"), Author: ada.user}
		two := core.Ref{ID: laptop.send(ada, "two"), Author: laptop.user}
		settle(time.Minute)
		phone.stop()
		phone.forget("session/")
		laptop.send(ada, "three")
		for _, err := range []error{
			laptop.brain.Edit(ctx, two, "zwei"),
			laptop.brain.React(ctx, one, "👍"),
			laptop.brain.Verify(ctx, ada.user, true),
			laptop.brain.Mute(ctx, core.With(ada.user), core.MutedForever),
			laptop.brain.Pin(ctx, one, true),
			laptop.brain.SetDraft(ctx, core.With(ada.user), "to be"),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		settle(time.Minute)
		phone.start()
		settle(10 * time.Minute)
		want(t, "the phone shows", phone.spoken(ada), []string{"for both 👍", "one", "re: one", "three", "two", "zwei"})
		if c := phone.contact("ada@a.test"); c.Trust != core.TrustVerified {
			t.Errorf("to the phone, ada is %s", c.Trust)
		}
		conv, err := phone.brain.Conversation(ctx, core.With(ada.user))
		if err != nil || conv.Muted == 0 || conv.Draft != "to be" || len(conv.Pins) != 1 {
			t.Errorf("on the phone, the conversation is %+v, %v", conv, err)
		}
		if h := phone.healing(); h.Lost == 0 || h.Asked > 6 {
			t.Errorf("the phone's healing %+v", h)
		}
		for _, p := range []*person{ada, laptop, phone} {
			p.stop()
		}
	})
}

// goBack lets p go on from an older copy of its memory.
func (p *person) goBack(old *memvault.Vault) {
	p.stop()
	p.store, p.vault = old, old
	p.open()
	p.start()
}

// TestOlderOwnDevice: a device that went back to an older copy of itself is told
// what was decided since; where it does not notice that it did, what it says first
// is asked for by the others.
func TestOlderOwnDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ada, laptop, phone := pairOfDevices(t)
		in := core.With(ada.user)
		laptop.send(ada, "so far")
		settle(time.Minute)
		old := phone.store.Clone()
		if err := phone.brain.Mute(ctx, in, core.MutedForever); err != nil { // nothing comes back
			t.Fatal(err)
		}
		settle(time.Minute)
		phone.goBack(old)
		if err := phone.brain.SetDraft(ctx, in, "in the keys of before"); err != nil {
			t.Fatal(err)
		}
		phone.send(ada, "and on")
		settle(10 * time.Minute)
		want(t, "the laptop shows", laptop.spoken(ada), []string{"and on", "one", "re: one", "so far", "two"})
		if n := phone.healing().Rewound; n != 0 {
			t.Fatalf("the phone noticed %d times", n)
		}
		if h := laptop.healing(); h.Lost == 0 || h.Asked == 0 {
			t.Errorf("the laptop's healing %+v", h)
		}

		old = phone.store.Clone()
		if err := laptop.brain.Block(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		phone.goBack(old)
		settle(10 * time.Minute)
		if c := phone.contact("ada@a.test"); !c.Blocked || phone.healing().Rewound != 1 {
			t.Errorf("the phone knows %+v, and noticed %d times", c, phone.healing().Rewound)
		}
		for _, d := range []*person{laptop, phone} {
			conv, err := d.brain.Conversation(ctx, in)
			if err != nil || conv.Draft != "" && conv.Draft != "in the keys of before" {
				t.Errorf("%+v, %v", conv, err)
			}
		}
		for _, p := range []*person{ada, laptop, phone} {
			p.stop()
		}
	})
}

// TestOwnDevicesKeepApart: of what is kept of a conversation each part is agreed on
// for itself, the last word holds, and both devices end up alike, also with the
// longest draft.
func TestOwnDevicesKeepApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ada, laptop, phone := pairOfDevices(t)
		in := core.With(ada.user)
		one := core.Ref{ID: laptop.send(ada, "one"), Author: laptop.user}
		settle(time.Minute)
		may := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			settle(time.Second)
		}
		agree := func() core.Conversation {
			t.Helper()
			settle(time.Minute)
			a, err := laptop.brain.Conversation(ctx, in)
			may(err)
			b, err := phone.brain.Conversation(ctx, in)
			may(err)
			if a.Muted != b.Muted || a.Draft != b.Draft || !slices.Equal(a.Pins, b.Pins) || a.Timer != b.Timer {
				t.Errorf("the laptop has %+v, the phone %+v", a, b)
			}
			return a
		}
		laptop.net.setAway(true)
		phone.net.setAway(true)
		long := strings.Repeat("x", core.MaxText)
		may(laptop.brain.SetDraft(ctx, in, long))
		may(phone.brain.Pin(ctx, one, true))
		may(laptop.brain.Mute(ctx, in, core.MutedForever))
		may(phone.brain.Mute(ctx, in, 0))
		may(phone.brain.Mute(ctx, in, 7))
		laptop.net.setAway(false)
		phone.net.setAway(false)
		if c := agree(); c.Draft != long || len(c.Pins) != 1 || c.Muted != 7 {
			t.Errorf("%d bytes of draft, pins %v, muted until %d", len(c.Draft), c.Pins, c.Muted)
		}
		_, err := laptop.brain.SetTimer(ctx, in, time.Hour)
		may(err)
		may(phone.brain.Pin(ctx, one, false))
		laptop.send(ada, "sent, and so no draft any more")
		if c := agree(); c.Draft != "" || len(c.Pins) != 0 || c.Timer != time.Hour {
			t.Errorf("%d bytes of draft, pins %v, timer %v", len(c.Draft), c.Pins, c.Timer)
		}
		for _, p := range []*person{ada, laptop, phone} {
			p.stop()
		}
	})
}
