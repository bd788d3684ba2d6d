package delivery

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// bounce is a notice on its way into every mailbox of a local sender, sealed
// outside of the update that stores it.
type bounce struct {
	notice *Notice
	sender clearbox.UserID
	sealed storage.Sealed
	until  clearbox.Millis

	devices []int64 // of the last run of apply
	seqs    []int64
}

// newBounce prepares a notice; nil when the sender is gone, since there is
// nobody left to tell. One who is banned is told too: a ban may end.
func (r *Router) newBounce(ctx context.Context, sender clearbox.UserID, n *Notice) (*bounce, error) {
	var known storage.Recipient
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		known, err = tx.Recipient(sender.UID)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) || err == nil && known.State == storage.UserErased {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := r.sealMail(known.Key, 0, nil, nil, n, r.now())
	if errors.Is(err, storage.ErrShredded) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &bounce{notice: n, sender: sender, sealed: m.sealed, until: m.expires}, nil
}

// apply stores the notice for each of the sender's devices, in ascending
// order, and for an undeliverable message its state.
func (b *bounce) apply(tx *storage.Tx, senderNo int64) error {
	b.devices, b.seqs = b.devices[:0], b.seqs[:0]
	to, err := tx.Recipient(b.sender.UID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if b.notice.Kind == NoticeUndeliverable {
		if err := forgotten(tx.SetSubmissionState(senderNo, b.notice.ID, storage.SubmissionUndeliverable)); err != nil {
			return err
		}
	}
	for _, d := range to.Devices {
		seq, err := tx.PutNotice(d.No, b.sealed, b.until)
		if err != nil {
			return err
		}
		b.devices, b.seqs = append(b.devices, d.No), append(b.seqs, seq)
	}
	return nil
}

// reset forgets what an earlier run of the update did. A nil bounce has nothing
// to forget.
func (b *bounce) reset() {
	if b != nil {
		b.devices, b.seqs = nil, nil
	}
}

// wake tells open readers after the commit. A nil bounce does nothing.
func (b *bounce) wake(r *Router) {
	if b == nil {
		return
	}
	for i, no := range b.devices {
		r.mailboxes.post(no, Delivery{Seq: b.seqs[i], Notice: b.notice})
	}
}
