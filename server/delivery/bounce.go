package delivery

import (
	"bytes"
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
	who    []byte // keyed index of whom the notice is about; see recorded

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
	return r.bounceFor(sender, known.Key, n)
}

// newBounces is newBounce of each of those whom a message was for.
func (r *Router) newBounces(ctx context.Context, sender clearbox.UserID, n Notice, to []clearbox.UserID) ([]*bounce, error) {
	var out []*bounce
	for _, u := range to {
		about := n
		about.Recipient = u
		b, err := r.newBounce(ctx, sender, &about)
		if err != nil {
			return nil, err
		}
		if b != nil {
			out = append(out, b)
		}
	}
	return out, nil
}

// bounceFor is newBounce for a sender whose key is known.
func (r *Router) bounceFor(sender clearbox.UserID, key storage.KeyID, n *Notice) (*bounce, error) {
	m, err := r.sealMail(key, 0, nil, nil, n, r.now())
	if errors.Is(err, storage.ErrShredded) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	who := r.keys.Index("submissions.told", []byte(n.Recipient.String()))[:toldSize]
	return &bounce{notice: n, sender: sender, sealed: m.sealed, until: m.expires, who: who}, nil
}

// toldSize is the length of an entry in storage.Submission.Told.
const toldSize = 8

// recorded notes that somebody did not get a message. Of one to several people
// it tells whether the sender knows that already.
func (b *bounce) recorded(tx *storage.Tx, senderNo int64) (known bool, err error) {
	s, err := tx.Submission(senderNo, b.notice.ID)
	if err != nil {
		return false, forgotten(err)
	}
	if s.People > 0 {
		for told := s.Told; len(told) >= toldSize; told = told[toldSize:] {
			known = known || bytes.Equal(told[:toldSize], b.who)
		}
		if known || int64(len(s.Told)/toldSize) >= s.People { // more than it was for: a peer makes them up
			return true, nil
		}
		if err := tx.SetTold(senderNo, b.notice.ID, append(s.Told, b.who...)); err != nil {
			return false, err
		}
	}
	return false, tx.SetSubmissionState(senderNo, b.notice.ID, storage.SubmissionUndeliverable)
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
		if known, err := b.recorded(tx, senderNo); err != nil || known {
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
