package delivery

import (
	"context"
	"io"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// GiveUp reports to its senders everything that waits for a server with which
// no messages are exchanged any more, and forgets it. What was dispatched
// without an answer may have arrived: outcome_unknown says so, peer_blocked
// tells the rest, with what the peer only ever refused to take. The queue's stream ends, so that a lane that still has a lease
// settles nothing, and a later peering begins a new one. Calling it again is
// harmless; after an error some may still wait.
func (r *Router) GiveUp(ctx context.Context, peer clearbox.ServerName) error {
	var stats []storage.OutboxStat
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		stats, err = tx.OutboxStats()
		return err
	})
	if err != nil {
		return err
	}
	for _, st := range stats {
		if st.Peer != peer {
			continue
		}
		if err := r.giveUp(ctx, peer, st.Class); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) giveUp(ctx context.Context, peer clearbox.ServerName, class storage.Class) error {
	for {
		var rows []storage.OutboxItem
		err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.OutboxOf(peer, class, sweepLimit)
			return err
		})
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		err = r.report(ctx, rows, func(row *storage.OutboxItem) *Notice {
			n := &Notice{Kind: NoticeUndeliverable, Code: clearbox.CodePeerBlocked}
			if !row.Absent() {
				n.Code = clearbox.CodeOutcomeUnknown
			}
			return n
		}, func(tx *storage.Tx, row int64) error { return tx.DeleteOutbox([]int64{row}) })
		if err != nil {
			return err
		}
		// Those that had been withdrawn before were reported then. A row that was
		// dispatched since it was read stays for the next round.
		err = r.store.Update(ctx, func(tx *storage.Tx) error {
			left, err := tx.OutboxHeads(rowNumbers(rows))
			if err != nil {
				return err
			}
			var void []int64
			for _, row := range left {
				if row.Void {
					void = append(void, row.Row)
				}
			}
			return tx.DeleteOutbox(void)
		})
		if err != nil {
			return err
		}
	}
	fresh := make([]byte, 16)
	if _, err := io.ReadFull(r.opts.Random, fresh); err != nil {
		return err
	}
	return r.store.Update(ctx, func(tx *storage.Tx) error {
		s, err := tx.OutStream(peer, class)
		if err != nil {
			return err
		}
		return tx.SetOutStream(peer, class, storage.OutStream{Stream: fresh, NextPos: 1, Fence: s.Fence + 1})
	})
}
