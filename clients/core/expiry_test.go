package core_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// kept tells whether any value of p's vault contains text.
func (p *person) kept(text string) bool {
	p.t.Helper()
	found := false
	p.must(p.store.View(ctx, func(r core.Reader) error {
		entries, err := r.List(core.Range{})
		for _, e := range entries {
			found = found || strings.Contains(string(e.Value), text)
		}
		return err
	}))
	return found
}

// TestDisappear: the writer's copy goes so long after it was sent, the reader's
// so long after it was shown, through restarts, and nothing brings it back.
func TestDisappear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := friends(t)
		in := core.With(bob.user)
		_, err := ada.brain.SetTimer(ctx, in, time.Hour)
		ada.must(err)
		secret := ada.send(bob, "a secret")
		settle(5 * time.Second)
		bob.must(bob.brain.Pin(ctx, ada.ref(secret), true))
		for _, p := range []*person{ada, bob} {
			other := map[*person]*person{ada: bob, bob: ada}[p]
			if c, err := p.brain.Conversation(ctx, core.With(other.user)); err != nil || c.Timer != time.Hour {
				t.Errorf("%s has a timer of %v, %v", p.name, c.Timer, err)
			}
		}
		settle(59 * time.Minute)
		want(t, "ada's view", ada.view(bob), []string{"hello", "hi", "timer", "a secret"})
		settle(2 * time.Minute)
		want(t, "ada's view", ada.view(bob), []string{"hello", "hi", "timer"})
		if ada.kept("a secret") {
			t.Error("the writer's vault has it still")
		}
		// Nobody has read it, so it is there.
		want(t, "bob's view", bob.view(ada), []string{"hello", "hi", "timer", "a secret"})
		bob.showAll()
		bob.stop() // and is not running when its time comes
		settle(time.Hour)
		bob.open()
		want(t, "bob's view", bob.view(ada), []string{"hello", "hi", "timer"})
		found, err := bob.brain.Search(ctx, core.Search{Words: "secret"})
		if err != nil || len(found) != 0 {
			t.Errorf("found %v, %v", found, err)
		}
		if c, err := bob.brain.Conversation(ctx, core.With(ada.user)); err != nil || c.Last == nil || c.Last.Kind != core.MessageTimer {
			t.Errorf("the newest line is %+v, %v", c.Last, err)
		}
		bob.must(bob.brain.Tidy(ctx))
		if bob.kept("a secret") {
			t.Error("the reader's vault has it still")
		}
		if c, err := bob.brain.Conversation(ctx, core.With(ada.user)); err != nil || len(c.Pins) != 0 {
			t.Errorf("it is pinned still: %v, %v", c.Pins, err)
		}
		// The same message again, and a change to it, do not bring it back.
		bob.start()
		ada.must(core.SendContent(ctx, ada.brain, bob.user, core.Content{Kind: core.KindText, ID: secret, Text: "a secret"}))
		ada.must(core.SendContent(ctx, ada.brain, bob.user, core.Content{Kind: core.KindEdit, Text: "a secret", Target: &core.Ref{ID: secret}}))
		settle(5 * time.Second)
		want(t, "bob's view", bob.view(ada), []string{"hello", "hi", "timer"})
		if texts, events := bob.showAll(); len(texts)+len(events) != 0 || bob.kept("a secret") {
			t.Errorf("it came back: %q %q", texts, events)
		}
		// Switched off, what was written before keeps its time.
		_, err = bob.brain.SetTimer(ctx, core.With(ada.user), 0)
		bob.must(err)
		settle(5 * time.Second)
		ada.send(bob, "stays")
		settle(24 * time.Hour)
		want(t, "ada's view", ada.view(bob), []string{"hello", "hi", "timer", "timer", "stays"})
		ada.stop()
		bob.stop()
	})
}

// TestTimersConverge: both set a timer while they cannot hear each other; the
// later one holds for both.
func TestTimersConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := friends(t)
		ada.net.setAway(true)
		bob.net.setAway(true)
		_, err := bob.brain.SetTimer(ctx, core.With(ada.user), time.Minute)
		bob.must(err)
		settle(time.Second)
		_, err = ada.brain.SetTimer(ctx, core.With(bob.user), time.Hour)
		ada.must(err)
		ada.net.setAway(false)
		bob.net.setAway(false)
		settle(time.Minute)
		for p, other := range map[*person]*person{ada: bob, bob: ada} {
			if c, err := p.brain.Conversation(ctx, core.With(other.user)); err != nil || c.Timer != time.Hour {
				t.Errorf("%s has a timer of %v, %v", p.name, c.Timer, err)
			}
		}
		for _, d := range []time.Duration{-1, time.Millisecond, 400 * 24 * time.Hour} {
			if _, err := ada.brain.SetTimer(ctx, core.With(bob.user), d); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
				t.Errorf("a timer of %v: %v", d, err)
			}
		}
		ada.stop()
		bob.stop()
	})
}

// forgetful counts how often its files were made to forget.
type forgetful struct {
	core.Vault
	n int
}

func (f *forgetful) Forget(ctx context.Context) error {
	f.n++
	return f.Vault.Forget(ctx)
}

