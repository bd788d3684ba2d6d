package delivery_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

// These tests look at the seams: what a passing fault, a repeat at a bad
// moment, a ban or a second device does to the promise that a message is
// delivered once or reported once.

func (w *world) turn(p person, state storage.UserState) {
	w.t.Helper()
	must(w.t, w.store.Update(bg, func(tx *storage.Tx) error { return tx.SetUserState(p.devices[0].UserNo, state) }))
}

func TestNothingIsStoredForTheBanned(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob, from := w.person("alice", 1), w.person("bob", 1), w.stranger()
	_, err := w.send(alice.devices[0], newID(t), to(bob.user, "before", 1))
	must(t, err)
	w.turn(bob, storage.UserBanned)
	for range 3 { // the first one finds what was remembered to be old
		if _, err := w.send(alice.devices[0], newID(t), to(bob.user, "during", 1)); clearbox.CodeOf(err) != clearbox.CodeRecipientUnavailable {
			t.Errorf("to a banned person: %v", err)
		}
	}
	answer, err := w.router.Accept(bg, away, txn(1, 1, 1, peerItem(t, from, bob.user, "from afar", 1)))
	must(t, err)
	if v := answer.Verdicts[0]; v.Code != federation.VerdictRejected || v.Reason != clearbox.CodeConsentRequired {
		t.Errorf("verdict %+v", v)
	}
	w.turn(bob, storage.UserActive)
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"before"}) {
		t.Errorf("bob has %q", got)
	}
	if _, err := w.send(alice.devices[0], newID(t), to(bob.user, "after", 1)); err != nil {
		t.Errorf("after the ban: %v", err)
	}
}

// What was accepted stays accepted: a repeat after a lost answer gets it again
// even where a new message would be refused, else the sender is told of a
// failure that did not happen.
func TestRepeatGetsItsAnswerThroughEveryRefusal(t *testing.T) {
	full := false
	w := newWorld(t, worldOptions{Options: delivery.Options{PeerQueueItems: 1, Admit: func() error {
		if full {
			return clearbox.Errorf(clearbox.CodeStoreFull, "full")
		}
		return nil
	}}})
	alice, bob := w.person("alice", 1), w.stranger()
	id := newID(t)
	first, err := w.send(alice.devices[0], id, to(bob, "hi", 1))
	must(t, err)
	for _, c := range []struct {
		code clearbox.Code
		turn func()
	}{
		{clearbox.CodePeerBacklogFull, func() {}},
		{clearbox.CodeStoreFull, func() { full = true }},
		{clearbox.CodeNoRoutePolicy, func() {
			full = false
			w.routes[away] = clearbox.Errorf(clearbox.CodeNoRoutePolicy, "no route")
		}},
		{clearbox.CodePeerBlocked, func() { delete(w.routes, away) }},
	} {
		c.turn()
		if _, err := w.send(alice.devices[0], newID(t), to(bob, "hi", 1)); clearbox.CodeOf(err) != c.code {
			t.Errorf("a new message: %v, want %s", err, c.code)
		}
		if again, err := w.send(alice.devices[0], id, to(bob, "hi", 1)); err != nil || again != first {
			t.Errorf("%s: the repeat got %+v, %v", c.code, again, err)
		}
		if _, err := w.send(alice.devices[0], id, to(bob, "other", 1)); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("%s: another body got %v", c.code, err)
		}
	}
}

// Acknowledgements of one device take one place among what waits, however many
// a client sends while the disk is busy.
func TestAcknowledgementsDoNotCrowdOutMessages(t *testing.T) {
	faults := &storage.Faults{}
	w := newWorld(t, worldOptions{faults: faults})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	_, err := w.send(alice.devices[0], newID(t), to(bob.user, "one", 1))
	must(t, err)
	m := w.router.Mailbox(bob.devices[0])
	defer m.Close()
	if got := contents(t, m, 0); len(got) != 1 {
		t.Fatalf("got %q", got)
	}
	reached, free := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	blocked := false
	faults.Set(func(s storage.FaultStep, after bool, _ string) error {
		if s == storage.FaultBegin && !after && !blocked {
			blocked = true
			close(reached)
			<-free
		}
		return nil
	})
	must(t, m.Ack(bg, 0))
	<-reached
	for range 50_000 {
		must(t, m.Ack(bg, 0))
	}
	must(t, m.Ack(bg, 1))
	must(t, m.Ack(bg, 0)) // a smaller one takes nothing back
	sent := make(chan error, 1)
	w.router.SubmitAsync(bg, alice.devices[0], delivery.Submission{ID: newID(t), To: []delivery.Recipient{to(bob.user, "two", 1)}},
		func(_ delivery.Receipt, err error) { sent <- err })
	release()
	if err := <-sent; err != nil {
		t.Errorf("a message behind the acknowledgements: %v", err)
	}
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"two"}) {
		t.Errorf("bob has %q", got)
	}
}

