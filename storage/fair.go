package storage

import (
	"slices"

	"github.com/clearbox-im/clearbox"
)

// deepQueue is from how many items on a queue is deep. What is added to a deep
// queue is marked, and an index holds the marked items by sender. So the
// ordinary queue pays nothing, and what is not marked stands among the first
// deepQueue items of its queue.
const deepQueue = 512

// OutboxOthers gives the first due rows of senders who have none in batch, the
// front of the queue: at most limit, in equal shares, each sender's in order
// and without leaving one out. Where there are more senders than limit, those
// with a number above after come first; last is where the next round begins.
func (tx *Tx) OutboxOthers(peer clearbox.ServerName, class Class, batch []OutboxItem, after int64, limit int) (rows []int64, last int64, err error) {
	near, err := tx.outboxFront(peer, class, batch)
	if err != nil {
		return nil, after, err
	}
	behind, err := tx.sendersBehind(peer, class, after, limit)
	if err != nil {
		return nil, after, err
	}
	seen := map[int64]bool{}
	for i := range batch {
		seen[batch[i].SenderNo] = true
	}
	var senders []int64 // of near first, so that nobody waits at the front
	for _, h := range near {
		if !seen[h.sender] {
			seen[h.sender] = true
			senders = append(senders, h.sender)
		}
	}
	close := len(senders)
	for _, s := range behind {
		if !seen[s] && len(senders) < limit {
			senders = append(senders, s)
			last = s
		}
	}
	if len(senders) == 0 {
		return nil, after, nil
	}
	senders = senders[:min(limit, len(senders))]
	share := max(1, limit/len(senders))
	for i, s := range senders {
		if i < close {
			n := 0
			for _, h := range near {
				if h.sender == s && n < share {
					rows, n = append(rows, h.row), n+1
				}
			}
			continue
		}
		var row int64
		err := tx.each(`SELECT row_no FROM outbox WHERE peer = $1 AND class = $2 AND sender_no = $3 AND deep = 1 AND pos = 0 AND deferred_until = 0
			ORDER BY row_no LIMIT $4`, args(string(peer), string(class), s, int64(share)), []any{&row}, func() error {
			rows = append(rows, row)
			return nil
		})
		if err != nil {
			return nil, after, err
		}
	}
	if last == 0 {
		last = after
	}
	return rows, last, nil
}

// outboxHead is whose a row is.
type outboxHead struct{ row, sender int64 }

// outboxFront gives the due rows behind batch among the first deepQueue ones:
// all that are not marked are there.
func (tx *Tx) outboxFront(peer clearbox.ServerName, class Class, batch []OutboxItem) ([]outboxHead, error) {
	through := int64(0)
	if len(batch) > 0 {
		through = batch[len(batch)-1].Row
	}
	var out []outboxHead
	var h outboxHead
	err := tx.each(`SELECT row_no, sender_no FROM outbox WHERE peer = $1 AND class = $2 AND pos = 0 AND deferred_until = 0 AND row_no > $3
		ORDER BY row_no LIMIT $4`, args(string(peer), string(class), through, int64(max(0, deepQueue-len(batch)))), []any{&h.row, &h.sender}, func() error {
		out = append(out, h)
		return nil
	})
	return out, err
}

// sendersBehind gives the senders of marked, due rows from after on, and then
// those before it; at most twice limit, since some may be in the batch already.
func (tx *Tx) sendersBehind(peer clearbox.ServerName, class Class, after int64, limit int) ([]int64, error) {
	var out []int64
	for _, from := range [...]int64{after, -1} {
		for at := from; len(out) < 2*limit; {
			err := tx.one(`SELECT sender_no FROM outbox WHERE peer = $1 AND class = $2 AND sender_no > $3 AND deep = 1 AND pos = 0 AND deferred_until = 0
				ORDER BY sender_no LIMIT 1`, args(string(peer), string(class), at), &at)
			if err == ErrNotFound || err == nil && from < 0 && at > after {
				break
			}
			if err != nil {
				return nil, err
			}
			if !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	return out, nil
}
