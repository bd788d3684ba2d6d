package core_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// view is how p sees the conversation with other, line by line: who, what, the
// reactions in the order of people.
func (p *person) view(other *person) []string {
	p.t.Helper()
	lines, err := p.brain.Messages(ctx, other.user, 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, m := range lines {
		line := string(m.Kind)
		if m.Kind == core.MessageText {
			line = m.Text
		}
		if m.Unproven() && !p.doubts {
			line += " (unproven)"
		}
		if m.Edited > 0 && m.Kind == core.MessageText {
			line += "*"
		}
		var beside []string
		for _, r := range m.Shown() {
			beside = append(beside, r.User.String()+r.Emoji)
		}
		slices.Sort(beside)
		for _, r := range beside {
			line += " " + r[strings.LastIndex(r, ".test")+5:]
		}
		out = append(out, line)
	}
	return out
}

// friends are two people who have written to each other.
func friends(t *testing.T) (*world, *person, *person) {
	w, ada, bob := pair(t)
	ada.start()
	bob.start()
	ada.send(bob, "hello")
	settle(5 * time.Second)
	bob.send(ada, "hi")
	settle(5 * time.Second)
	return w, ada, bob
}

func (p *person) ref(id clearbox.MessageID) core.Ref { return core.Ref{ID: id, Author: p.user} }

func (p *person) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// showAll marks everything as shown and gives the events that were new.
func (p *person) showAll() (texts, events []string) {
	p.t.Helper()
	lines, err := p.brain.Unshown(ctx, 0)
	p.must(err)
	for _, m := range lines {
		texts = append(texts, string(m.Kind)+" "+m.Text)
	}
	p.must(p.brain.MarkShown(ctx, lines...))
	seen, err := p.brain.Events(ctx)
	p.must(err)
	for _, e := range seen {
		if e.Kind == core.KindReceipt {
			continue
		}
		line := e.Kind.String()
		if e.Line != nil {
			line += " " + e.Line.Text
		}
		events = append(events, line+" "+e.Emoji)
	}
	p.must(p.brain.MarkSeen(ctx, seen...))
	return texts, events
}

func TestReplyEditDeleteReact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := friends(t)
		bob.showAll()
		one := ada.send(bob, "one")
		two := ada.send(bob, "two")
		settle(5 * time.Second)
		texts, events := bob.showAll()
		want(t, "new to bob", texts, []string{"text one", "text two"})
		want(t, "events of bob", events, nil)

		answer, err := bob.brain.Post(ctx, core.With(ada.user), core.Post{Text: "to one", Reply: &core.Ref{ID: one, Author: ada.user}})
		bob.must(err)
		bob.must(bob.brain.React(ctx, ada.ref(two), "👍"))
		ada.must(ada.brain.Edit(ctx, ada.ref(one), "uno"))
		settle(5 * time.Second)
		ada.must(ada.brain.React(ctx, bob.ref(answer.ID), "🎉"))
		ada.must(ada.brain.Delete(ctx, ada.ref(two)))
		bob.must(bob.brain.React(ctx, ada.ref(one), "👎"))
		bob.must(bob.brain.React(ctx, ada.ref(one), ""))
		settle(5 * time.Second)

		same := []string{"hello", "hi", "uno*", "deleted", "to one 🎉"}
		want(t, "ada's view", ada.view(bob), same)
		want(t, "bob's view", bob.view(ada), same)
		m, err := ada.brain.Line(ctx, bob.ref(answer.ID))
		if err != nil || m.Reply == nil || *m.Reply != ada.ref(one) {
			t.Errorf("ada sees an answer to %+v, %v", m.Reply, err)
		}
		_, events = bob.showAll()
		want(t, "events of bob", events, []string{"edit uno ", "reaction to one 🎉", "delete  "})
		_, events = bob.showAll()
		want(t, "events once more", events, nil)

		// What is not allowed is refused here already.
		for name, err := range map[string]error{
			"edit of bob's":  ada.brain.Edit(ctx, bob.ref(answer.ID), "mine"),
			"delete bob's":   ada.brain.Delete(ctx, bob.ref(answer.ID)),
			"edit a deleted": ada.brain.Edit(ctx, ada.ref(two), "again"),
			"react to it":    bob.brain.React(ctx, ada.ref(two), "👍"),
		} {
			if clearbox.CodeOf(err) != clearbox.CodeForbidden {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := ada.brain.Edit(ctx, ada.ref(clearbox.MessageID{9}), "x"); !errors.Is(err, core.ErrNoMessage) {
			t.Errorf("edit of nothing: %v", err)
		}
		if err := ada.brain.React(ctx, ada.ref(one), "two words"); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
			t.Errorf("a sentence as a reaction: %v", err)
		}
		// A reaction must not come back by a receipt, a restart, a repeat.
		ada.stop()
		bob.stop()
		bob.open()
		want(t, "after a restart", bob.view(ada), same)
	})
}