// TestForget: what deletes has the vault's files forget, soon and not each time.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := friends(t)
		ada.stop()
		f := &forgetful{Vault: ada.vault}
		ada.vault = f
		ada.open()
		ada.start()
		var ids []clearbox.MessageID
		for range 20 {
			ids = append(ids, ada.send(bob, "said"))
		}
		settle(10 * time.Minute)
		if f.n != 0 {
			t.Errorf("%d times without anything to forget", f.n)
		}
		for _, id := range ids {
			ada.must(ada.brain.Delete(ctx, ada.ref(id)))
			settle(time.Second)
		}
		settle(2 * time.Minute)
		if f.n < 1 || f.n > 3 {
			t.Errorf("%d times for 20 deletions in 20 seconds", f.n)
		}
		was := f.n
		ada.must(ada.brain.Remove(ctx, ada.ref(ids[0])))
		ada.stop()
		ada.must(ada.brain.Tidy(ctx))
		ada.must(ada.brain.Tidy(ctx))
		if f.n != was+1 {
			t.Errorf("tidied %d times", f.n-was)
		}
		bob.stop()
	})
}

// TestReadReceipts: off at first, for accepted contacts alone, collected, and
// they say that it was delivered too.
func TestReadReceipts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := friends(t)
		one := ada.send(bob, "one")
		settle(5 * time.Second)
		bob.showAll()
		settle(time.Minute)
		if s := ada.state(one); s != core.StateDelivered {
			t.Errorf("%s, and bob tells nobody what he reads", s)
		}
		bob.must(bob.brain.SetSettings(ctx, core.Settings{ReadReceipts: true}))
		two, three := ada.send(bob, "two"), ada.send(bob, "three")
		settle(5 * time.Second)
		bob.showAll()
		settle(5 * time.Second)
		if a, b := ada.state(two), ada.state(three); a != core.StateRead || b != core.StateRead {
			t.Errorf("%s and %s after bob has read both", a, b)
		}
		if s := ada.state(one); s != core.StateDelivered {
			t.Errorf("what was read before is %s", s)
		}
		// Who was not accepted learns nothing.
		bob.must(bob.brain.Block(ctx, ada.user))
		bob.must(bob.brain.Unblock(ctx, ada.user))
		four := ada.send(bob, "four")
		settle(10 * time.Minute)
		bob.showAll()
		settle(10 * time.Minute)
		if s := ada.state(four); s.Arrived() {
			t.Errorf("%s by somebody who did not accept", s)
		}
		ada.stop()
		bob.stop()
	})
}

// TestProfile: contacts learn a name, those who come later too, and nobody can
// pass one off as another person's.
func TestProfile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := friends(t)
		carl := newPerson(t, w, "carl@c.test").join().start()
		ada.must(ada.brain.SetProfile(ctx, "Ada L.", nil))
		settle(5 * time.Second)
		if c := bob.contact(ada.user.String()); c.Name != "Ada L." {
			t.Errorf("bob knows her as %q", c.Name)
		}
		_, events := bob.showAll()
		want(t, "bob's events", events, []string{"profile "})
		carl.send(ada, "hello")
		settle(5 * time.Second)
		if c := carl.contact(ada.user.String()); c.Name != "" {
			t.Errorf("a stranger knows her as %q", c.Name)
		}
		ada.must(ada.brain.Accept(ctx, carl.user))
		settle(2 * time.Minute)
		if c := carl.contact(ada.user.String()); c.Name != "Ada L." {
			t.Errorf("carl knows her as %q", c.Name)
		}
		// Carl sends Bob what Ada gave him.
		bob.must(bob.brain.Accept(ctx, bob.contact("carl@c.test").User))
		carl.send(bob, "I am ada")
		settle(5 * time.Second)
		stolen := core.ProfileOf(ctx, ada.brain)
		carl.must(core.SendContent(ctx, carl.brain, bob.user, core.Content{Kind: core.KindProfile, Profile: stolen}))
		settle(5 * time.Second)
		if c := bob.contact(carl.user.String()); c.Name != "" {
			t.Errorf("bob knows carl as %q", c.Name)
		}
		altered := core.ProfileOf(ctx, ada.brain)
		altered.Sealed[20] ^= 1 // somewhere in the name
		ada.must(core.SendContent(ctx, ada.brain, bob.user, core.Content{Kind: core.KindProfile, Profile: altered}))
		settle(5 * time.Second)
		if c := bob.contact(ada.user.String()); c.Name != "Ada L." {
			t.Errorf("bob knows ada as %q", c.Name)
		}
		if st, err := bob.brain.Status(ctx); err != nil || st.Ignored != 2 {
			t.Errorf("ignored %d, %v", st.Ignored, err)
		}
		// Whoever is shut out keeps the old name and does not learn the new key.
		ada.must(ada.brain.Block(ctx, carl.user))
		settle(2 * time.Minute)
		ada.must(ada.brain.SetProfile(ctx, "Countess", nil))
		settle(2 * time.Minute)
		if c := bob.contact(ada.user.String()); c.Name != "Countess" {
			t.Errorf("bob knows her as %q", c.Name)
		}
		if c := carl.contact(ada.user.String()); c.Name != "Ada L." {
			t.Errorf("carl knows her as %q", c.Name)
		}
		if string(core.ProfileOf(ctx, ada.brain).Key) == string(stolen.Key) {
			t.Error("the key is the same after a block")
		}
		for _, name := range []string{"", "a\nb", strings.Repeat("x", core.MaxName+1), "\xff"} {
			if err := ada.brain.SetProfile(ctx, name, nil); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
				t.Errorf("%q: %v", name, err)
			}
		}
		for _, p := range []*person{ada, bob, carl} {
			p.stop()
		}
	})
}
