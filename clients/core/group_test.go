package core_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
	sender "github.com/clearbox-im/clearbox/crypto/group"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
	"github.com/clearbox-im/clearbox/server/wire"
)

// within gives the texts of a group's lines on p's device, who wrote each before it.
func (p *person) within(id clearbox.GroupID) []string {
	p.t.Helper()
	lines, err := p.brain.Lines(ctx, core.In(id), 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	names := map[clearbox.UserID]string{}
	p.w.mu.Lock()
	for name, u := range p.w.names {
		names[u], _, _ = strings.Cut(name, "@")
	}
	p.w.mu.Unlock()
	var out []string
	for _, m := range lines {
		switch m.Kind {
		case core.MessageText:
			out = append(out, names[m.Sender]+": "+m.Text)
			if m.Unproven() {
				p.t.Errorf("nothing proves who wrote message %v", m.ID)
			}
		case core.MessageGroup:
			if m.Event.Kind == core.GroupAlarm {
				out = append(out, "<"+string(m.Event.Alarm)+">")
			}
		default:
			out = append(out, fmt.Sprintf("<%s %s>", m.Kind, m.Reason))
		}
	}
	return out
}

func (p *person) tell(id clearbox.GroupID, text string) clearbox.MessageID {
	p.t.Helper()
	m, err := p.brain.Post(ctx, core.In(id), core.Post{Text: text})
	if err != nil {
		p.t.Fatal(err)
	}
	return m.ID
}

func (p *person) group(id clearbox.GroupID) core.Group {
	p.t.Helper()
	g, err := p.brain.Group(ctx, id)
	if err != nil {
		p.t.Fatal(err)
	}
	return g
}

// circle makes a group of the first person with the others, who accept.
func circle(t *testing.T, people ...*person) clearbox.GroupID {
	t.Helper()
	for _, p := range people {
		p.start()
	}
	g, err := people[0].brain.CreateGroup(ctx, "the crew", "who row")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range people[1:] {
		people[0].bring(p, g.ID)
	}
	return g.ID
}

// bring invites somebody, who accepts.
func (p *person) bring(other *person, id clearbox.GroupID) {
	p.t.Helper()
	p.contact(other.name.String())
	if err := p.brain.InviteToGroup(ctx, id, other.user, false); err != nil {
		p.t.Fatal(err)
	}
	settle(2 * time.Second)
	if g := other.group(id); g.Mine != chain.StatusInvited || g.InvitedBy != p.user {
		p.t.Fatalf("%s: %+v", other.name, g)
	}
	if err := other.brain.AcceptGroup(ctx, id); err != nil {
		p.t.Fatal(err)
	}
	settle(2 * time.Second)
}

func crew(t *testing.T, names ...string) (*world, []*person) {
	w := newWorld(t)
	var out []*person
	for _, n := range names {
		out = append(out, newPerson(t, w, n).join())
	}
	return w, out
}

func stopAll(people ...*person) {
	for _, p := range people {
		p.stop()
	}
}

// TestGroupTalks: people of three servers found a group, talk in it with one
// upload each, behind the keys that their readers need, and see who is in it and what
// it is called.
func TestGroupTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test", "dan@a.test")
		ada, bob, cyd, dan := p[0], p[1], p[2], p[3]
		id := circle(t, p...)
		first := ada.tell(id, "hello all")
		settle(5 * time.Second)
		bob.tell(id, "hello ada")
		settle(5 * time.Second)
		cyd.tell(id, "and me")
		dan.tell(id, "me too")
		settle(10 * time.Second)
		ada.tell(id, "good")
		settle(2 * time.Minute)
		for _, one := range p {
			got := one.within(id)
			slices.Sort(got)
			want(t, one.name.String()+" sees", got, []string{"ada: good", "ada: hello all", "bob: hello ada", "cyd: and me", "dan: me too"})
			g := one.group(id)
			if g.Title != "the crew" || g.Description != "who row" || len(g.Members) != 4 || g.Mine != chain.StatusActive || g.Alarm != "" || g.Behind {
				t.Errorf("%s: %+v", one.name, g)
			}
			if st, _ := one.brain.Status(ctx); st.Queued != 0 || st.Healing.Lost != 0 || st.Healing.Asked != 0 {
				t.Errorf("%s: %+v", one.name, st)
			}
		}
		if s := ada.state(first); s != core.StateAtPeer {
			t.Errorf("the first is %s", s)
		}
		w.mu.Lock()
		if w.uploads != 5 {
			t.Errorf("%d uploads", w.uploads)
		}
		w.mu.Unlock()
		stopAll(p...)
	})
}

