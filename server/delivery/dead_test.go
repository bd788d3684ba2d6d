package delivery_test

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

func (w *world) dead() []storage.DeadLetter {
	w.t.Helper()
	var out []storage.DeadLetter
	must(w.t, w.store.View(bg, func(tx *storage.Tx) (err error) {
		out, err = tx.Dead(storage.DeadPick{}, 0, 100)
		return err
	}))
	return out
}

func (w *world) deadCodes() []string {
	w.t.Helper()
	var out []string
	for _, d := range w.dead() {
		out = append(out, string(d.Peer)+" "+string(d.Code))
	}
	return out
}

// Each way in which a message to a peer ends without having arrived leaves its
// metadata, and a late confirmation takes them away.
func TestDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{OutboxTTL: time.Hour, SweepEvery: 10 * time.Minute}})
		alice, bob := w.person("alice", 1), w.stranger()
		lease, ids := w.outbox(alice.devices[0], bob, "rejected", "answered late", "waits")
		batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 2, 1<<20)
		must(t, err)
		must(t, w.router.Failed(bg, away, federation.ClassMessage, batch, federation.OutcomeUnknown))
		time.Sleep(time.Minute)
		tried := clearbox.Millis(time.Now().UnixMilli())
		first := *batch
		first.Items, first.Rows = batch.Items[:1], batch.Rows[:1]
		must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, &first, []federation.Verdict{{Code: federation.VerdictRejected, Reason: clearbox.CodeMailboxFull}}))
		ds := w.dead()
		if len(ds) != 1 || ds[0].MessageID != ids[0] || ds[0].Code != clearbox.CodeMailboxFull || ds[0].SenderNo != alice.devices[0].UserNo ||
			ds[0].Attempts != 2 || ds[0].LastTry != tried || ds[0].FirstTry != tried-60_000 || ds[0].Accepted == 0 || ds[0].Class != storage.ClassMessage {
			t.Fatalf("rejected: %+v", ds)
		}
		if bytes.Contains(ds[0].Recipient, []byte(bob.UID)) || len(ds[0].Recipient) == 0 {
			t.Error("the recipient is not sealed")
		}
		time.Sleep(time.Hour + 11*time.Minute) // expired: one was sent, one was not
		if got := w.deadCodes(); !slices.Equal(got, []string{"b.test mailbox_full", "b.test outcome_unknown", "b.test peer_unreachable"}) {
			t.Fatalf("expired: %q", got)
		}
		second := *batch
		second.FirstPos, second.Items, second.Rows = batch.FirstPos+1, batch.Items[1:], batch.Rows[1:]
		must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, &second, []federation.Verdict{{Code: federation.VerdictOK}}))
		if got := w.deadCodes(); !slices.Equal(got, []string{"b.test mailbox_full", "b.test peer_unreachable"}) {
			t.Errorf("after the late answer: %q", got)
		}
		w.outbox(alice.devices[0], bob, "the peering ends")
		must(t, w.router.GiveUp(bg, away))
		if got := w.deadCodes(); !slices.Equal(got, []string{"b.test mailbox_full", "b.test peer_unreachable", "b.test peer_blocked"}) {
			t.Errorf("after the peering's end: %q", got)
		}
		must(t, w.store.View(bg, func(tx *storage.Tx) error {
			counts, err := tx.DeadCounts()
			if len(counts) != 3 || counts[0] != (storage.DeadCount{Peer: away, Code: clearbox.CodeMailboxFull, Count: 1}) {
				t.Errorf("counts %+v", counts)
			}
			return err
		}))
		time.Sleep(13*24*time.Hour + 20*time.Hour)
		if got := w.deadCodes(); len(got) != 3 {
			t.Errorf("after not quite 14 days: %q", got)
		}
		time.Sleep(5 * time.Hour)
		if got := w.deadCodes(); len(got) != 0 {
			t.Errorf("after 14 days: %q", got)
		}
		w.stop()
	})
}

