package core_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// receipts gives what p is to be told of own messages, member by member, once.
func (p *person) receipts() (out []string) {
	p.t.Helper()
	events, err := p.brain.Events(ctx)
	p.must(err)
	for _, e := range events {
		if e.Kind == core.KindReceipt && e.Line != nil {
			out = append(out, e.Line.Text+" "+string(e.Actor.Server)+" "+string(e.State)+" "+string(e.Reason))
		}
	}
	p.must(p.brain.MarkSeen(ctx, events...))
	slices.Sort(out)
	return out
}

// TestGroupReach: a message to a group says how many of its members have it, who
// tells that they read it, and whom it was refused for; and goes to those again
// when their server's operator asks for it, and to nobody else.
func TestGroupReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test", "dan@d.test")
		ada, bob, cyd, dan := p[0], p[1], p[2], p[3]
		id := circle(t, p...)
		reach := func(m clearbox.MessageID, state core.State, want core.Reach) {
			t.Helper()
			line, err := ada.brain.Message(ctx, m)
			if err != nil || line.State != state || line.Reach == nil || *line.Reach != want {
				t.Errorf("it is %s with %+v (%v), want %s with %+v", line.State, line.Reach, err, state, want)
			}
		}
		first := ada.tell(id, "one")
		settle(2 * time.Minute)
		reach(first, core.StateAtPeer, core.Reach{Of: 3}) // nobody has accepted her
		bob.must(bob.brain.Accept(ctx, ada.user))
		cyd.must(cyd.brain.Accept(ctx, ada.user))
		bob.must(bob.brain.SetSettings(ctx, core.Settings{ReadReceipts: true}))
		bob.must(cyd.brain.SetSettings(ctx, core.Settings{ReadReceipts: true}))
		dan.stop()
		second := ada.tell(id, "two")
		settle(2 * time.Minute)
		reach(second, core.StateAtPeer, core.Reach{Of: 3, Delivered: 2})
		bob.showAll()
		settle(time.Minute)
		reach(second, core.StateAtPeer, core.Reach{Of: 3, Delivered: 2, Read: 1})

		// Dan's server had no room for it: it is in his mailbox no more, and ada is told.
		w.mu.Lock()
		d := w.accounts[dan.user].devices[1]
		d.mail = slices.DeleteFunc(d.mail, func(f wire.ServerFrame) bool { return f.Envelope != nil })
		w.mu.Unlock()
		dan.must(dan.brain.Accept(ctx, ada.user))
		dan.start()
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: second, Recipient: dan.user, Code: clearbox.CodeMailboxFull})
		settle(time.Minute)
		reach(second, core.StateAtPeer, core.Reach{Of: 3, Delivered: 2, Read: 1, Failed: 1})
		want(t, "ada is told", ada.receipts(), []string{"one b.test read ", "two b.test delivered ", "two b.test read ", "two c.test delivered ", "two d.test failed mailbox_full"})
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeRequeue, ID: second, Recipient: cyd.user})
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeRequeue, ID: second, Recipient: dan.user})
		settle(2 * time.Minute)
		want(t, "dan sees", dan.within(id), []string{"ada: one", "ada: two"})
		reach(second, core.StateDelivered, core.Reach{Of: 3, Delivered: 3, Read: 1})
		cyd.showAll()
		dan.must(dan.brain.SetSettings(ctx, core.Settings{ReadReceipts: true}))
		dan.showAll()
		settle(2 * time.Minute)
		reach(second, core.StateRead, core.Reach{Of: 3, Delivered: 3, Read: 3})
		want(t, "ada is told", ada.receipts(), []string{"one c.test read ", "one d.test read ", "two c.test read ", "two d.test delivered ", "two d.test read "})

		// A receipt of somebody who is not in the group counts for nothing.
		eve := newPerson(t, w, "eve@a.test").join().start()
		ada.contact("eve@a.test")
		eve.contact("ada@a.test")
		eve.must(core.SendContent(ctx, eve.brain, ada.user, core.Content{Kind: core.KindReceipt, Read: []clearbox.MessageID{first}}))
		settle(time.Minute)
		line, err := ada.brain.Message(ctx, first)
		ada.must(err)
		fates, err := ada.brain.Members(ctx, line)
		if err != nil || len(fates) != 3 || line.Reach.Read != 3 || slices.ContainsFunc(fates, func(f core.MemberFate) bool { return f.User == eve.user }) {
			t.Errorf("%+v, %v, %v", line.Reach, fates, err)
		}
		stopAll(append(p, eve)...)
	})
}
