package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

var bg = context.Background()

// peerItem is a message from a person at the other server.
func peerItem(t *testing.T, from, user clearbox.UserID, text string, devices ...clearbox.DeviceID) federation.Item {
	t.Helper()
	it := federation.Item{ID: newID(t), Sender: from, SenderDevice: 1, Recipient: user, AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Token: given[:]}
	for _, d := range devices {
		it.Envelopes = append(it.Envelopes, federation.ItemEnvelope{Device: d, Registration: uint16(d) + 100, Type: clearbox.ContentWhisper, Content: []byte(text)})
	}
	return it
}

func txn(stream byte, fence, first int64, items ...federation.Item) *federation.Transaction {
	return &federation.Transaction{Stream: slices.Repeat([]byte{stream}, 16), Class: federation.ClassMessage, Fence: fence, FirstPos: first, Items: items}
}

func TestAcceptJudgesEachItemAlone(t *testing.T) {
	w := newWorld(t, worldOptions{mails: 2})
	bob, full, from := w.person("bob", 1, 2), w.person("full", 1), w.stranger()
	for range 2 {
		_, err := w.send(bob.devices[0], newID(t), to(full.user, "x", 1))
		must(t, err)
	}
	good := peerItem(t, from, bob.user, "good", 1, 2)
	forged := peerItem(t, clearbox.UserID{UID: from.UID, Server: "c.test"}, bob.user, "forged", 1)
	ours := peerItem(t, bob.user, bob.user, "as bob", 1)
	unknown := peerItem(t, from, clearbox.UserID{UID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Server: home}, "?", 1)
	foreign := peerItem(t, from, clearbox.UserID{UID: bob.user.UID, Server: "c.test"}, "?", 1)
	noDevice := peerItem(t, from, bob.user, "?", 9)
	oneLeft := peerItem(t, from, bob.user, "one left", 1, 9)
	early := peerItem(t, from, bob.user, "early", 1)
	early.AcceptedAt += 17 * 60 * 1000
	old := peerItem(t, from, bob.user, "old", 1)
	old.AcceptedAt -= 16 * 24 * 3600 * 1000
	unreadable := federation.Item{Refused: clearbox.CodeUnsupportedCritical}
	batch := txn(1, 1, 1, good, forged, ours, unknown, foreign, noDevice, oneLeft, early, old, unreadable, federation.Item{Void: true}, peerItem(t, from, full.user, "?", 1))
	answer, err := w.router.Accept(bg, away, batch)
	must(t, err)
	want := []string{"ok", "rejected forbidden", "rejected forbidden", "rejected consent_required", "rejected recipient_unavailable", "rejected no_device",
		"ok", "rejected bad_request", "rejected expired", "rejected unsupported_critical", "ok", "rejected mailbox_full"}
	for i, v := range answer.Verdicts {
		got := string(v.Code)
		if v.Reason != "" {
			got += " " + string(v.Reason)
		}
		if got != want[i] {
			t.Errorf("item %d: %s, want %s", i, got, want[i])
		}
	}
	if answer.AcceptedThrough != 12 || answer.Verdicts[0].DevicesVersion != 1 {
		t.Errorf("answer %+v", answer)
	}
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"good", "one left"}) {
		t.Errorf("device 1 has %q", got)
	}
	if got := w.contents(bob.devices[1], 0); !slices.Equal(got, []string{"good"}) {
		t.Errorf("device 2 has %q", got)
	}
}

func TestAcceptKeepsPositions(t *testing.T) {
	w := newWorld(t, worldOptions{})
	bob, from := w.person("bob", 1), w.stranger()
	a, b, c, d := peerItem(t, from, bob.user, "a", 1), peerItem(t, from, bob.user, "b", 9), peerItem(t, from, bob.user, "c", 1), peerItem(t, from, bob.user, "d", 1)
	first, err := w.router.Accept(bg, away, txn(1, 5, 1, a, b))
	must(t, err)

	var gap *federation.GapError
	if _, err := w.router.Accept(bg, away, txn(1, 5, 4, d)); !errors.As(err, &gap) || gap.Expected != 3 {
		t.Errorf("a gap: %v", err)
	}
	var fenced *federation.FencedError
	if _, err := w.router.Accept(bg, away, txn(1, 4, 3, c)); !errors.As(err, &fenced) || fenced.Fence != 5 {
		t.Errorf("an old lease: %v", err)
	}
	again, err := w.router.Accept(bg, away, txn(1, 5, 1, a, b))
	must(t, err)
	if fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("first %+v, again %+v", first, again)
	}
	// A rejection is repeated also when the batch was cut anew and goes beyond what was seen.
	wider, err := w.router.Accept(bg, away, txn(1, 6, 2, b, c, d))
	must(t, err)
	if wider.Verdicts[0].Code != federation.VerdictRejected || wider.Verdicts[1].Code != federation.VerdictOK || wider.AcceptedThrough != 4 {
		t.Errorf("wider batch: %+v", wider)
	}
	if _, err := w.router.Accept(bg, away, txn(2, 6, 2, a)); !errors.As(err, &gap) || gap.Expected != 1 {
		t.Errorf("a new stream in its midst: %v", err)
	}
	if _, err := w.router.Accept(bg, away, txn(2, 6, 1, peerItem(t, from, bob.user, "new stream", 1))); err != nil {
		t.Errorf("a new stream: %v", err)
	}
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"a", "c", "d", "new stream"}) {
		t.Errorf("bob has %q", got)
	}
}

