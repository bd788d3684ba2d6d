package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

const sweepLimit = 500 // rows of one kind in one update, so that submissions are not held up

// sweep tells senders what is late, gives up what has expired and forgets what
// is old, every Options.SweepEvery until ctx ends.
func (r *Router) sweep(ctx context.Context) {
	tick := time.NewTicker(r.opts.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, step := range []func(context.Context) (int, error){r.sweepExpired, r.sweepDelayed, r.sweepMail, r.sweepSubmissions, r.sweepContact, r.sweepDead, r.sweepReports} {
			for {
				n, err := step(ctx)
				if err != nil && ctx.Err() == nil {
					r.opts.Log.Warn("a sweep failed and will be repeated", "error", err)
				}
				if err != nil || n < sweepLimit {
					break
				}
			}
		}
	}
}

// sweepExpired gives up messages to peers whose time is over. One that was
// dispatched and never answered may have arrived: outcome_unknown says so. Of one
// that the peer refused to take, the last time as well, peer_blocked does.
func (r *Router) sweepExpired(ctx context.Context) (int, error) {
	var rows []storage.OutboxItem
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.OutboxExpired(r.now(), sweepLimit)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(rows), r.report(ctx, rows, func(row *storage.OutboxItem) *Notice {
		n := &Notice{Kind: NoticeUndeliverable, Code: clearbox.CodePeerUnreachable}
		switch {
		case !row.Absent():
			n.Code = clearbox.CodeOutcomeUnknown
		case row.Outcome == storage.OutcomeRefused:
			n.Code = clearbox.CodePeerBlocked
		}
		return n
	}, func(tx *storage.Tx, no int64) error { return tx.VoidOutbox([]int64{no}) })
}

// sweepDelayed tells senders once that a message has not arrived for hours.
func (r *Router) sweepDelayed(ctx context.Context) (int, error) {
	var rows []storage.OutboxItem
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.OutboxUndelayed(after(r.now(), -r.opts.DelayedAfter), sweepLimit)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(rows), r.report(ctx, rows, func(*storage.OutboxItem) *Notice {
		return &Notice{Kind: NoticeDelayed, Code: clearbox.CodePeerUnreachable}
	}, func(tx *storage.Tx, no int64) error { return tx.MarkDelayed([]int64{no}) })
}

// report stores a notice for each row and what mark does to the row, in one
// update. A row that was settled meanwhile is left alone.
func (r *Router) report(ctx context.Context, rows []storage.OutboxItem, notice func(*storage.OutboxItem) *Notice, mark func(*storage.Tx, int64) error) error {
	if len(rows) == 0 {
		return nil
	}
	bounces := make([][]*bounce, len(rows))
	dead := make([]*storage.DeadLetter, len(rows))
	for i := range rows {
		row := &rows[i]
		n := notice(row)
		it, to, err := r.openFor(row)
		again := func() error {
			_, err := r.openItem(row)
			return err
		}
		if err != nil && !r.damaged(row.SenderKey, err, again) {
			return err // in a minute, perhaps
		}
		if n.Kind == NoticeUndeliverable && !errors.Is(err, storage.ErrShredded) {
			if dead[i], err = r.deadLetter(row, it.Multi != nil, to, n.Code); err != nil {
				return err
			}
		}
		if len(to) == 0 {
			continue // nobody to tell
		}
		if it.Bounce != "" || it.Knock != nil || it.Op != nil {
			continue // of a bounce nobody is told, and a knock ends like one without an answer
		}
		if n.Kind == NoticeDelayed {
			to = to[:1] // of a group one for each server is enough
		}
		n.ID, n.FirstTry, n.LastTry, n.Attempts = row.MessageID, row.FirstTry, row.LastTry, row.Attempts
		if bounces[i], err = r.newBounces(ctx, it.Sender, *n, to); err != nil {
			return err
		}
	}
	err := r.store.Update(ctx, func(tx *storage.Tx) error {
		for i := range rows {
			for _, b := range bounces[i] {
				b.reset()
			}
			still, err := tx.OutboxHeads([]int64{rows[i].Row})
			if err != nil {
				return err
			}
			if len(still) == 0 || still[0].Void || still[0].Pos != rows[i].Pos || still[0].Outcome != rows[i].Outcome {
				continue
			}
			for _, b := range bounces[i] {
				if err := b.apply(tx, rows[i].SenderNo); err != nil {
					return err
				}
			}
			if dead[i] != nil {
				if err := tx.PutDead(dead[i]); err != nil {
					return err
				}
			}
			if err := mark(tx, rows[i].Row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, told := range bounces {
		for _, b := range told {
			b.wake(r)
		}
	}
	return nil
}

func (r *Router) sweepSubmissions(ctx context.Context) (int, error) {
	var n int64
	err := r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		n, err = tx.ExpireSubmissions(tx.Now(), sweepLimit)
		return err
	})
	return int(n), err
}

func (r *Router) sweepContact(ctx context.Context) (int, error) {
	var n int64
	err := r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		n, err = tx.ExpireContact(sweepLimit)
		return err
	})
	return int(n), err
}

// sweepReports forgets reports whose time is up.
func (r *Router) sweepReports(ctx context.Context) (int, error) {
	var n int64
	err := r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		n, err = tx.ExpireReports(r.now(), sweepLimit)
		return err
	})
	return int(n), err
}
