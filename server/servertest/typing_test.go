package servertest_test

import (
	"context"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Brains of two organisations tell each other that somebody types, where both
// administrators allow it, and not where one does not.
func TestBrainsTellTyping(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test", "b.test"}, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		alice.Say(bob, "one")
		time.Sleep(time.Minute)
		bob.Say(alice, "re: one")
		time.Sleep(2 * time.Minute)
		types := func() int {
			if err := alice.Brain.SetTyping(context.Background(), bob.User); err != nil {
				w.T.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			return len(bob.Brain.Typing())
		}
		features := []string{wire.FeatureTyping}
		w.House("a.test").Admin("POST", "/admin/peers/b.test/set", wire.AdminPeerSet{Features: &features}, nil)
		if n := types(); n != 0 {
			t.Errorf("b.test did not allow it, and %d type", n)
		}
		w.House("b.test").Admin("POST", "/admin/peers/a.test/set", wire.AdminPeerSet{Features: &features}, nil)
		time.Sleep(time.Minute)
		if n := types(); n != 1 {
			t.Errorf("%d type", n)
		}
		time.Sleep(10 * time.Second)
		if n := len(bob.Brain.Typing()); n != 0 {
			t.Errorf("%d type still", n)
		}
	})
}