// A fault of the keystore that passes loses nothing: nothing is skipped,
// withdrawn or given up because of it.
func TestKeystoreTroublePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &trouble{}
		w := newWorld(t, worldOptions{keys: keys, Options: delivery.Options{OutboxTTL: 8 * time.Hour}})
		alice, bob, far := w.person("alice", 1), w.person("bob", 1), w.stranger()
		_, err := w.send(alice.devices[0], newID(t), to(bob.user, "here", 1))
		must(t, err)
		lease, ids := w.outbox(alice.devices[0], far, "sent", "waiting")
		_, err = w.router.Take(bg, away, federation.ClassMessage, lease, 1, 1<<20)
		must(t, err)

		keys.now.Store(true)
		m := w.router.Mailbox(bob.devices[0])
		if ds, err := m.Read(bg, 0, 10, 1<<20); err == nil {
			t.Errorf("read %d entries without keys", len(ds))
		}
		m.Close()
		if _, err := w.router.Pending(bg, away, federation.ClassMessage, lease); !errors.Is(err, errDisk) {
			t.Errorf("pending: %v", err)
		}
		if _, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20); !errors.Is(err, errDisk) {
			t.Errorf("take: %v", err)
		}
		time.Sleep(5 * time.Hour) // a delayed notice is due
		keys.now.Store(false)
		time.Sleep(2 * time.Minute)

		if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"here"}) {
			t.Errorf("bob has %q", got)
		}
		pending, err := w.router.Pending(bg, away, federation.ClassMessage, lease)
		must(t, err)
		if len(pending) != 1 || len(pending[0].Items) != 2 || pending[0].Items[0].Void || pending[0].Items[1].Void {
			t.Errorf("pending %+v", pending)
		}
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"delayed:peer_unreachable", "delayed:peer_unreachable"}) {
			t.Errorf("alice has %q", got)
		}
		keys.now.Store(true)
		time.Sleep(4 * time.Hour) // the time of both is over
		if got := w.states(alice.devices[0], ids...); !slices.Equal(got, []delivery.Status{delivery.StatusAccepted, delivery.StatusAccepted}) {
			t.Errorf("given up without a word: %v", got)
		}
		keys.now.Store(false)
		time.Sleep(2 * time.Minute)
		if got := w.contents(alice.devices[0], 2); !slices.Equal(got, []string{"undeliverable:outcome_unknown", "undeliverable:outcome_unknown"}) {
			t.Errorf("at the end alice has %q", got)
		}
		w.stop()
	})
}

// Mail that does not open in the very moment in which the keystore's trouble ends
// is not skipped.
func TestKeystoreTroubleEnds(t *testing.T) {
	keys := &trouble{}
	w := newWorld(t, worldOptions{keys: keys})
	alice, bob, far := w.person("alice", 1), w.person("bob", 1), w.stranger()
	_, err := w.send(alice.devices[0], newID(t), to(bob.user, "here", 1))
	must(t, err)
	lease, _ := w.outbox(alice.devices[0], far, "there")
	keys.ending.Store(2) // a mailbox entry is tried in two ways
	m := w.router.Mailbox(bob.devices[0])
	defer m.Close()
	if ds, err := m.Read(bg, 0, 10, 1<<20); !errors.Is(err, errDisk) {
		t.Errorf("read %d entries, %v", len(ds), err)
	}
	keys.ending.Store(1)
	if _, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20); !errors.Is(err, errDisk) {
		t.Errorf("take: %v", err)
	}
	keys.ending.Store(0)
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"here"}) {
		t.Errorf("bob has %q", got)
	}
	pending, err := w.router.Pending(bg, away, federation.ClassMessage, lease)
	must(t, err)
	if len(pending) != 1 || pending[0].Items[0].Void {
		t.Errorf("pending %+v", pending)
	}
}

func TestDamagedEntriesDoNotStopAMailbox(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	must(t, w.store.Update(bg, func(tx *storage.Tx) error {
		for range 25 { // more than one look at the queue gives
			if _, err := tx.PutMail(bob.devices[0].DeviceNo, storage.Sealed{Payload: []byte("rotten"), Wrapped: make([]byte, 80)}, clearbox.Millis(time.Now().Add(time.Hour).UnixMilli())); err != nil {
				return err
			}
		}
		return nil
	}))
	_, err := w.send(alice.devices[0], newID(t), to(bob.user, "sound", 1))
	must(t, err)
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"sound"}) {
		t.Errorf("bob has %q", got)
	}
}

