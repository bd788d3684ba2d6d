package servertest_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/servertest"
)

var three = []clearbox.ServerName{"a.test", "b.test", "c.test"}

// within gives the texts of a group's lines as somebody sees them, without their
// order, which differs from device to device between different senders.
func within(t testing.TB, p *servertest.Person, id clearbox.GroupID) []string {
	t.Helper()
	lines, err := p.Brain.Lines(context.Background(), core.In(id), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range lines {
		switch m.Kind {
		case core.MessageText:
			out = append(out, m.Text)
			if m.Unproven() {
				t.Errorf("%s cannot prove who wrote a message of the group", p.Name)
			}
		case core.MessageGroup:
		default:
			out = append(out, "("+string(m.Kind)+" "+string(m.Reason)+")")
		}
	}
	slices.Sort(out)
	return out
}

// founded makes a group of the first person and has the others accept.
func founded(t testing.TB, w *servertest.World, people ...*servertest.Person) clearbox.GroupID {
	t.Helper()
	owner := people[0]
	g, err := owner.Brain.CreateGroup(context.Background(), "the quiet lake", "")
	if err != nil {
		t.Fatal(err)
	}
	w.Secret("the quiet lake")
	for _, p := range people[1:] {
		c, err := owner.Brain.Contact(context.Background(), p.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := owner.Brain.InviteToGroup(context.Background(), g.ID, c.User, false); err != nil {
			t.Fatal(err)
		}
		w.Wait(p.Name+" is invited", time.Minute, func() bool {
			got, err := p.Brain.Group(context.Background(), g.ID)
			return err == nil && got.Mine == chain.StatusInvited && got.Title != ""
		})
		if err := p.Brain.AcceptGroup(context.Background(), g.ID); err != nil {
			t.Fatal(p.Name, err)
		}
	}
	for _, p := range people {
		w.Wait(p.Name+" sees everybody", time.Minute, func() bool {
			got, err := p.Brain.Group(context.Background(), g.ID)
			return err == nil && len(got.Members) == len(people) && !slices.ContainsFunc(got.Members, func(m core.GroupMember) bool { return m.Invited })
		})
	}
	return g.ID
}

func tellAll(t testing.TB, w *servertest.World, p *servertest.Person, id clearbox.GroupID, text string) clearbox.MessageID {
	t.Helper()
	w.Secret(text)
	m, err := p.Brain.Post(context.Background(), core.In(id), core.Post{Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return m.ID
}

// TestGroupAcrossThreeServers: a group talks across three organisations, goes on
// while its hub is cut off, and whoever was removed reads nothing that a device
// wrote which knew of it.
func TestGroupAcrossThreeServers(t *testing.T) {
	servertest.Run(t, three, func(w *servertest.World) {
		t := w.T
		alice, bob, carol := w.Join("alice@a.test"), w.Join("bob@b.test"), w.Join("carol@c.test")
		id := founded(t, w, alice, bob, carol)
		first := tellAll(t, w, alice, id, "a first word to all of you")
		tellAll(t, w, bob, id, "a second one")
		tellAll(t, w, carol, id, "and a third")
		all := []string{"a first word to all of you", "a second one", "and a third"}
		for _, p := range []*servertest.Person{alice, bob, carol} {
			w.Wait(p.Name+" has three", 2*time.Minute, func() bool { return slices.Equal(within(t, p, id), all) })
		}
		w.Wait("it is at every server", 2*time.Minute, func() bool { s, _ := alice.State(first); return s == core.StateAtPeer })

		// The hub cannot be reached: the talk goes on, and membership stays.
		w.Partition("a.test", "b.test")
		w.Partition("a.test", "c.test")
		tellAll(t, w, bob, id, "while the hub is away")
		w.Wait("carol reads on", 2*time.Minute, func() bool { return slices.Contains(within(t, carol, id), "while the hub is away") })
		if err := bob.Brain.LeaveGroup(context.Background(), id); err == nil {
			t.Error("somebody left without the hub")
		}
		w.Heal("a.test", "b.test")
		w.Heal("a.test", "c.test")
		w.Wait("alice too", 20*time.Minute, func() bool { return slices.Contains(within(t, alice, id), "while the hub is away") })

		if err := alice.Brain.RemoveFromGroup(context.Background(), id, carol.User); err != nil {
			t.Fatal(err)
		}
		took := w.Wait("bob knows", time.Minute, func() bool {
			g, err := bob.Brain.Group(context.Background(), id)
			return err == nil && len(g.Members) == 2
		})
		if took > 5*time.Second {
			t.Errorf("the removal took %v to be processed", took)
		}
		tellAll(t, w, alice, id, "not for carol")
		tellAll(t, w, bob, id, "nor is this")
		w.Wait("both read on", 2*time.Minute, func() bool {
			return slices.Contains(within(t, alice, id), "nor is this") && slices.Contains(within(t, bob, id), "not for carol")
		})
		for _, line := range within(t, carol, id) {
			if strings.HasPrefix(line, "no") {
				t.Errorf("carol reads %q", line)
			}
		}
	})
}