// outbox sends n messages to a stranger and takes them as one batch.
func (w *world) outbox(p auth.Principal, user clearbox.UserID, texts ...string) (federation.Lease, []clearbox.MessageID) {
	w.t.Helper()
	var ids []clearbox.MessageID
	for _, text := range texts {
		ids = append(ids, newID(w.t))
		_, err := w.send(p, ids[len(ids)-1], to(user, text, 1))
		must(w.t, err)
	}
	lease, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(w.t, err)
	return lease, ids
}

func (w *world) states(p auth.Principal, ids ...clearbox.MessageID) []delivery.Status {
	w.t.Helper()
	states, err := w.router.Status(bg, p, ids)
	must(w.t, err)
	out := make([]delivery.Status, len(states))
	for i, s := range states {
		out[i] = s.State
	}
	return out
}

func TestOutboxSettlesPerVerdict(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1, 2), w.stranger()
	events := make(chan delivery.State, 8)
	defer w.router.OnState(alice.devices[0].UserNo, func(s delivery.State) { events <- s })()
	lease, ids := w.outbox(alice.devices[0], bob, "one", "two", "three", "four")
	if peer := <-w.nudged; peer != away {
		t.Errorf("nudged %s", peer)
	}
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 256, 1<<20)
	must(t, err)
	if len(batch.Items) != 4 || batch.FirstPos != 1 || textOf(batch.Items[2].Envelopes[0].Content) != "three" || !batch.Items[0].Sealed() {
		t.Fatalf("batch %+v", batch)
	}
	must(t, w.router.Failed(bg, away, federation.ClassMessage, batch, federation.OutcomeUnknown))
	verdicts := []federation.Verdict{
		{Code: federation.VerdictOK, DevicesVersion: 1},
		{Code: federation.VerdictRejected, Reason: clearbox.CodeNoDevice},
		{Code: federation.VerdictDeferred, RetryAfter: time.Hour},
		{Code: federation.VerdictDup},
	}
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, verdicts))
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, verdicts)) // a repeat changes nothing
	if got := w.states(alice.devices[0], ids...); !slices.Equal(got, []delivery.Status{delivery.StatusAtPeer, delivery.StatusUndeliverable, delivery.StatusAccepted, delivery.StatusAtPeer}) {
		t.Errorf("states %v", got)
	}
	if got := w.states(w.person("eve", 1).devices[0], ids...); slices.Contains(got, delivery.StatusAtPeer) {
		t.Errorf("another person sees %v", got)
	}
	if e := <-events; e.ID != ids[0] || e.State != delivery.StatusAtPeer || e.Recipient != bob {
		t.Errorf("event %+v", e)
	}
	for _, d := range alice.devices {
		if got := w.contents(d, 0); !slices.Equal(got, []string{"undeliverable:no_device"}) {
			t.Errorf("device %d has %q", d.Device, got)
		}
	}
	if next, err := w.router.Take(bg, away, federation.ClassMessage, lease, 256, 1<<20); err != nil || next != nil {
		t.Errorf("a deferred item was taken: %+v, %v", next, err)
	}
}

func TestOutboxKeepsPositionsAcrossLeases(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.stranger()
	old, _ := w.outbox(alice.devices[0], bob, "one", "two", "three")
	_, err := w.router.Take(bg, away, federation.ClassMessage, old, 2, 1<<20)
	must(t, err)
	lease, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(t, err)
	if lease.Fence <= old.Fence || string(lease.Stream) != string(old.Stream) {
		t.Errorf("leases %+v, %+v", old, lease)
	}
	if _, err := w.router.Take(bg, away, federation.ClassMessage, old, 2, 1<<20); clearbox.CodeOf(err) != clearbox.CodeFenced {
		t.Errorf("the old lease still takes: %v", err)
	}
	pending, err := w.router.Pending(bg, away, federation.ClassMessage, lease)
	must(t, err)
	if len(pending) != 1 || pending[0].FirstPos != 1 || len(pending[0].Items) != 2 {
		t.Fatalf("pending %+v", pending)
	}
	next, err := w.router.Take(bg, away, federation.ClassMessage, lease, 2, 1<<20)
	must(t, err)
	if next.FirstPos != 3 || textOf(next.Items[0].Envelopes[0].Content) != "three" {
		t.Errorf("next %+v", next)
	}
	anew, err := w.router.Rewind(bg, away, federation.ClassMessage, lease, 7)
	must(t, err)
	pending, err = w.router.Pending(bg, away, federation.ClassMessage, anew)
	must(t, err)
	if string(anew.Stream) == string(lease.Stream) || len(pending) != 1 || pending[0].FirstPos != 1 || len(pending[0].Items) != 3 {
		t.Errorf("after a rewind: %+v", pending)
	}
	due, err := w.router.Due(bg, federation.ClassMessage)
	must(t, err)
	if !slices.Equal(due, []clearbox.ServerName{away}) {
		t.Errorf("due %v", due)
	}
}

