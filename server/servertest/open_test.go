package servertest_test

import (
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// In mode open two organisations that never heard of each other talk; a block
// ends that within five seconds, and what is written then is reported.
func TestStrangersTalkInModeOpen(t *testing.T) {
	servertest.RunOpen(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		alice.Say(bob, "we have never met before")
		took := w.Wait("bob has it", 5*time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })
		t.Logf("first message to a stranger's server after %v", took)
		var list wire.AdminPeers
		w.House("b.test").Admin("GET", "/admin/peers", nil, &list)
		if len(list.Peers) != 1 || list.Peers[0].Server != "a.test" || !list.Peers[0].FirstUse || list.Peers[0].ProbationUntil == 0 || list.Peers[0].Country != "AT" {
			t.Errorf("b.test knows %+v", list.Peers)
		}
		w.House("a.test").Admin("POST", "/admin/fed/blocks", wire.AdminBlockSet{Name: "b.test", Reason: "test"}, nil)
		refused := alice.Say(bob, "and now we may not any more")
		w.Wait("reported", 5*time.Second, func() bool { s, _ := alice.State(refused); return s == core.StateFailed })
		if _, code := alice.State(refused); code != clearbox.CodePeerBlocked {
			t.Errorf("reported as %s", code)
		}
	})
}
