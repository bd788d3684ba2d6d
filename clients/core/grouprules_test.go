package core_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
)

// TestGroupRules: what is written disappears when the group's rules say so, by the
// rules of the moment at which it was encrypted; nobody writes for whom the rules
// exclude, and rules that exclude somebody who is in are not made.
func TestGroupRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		rule := func(edit func(*chain.Policy)) {
			t.Helper()
			ada.must(ada.brain.SetGroupPolicy(ctx, id, edit))
			settle(2 * time.Second)
		}
		expires := func(who *person, m clearbox.MessageID) uint32 {
			t.Helper()
			line, err := who.brain.Line(ctx, ada.ref(m))
			who.must(err)
			return line.Expires
		}
		before := ada.tell(id, "for ever")
		settle(5 * time.Second)
		rule(func(p *chain.Policy) { p.Disappear = 3600 })
		bob.stop()
		hour := ada.tell(id, "for an hour")
		settle(5 * time.Second)
		rule(func(p *chain.Policy) { p.Disappear = 60 })
		bob.start()
		minute := ada.tell(id, "for a minute")
		settle(5 * time.Second)
		for m, seconds := range map[clearbox.MessageID]uint32{before: 0, hour: 3600, minute: 60} {
			if a, b := expires(ada, m), expires(bob, m); a != seconds || b != seconds {
				t.Errorf("%d s at ada, %d s at bob, want %d", a, b, seconds)
			}
		}
		if c, err := bob.brain.Conversation(ctx, core.In(id)); err != nil || c.Timer != time.Minute {
			t.Errorf("%+v, %v", c, err)
		}
		if _, err := ada.brain.SetTimer(ctx, core.In(id), time.Hour); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
			t.Errorf("SetTimer = %v", err)
		}
		err := ada.brain.SetGroupPolicy(ctx, id, func(p *chain.Policy) { p.Servers = []string{"a.test"} })
		if clearbox.CodeOf(err) != clearbox.CodeForbidden {
			t.Errorf("SetGroupPolicy = %v", err)
		}
		w.mu.Lock()
		w.country = "AT"
		w.mu.Unlock()
		rule(func(p *chain.Policy) { p.Countries, p.Disappear = []string{"AT"}, 0 })
		settle(25 * time.Hour)
		m := ada.tell(id, "in Austria")
		settle(2 * time.Minute)
		if s := ada.state(m); s != core.StateAtPeer {
			t.Errorf("it is %s", s)
		}
		w.mu.Lock()
		w.country = "US"
		w.mu.Unlock()
		settle(25 * time.Hour)
		m = ada.tell(id, "not any more")
		settle(5 * time.Second)
		if line, err := ada.brain.Message(ctx, m); err != nil || line.State != core.StateFailed || line.Reason != "policy_excluded" {
			t.Errorf("%+v, %v", line, err)
		}
		stopAll(p...)
	})
}