// tries takes the messages to groups that servers saw out of their seals, with the
// keys of those whom they were for, and tries every sender key that p ever got. It
// gives how many messages there were.
func (p *person) tries(readers ...*person) (n int) {
	p.t.Helper()
	p.w.mu.Lock()
	kept := slices.Clone(p.w.kept)
	p.w.mu.Unlock()
	var known []core.Entry
	err := p.store.View(ctx, func(r core.Reader) (err error) {
		known, err = r.List(core.Range{Prefix: "hear/"})
		return err
	})
	if err != nil || len(known) == 0 {
		p.t.Fatal(len(known), err)
	}
	for _, env := range kept {
		for _, reader := range readers {
			if env.Recipient != reader.user {
				continue
			}
			p.w.mu.Lock()
			root := p.w.authority(env.Origin).root.Public()
			p.w.mu.Unlock()
			receiver := sealed.Receiver{Account: keysOf(reader.user), Device: 1, Identity: core.IdentityKey(reader.brain)}
			inner, err := receiver.Open(env.Content, time.UnixMilli(int64(env.AcceptedAt)), root)
			if err != nil {
				p.t.Fatal(err)
			}
			n++
			for _, e := range known {
				r, err := sender.ParseReceiver(slices.Clone(e.Value))
				if err != nil {
					p.t.Fatal(err)
				}
				if text, err := r.Decrypt(inner.Body); err == nil {
					p.t.Errorf("%s reads %q", p.name, text)
				}
			}
		}
	}
	return n
}

func keysOf(user clearbox.UserID) keys.ServiceID { return keys.AccountServiceID(user.String()) }

// TestRemovedReadsNothing is the promise of a removal: what a device that has
// processed it encrypts, the removed member cannot read, not even with everything
// TestToldLate: who founded a group is told late that somebody accepted. What they
// write meanwhile, for nobody as far as they know, reaches them all the same.
func TestToldLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0].start(), p[1].start()
		g, err := ada.brain.CreateGroup(ctx, "the crew", "who row")
		if err != nil {
			t.Fatal(err)
		}
		alone := ada.tell(g.ID, "nobody is here")
		settle(time.Minute)
		if s := ada.state(alone); s != core.StateAtPeer {
			t.Errorf("a message for nobody is %s", s)
		}
		ada.contact(bob.name.String())
		if err := ada.brain.InviteToGroup(ctx, g.ID, bob.user, false); err != nil {
			t.Fatal(err)
		}
		settle(2 * time.Second)
		w.setShowOps(func(to clearbox.UserID, ops []wire.GroupEvent) []wire.GroupEvent {
			if to == ada.user {
				return nil
			}
			return ops
		})
		if err := bob.brain.AcceptGroup(ctx, g.ID); err != nil {
			t.Fatal(err)
		}
		settle(2 * time.Second)
		w.setShowOps(nil)
		ada.tell(g.ID, "hello bob")
		settle(time.Minute)
		want(t, "bob sees", bob.within(g.ID), []string{"ada: hello bob"})
		stopAll(p...)
	})
}