// A ban may end: what became of one's messages meanwhile is not lost.
func TestBannedSenderIsTold(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.stranger()
	lease, ids := w.outbox(alice.devices[0], bob, "hi")
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	for range 2 {
		must(t, w.router.Failed(bg, away, federation.ClassMessage, batch, federation.OutcomeUnknown))
	}
	w.turn(alice, storage.UserBanned)
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictRejected, Reason: clearbox.CodeNoDevice}}))
	w.turn(alice, storage.UserActive)
	m := w.router.Mailbox(alice.devices[0])
	defer m.Close()
	ds, err := m.Read(bg, 0, 10, 1<<20)
	must(t, err)
	if len(ds) != 1 || ds[0].Notice == nil || ds[0].Notice.ID != ids[0] || ds[0].Notice.Code != clearbox.CodeNoDevice {
		t.Fatalf("alice has %+v", ds)
	}
	if n := ds[0].Notice; n.Attempts != 3 || n.FirstTry == 0 || n.LastTry < n.FirstTry {
		t.Errorf("the notice counts %+v", n)
	}
	if got := w.states(alice.devices[0], ids...); got[0] != delivery.StatusUndeliverable {
		t.Errorf("state %v", got)
	}
}

// Mail that expires on one device is reported only when it reached no other,
// once, and never for copies among one's own devices.
func TestExpiryIsReportedOncePerPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{MailTTL: 3 * time.Hour}})
		alice, bob, carol := w.person("alice", 1, 2), w.person("bob", 1, 2), w.person("carol", 1, 2)
		ack := func(p person, device int, upTo int64) {
			m := w.router.Mailbox(p.devices[device])
			defer m.Close()
			must(t, m.Ack(bg, upTo))
			synctest.Wait()
		}
		delivered, lost := newID(t), newID(t)
		_, err := w.send(alice.devices[0], delivered, to(bob.user, "read on one device", 1, 2), to(alice.user, "copy", 2))
		must(t, err)
		_, err = w.send(alice.devices[0], lost, to(carol.user, "read by nobody", 1, 2), to(alice.user, "copy", 2))
		must(t, err)
		ack(bob, 1, 1)
		time.Sleep(time.Hour)
		for _, p := range []person{bob, carol} { // younger mail waits on every device
			_, err := w.send(alice.devices[0], newID(t), to(p.user, "later", 1, 2), to(alice.user, "copy", 2))
			must(t, err)
		}
		time.Sleep(2*time.Hour + 2*time.Minute)
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:expired"}) {
			t.Errorf("alice has %q", got)
		}
		m := w.router.Mailbox(alice.devices[0])
		ds, err := m.Read(bg, 0, 10, 1<<20)
		must(t, err)
		if len(ds) != 1 || ds[0].Notice.ID != lost || ds[0].Notice.Recipient != carol.user {
			t.Errorf("alice was told %+v", ds)
		}
		m.Close()
		w.stop()
	})
}

// What expires is gone and reported in one step: a fault in between leaves it.
func TestExpiryAndReportAreOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := &storage.Faults{}
		w := newWorld(t, worldOptions{faults: faults, Options: delivery.Options{MailTTL: time.Hour}})
		alice, bob := w.person("alice", 1), w.person("bob", 1)
		_, err := w.send(alice.devices[0], newID(t), to(bob.user, "hi", 1))
		must(t, err)
		faults.Set(func(s storage.FaultStep, after bool, query string) error {
			if s == storage.FaultStatement && !after && strings.HasPrefix(query, "INSERT INTO mail ") {
				return storage.ErrIO
			}
			return nil
		})
		time.Sleep(time.Hour + 5*time.Minute)
		faults.Set(nil)
		time.Sleep(2 * time.Minute)
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:expired"}) {
			t.Errorf("alice has %q", got)
		}
		if got := w.contents(bob.devices[0], 0); got != nil {
			t.Errorf("bob has %q", got)
		}
		w.stop()
	})
}

// A transaction of the old stream that arrives after the stream began anew
// does not take the stream back and store its items again.
func TestOldStreamCannotComeBack(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, far := w.person("alice", 1), w.stranger()
	lease, _ := w.outbox(alice.devices[0], far, "one")
	_, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	anew, err := w.router.Rewind(bg, away, federation.ClassMessage, lease, 7)
	must(t, err)
	if anew.Fence <= lease.Fence {
		t.Fatalf("the new stream has fence %d after %d", anew.Fence, lease.Fence)
	}
	if _, err := w.router.Pending(bg, away, federation.ClassMessage, anew); err != nil {
		t.Errorf("the new lease: %v", err)
	}
	// The same two streams as the receiver sees them.
	it := peerItem(t, far, alice.user, "one", 1)
	_, err = w.router.Accept(bg, away, txn(2, anew.Fence, 1, it))
	must(t, err)
	var fenced *federation.FencedError
	if _, err := w.router.Accept(bg, away, txn(1, lease.Fence, 1, it)); !errors.As(err, &fenced) {
		t.Errorf("the late transaction: %v", err)
	}
	if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"one"}) {
		t.Errorf("alice has %q", got)
	}
}