// TestHostileChanges: a modified client asks for what it may not.
func TestHostileChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := friends(t)
		carl := newPerson(t, w, "carl@c.test").join()
		carl.start()
		carl.send(ada, "I am carl")
		settle(5 * time.Second)
		adas := ada.send(bob, "said by ada")
		toCarl := ada.send(carl, "to carl")
		settle(5 * time.Second)
		before := ada.view(bob)
		for _, c := range []core.Content{
			{Kind: core.KindEdit, Text: "said by bob", Target: &core.Ref{ID: adas, Author: ada.user}},
			{Kind: core.KindDelete, Target: &core.Ref{ID: adas, Author: ada.user}},
			{Kind: core.KindReaction, Emoji: "👍", Target: &core.Ref{ID: toCarl, Author: ada.user}}, // of another conversation
			{Kind: core.KindReaction, Emoji: "👍", Target: &core.Ref{ID: clearbox.MessageID{7}, Author: carl.user}},
			{Kind: core.KindReceipt, Read: []clearbox.MessageID{toCarl}},
		} {
			bob.must(core.SendContent(ctx, bob.brain, ada.user, c))
		}
		settle(10 * time.Second)
		want(t, "ada's view", ada.view(bob), before)
		want(t, "ada's view of carl", ada.view(carl), []string{"I am carl", "to carl"})
		st, err := ada.brain.Status(ctx)
		if err != nil || st.Ignored != 4 {
			t.Errorf("ignored %d, %v", st.Ignored, err)
		}
		if s := ada.state(toCarl); s == core.StateRead {
			t.Error("bob said that carl has read it")
		}
		for _, p := range []*person{ada, bob, carl} {
			p.stop()
		}
	})
}

// TestChangesBeforeTheirMessage: what refers to a message that is not here yet
// waits for it, for a month and not in any number.
func TestChangesBeforeTheirMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := friends(t)
		bob.doubts = true // the contents below have no proof
		id := func(n int) clearbox.MessageID { return clearbox.MessageID{1, byte(n), byte(n >> 8)} }
		send := func(c core.Content) { ada.must(core.SendContent(ctx, ada.brain, bob.user, c)) }
		at := func(n int) *core.Ref { return &core.Ref{ID: id(n)} }
		now := clearbox.Millis(time.Now().UnixMilli())
		send(core.Content{Kind: core.KindEdit, ID: id(101), Sent: now + 2, Text: "last", Target: at(1)})
		send(core.Content{Kind: core.KindEdit, ID: id(102), Sent: now + 1, Text: "earlier", Target: at(1)})
		send(core.Content{Kind: core.KindReaction, ID: id(103), Sent: now, Emoji: "👍", Target: at(1)})
		send(core.Content{Kind: core.KindDelete, ID: id(104), Sent: now, Target: at(2)})
		send(core.Content{Kind: core.KindEdit, ID: id(105), Sent: now, Text: "too late", Target: at(3)})
		settle(5 * time.Second)
		want(t, "bob's view", bob.view(ada), []string{"hello", "hi"})
		send(core.Content{Kind: core.KindText, ID: id(1), Text: "first"})
		send(core.Content{Kind: core.KindText, ID: id(2), Text: "secret"})
		settle(5 * time.Second)
		want(t, "bob's view", bob.view(ada), []string{"hello", "hi", "last* 👍", "deleted"})
		for range 2 {
			asleep(16*24*time.Hour, ada, bob)
			settle(time.Minute)
		}
		bob.must(bob.brain.Tidy(ctx))
		send(core.Content{Kind: core.KindText, ID: id(3), Text: "third"})
		settle(5 * time.Second)
		if v := bob.view(ada); v[len(v)-1] != "third" {
			t.Errorf("a change of a month ago: %q", v)
		}
		core.SetLimits(bob.brain, 20)
		for n := range 26 {
			send(core.Content{Kind: core.KindReaction, Emoji: "x", Target: at(1000 + n)})
		}
		settle(time.Minute)
		if st, err := bob.brain.Status(ctx); err != nil || st.Ignored != 6 {
			t.Errorf("ignored %d, %v", st.Ignored, err)
		}
		ada.stop()
		bob.stop()
	})
}

// TestChangeWaitsForConsent: a change to what waits for consent waits behind it,
// and what is taken back before anybody got it is never sent.
func TestChangeWaitsForConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ada := newPerson(t, w, "ada@a.test").join().start()
		bob := newPerson(t, w, "bob@b.test")
		bob.closed = true
		bob.join().start()
		asking := ada.contact("bob@b.test").User // whom nobody may find
		say := func(text string) clearbox.MessageID {
			m, err := ada.brain.Send(ctx, asking, text)
			ada.must(err)
			return m.ID
		}
		kept, lost := say("kept"), say("lost")
		settle(time.Minute)
		ada.must(ada.brain.Edit(ctx, ada.ref(kept), "kept and changed"))
		ada.must(ada.brain.Delete(ctx, ada.ref(lost)))
		settle(time.Minute)
		asked, err := bob.brain.Requests(ctx)
		if err != nil || len(asked) != 1 {
			t.Fatalf("%v, %v", asked, err)
		}
		bob.must(bob.brain.Accept(ctx, asked[0].User))
		settle(time.Minute)
		want(t, "bob's view", bob.view(ada), []string{"kept and changed*"})
		lines, err := ada.brain.Messages(ctx, bob.user, 0, 0)
		if err != nil || len(lines) != 2 || lines[0].Text != "kept and changed" || lines[1].Kind != core.MessageDeleted {
			t.Errorf("ada's lines: %+v, %v", lines, err)
		}
		ada.stop()
		bob.stop()
	})
}