// that servers can give them.
func TestRemovedReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, p...)
		ada.tell(id, "one")
		bob.tell(id, "two")
		settle(5 * time.Second)
		if err := ada.brain.RemoveFromGroup(ctx, id, cyd.user); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second) // every member device processes it within 5 s
		w.mu.Lock()
		w.kept = nil
		w.mu.Unlock()
		ada.tell(id, "three")
		bob.tell(id, "four")
		settle(10 * time.Second)
		if err := ada.brain.SetGroupInfo(ctx, id, "without cyd", ""); err != nil {
			t.Fatal(err)
		}
		settle(10 * time.Minute)
		for _, one := range []*person{ada, bob} {
			got := one.within(id)
			slices.Sort(got)
			want(t, one.name.String()+" sees", got, []string{"ada: one", "ada: three", "bob: four", "bob: two"})
		}
		if n := cyd.tries(ada, bob); n < 2 {
			t.Errorf("only %d messages were tried", n)
		}
		for _, line := range cyd.within(id) {
			if line != "ada: one" && line != "bob: two" && line[0] != '<' {
				t.Errorf("cyd sees %q", line)
			}
		}
		if g := cyd.group(id); g.Title != "the crew" || g.Mine != chain.StatusFormer {
			t.Errorf("cyd: %+v", g)
		}
		if _, err := cyd.brain.Post(ctx, core.In(id), core.Post{Text: "still here"}); clearbox.CodeOf(err) != clearbox.CodeNotAMember {
			t.Errorf("Post = %v", err)
		}
		stopAll(p...)
	})
}

// TestJoinedReadsOn: whoever joins reads what is written from then on.
func TestJoinedReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, ada, bob)
		cyd.start()
		ada.tell(id, "one")
		settle(5 * time.Second)
		ada.bring(cyd, id)
		ada.tell(id, "two")
		bob.tell(id, "three")
		settle(10 * time.Second)
		got := cyd.within(id)
		slices.Sort(got)
		want(t, "cyd sees", got, []string{"ada: two", "bob: three"})
		if err := cyd.brain.LeaveGroup(ctx, id); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		if g := ada.group(id); len(g.Members) != 2 {
			t.Errorf("%+v", g)
		}
		stopAll(p...)
	})
}

// TestGroupKeepsTalking: a hub that is away stops changes and not the talk, and a
// member whose servers are away reads everything afterwards.
func TestGroupKeepsTalking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, p...)
		w.mu.Lock()
		w.hubAway = true
		w.mu.Unlock()
		cyd.stop()
		for i := range 3 {
			ada.tell(id, fmt.Sprint("a", i))
			bob.tell(id, fmt.Sprint("b", i))
			settle(2 * time.Second)
		}
		if err := ada.brain.RemoveFromGroup(ctx, id, cyd.user); clearbox.CodeOf(err) != clearbox.CodeUnavailable {
			t.Errorf("RemoveFromGroup = %v", err)
		}
		cyd.start()
		settle(10 * time.Second)
		got := cyd.within(id)
		for _, who := range []string{"ada: a", "bob: b"} { // in order of each sender
			of := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !strings.HasPrefix(s, who) })
			want(t, "cyd sees", of, []string{who + "0", who + "1", who + "2"})
		}
		stopAll(p...)
	})
}

// TestGroupDevices: a further device of a member reads and writes from the moment
// on at which it is known, and no longer than that.
func TestGroupDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		ada.tell(id, "one")
		settle(5 * time.Second)
		phone := bob.link(t)
		phone.start()
		settle(time.Second)
		ada.tell(id, "two")
		settle(2 * time.Minute)
		bob.tell(id, "three")
		settle(2 * time.Minute)
		if err := phone.brain.SyncGroup(ctx, id); err != nil {
			t.Fatal(err)
		}
		settle(2 * time.Minute)
		want(t, "the phone sees", phone.within(id), []string{"ada: two", "bob: three"})
		phone.tell(id, "four")
		settle(2 * time.Minute)
		want(t, "ada sees", ada.within(id), []string{"ada: one", "ada: two", "bob: three", "bob: four"})
		want(t, "bob sees", bob.within(id), []string{"ada: one", "ada: two", "bob: three", "bob: four"})
		if err := bob.brain.RemoveDevice(ctx, 2); err != nil {
			t.Fatal(err)
		}
		phone.stop()
		settle(time.Second)
		w.mu.Lock()
		w.kept = nil
		w.mu.Unlock()
		ada.tell(id, "five")
		bob.tell(id, "six")
		settle(time.Minute)
		if n := phone.tries(ada, bob); n != 2 {
			t.Errorf("%d messages were tried", n)
		}
		got := bob.within(id)
		slices.Sort(got)
		want(t, "bob sees", got, []string{"ada: five", "ada: one", "ada: two", "bob: four", "bob: six", "bob: three"})
		stopAll(p...)
	})
}

