package delivery

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

var _ federation.Outbox = (*Router)(nil)

// errLease: another lease was taken since, or the stream was replaced.
var errLease = clearbox.Errorf(clearbox.CodeFenced, "the lease on this queue was lost")

// errChanged: what was to be sent again was reported to its sender meanwhile.
var errChanged = clearbox.Errorf(clearbox.CodeConflict, "the queue has changed")

// rowOverhead bounds what the wire adds to a stored payload: names, ids, keys
// of maps (federation.Item.Size).
const rowOverhead = 512

// Lease implements federation.Outbox. The fence is at least the clock, so that a
// server that was restored from a backup does not fall behind what its peers
// have seen of it.
func (r *Router) Lease(ctx context.Context, peer clearbox.ServerName, class federation.Class) (federation.Lease, error) {
	fresh := make([]byte, 16)
	if _, err := io.ReadFull(r.opts.Random, fresh); err != nil {
		return federation.Lease{}, err
	}
	var out federation.Lease
	err := r.store.Update(ctx, func(tx *storage.Tx) error {
		s, err := tx.BumpFence(peer, storage.Class(class))
		if err != nil {
			return err
		}
		if len(s.Stream) == 0 {
			s.Stream = fresh
		}
		s.Fence = max(s.Fence, int64(tx.Now()))
		out = federation.Lease{Stream: s.Stream, Fence: s.Fence, Next: s.NextPos}
		return tx.SetOutStream(peer, storage.Class(class), s)
	})
	return out, err
}

// holds tells whether the lease is still the newest one.
func leaseHolds(tx *storage.Tx, peer clearbox.ServerName, class federation.Class, l federation.Lease) (storage.OutStream, error) {
	s, err := tx.OutStream(peer, storage.Class(class))
	if err == nil && (s.Fence != l.Fence || !bytes.Equal(s.Stream, l.Stream)) {
		err = errLease
	}
	return s, err
}

// Take implements federation.Outbox.
func (r *Router) Take(ctx context.Context, peer clearbox.ServerName, class federation.Class, lease federation.Lease, maxItems, maxBytes int) (*federation.Batch, error) {
	var rows []storage.OutboxItem
	var first int64
	err := r.store.Update(ctx, func(tx *storage.Tx) error {
		s, err := leaseHolds(tx, peer, class, lease)
		if err != nil {
			return err
		}
		rows, err = tx.OutboxBatch(peer, storage.Class(class), maxItems, maxBytes)
		if err != nil || len(rows) == 0 {
			return err
		}
		size := 0
		for i := range rows {
			if size += len(rows[i].Sealed.Payload) + rowOverhead; size > maxBytes && i > 0 {
				rows = rows[:i]
				break
			}
		}
		if len(rows) == maxItems || size > maxBytes/2 {
			if rows, err = r.shared(tx, storage.PeerClass{Peer: peer, Class: storage.Class(class)}, rows, maxItems, maxBytes); err != nil {
				return err
			}
		}
		first = s.NextPos
		return tx.AssignPositions(peer, storage.Class(class), s.Stream, first, rowNumbers(rows))
	})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	for i := range rows {
		rows[i].Pos = first + int64(i)
	}
	batches, err := r.open(ctx, rows)
	if err != nil {
		return nil, err
	}
	return batches[0], nil
}

func rowNumbers(rows []storage.OutboxItem) []int64 {
	out := make([]int64, len(rows))
	for i := range rows {
		out[i] = rows[i].Row
	}
	return out
}

// Pending implements federation.Outbox.
func (r *Router) Pending(ctx context.Context, peer clearbox.ServerName, class federation.Class, lease federation.Lease) ([]*federation.Batch, error) {
	var rows []storage.OutboxItem
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		if _, err = leaseHolds(tx, peer, class, lease); err != nil {
			return err
		}
		rows, err = tx.Dispatched(peer, storage.Class(class))
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.open(ctx, rows)
}