// TestChangeThatIsGivenUp is noted at its message.
func TestChangeThatIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := friends(t)
		one := ada.send(bob, "one")
		settle(5 * time.Second)
		w.setRefuse(func(*wire.Submission) error { return refusal(clearbox.CodeForbidden) })
		ada.must(ada.brain.Edit(ctx, ada.ref(one), "two"))
		settle(5 * time.Second)
		m, err := ada.brain.Line(ctx, ada.ref(one))
		if err != nil || m.Unsent != clearbox.CodeForbidden || !m.State.Arrived() {
			t.Errorf("%+v, %v", m, err)
		}
		want(t, "bob's view", bob.view(ada)[2:], []string{"one"})
		ada.stop()
		bob.stop()
	})
}

func ExampleKind_String() {
	fmt.Println(core.KindReaction, core.Kind(77))
	// Output: reaction 77
}

// TestLostChangesHeal: bob loses his sessions while ada edits, takes back and
// reacts; what he cannot read is asked for, and what still holds comes again.
func TestLostChangesHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := talked(t)
		bobs := bob.send(ada, "of bob")
		settle(5 * time.Second)
		adas, other, file := ada.send(bob, "of ada"), ada.send(bob, "other"), file()
		settle(5 * time.Second)
		bob.forget("session/")
		ada.net.setAway(true)
		ada.must(ada.brain.Edit(ctx, ada.ref(adas), "superseded"))
		ada.must(ada.brain.Edit(ctx, ada.ref(adas), "edited"))
		ada.must(ada.brain.React(ctx, bob.ref(bobs), "👍"))
		ada.must(ada.brain.Delete(ctx, ada.ref(other)))
		_, err := ada.brain.Post(ctx, core.With(bob.user), core.Post{Text: "see", File: file, Reply: &core.Ref{ID: bobs, Author: bob.user}})
		ada.must(err)
		ada.net.setAway(false)
		settle(10 * time.Minute) // the fourth request has to wait for a while
		same := []string{"two", "of bob 👍", "edited*", "deleted", "file"}
		want(t, "ada's view", ada.view(bob)[2:], same)
		want(t, "bob's view", bob.view(ada)[2:], same)
		lines, err := bob.brain.Recent(ctx, ada.user, 1)
		if err != nil || len(lines) != 1 || lines[0].File == nil || lines[0].File.Name != file.Name || lines[0].Text != "see" || lines[0].Reply == nil {
			t.Errorf("the file that came again: %+v, %v", lines, err)
		}
		ada.stop()
		bob.stop()
	})
}

// TestChangesOnOwnDevices: what one device does, the others see.
func TestChangesOnOwnDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := friends(t)
		phone := bob.link(t)
		phone.start()
		settle(time.Second)
		hers := ada.send(bob, "from ada")
		settle(10 * time.Second)
		his, other := bob.send(ada, "from bob"), bob.send(ada, "other")
		settle(10 * time.Second)
		bob.must(bob.brain.React(ctx, ada.ref(hers), "👍"))
		phone.must(phone.brain.Edit(ctx, phone.ref(his), "from bob's phone"))
		bob.must(bob.brain.Delete(ctx, bob.ref(other)))
		_, err := phone.brain.SetTimer(ctx, core.With(ada.user), time.Hour)
		phone.must(err)
		settle(10 * time.Second)
		same := []string{"from ada 👍", "from bob's phone*", "deleted", "timer"}
		hears := append([]string{same[0], "devices_changed"}, same[1:]...)
		want(t, "ada's view", ada.view(bob)[2:], hears)
		want(t, "bob's view", bob.view(ada)[2:], same)
		want(t, "the phone's view", phone.view(ada), same)
		for _, p := range []*person{bob, phone} {
			if c, err := p.brain.Conversation(ctx, core.With(ada.user)); err != nil || c.Timer != time.Hour {
				t.Errorf("%v, %v", c.Timer, err)
			}
			if _, events := p.showAll(); len(events) != 0 {
				t.Errorf("bob is told what he did himself: %q", events)
			}
		}
		phone.send(ada, "short-lived")
		settle(61 * time.Minute)
		want(t, "bob's view", bob.view(ada)[2:], same)
		want(t, "the phone's view", phone.view(ada), same)
		for _, p := range []*person{ada, bob, phone} {
			p.stop()
		}
	})
}
