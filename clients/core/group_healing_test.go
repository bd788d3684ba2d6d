package core_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
)

// TestGroupChangesLost: edits, reactions and deletions that could not be read in a
// group come again as far as they still hold, of others their line goes, and nobody
// talks about it more than a few times.
func TestGroupChangesLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		one, two := ada.tell(id, "one"), ada.tell(id, "two")
		three := bob.tell(id, "three")
		settle(5 * time.Second)
		bob.forget("hear/")
		may := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			settle(200 * time.Millisecond)
		}
		ada.net.setAway(true)
		may(ada.brain.Edit(ctx, core.Ref{ID: one, Author: ada.user}, "uno"))
		may(ada.brain.Edit(ctx, core.Ref{ID: one, Author: ada.user}, "un")) // in place of the one before
		may(ada.brain.React(ctx, core.Ref{ID: three, Author: bob.user}, "👍"))
		may(ada.brain.Delete(ctx, core.Ref{ID: two, Author: ada.user}))
		ada.net.setAway(false)
		settle(time.Hour)
		got := bob.within(id)
		slices.Sort(got)
		want(t, "bob sees", got, []string{"<deleted >", "ada: un", "bob: three"})
		line, err := bob.brain.Line(ctx, core.Ref{ID: three, Author: bob.user})
		if err != nil || len(line.Reactions) != 1 || line.Reactions[0].Emoji != "👍" {
			t.Errorf("three is %+v, %v", line, err)
		}
		if h := bob.healing(); h.Asked == 0 || h.Asked > 4 {
			t.Errorf("bob's healing %+v", h)
		}
		stopAll(p...)
	})
}

// TestGroupAskingEnds: a device asks for what its sender cannot give a few times,
// whatever the sender answers.
func TestGroupAskingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		ada.tell(id, "one")
		settle(5 * time.Second)
		bob.forget("hear/")
		ada.net.setAway(true)
		two := ada.tell(id, "two")
		if err := core.Backdate(ctx, ada.brain, core.Ref{ID: two, Author: ada.user}, 40*24*time.Hour); err != nil { // so that it is not given again
			t.Fatal(err)
		}
		ada.net.setAway(false)
		settle(4 * time.Hour)
		got := bob.within(id)
		slices.Sort(got)
		want(t, "bob sees", got, []string{"<undecryptable no_session>", "ada: one"})
		if h := bob.healing(); h.Asked == 0 || h.Asked > 8 {
			t.Errorf("bob's healing %+v", h)
		}
		stopAll(p...)
	})
}

// TestGroupKeyForOtherKeys: whom a server shows in a member's place, under keys that
// nobody invited, gets neither a sender key nor a message of the group.
func TestGroupKeyForOtherKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		settle(time.Minute)
		bob.stop()
		secret := ada.tell(id, "for bob alone")
		settle(time.Minute)
		eve := w.impostor(t, bob)
		eve.start()
		eve.contact("ada@a.test")
		before := len(ada.heard(bob))
		if err := core.SendKeyRequest(ctx, eve.brain, id, ada.group(id).Epoch, ada.user, 1, secret); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if got := ada.heard(bob); len(got) == before { // ada's device has read it: it says that the keys changed
			t.Errorf("ada heard %q", got)
		}
		if n := eve.count("hear/"); n != 0 {
			t.Errorf("the impostor has %d sender keys", n)
		}
		if got := eve.within(id); slices.Contains(got, "ada: for bob alone") {
			t.Errorf("the impostor reads %q", got)
		}
		stopAll(ada, eve)
	})
}