// open turns dispatched rows into batches: runs of positions without a hole
// that fit one transaction. Where a batch was cut before does not matter, since
// the receiver answers by position. What cannot be opened any more (its sender
// was erased, or the row is damaged) is withdrawn.
func (r *Router) open(ctx context.Context, rows []storage.OutboxItem) ([]*federation.Batch, error) {
	var out []*federation.Batch
	var b *federation.Batch
	size := 0
	for i := range rows {
		row := &rows[i]
		it := federation.Item{Void: true}
		if !row.Void {
			var err error
			if it, err = r.openItem(row); err != nil {
				again := func() error {
					_, err := r.openItem(row)
					return err
				}
				if !r.damaged(row.SenderKey, err, again) {
					return nil, err
				}
				if !errors.Is(err, storage.ErrShredded) {
					r.opts.Log.Error("an outbox item does not open and is withdrawn", "error", err)
				}
				it = federation.Item{Void: true}
				if err := r.withdraw(ctx, row, errors.Is(err, storage.ErrShredded)); err != nil {
					return nil, err
				}
			}
		}
		size += it.Size()
		if b == nil || b.LastPos()+1 != row.Pos || len(b.Items) >= federation.MaxItems || size > federation.MaxTransaction-1024 {
			b = &federation.Batch{FirstPos: row.Pos}
			out = append(out, b)
			size = it.Size()
		}
		b.Items = append(b.Items, outward(it))
		b.Rows = append(b.Rows, row.Row)
	}
	return out, nil
}

// withdraw voids a row that does not open. Whom it was for stood inside, so a
// notice cannot be written; its state tells the sender who asks, and unless the
// sender was erased a dead letter tells the operator.
func (r *Router) withdraw(ctx context.Context, row *storage.OutboxItem, erased bool) error {
	dead, err := r.deadLetter(row, false, nil, clearbox.CodeInternal)
	if err != nil {
		return err
	}
	return r.store.Update(ctx, func(tx *storage.Tx) error {
		if !erased {
			if err := tx.PutDead(dead); err != nil {
				return err
			}
		}
		if err := forgotten(tx.SetSubmissionState(row.SenderNo, row.MessageID, storage.SubmissionUndeliverable)); err != nil {
			return err
		}
		return tx.VoidOutbox([]int64{row.Row})
	})
}

// Settle implements federation.Outbox.
func (r *Router) Settle(ctx context.Context, peer clearbox.ServerName, class federation.Class, lease federation.Lease, batch *federation.Batch, verdicts []federation.Verdict) error {
	if len(verdicts) != len(batch.Items) || len(batch.Rows) != len(batch.Items) {
		return clearbox.Errorf(clearbox.CodeBadRequest, "an answer has one verdict per item")
	}
	now := r.now()
	bounces, err := r.refusals(ctx, batch, verdicts, now)
	if err != nil {
		return err
	}
	dead, err := r.rejected(ctx, batch, verdicts, now)
	if err != nil {
		return err
	}
	type told struct {
		userNo int64
		state  State
	}
	var news []told
	var older []refresh // device lists that are not the current ones
	var waiting map[storage.SentMessage]bool
	err = r.store.Update(ctx, func(tx *storage.Tx) error {
		news, older = news[:0], older[:0]
		for _, told := range bounces {
			for _, b := range told {
				b.reset()
			}
		}
		if _, err := leaseHolds(tx, peer, class, lease); err != nil {
			return err
		}
		rows, err := tx.OutboxHeads(batch.Rows)
		if err != nil {
			return err
		}
		byRow := make(map[int64]*storage.OutboxItem, len(rows))
		for i := range rows {
			byRow[rows[i].Row] = &rows[i]
		}
		settled, atPeer := make([]int64, 0, len(rows)), make([]int64, 0, len(rows))
		for i, v := range verdicts {
			it, row := &batch.Items[i], byRow[batch.Rows[i]]
			if row == nil {
				continue // settled before
			}
			switch {
			case v.Code == federation.VerdictDeferred && !row.Void && !it.Void:
				if err := tx.DeferOutbox([]int64{row.Row}, now+max(1, clearbox.Millis(v.RetryAfter.Milliseconds()))); err != nil {
					return err
				}
				continue
			case v.Code == federation.VerdictOK && !it.Void, v.Code == federation.VerdictDup && !it.Void:
				// Also for an item that was withdrawn after dispatch: the peer has it, which corrects outcome_unknown.
				atPeer = append(atPeer, row.Row)
				if row.Void {
					if err := tx.ReviveDead(peer, row.SenderNo, row.MessageID); err != nil {
						return err
					}
				}
				if it.Bounce != "" || it.Knock != nil || it.Op != nil {
					break
				}
				news = append(news, told{row.SenderNo, State{ID: it.ID, State: StatusAtPeer, Recipient: it.Recipient, DevicesVersion: v.DevicesVersion}})
				for _, s := range v.Stale {
					older = append(older, refresh{clearbox.UserID{UID: s.UID, Server: peer}, s.Version})
				}
			case v.Code == federation.VerdictRejected && !row.Void:
				for _, b := range bounces[i] {
					if err := b.apply(tx, row.SenderNo); err != nil {
						return err
					}
				}
			}
			if d := dead[row.Row]; d != nil && !row.Void {
				if err := tx.PutDead(d); err != nil {
					return err
				}
			}
			settled = append(settled, row.Row)
		}
		if waiting, err = tx.SetOutboxTaken(atPeer); err != nil {
			return err
		}
		return tx.DeleteOutbox(settled)
	})
	if err != nil {
		return err
	}
	for _, told := range bounces {
		for _, b := range told {
			b.wake(r)
		}
	}
	for _, n := range news {
		if !waiting[storage.SentMessage{UserNo: n.userNo, ID: n.state.ID}] {
			r.watchers.tell(n.userNo, n.state)
		}
		r.noteVersion(n.state.Recipient, n.state.DevicesVersion)
	}
	for _, o := range older {
		r.noteVersion(o.user, o.version)
	}
	return nil
}

