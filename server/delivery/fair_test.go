package delivery_test

import (
	"slices"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

// flood queues n more copies of what waits first for the peer.
func (w *world) flood(n int) {
	w.t.Helper()
	must(w.t, w.store.Update(bg, func(tx *storage.Tx) error {
		its, err := tx.OutboxBatch(away, storage.ClassMessage, 1, 1<<20)
		if err != nil {
			return err
		}
		for range n {
			it := its[0]
			if err := tx.PutOutbox(&it); err != nil {
				return err
			}
		}
		return nil
	}))
}

// However much somebody has queued for a peer, what another one writes goes out
// with one of the next two batches, and each one's messages in their order.
func TestOneSenderDoesNotDelayAnother(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob, far := w.person("alice", 1), w.person("bob", 1), w.stranger()
	w.outbox(alice.devices[0], far, "the first of many")
	w.flood(3000)
	const batches = 4
	var ids []clearbox.MessageID
	for round := range batches {
		_, more := w.outbox(bob.devices[0], far, "one", "two", "three")
		ids = append(ids, more...)
		if round == 0 {
			w.flood(100)
		}
	}
	lease, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(t, err)
	last := map[bool]int64{} // of bob, or not
	got := 0
	for round, total := 0, 3101+3*batches; total > 0; round++ {
		batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, federation.MaxItems, 1<<20)
		must(t, err)
		if batch == nil || len(batch.Items) < min(total, federation.MaxItems) {
			t.Fatalf("round %d: a batch of %+v with %d left", round, batch, total)
		}
		for i, it := range batch.Items {
			bobs := slices.Contains(ids, it.ID) // the item names nobody
			if batch.Rows[i] <= last[bobs] {
				t.Fatalf("round %d: row %d after %d", round, batch.Rows[i], last[bobs])
			}
			last[bobs] = batch.Rows[i]
			if bobs {
				if it.ID != ids[got] {
					t.Errorf("bob's messages change places")
				}
				got++
			}
		}
		if round == 1 && got != len(ids) {
			t.Errorf("after two batches %d of bob's %d messages were sent", got, len(ids))
		}
		total -= len(batch.Items)
	}
	if batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, federation.MaxItems, 1<<20); batch != nil || err != nil {
		t.Errorf("left: %+v, %v", batch, err)
	}
}
