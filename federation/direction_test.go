package federation_test

import (
	"context"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// A peer to which messages only go out has its own rejected one by one, at
// once, and is still heard about ours; it gets no names and no keys.
func TestDirectionOut(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		b.peers.change("a.test", func(p *federation.Peer) { p.Direction = federation.DirectionOut })
		a.outbox.add("a.test", "b.test").item.Bounce = clearbox.CodeExpired
		a.send("b.test", 3)
		wait(t, 5*time.Second)
		rejected, passed := 0, 0
		a.outbox.mu.Lock()
		for _, r := range a.outbox.rows {
			switch {
			case r.settled == 1 && r.verdict == federation.VerdictRejected && r.item.Bounce == "":
				rejected++
			case r.settled == 1 && r.item.Bounce != "":
				passed++
			}
		}
		a.outbox.mu.Unlock()
		if rejected != 3 || passed != 1 {
			t.Errorf("%d rejected, %d passed", rejected, passed)
		}
		address := clearbox.Address{Handle: "bob", Server: "b.test"}
		if _, err := a.client.Resolve(context.Background(), address); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("a name: %v", err)
		}
		if _, err := a.client.Claim(context.Background(), clearbox.UserID{UID: knownUID, Server: "b.test"}, "c", nil, nil); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("keys: %v", err)
		}
		if b.dir.calls != 0 {
			t.Error("the directory was asked")
		}
		b.peers.change("a.test", func(p *federation.Peer) { p.Direction = federation.DirectionBoth })
		if _, err := a.client.Resolve(context.Background(), address); err != nil {
			t.Errorf("both ways again: %v", err)
		}
	})
}

// A quota of a peer's own holds at once, when it is set and when it is taken
// away.
func TestQuotaOfOnePeer(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		b.peers.change("a.test", func(p *federation.Peer) { p.Envelopes = 10 })
		a.send("b.test", 1000)
		wait(t, time.Minute)
		if n := b.acceptor.count(); n < 256 || n > 50+60*10+federation.MaxItems {
			t.Errorf("%d accepted in a minute at 10 a second", n)
		}
		b.peers.change("a.test", func(p *federation.Peer) { p.Envelopes = 0 })
		wait(t, 2*time.Minute)
		if n := b.acceptor.count(); n != 1000 {
			t.Errorf("%d accepted when the quota was gone", n)
		}
	})
}

// Row 11: a peer that brings ten times its quota for ten minutes takes nothing
// from another one.
func TestThreat11QueueFlooding(t *testing.T) {
	const quota, minutes = 10, 10
	world3(t, func(w *world) {
		w.nodes["b.test"].rate = quota
	}, func(w *world, a, b, c *node) {
		flood, late := 0, 0
		for range minutes * 60 {
			a.send("b.test", 10*quota)
			flood += 10 * quota
			c.send("b.test", 1)
			wait(t, time.Second)
			if c.outbox.unsettled() != 0 {
				late++
			}
		}
		if late != 0 {
			t.Errorf("messages of a peer within its quota were late in %d of %d seconds", late, minutes*60)
		}
		got := b.acceptor.count() - minutes*60
		if most := quota*(minutes*60+5) + federation.MaxItems; got > most || got < most/2 {
			t.Errorf("%d of %d flooding messages were accepted, at most %d are allowed", got, flood, most)
		}
		if a.outbox.unsettled() != flood-got {
			t.Errorf("%d wait of %d, %d were accepted: some are lost", a.outbox.unsettled(), flood, got)
		}
		w.stop() // the rest would take another ninety minutes
	})
}
