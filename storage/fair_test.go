package storage_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// What OutboxOthers gives of a sender is the front of what the sender has, and
// each sender behind a batch is named within a few rounds, whatever was
// dispatched, held, released and settled before.
func TestOutboxOthers(t *testing.T) {
	const peer, class, batchOf = "b.test", storage.ClassMessage, 64
	for seed := range uint64(2) {
		w := open(t)
		rnd := rand.New(rand.NewPCG(seed, 1))
		stream := []byte("stream")
		next := int64(1)
		w.update(func(tx *storage.Tx) error {
			return tx.SetOutStream(peer, class, storage.OutStream{Stream: stream, NextPos: 1, Fence: 1})
		})
		put := func(n, senders int) {
			w.update(func(tx *storage.Tx) error {
				for range n {
					no := int64(rnd.IntN(senders))
					if no > 5 && rnd.IntN(4) > 0 {
						no = 1 // one writes most of it
					}
					it := &storage.OutboxItem{Peer: peer, Class: class, SenderNo: no, Sealed: sealed("x"), Expires: testStart * 2, HoldKey: []byte{byte(no)}}
					if err := tx.PutOutbox(it); err != nil {
						return err
					}
				}
				return nil
			})
		}
		put(400, 4) // while it is not deep
		put(900, 40)
		after := int64(0)
		for round := range 12 {
			w.update(func(tx *storage.Tx) error {
				all, err := tx.OutboxBatch(peer, class, 1<<20, -1)
				must(t, err)
				batch := all[:min(batchOf, len(all))]
				rows, last, err := tx.OutboxOthers(peer, class, batch, after, batchOf/2)
				must(t, err)
				after = last
				checkOthers(t, all, batch, rows, batchOf/2)
				if t.Failed() {
					t.Fatalf("seed %d, round %d: %d of %d", seed, round, len(rows), len(all))
				}
				var take []int64
				for _, it := range batch[:len(batch)/2] {
					take = append(take, it.Row)
				}
				take = append(take, rows...)
				must(t, tx.AssignPositions(peer, class, stream, next, take))
				next += int64(len(take))
				switch rnd.IntN(4) {
				case 0:
					_, err = tx.Undispatch(peer, class)
					return err
				case 1:
					return tx.DeferOutbox(take[:len(take)/2], clearbox.Millis(testStart+1))
				case 2:
					return tx.DeleteOutbox(take)
				}
				return nil
			})
			w.advance(time.Second) // holds end
			if round%5 == 0 {
				put(100, 40)
			}
		}
	}
}

func checkOthers(t *testing.T, all, batch []storage.OutboxItem, rows []int64, limit int) {
	t.Helper()
	if len(rows) > limit {
		t.Errorf("%d rows", len(rows))
	}
	of := map[int64][]int64{} // due rows by sender
	for i := range all {
		of[all[i].SenderNo] = append(of[all[i].SenderNo], all[i].Row)
	}
	inBatch := map[int64]bool{}
	for i := range batch {
		inBatch[batch[i].SenderNo] = true
	}
	got := map[int64][]int64{}
	for _, row := range rows {
		i := slices.IndexFunc(all, func(it storage.OutboxItem) bool { return it.Row == row })
		if i < 0 {
			t.Errorf("row %d is not due", row)
			return
		}
		got[all[i].SenderNo] = append(got[all[i].SenderNo], row)
	}
	for s, r := range got {
		if inBatch[s] || !slices.Equal(r, of[s][:len(r)]) {
			t.Errorf("sender %d, in the batch %t: rows %v of %v", s, inBatch[s], r, of[s])
		}
	}
	for s := range of {
		if !inBatch[s] && got[s] == nil && len(got) < limit {
			t.Errorf("sender %d was left out with room for another", s)
		}
	}
}
