package delivery_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/delivery"
)

// What a peer's person sent and nobody here fetched in time goes back as a
// bounce, once for all devices, and not when a device has it.
func TestExpiryIsReportedToThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{MailTTL: time.Hour}})
		bob, carol, from := w.person("bob", 1, 2), w.person("carol", 1, 2), w.stranger()
		lost, read := peerItem(t, from, bob.user, "read by nobody", 1, 2), peerItem(t, from, carol.user, "read on one device", 1, 2)
		_, err := w.router.Accept(bg, away, txn(1, 1, 1, lost, read))
		must(t, err)
		m := w.router.Mailbox(carol.devices[1])
		must(t, m.Ack(bg, 1))
		m.Close()
		time.Sleep(time.Hour + 2*time.Minute)
		lease, err := w.router.Lease(bg, away, federation.ClassMessage)
		must(t, err)
		batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
		must(t, err)
		if batch == nil || len(batch.Items) != 1 {
			t.Fatalf("towards the peer: %+v", batch)
		}
		raw, err := federation.EncodeTransaction(&federation.Transaction{Stream: lease.Stream, Class: federation.ClassMessage, Fence: lease.Fence, FirstPos: 1, Items: batch.Items})
		must(t, err)
		sent, err := federation.DecodeTransaction(raw)
		must(t, err)
		if it := sent.Items[0]; it.ID != lost.ID || it.Sender != bob.user || it.Recipient != from || it.Bounce != clearbox.CodeExpired || it.Refused != "" || len(it.Envelopes) != 0 {
			t.Errorf("the bounce: %+v", it)
		}
		time.Sleep(5 * time.Hour) // of a bounce that is late nobody is told
		if got := w.contents(bob.devices[0], 0); got != nil {
			t.Errorf("bob has %q", got)
		}
		must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictRejected, Reason: clearbox.CodeUnsupportedCritical}}))
		if due, err := w.router.Due(bg, federation.ClassMessage); err != nil || len(due) != 0 {
			t.Errorf("after the verdict: %v, %v", due, err)
		}
		w.stop()
	})
}

// A peer's bounce tells the sender here, once, and only of what that peer's own
// people did not get.
func TestBounceFromAPeer(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, far := w.person("alice", 1), w.stranger()
	lease, ids := w.outbox(alice.devices[0], far, "hi")
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictOK}}))
	bounce := federation.Item{ID: ids[0], Sender: far, SenderDevice: 1, Recipient: alice.user, AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Bounce: clearbox.CodeExpired}
	forged := bounce
	forged.Sender.Server = "c.test"
	answer, err := w.router.Accept(bg, away, txn(1, 1, 1, forged, bounce, bounce))
	must(t, err)
	if v := answer.Verdicts; v[0].Code != federation.VerdictRejected || v[1].Code != federation.VerdictOK || v[2].Code != federation.VerdictOK {
		t.Errorf("verdicts %+v", v)
	}
	m := w.router.Mailbox(alice.devices[0])
	defer m.Close()
	ds, err := m.Read(bg, 0, 10, 1<<20)
	must(t, err)
	if len(ds) != 1 || ds[0].Notice == nil || ds[0].Notice.ID != ids[0] || ds[0].Notice.Recipient != far || ds[0].Notice.Code != clearbox.CodeExpired {
		t.Errorf("alice has %+v", ds)
	}
	if got := w.states(alice.devices[0], ids...); !slices.Equal(got, []delivery.Status{delivery.StatusUndeliverable}) {
		t.Errorf("state %v", got)
	}
}

// A bounce of what nobody here sent is answered like any other, whoever it
// names, and reaches nobody: else every peer could write into every mailbox, and
// find out who is here. One that is true is told once, also when the message was
// forgotten long ago.
func TestBounceOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{SubmissionTTL: time.Hour}})
		alice, far := w.person("alice", 1), w.stranger()
		nobody := clearbox.UserID{UID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Server: home}
		pos := int64(0)
		bounce := func(it federation.Item) string {
			pos++
			it.Sender, it.AcceptedAt, it.Bounce = far, clearbox.Millis(time.Now().UnixMilli()), clearbox.CodeExpired
			return w.accept(away, txn(1, 1, pos, it))[0]
		}
		for range 3 {
			for _, to := range []clearbox.UserID{alice.user, nobody} {
				if got := bounce(federation.Item{ID: newID(t), SenderDevice: 1, Recipient: to}); got != "ok " {
					t.Errorf("a bounce for %s: %q", to, got)
				}
			}
		}
		if got := w.contents(alice.devices[0], 0); got != nil {
			t.Errorf("alice has %q", got)
		}
		id := newID(t)
		_, err := w.send(alice.devices[0], id, sealedTo(far, token(1), "x"))
		must(t, err)
		lease, err := w.router.Lease(bg, away, federation.ClassMessage)
		must(t, err)
		batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
		must(t, err)
		must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictOK}}))
		time.Sleep(2 * time.Hour) // forgotten
		for range 3 {
			if got := bounce(federation.Item{ID: id, Ref: batch.Items[0].Ref}); got != "ok " {
				t.Errorf("the bounce: %q", got)
			}
		}
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:expired"}) {
			t.Errorf("alice has %q", got)
		}
		w.stop()
	})
}