// TestGroupKeyLost: a device that has lost a sender key asks for it and reads what
// it could not, once.
func TestGroupKeyLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		ada.tell(id, "one")
		settle(5 * time.Second)
		bob.forget("hear/")
		ada.tell(id, "two")
		ada.tell(id, "three")
		settle(3 * time.Minute)
		ada.tell(id, "four")
		settle(2 * time.Hour)
		got := bob.within(id)
		slices.Sort(got)
		want(t, "bob sees", got, []string{"ada: four", "ada: one", "ada: three", "ada: two"})
		stopAll(p...)
	})
}

// TestSenderKeyAges: after a number of messages, and after a week, a device takes a
// new key.
func TestSenderKeyAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		chainOf := func() []byte {
			var raw []byte
			if err := ada.store.View(ctx, func(r core.Reader) (err error) { raw, err = r.Get("sender/" + id.String()); return err }); err != nil {
				t.Fatal(err)
			}
			key := core.SenderKeyOf(raw)
			if len(key) < 60 {
				t.Fatal(len(key))
			}
			return key[len(key)-32:] // the signing key
		}
		ada.tell(id, "one")
		settle(5 * time.Second)
		first := chainOf()
		asleep(6*24*time.Hour, ada, bob)
		ada.tell(id, "two")
		settle(5 * time.Second)
		if !slices.Equal(chainOf(), first) {
			t.Error("another key after six days")
		}
		asleep(2*24*time.Hour, ada, bob)
		ada.tell(id, "three")
		settle(5 * time.Second)
		if slices.Equal(chainOf(), first) {
			t.Error("the same key after eight days")
		}
		second := chainOf()
		core.SetLimits(ada.brain, 20)
		for i := range 21 {
			ada.tell(id, fmt.Sprint(i))
		}
		settle(time.Minute)
		if slices.Equal(chainOf(), second) {
			t.Error("the same key after as many messages as are allowed")
		}
		if got := bob.within(id); len(got) != 24 || got[23] != "ada: 20" {
			t.Errorf("bob sees %d", len(got))
		}
		stopAll(p...)
	})
}

// TestGroupSizes: whatever is written, what servers see has one of the sizes of
// sealed messages; the world refuses others.
func TestGroupSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		n := 0
		for size := 1; size < 60_000; size += 1 + size/3 {
			ada.tell(id, strings.Repeat("x", size))
			n++
		}
		for size := 300; size < 340; size++ {
			ada.tell(id, strings.Repeat("x", size))
			n++
		}
		settle(time.Minute)
		if got := bob.within(id); len(got) != n {
			t.Errorf("bob sees %d of %d", len(got), n)
		}
		sizes := map[int]bool{}
		w.mu.Lock()
		for _, e := range w.kept {
			sizes[len(e.Content)] = true
		}
		w.mu.Unlock()
		if len(sizes) > 9 {
			t.Errorf("%d sizes", len(sizes))
		}
		if _, err := ada.brain.Post(ctx, core.In(id), core.Post{Text: strings.Repeat("x", core.MaxText)}); err != nil {
			t.Error(err)
		}
		settle(time.Minute)
		stopAll(p...)
	})
}

// TestGroupOldBackup: a device that goes on from an older copy of its memory
// writes under a new sender key, and reads on after it has asked.
func TestGroupOldBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		bob.tell(id, "one")
		ada.tell(id, "two")
		settle(5 * time.Second)
		old := bob.store.Clone()
		bob.tell(id, "three")
		ada.tell(id, "four")
		settle(5 * time.Second)
		bob.stop()
		bob.store, bob.vault = old, old
		bob.open()
		bob.start()
		settle(time.Minute)
		bob.tell(id, "five")
		ada.tell(id, "six")
		settle(10 * time.Minute)
		got := ada.within(id)
		slices.Sort(got)
		want(t, "ada sees", got, []string{"ada: four", "ada: six", "ada: two", "bob: five", "bob: one", "bob: three"})
		got = bob.within(id)
		if !slices.Contains(got, "ada: six") || slices.ContainsFunc(got, func(s string) bool { return s[0] == '<' }) {
			t.Errorf("bob sees %q", got)
		}
		stopAll(p...)
	})
}
