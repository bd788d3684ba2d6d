package delivery_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// What the peer refused to take, each time, is not there: its sender hears so.
// One attempt without an answer, and it may be, whatever is refused later.
func TestRefusedAttemptsLeaveNoDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{OutboxTTL: 24 * time.Hour, SweepEvery: 10 * time.Minute}})
		alice, bob := w.person("alice", 1), w.stranger()
		lease, _ := w.outbox(alice.devices[0], bob, "refused", "asked to wait", "no answer once", "under way", "sent by who crashed")
		var sent []*federation.Batch
		for range 5 {
			batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 1, 1<<20)
			must(t, err)
			sent = append(sent, batch)
		}
		again := func(b *federation.Batch, outcome federation.Outcome) {
			must(t, w.router.Repeat(bg, away, federation.ClassMessage, lease, b))
			must(t, w.router.Failed(bg, away, federation.ClassMessage, b, outcome))
		}
		for i, first := range []federation.Outcome{federation.OutcomeNotTaken, federation.OutcomeRefused, federation.OutcomeUnknown, federation.OutcomeRefused} {
			must(t, w.router.Failed(bg, away, federation.ClassMessage, sent[i], first))
		}
		again(sent[0], federation.OutcomeRefused)
		again(sent[1], federation.OutcomeNotTaken)
		again(sent[2], federation.OutcomeRefused)
		must(t, w.router.Repeat(bg, away, federation.ClassMessage, lease, sent[3]))
		again(sent[4], federation.OutcomeRefused)
		time.Sleep(24*time.Hour + 11*time.Minute)
		got := slices.DeleteFunc(w.contents(alice.devices[0], 0), func(s string) bool { return strings.HasPrefix(s, "delayed") })
		if want := []string{"undeliverable:peer_blocked", "undeliverable:peer_unreachable", "undeliverable:outcome_unknown", "undeliverable:outcome_unknown", "undeliverable:outcome_unknown"}; !slices.Equal(got, want) {
			t.Errorf("expired: %q", got)
		}
		if err := w.router.Repeat(bg, away, federation.ClassMessage, lease, sent[0]); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("what was reported is sent again: %v", err)
		}

		told := w.contents(alice.devices[0], 0)
		w.outbox(alice.devices[0], bob, "refused, and the peering ends")
		lease, err := w.router.Lease(bg, away, federation.ClassMessage)
		must(t, err)
		batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 1, 1<<20)
		must(t, err)
		must(t, w.router.Failed(bg, away, federation.ClassMessage, batch, federation.OutcomeRefused))
		must(t, w.router.GiveUp(bg, away))
		if got := w.contents(alice.devices[0], int64(len(told))); !slices.Equal(got, []string{"undeliverable:peer_blocked"}) {
			t.Errorf("at the peering's end: %q", got)
		}
		w.stop()
	})
}
