package delivery_test

import (
	"slices"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/delivery"
)

// What waits for a server whose peering ended is reported, not kept in silence.
func TestGiveUpReportsWhatWaits(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.stranger()
	lease, ids := w.outbox(alice.devices[0], bob, "sent, no answer", "waits", "waits too")
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 1, 1<<20)
	must(t, err)
	must(t, w.router.GiveUp(bg, "other.test"))
	if got := w.contents(alice.devices[0], 0); len(got) != 0 {
		t.Fatalf("giving up another server reported %q", got)
	}
	for range 2 { // the second finds nothing left
		must(t, w.router.GiveUp(bg, away))
	}
	if got := slices.Sorted(slices.Values(w.contents(alice.devices[0], 0))); !slices.Equal(got, []string{"undeliverable:outcome_unknown", "undeliverable:peer_blocked", "undeliverable:peer_blocked"}) {
		t.Errorf("alice was told %q", got)
	}
	for _, state := range w.states(alice.devices[0], ids...) {
		if state != delivery.StatusUndeliverable {
			t.Errorf("state %s", state)
		}
	}
	late := []federation.Verdict{{Code: federation.VerdictOK}}
	if err := w.router.Settle(bg, away, federation.ClassMessage, lease, batch, late); clearbox.CodeOf(err) != clearbox.CodeFenced {
		t.Errorf("the old lease settles: %v", err)
	}
	due, err := w.router.Due(bg, federation.ClassMessage)
	must(t, err)
	next, more := w.outbox(alice.devices[0], bob, "after a new peering")
	if len(due) != 0 || string(next.Stream) == string(lease.Stream) || next.Fence <= lease.Fence || len(more) != 1 {
		t.Errorf("due %v, lease %+v after %+v", due, next, lease)
	}
	batch, err = w.router.Take(bg, away, federation.ClassMessage, next, 10, 1<<20)
	must(t, err)
	if batch.FirstPos != 1 || len(batch.Items) != 1 {
		t.Errorf("the new stream begins with %+v", batch)
	}
}