// What is damaged leaves metadata; what an erased person sent leaves none.
func TestDeadLettersOfWhatDoesNotOpen(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, carol, bob := w.person("alice", 1), w.person("carol", 1), w.stranger()
	w.outbox(alice.devices[0], bob, "damaged")
	w.outbox(carol.devices[0], bob, "of somebody erased")
	must(t, w.keys.Destroy(bg, carol.devices[0].Key))
	must(t, w.store.Update(bg, func(tx *storage.Tx) error {
		its, err := tx.OutboxBatch(away, storage.ClassMessage, 1, 1<<20)
		if err != nil {
			return err
		}
		it := its[0]
		if err := tx.DeleteOutbox([]int64{it.Row}); err != nil {
			return err
		}
		it.Sealed.Payload[0] ^= 1
		return tx.PutOutbox(&it)
	}))
	lease, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(t, err)
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	if len(batch.Items) != 2 || !batch.Items[0].Void || !batch.Items[1].Void {
		t.Fatalf("%+v", batch.Items)
	}
	if ds := w.dead(); len(ds) != 1 || ds[0].Code != clearbox.CodeInternal || ds[0].SenderNo != alice.devices[0].UserNo || len(ds[0].Recipient) != 0 {
		t.Errorf("%+v", ds)
	}
	asked, left, err := w.router.Requeue(bg, storage.AuditEntry{Action: "fed.dead.requeue"}, storage.DeadPick{Peer: away})
	if asked != 0 || left != 1 || err != nil || len(w.dead()) != 1 {
		t.Errorf("asked %d, left %d, %v", asked, left, err)
	}
}

// A requeue asks the sender, and the same id may be submitted again, encrypted
// anew; until then the letter's deed is in the log.
func TestRequeueAsksTheSender(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1, 2), w.stranger()
	lease, ids := w.outbox(alice.devices[0], bob, "once", "kept")
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{
		{Code: federation.VerdictRejected, Reason: clearbox.CodeMailboxFull}, {Code: federation.VerdictRejected, Reason: clearbox.CodeNoDevice},
	}))
	deed := storage.AuditEntry{Role: storage.RoleAdmin, Action: "fed.dead.requeue"}
	w.routes[away] = clearbox.Errorf(clearbox.CodePeerBlocked, "suspended")
	if _, _, err := w.router.Requeue(bg, deed, storage.DeadPick{Peer: away}); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
		t.Errorf("to a suspended peer: %v", err)
	}
	w.routes[away] = nil
	if _, _, err := w.router.Requeue(bg, deed, storage.DeadPick{No: 99}); err == nil {
		t.Error("a letter that is not there")
	}
	if _, err := w.send(alice.devices[0], ids[0], to(bob, "other words", 1)); clearbox.CodeOf(err) != clearbox.CodeConflict {
		t.Errorf("before: %v", err)
	}
	asked, left, err := w.router.Requeue(bg, deed, storage.DeadPick{Peer: away, Code: clearbox.CodeMailboxFull})
	if asked != 1 || left != 0 || err != nil {
		t.Fatalf("asked %d, left %d, %v", asked, left, err)
	}
	for _, d := range alice.devices {
		if got := w.contents(d, 0); !slices.Equal(got[len(got)-1:], []string{"requeue:mailbox_full"}) {
			t.Errorf("device %d has %q", d.Device, got)
		}
	}
	m := w.router.Mailbox(alice.devices[0])
	defer m.Close()
	mail, err := m.Read(bg, 0, 10, 1<<20)
	must(t, err)
	if n := mail[len(mail)-1].Notice; n == nil || n.ID != ids[0] || n.Recipient != bob || n.Attempts != 1 || n.FirstTry == 0 {
		t.Errorf("%+v", n)
	}
	if got := w.deadCodes(); !slices.Equal(got, []string{"b.test no_device"}) {
		t.Errorf("left: %q", got)
	}
	_, err = w.send(alice.devices[0], ids[0], to(bob, "encrypted anew", 1))
	must(t, err)
	batch, err = w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	if batch == nil || len(batch.Items) != 1 || batch.Items[0].ID != ids[0] || textOf(batch.Items[0].Envelopes[0].Content) != "encrypted anew" {
		t.Errorf("%+v", batch)
	}
	must(t, w.store.View(bg, func(tx *storage.Tx) error {
		log, err := tx.AuditEntries(0, 10)
		if len(log) != 1 || log[0].Object != "b.test" || log[0].Detail != "1 of 1" || log[0].ObjectNo != 0 {
			t.Errorf("audit %+v", log)
		}
		return err
	}))
}