// refusals prepares the notices for the items that the peer rejected, by index.
// A message to many has one for each person.
func (r *Router) refusals(ctx context.Context, batch *federation.Batch, verdicts []federation.Verdict, now clearbox.Millis) (map[int][]*bounce, error) {
	var rejected []int
	var numbers []int64
	for i, v := range verdicts {
		if v.Code == federation.VerdictRejected && !batch.Items[i].Void {
			rejected, numbers = append(rejected, i), append(numbers, batch.Rows[i])
		}
	}
	if len(rejected) == 0 {
		return nil, nil
	}
	tried := map[int64]storage.OutboxItem{} // earlier attempts that got no answer
	err := r.store.View(ctx, func(tx *storage.Tx) error {
		rows, err := tx.OutboxHeads(numbers)
		for _, row := range rows {
			tried[row.Row] = row
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make(map[int][]*bounce, len(rejected))
	for _, i := range rejected {
		it, row := &batch.Items[i], tried[batch.Rows[i]]
		if it.Bounce != "" || it.Knock != nil || it.Op != nil {
			continue // of a bounce nobody is told, and a knock is never known to have failed
		}
		n := Notice{Kind: NoticeUndeliverable, ID: it.ID, Code: reason(verdicts[i].Reason), FirstTry: now, LastTry: now, Attempts: row.Attempts + 1}
		if row.FirstTry != 0 {
			n.FirstTry = row.FirstTry
		}
		to := []clearbox.UserID{it.Recipient}
		if it.Multi != nil { // only the row knows
			if to, err = r.membersOf(ctx, batch.Rows[i]); err != nil {
				return nil, err
			}
		}
		sender := it.Sender
		if sender.IsZero() { // a sealed message: only the row knows
			if sender, err = r.senderOf(ctx, row.SenderNo); err != nil {
				return nil, err
			}
		}
		if out[i], err = r.newBounces(ctx, sender, n, to); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// membersOf names those for whom the message to many in a row is; nobody when
// the row is gone or does not open.
func (r *Router) membersOf(ctx context.Context, no int64) ([]clearbox.UserID, error) {
	var rows []storage.OutboxItem
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.OutboxRows([]int64{no})
		return err
	})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	var to []clearbox.UserID
	open := func() (err error) {
		_, to, err = r.openFor(&rows[0])
		return err
	}
	if err := open(); err != nil && !r.damaged(rows[0].SenderKey, err, open) {
		return nil, err
	}
	return to, nil
}

// senderOf names the person here who has the number; nobody when there is none.
func (r *Router) senderOf(ctx context.Context, userNo int64) (clearbox.UserID, error) {
	var u storage.User
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		u, err = tx.UserByNo(userNo)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return clearbox.UserID{}, nil
	}
	return clearbox.UserID{UID: u.UID, Server: r.server}, err
}

// reason maps what a peer said to what a sender is told; an unknown word is
// not repeated to people.
func reason(c clearbox.Code) clearbox.Code {
	switch c {
	case clearbox.CodeRecipientUnavailable, clearbox.CodeMailboxFull, clearbox.CodeTooLarge, clearbox.CodeExpired, clearbox.CodeConsentRequired,
		clearbox.CodeIdentityChanged, clearbox.CodeNoDevice, clearbox.CodePeerBlocked, clearbox.CodeNoRoutePolicy, clearbox.CodeUnsupportedCritical,
		clearbox.CodeNotAMember:
		return c
	}
	return clearbox.CodeRecipientUnavailable
}

// forgotten lets a submission be gone: it is remembered for 30 days only.
func forgotten(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// Failed implements federation.Outbox.
func (r *Router) Failed(ctx context.Context, _ clearbox.ServerName, _ federation.Class, batch *federation.Batch, outcome federation.Outcome) error {
	known := storage.OutcomeUnknown
	switch outcome {
	case federation.OutcomeNotTaken:
		known = storage.OutcomeNotTaken
	case federation.OutcomeRefused:
		known = storage.OutcomeRefused
	}
	return r.store.Update(ctx, func(tx *storage.Tx) error { return tx.TriedOutbox(batch.Rows, tx.Now(), known) })
}

// Repeat implements federation.Outbox.
func (r *Router) Repeat(ctx context.Context, peer clearbox.ServerName, class federation.Class, lease federation.Lease, batch *federation.Batch) error {
	return r.store.Update(ctx, func(tx *storage.Tx) error {
		if _, err := leaseHolds(tx, peer, class, lease); err != nil {
			return err
		}
		rows, err := tx.OutboxHeads(batch.Rows)
		if err != nil {
			return err
		}
		if len(rows) != len(batch.Rows) {
			return errChanged
		}
		for i := range rows { // both in the order of positions
			if rows[i].Void && !batch.Items[i].Void {
				return errChanged
			}
		}
		return tx.RepeatOutbox(batch.Rows)
	})
}

// Rewind implements federation.Outbox.
func (r *Router) Rewind(ctx context.Context, peer clearbox.ServerName, class federation.Class, lease federation.Lease, expected int64) (federation.Lease, error) {
	fresh := make([]byte, 16)
	if _, err := io.ReadFull(r.opts.Random, fresh); err != nil {
		return federation.Lease{}, err
	}
	c := storage.Class(class)
	var out federation.Lease
	err := r.store.Update(ctx, func(tx *storage.Tx) error {
		s, err := leaseHolds(tx, peer, class, lease)
		if err != nil {
			return err
		}
		rows, err := tx.Dispatched(peer, c)
		if err != nil {
			return err
		}
		keep := rows[:0]
		var void []int64
		for _, row := range rows {
			if row.Void {
				void = append(void, row.Row)
			} else {
				keep = append(keep, row)
			}
		}
		if err := tx.DeleteOutbox(void); err != nil {
			return err
		}
		if _, err := tx.Undispatch(peer, c); err != nil {
			return err
		}
		// The fence rises with the stream, so that a transaction of the old one
		// that is still on its way cannot take the stream back.
		s.Stream, s.NextPos, s.Fence = fresh, 1, s.Fence+1
		out = federation.Lease{Stream: fresh, Fence: s.Fence, Next: 1 + int64(len(keep))}
		if err := tx.SetOutStream(peer, c, s); err != nil || len(keep) == 0 {
			return err
		}
		return tx.AssignPositions(peer, c, fresh, 1, rowNumbers(keep))
	})
	if err != nil {
		return federation.Lease{}, err
	}
	r.opts.Log.Warn("a peer's stream began anew", "peer", string(peer), "expected", expected)
	return out, nil
}

// Due implements federation.Outbox.
func (r *Router) Due(ctx context.Context, class federation.Class) ([]clearbox.ServerName, error) {
	var out []clearbox.ServerName
	err := r.store.View(ctx, func(tx *storage.Tx) error {
		due, err := tx.OutboxDue()
		for _, d := range due {
			if d.Class == storage.Class(class) {
				out = append(out, d.Peer)
			}
		}
		return err
	})
	return out, err
}