func TestBacklogFullIsRefused(t *testing.T) {
	w := newWorld(t, worldOptions{Options: delivery.Options{PeerQueueItems: 10}})
	alice, bob := w.person("alice", 1), w.stranger()
	var got []string
	for range 11 {
		rc, err := w.send(alice.devices[0], newID(t), to(bob, "x", 1))
		got = append(got, string(rc.Status)+string(clearbox.CodeOf(err)))
	}
	want := append(slices.Repeat([]string{"accepted"}, 8), "delayed", "delayed", "peer_backlog_full")
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// A sender hears of a late message once, and at the end why it was given up:
// unreachable if it was never sent, outcome unknown if it was.
func TestSenderLearnsOfDelayAndExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{OutboxTTL: 24 * time.Hour}})
		alice, bob := w.person("alice", 1), w.stranger()
		lease, ids := w.outbox(alice.devices[0], bob, "sent", "never sent")
		batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 1, 1<<20)
		must(t, err)
		must(t, w.router.Failed(bg, away, federation.ClassMessage, batch, federation.OutcomeUnknown))
		time.Sleep(4*time.Hour - time.Minute)
		if got := w.contents(alice.devices[0], 0); got != nil {
			t.Errorf("too early: %q", got)
		}
		time.Sleep(3 * time.Minute)
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"delayed:peer_unreachable", "delayed:peer_unreachable"}) {
			t.Errorf("after four hours: %q", got)
		}
		time.Sleep(20 * time.Hour)
		if got := w.contents(alice.devices[0], 2); !slices.Equal(got, []string{"undeliverable:outcome_unknown", "undeliverable:peer_unreachable"}) {
			t.Errorf("at the end: %q", got)
		}
		if got := w.states(alice.devices[0], ids...); !slices.Equal(got, []delivery.Status{delivery.StatusUndeliverable, delivery.StatusUndeliverable}) {
			t.Errorf("states %v", got)
		}
		// The peer did have it: a late answer corrects the state, and nothing is left.
		must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictOK}}))
		if got := w.states(alice.devices[0], ids[0]); got[0] != delivery.StatusAtPeer {
			t.Errorf("after a late answer: %v", got)
		}
		if due, err := w.router.Due(bg, federation.ClassMessage); err != nil || len(due) != 0 {
			t.Errorf("due %v, %v", due, err)
		}
		w.stop()
	})
}

func TestUnfetchedMailIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{MailTTL: 2 * time.Hour}})
		alice, bob := w.person("alice", 1), w.person("bob", 1)
		id := newID(t)
		_, err := w.send(alice.devices[0], id, to(bob.user, "hi", 1))
		must(t, err)
		time.Sleep(2*time.Hour + 2*time.Minute)
		if got := w.contents(bob.devices[0], 0); got != nil {
			t.Errorf("bob has %q", got)
		}
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:expired"}) {
			t.Errorf("alice has %q", got)
		}
		w.stop()
	})
}

// Each durable step fails before and after it persisted: the sender is told
// the truth, and trying again under the same id never doubles.
func TestSubmitFailureTable(t *testing.T) {
	for _, step := range []storage.FaultStep{"begin", "statement", "savepoint", "release", "commit"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", step, after), func(t *testing.T) {
				faults := &storage.Faults{}
				w := newWorld(t, worldOptions{faults: faults})
				alice, bob := w.person("alice", 1), w.person("bob", 1)
				id := newID(t)
				failed := false
				faults.Set(func(s storage.FaultStep, a bool, _ string) error {
					if s == step && a == after && !failed {
						failed = true
						return storage.ErrIO
					}
					return nil
				})
				first, firstErr := w.send(alice.devices[0], id, to(bob.user, "hi", 1))
				faults.Set(nil)
				again, err := w.send(alice.devices[0], id, to(bob.user, "hi", 1))
				must(t, err)
				if firstErr == nil && first != again {
					t.Errorf("first %+v, again %+v", first, again)
				}
				if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"hi"}) {
					t.Errorf("bob has %q after %v", got, firstErr)
				}
			})
		}
	}
}
