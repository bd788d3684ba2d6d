package delivery

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

// deadKept is how long the metadata of what was not delivered is kept.
const deadKept = 14 * 24 * time.Hour

// deadAD is the associated data of a dead letter's recipient.
func deadAD(id clearbox.MessageID) []byte { return append(id[:len(id):len(id)], "dead"...) }

// toMany stands before the names in a dead letter of a message to a group.
const toMany = "*"

// deadLetter is what remains of row. Those whom it was for, nobody if that is not
// known, and whether it was for many, are sealed under the sender's key; nil when
// that key was destroyed.
func (r *Router) deadLetter(row *storage.OutboxItem, many bool, to []clearbox.UserID, code clearbox.Code) (*storage.DeadLetter, error) {
	d := &storage.DeadLetter{
		Peer: row.Peer, Class: row.Class, Code: code, SenderNo: row.SenderNo, SenderKey: row.SenderKey, MessageID: row.MessageID,
		Accepted: row.Accepted, FirstTry: row.FirstTry, LastTry: row.LastTry, Attempts: row.Attempts,
	}
	if row.SenderNo == 0 || len(to) == 0 {
		return d, nil
	}
	var names []string
	if many {
		names = append(names, toMany)
	}
	for _, u := range to {
		names = append(names, u.String())
	}
	var err error
	d.Recipient, err = r.keys.Seal(row.SenderKey, storage.PurposeMailbox, deadAD(row.MessageID), []byte(strings.Join(names, " ")))
	if errors.Is(err, storage.ErrShredded) {
		return nil, nil
	}
	return d, err
}

// rejected prepares the dead letters of the items that the peer rejected, by row.
func (r *Router) rejected(ctx context.Context, batch *federation.Batch, verdicts []federation.Verdict, now clearbox.Millis) (map[int64]*storage.DeadLetter, error) {
	at := map[int64]int{}
	var numbers []int64
	for i, v := range verdicts {
		if v.Code == federation.VerdictRejected && !batch.Items[i].Void {
			at[batch.Rows[i]] = i
			numbers = append(numbers, batch.Rows[i])
		}
	}
	if len(numbers) == 0 {
		return nil, nil
	}
	var rows []storage.OutboxItem
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.OutboxRows(numbers)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make(map[int64]*storage.DeadLetter, len(rows))
	for i := range rows {
		row := &rows[i]
		row.Attempts, row.LastTry = row.Attempts+1, now
		if row.FirstTry == 0 {
			row.FirstTry = now
		}
		it := &batch.Items[at[row.Row]]
		to := []clearbox.UserID{it.Recipient}
		if it.Multi != nil {
			if to, err = r.membersOf(ctx, row.Row); err != nil {
				return nil, err
			}
		} else if it.Recipient.Server != row.Peer {
			to = nil // a report of this server
		}
		d, err := r.deadLetter(row, it.Multi != nil, to, reason(verdicts[at[row.Row]].Reason))
		if err != nil {
			return nil, err
		}
		out[row.Row] = d
	}
	return out, nil
}

func (r *Router) sweepDead(ctx context.Context) (int, error) {
	var n int64
	err := r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		n, err = tx.ExpireDead(after(tx.Now(), -deadKept), sweepLimit)
		return err
	})
	return int(n), err
}

// Requeue asks the senders of dead letters to hand their messages in again:
// what was in them is gone here. Each gets a notice, and what is remembered of
// the submission is forgotten in the same update, so that the same id may be
// submitted anew. A message to a group is asked for once for each of those who did
// not get it, and comes to them alone under another id: what is remembered stays. left counts the letters that nobody can be asked about: the
// sender is gone or of this server itself, or the recipient is not known any
// more. It refuses with the peer's code while nothing may be sent to it.
func (r *Router) Requeue(ctx context.Context, deed storage.AuditEntry, pick storage.DeadPick) (asked, left int, err error) {
	for last := int64(0); ; {
		var letters []storage.DeadLetter
		err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
			letters, err = tx.Dead(pick, last, sweepLimit)
			return err
		})
		if err != nil {
			return asked, left, err
		}
		if len(letters) == 0 {
			break
		}
		last = letters[len(letters)-1].No
		n, err := r.requeue(ctx, deed, letters)
		if err != nil {
			return asked, left, err
		}
		asked, left = asked+n, left+len(letters)-n
	}
	if asked+left == 0 && pick.No != 0 {
		return 0, 0, storage.ErrNotFound
	}
	return asked, left, nil
}

// requeue does one page of Requeue and its row in the audit log.
func (r *Router) requeue(ctx context.Context, deed storage.AuditEntry, letters []storage.DeadLetter) (asked int, err error) {
	for i := range letters {
		if i == 0 || letters[i].Peer != letters[i-1].Peer {
			if err := r.peers.Route(ctx, letters[i].Peer); err != nil {
				return 0, err
			}
		}
	}
	bounces, many := make([][]*bounce, len(letters)), make([]bool, len(letters))
	for i := range letters {
		if bounces[i], many[i], err = r.request(ctx, &letters[i]); err != nil {
			return 0, err
		}
	}
	err = r.store.Update(ctx, func(tx *storage.Tx) error {
		asked = 0
		for i := range letters {
			d, told := &letters[i], bounces[i]
			for _, b := range told {
				b.reset()
			}
			if len(told) == 0 {
				continue
			}
			if there, err := tx.DeleteDead(d.No); err != nil || !there {
				if err != nil {
					return err
				}
				continue // somebody else was faster
			}
			if !many[i] {
				if err := tx.ForgetSubmission(d.SenderNo, d.MessageID); err != nil {
					return err
				}
			}
			for _, b := range told {
				if err := b.apply(tx, d.SenderNo); err != nil {
					return err
				}
			}
			asked++
		}
		deed.Object = string(letters[0].Peer)
		deed.Detail = strconv.Itoa(asked) + " of " + strconv.Itoa(len(letters))
		return tx.Audit(deed)
	})
	if err != nil {
		return 0, err
	}
	for _, told := range bounces {
		for _, b := range told {
			b.wake(r)
		}
	}
	return asked, nil
}

// request prepares the notices that ask for a message again, one for each person
// whom it was for; none when there is nobody to ask. many tells a message to a group.
func (r *Router) request(ctx context.Context, d *storage.DeadLetter) (told []*bounce, many bool, err error) {
	if d.SenderNo == 0 || len(d.Recipient) == 0 {
		return nil, false, nil
	}
	var plain []byte
	open := func() (err error) {
		plain, err = r.keys.Open(d.SenderKey, storage.PurposeMailbox, deadAD(d.MessageID), d.Recipient)
		return err
	}
	if err := open(); err != nil {
		if r.damaged(d.SenderKey, err, open) {
			return nil, false, nil
		}
		return nil, false, err
	}
	names, many := strings.CutPrefix(string(plain), toMany+" ")
	var to []clearbox.UserID
	for name := range strings.SplitSeq(names, " ") {
		u, err := clearbox.ParseUserID(name)
		if err != nil {
			return nil, false, nil
		}
		to = append(to, u)
	}
	var sender storage.User
	err = r.store.View(ctx, func(tx *storage.Tx) (err error) {
		sender, err = tx.UserByNo(d.SenderNo)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	told, err = r.newBounces(ctx, clearbox.UserID{UID: sender.UID, Server: r.server}, Notice{
		Kind: NoticeRequeue, ID: d.MessageID, Code: d.Code, FirstTry: d.FirstTry, LastTry: d.LastTry, Attempts: d.Attempts,
	}, to)
	return told, many, err
}
