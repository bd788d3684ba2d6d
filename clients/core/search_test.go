package core_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

func TestSearchAndConversations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := friends(t)
		carl := newPerson(t, w, "carl@c.test").join().start()
		carl.send(ada, "Coffee at nine?")
		settle(5 * time.Second)
		id := ada.send(bob, "COFFEE is ready")
		_, err := ada.brain.Post(ctx, core.With(bob.user), core.Post{File: file()})
		ada.must(err)
		ada.must(ada.brain.SetDraft(ctx, core.With(bob.user), "I was going to"))
		settle(5 * time.Second)
		in := core.With(bob.user)
		for _, x := range []struct {
			q    core.Search
			want []string
		}{
			{core.Search{Words: "coffee"}, []string{"COFFEE is ready", "Coffee at nine?"}},
			{core.Search{Words: "NINE coffee"}, []string{"Coffee at nine?"}},
			{core.Search{Words: "coffee", In: &in}, []string{"COFFEE is ready"}},
			{core.Search{Words: "coffee", Limit: 1}, []string{"COFFEE is ready"}},
			{core.Search{Words: "Cat.png"}, []string{""}},
			{core.Search{Words: "tea"}, nil},
		} {
			found, err := ada.brain.Search(ctx, x.q)
			ada.must(err)
			var texts []string
			for _, m := range found {
				texts = append(texts, m.Text)
			}
			want(t, x.q.Words, texts, x.want)
		}
		if _, err := ada.brain.Search(ctx, core.Search{Words: " "}); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
			t.Errorf("a search for nothing: %v", err)
		}

		all, err := ada.brain.Conversations(ctx)
		if err != nil || len(all) != 2 || all[0].In != in || all[0].Draft != "I was going to" || all[0].Unshown != 1 || all[1].In != core.With(carl.user) {
			t.Errorf("conversations: %+v, %v", all, err)
		}
		ada.send(bob, "done")
		if c, err := ada.brain.Conversation(ctx, in); err != nil || c.Draft != "" {
			t.Errorf("the draft of what was sent: %q, %v", c.Draft, err)
		}
		ada.must(ada.brain.Mute(ctx, in, core.MutedForever))
		if c, err := ada.brain.Conversation(ctx, in); err != nil || c.Muted != core.MutedForever {
			t.Errorf("muted until %d, %v", c.Muted, err)
		}

		// An id is found by its beginning, and not by the id of a change.
		ada.must(ada.brain.React(ctx, ada.ref(id), "👍"))
		found, err := ada.brain.Find(ctx, id.String()[:6], 2)
		if err != nil || len(found) != 1 || found[0].ID != id {
			t.Errorf("found %v, %v", found, err)
		}
		for _, prefix := range []string{"", "/", "zzzzzz"} {
			if found, err := ada.brain.Find(ctx, prefix, 2); err != nil || len(found) != 0 {
				t.Errorf("%q found %v, %v", prefix, found, err)
			}
		}

		// Pages from either end are the whole.
		lines, err := ada.brain.Lines(ctx, in, 0, 0)
		ada.must(err)
		var back []core.Message
		for before := uint64(0); ; {
			page, err := ada.brain.Before(ctx, in, before, 2)
			ada.must(err)
			if len(page) == 0 {
				break
			}
			back = append(append([]core.Message{}, page...), back...)
			before = page[0].Order
		}
		same := slices.EqualFunc(back, lines, func(x, y core.Message) bool { return x.Order == y.Order && x.ID == y.ID })
		if !same || len(lines) != 5 {
			t.Errorf("pages give %d lines, there are %d", len(back), len(lines))
		}
		for _, p := range []*person{ada, bob, carl} {
			p.stop()
		}
	})
}

// BenchmarkSearch looks through 10,000 messages.
func BenchmarkSearch(b *testing.B) {
	w := newWorld(b)
	ada := newPerson(b, w, "ada@a.test").join()
	bob := newPerson(b, w, "bob@b.test").join()
	ada.contact("bob@b.test")
	ada.must(core.Fill(ctx, ada.brain, bob.user, 10_000, "a message has about as many words as this one, and none that is looked for"))
	b.ReportAllocs()
	for b.Loop() {
		found, err := ada.brain.Search(ctx, core.Search{Words: "absent"})
		if err != nil || len(found) != 0 {
			b.Fatal(found, err)
		}
	}
}
