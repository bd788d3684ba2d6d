package storage

import (
	"errors"
	"iter"

	"github.com/clearbox-im/clearbox"
)

// Class is a stream's kind of traffic to a peer: federation.md 7.
type Class string

// The durable classes.
const (
	ClassControl Class = "control"
	ClassMessage Class = "message"
)

// Outcome is what is known of the attempts to deliver an item.
type Outcome int64

// The outcomes. The numbers are stored.
const (
	OutcomeOpen     Outcome = 0 // of a dispatched item: an attempt is under way, or nobody saw its end
	OutcomeNotTaken Outcome = 1 // the peer took it in none of the attempts
	OutcomeRefused  Outcome = 2 // nor did it in the last one, since it wants nothing of this server's
	OutcomeUnknown  Outcome = 3 // an attempt got no answer; this stays
)

// OutboxItem is one message for one person at a peer. It stays until the peer's
// verdict or until it was reported to its sender.
type OutboxItem struct {
	Row           int64 // given by PutOutbox; local, never reused
	Peer          clearbox.ServerName
	Class         Class
	SenderNo      int64
	SenderKey     KeyID  // wraps Sealed's content key
	Sealed        Sealed // holds the recipient too
	MessageID     clearbox.MessageID
	Accepted      clearbox.Millis // now if 0
	Expires       clearbox.Millis
	Attempts      int
	FirstTry      clearbox.Millis
	LastTry       clearbox.Millis
	DeferredUntil clearbox.Millis // held until then, 0 if due
	Delayed       bool            // the sender was told
	Pos           int64           // stream position, 0 while not dispatched
	Void          bool            // withdrawn after dispatch
	Outcome       Outcome         // 0 while not dispatched
	HoldKey       []byte          // keyed hash of peer and recipient: items of one recipient are held together
}

// Absent tells whether the item is certainly not at the peer.
func (it *OutboxItem) Absent() bool {
	return it.Pos == 0 || it.Outcome == OutcomeNotTaken || it.Outcome == OutcomeRefused
}

// PeerClass names a queue.
type PeerClass struct {
	Peer  clearbox.ServerName
	Class Class
}

// OutboxStat describes the queue to a peer.
type OutboxStat struct {
	PeerClass
	Count  int64
	Bytes  int64           // payloads and keys
	Oldest clearbox.Millis // Accepted of the oldest item
}

func (it *OutboxItem) size() int64 { return int64(len(it.Sealed.Payload) + len(it.Sealed.Wrapped)) }

// PutOutbox queues an item and sets its Row. While other items of the same
// recipient are held, it is held with them, so that order is kept.
func (tx *Tx) PutOutbox(it *OutboxItem) error {
	q, err := tx.OutQueue(it.Peer, it.Class)
	if err != nil {
		return err
	}
	if err := q.Put(it); err != nil {
		return err
	}
	return q.Close()
}

// OutQueue adds items to one queue within one Update: what they share is read
// once, and written once by Close. Until then nothing else puts into that queue.
type OutQueue struct {
	tx                 *Tx
	q                  PeerClass
	items, bytes       int64 // with what was put
	putItems, putBytes int64
	holds              bool // there may be some
}

// OutQueue opens the queue to a peer in one class.
func (tx *Tx) OutQueue(peer clearbox.ServerName, class Class) (*OutQueue, error) {
	q := &OutQueue{tx: tx, q: PeerClass{peer, class}}
	err := tx.one(`SELECT items, bytes, CASE WHEN EXISTS (SELECT 1 FROM outbox_holds h WHERE h.peer = s.peer AND h.class = s.class) THEN 1 ELSE 0 END
		FROM out_streams s WHERE peer = $1 AND class = $2`, args(string(peer), string(class)), &q.items, &q.bytes, &q.holds)
	if err == ErrNotFound {
		q.holds, err = true, nil
	}
	return q, err
}

// Size gives what waits, as Tx.OutboxSize does.
func (q *OutQueue) Size() (items, bytes int64) { return q.items, q.bytes }

// Put is Tx.PutOutbox for an item of this queue. It counts after Close.
func (q *OutQueue) Put(it *OutboxItem) error {
	tx := q.tx
	it.Peer, it.Class = q.q.Peer, q.q.Class
	if it.Accepted == 0 {
		it.Accepted = tx.now
	}
	if q.holds {
		var until int64
		err := tx.one("SELECT until FROM outbox_holds WHERE peer = $1 AND class = $2 AND hold_key = $3",
			args(string(it.Peer), string(it.Class), it.HoldKey), &until)
		if err != nil && err != ErrNotFound {
			return err
		}
		it.DeferredUntil = max(it.DeferredUntil, clearbox.Millis(until))
	}
	q.items, q.bytes = q.items+1, q.bytes+it.size()
	err := tx.write(`INSERT INTO outbox (peer, class, pos, deferred_until, sender_no, sender_key, message_id, accepted, expires,
			attempts, first_try, last_try, delayed, void, hold_key, wrapped, payload, deep)
		VALUES ($1, $2, 0, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) RETURNING row_no`,
		args(string(it.Peer), string(it.Class), int64(it.DeferredUntil), it.SenderNo, it.SenderKey[:], it.MessageID[:],
			int64(it.Accepted), int64(it.Expires), int64(it.Attempts), int64(it.FirstTry), int64(it.LastTry), number(it.Delayed),
			number(it.Void), it.HoldKey, it.Sealed.Wrapped, it.Sealed.Payload, number(q.items > deepQueue)), &it.Row)
	if err != nil {
		return err
	}
	it.Pos = 0
	q.putItems, q.putBytes = q.putItems+1, q.putBytes+it.size()
	return nil
}

// Close writes the queue's new size. Without it the Update must fail.
func (q *OutQueue) Close() error {
	if q.putItems == 0 {
		return nil
	}
	_, err := q.tx.exec(`INSERT INTO out_streams (peer, class, stream, next_pos, fence, items, bytes) VALUES ($1, $2, $3, 1, 0, $4, $5)
		ON CONFLICT (peer, class) DO UPDATE SET items = out_streams.items + excluded.items, bytes = out_streams.bytes + excluded.bytes`,
		string(q.q.Peer), string(q.q.Class), []byte{}, q.putItems, q.putBytes)
	q.putItems, q.putBytes = 0, 0
	return err
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// OutboxSize gives what waits for a peer in one class; it reads one small row.
func (tx *Tx) OutboxSize(peer clearbox.ServerName, class Class) (items, bytes int64, err error) {
	err = tx.one("SELECT items, bytes FROM out_streams WHERE peer = $1 AND class = $2", args(string(peer), string(class)), &items, &bytes)
	if err == ErrNotFound {
		return 0, 0, nil
	}
	return items, bytes, err
}

const outboxColumns = `row_no, peer, class, pos, deferred_until, sender_no, sender_key, message_id, accepted, expires,
	attempts, first_try, last_try, delayed, void, outcome, hold_key, wrapped, payload`

// outbox reads items until limit or maxBytes; maxBytes below 0 is no limit, and
// the first item always fits.
func (tx *Tx) outbox(limit, maxBytes int, query string, a ...any) ([]OutboxItem, error) {
	r, err := tx.c.query("SELECT "+outboxColumns+" FROM outbox "+query, a...)
	if err != nil {
		return nil, err
	}
	var out []OutboxItem
	bytes := int64(0)
	for len(out) < limit && r.next() {
		var it OutboxItem
		var peer, class string
		var deferred, accepted, expires, attempts, first, last, outcome int64
		var key, id []byte
		err := r.scan(&it.Row, &peer, &class, &it.Pos, &deferred, &it.SenderNo, &key, &id, &accepted, &expires,
			&attempts, &first, &last, &it.Delayed, &it.Void, &outcome, &it.HoldKey, &it.Sealed.Wrapped, &it.Sealed.Payload)
		if err != nil {
			r.close()
			return nil, err
		}
		bytes += it.size()
		if maxBytes >= 0 && bytes > int64(maxBytes) && len(out) > 0 {
			break
		}
		it.Peer, it.Class, it.SenderKey, it.Attempts = clearbox.ServerName(peer), Class(class), keyID(key), int(attempts)
		copy(it.MessageID[:], id)
		it.DeferredUntil, it.Accepted, it.Expires = clearbox.Millis(deferred), clearbox.Millis(accepted), clearbox.Millis(expires)
		it.FirstTry, it.LastTry, it.Outcome = clearbox.Millis(first), clearbox.Millis(last), Outcome(outcome)
		out = append(out, it)
	}
	return out, r.close()
}

// OutboxBatch gives the undispatched, due items of a queue in row order, at
// most maxItems and, but for the first, maxBytes. In an Update it first frees
// the items whose hold is over.
func (tx *Tx) OutboxBatch(peer clearbox.ServerName, class Class, maxItems, maxBytes int) ([]OutboxItem, error) {
	if !tx.readOnly {
		if err := tx.releaseHolds(peer, class); err != nil {
			return nil, err
		}
	}
	return tx.outbox(maxItems, maxBytes, "WHERE peer = $1 AND class = $2 AND pos = 0 AND deferred_until = 0 ORDER BY row_no LIMIT $3",
		string(peer), string(class), int64(maxItems))
}

func (tx *Tx) releaseHolds(peer clearbox.ServerName, class Class) error {
	var over [][]byte
	var key []byte
	err := tx.each("SELECT hold_key FROM outbox_holds WHERE peer = $1 AND class = $2 AND until <= $3",
		args(string(peer), string(class), int64(tx.now)), []any{&key}, func() error {
			over = append(over, key)
			return nil
		})
	if err != nil {
		return err
	}
	for _, key := range over {
		if _, err := tx.exec("UPDATE outbox SET deferred_until = 0 WHERE hold_key = $1 AND peer = $2 AND class = $3 AND deferred_until > 0",
			key, string(peer), string(class)); err != nil {
			return err
		}
		if _, err := tx.exec("DELETE FROM outbox_holds WHERE peer = $1 AND class = $2 AND hold_key = $3", string(peer), string(class), key); err != nil {
			return err
		}
	}
	return nil
}

// OutboxDue lists the queues that OutboxBatch in an Update would find something
// in, or that have dispatched items without an answer.
func (tx *Tx) OutboxDue() ([]PeerClass, error) {
	var out []PeerClass
	var peer, class string
	err := tx.each(`SELECT peer, class FROM out_streams s WHERE s.items > 0 AND (
			EXISTS (SELECT 1 FROM outbox o WHERE o.peer = s.peer AND o.class = s.class AND o.pos = 0 AND o.deferred_until = 0)
			OR EXISTS (SELECT 1 FROM outbox o WHERE o.peer = s.peer AND o.class = s.class AND o.pos > 0)
			OR EXISTS (SELECT 1 FROM outbox_holds h WHERE h.peer = s.peer AND h.class = s.class AND h.until <= $1))
		ORDER BY peer, class`, args(int64(tx.now)), []any{&peer, &class}, func() error {
		out = append(out, PeerClass{clearbox.ServerName(peer), Class(class)})
		return nil
	})
	return out, err
}

// AssignPositions gives rows, in their order, the positions from first on in
// the stream, and moves the stream's NextPos behind them. It refuses with
// ErrNotFound when the stream is another one by now, when first is not its next
// position, or when a row is gone or dispatched. What is known of the rows'
// attempts stays.
func (tx *Tx) AssignPositions(peer clearbox.ServerName, class Class, stream []byte, first int64, rows []int64) error {
	err := tx.change("UPDATE out_streams SET next_pos = $1 WHERE peer = $2 AND class = $3 AND stream = $4 AND next_pos = $5",
		first+int64(len(rows)), string(peer), string(class), stream, first)
	if err != nil {
		return err
	}
	for from, to := range runs(rows) {
		// peer || '' keeps planners from walking the whole queue by its index.
		n, err := tx.exec(`UPDATE outbox SET pos = row_no + $1, deferred_until = 0
			WHERE row_no >= $2 AND row_no <= $3 AND peer || '' = $4 AND class = $5 AND pos = 0`,
			first-from, from, to, string(peer), string(class))
		if err != nil {
			return err
		}
		if n != to-from+1 {
			return ErrNotFound
		}
		first += n
	}
	return nil
}

// runs gives the first and the last of each stretch of consecutive numbers, in
// their order. What is queued for one peer together has such numbers, and one
// statement for a stretch costs a fraction of one for each row.
func runs(rows []int64) iter.Seq2[int64, int64] {
	return func(yield func(from, to int64) bool) {
		for i := 0; i < len(rows); {
			j := i + 1
			for j < len(rows) && rows[j] == rows[j-1]+1 {
				j++
			}
			if !yield(rows[i], rows[j-1]) {
				return
			}
			i = j
		}
	}
}

// Dispatched gives the items with a position, in order of position: those
// whose answer is still out.
func (tx *Tx) Dispatched(peer clearbox.ServerName, class Class) ([]OutboxItem, error) {
	return tx.outbox(1<<30, -1, "WHERE peer = $1 AND class = $2 AND pos > 0 ORDER BY pos", string(peer), string(class))
}

// Undispatch takes the positions of a queue's items back, before they are sent
// again in another stream. It tells how many there were.
func (tx *Tx) Undispatch(peer clearbox.ServerName, class Class) (int64, error) {
	return tx.exec("UPDATE outbox SET pos = 0 WHERE peer = $1 AND class = $2 AND pos > 0", string(peer), string(class))
}

// OutboxRows gives those of the rows that are still there.
func (tx *Tx) OutboxRows(rows []int64) ([]OutboxItem, error) {
	var out []OutboxItem
	for _, row := range rows {
		its, err := tx.outbox(1, -1, "WHERE row_no = $1", row)
		if err != nil {
			return nil, err
		}
		out = append(out, its...)
	}
	return out, nil
}

// OutboxHeads is OutboxRows without HoldKey and Sealed, for those who settle what
// they have already read.
func (tx *Tx) OutboxHeads(rows []int64) ([]OutboxItem, error) {
	out := make([]OutboxItem, 0, len(rows))
	var it OutboxItem
	var id []byte
	var attempts, first, last, outcome int64
	into := []any{&it.Row, &it.Pos, &it.SenderNo, &id, &attempts, &first, &last, &it.Void, &outcome}
	for from, to := range runs(rows) {
		err := tx.each(`SELECT row_no, pos, sender_no, message_id, attempts, first_try, last_try, void, outcome FROM outbox
			WHERE row_no >= $1 AND row_no <= $2 ORDER BY row_no`, args(from, to), into, func() error {
			copy(it.MessageID[:], id)
			it.Attempts, it.FirstTry, it.LastTry, it.Outcome = int(attempts), clearbox.Millis(first), clearbox.Millis(last), Outcome(outcome)
			out = append(out, it)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// DeleteOutbox removes rows; those that are gone already are no error.
func (tx *Tx) DeleteOutbox(rows []int64) error {
	queues := map[PeerClass]freed{} // one entry, as a rule
	for from, to := range runs(rows) {
		// Reading first and then deleting a plain range is cheaper than RETURNING; see AckMail.
		n, err := tx.countOutbox(from, to, queues)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		if _, err := tx.exec("DELETE FROM outbox WHERE row_no >= $1 AND row_no <= $2", from, to); err != nil {
			return err
		}
	}
	for q, f := range queues {
		err := tx.change("UPDATE out_streams SET items = items - $1, bytes = bytes - $2 WHERE peer = $3 AND class = $4",
			f.items, f.bytes, string(q.Peer), string(q.Class))
		if err != nil {
			return err
		}
	}
	return nil
}

// freed is what a queue loses.
type freed struct{ items, bytes int64 }

// countOutbox adds the items of a stretch of rows to what their queues lose.
func (tx *Tx) countOutbox(from, to int64, queues map[PeerClass]freed) (n int64, err error) {
	var peer, otherPeer, class, otherClass string
	var bytes int64
	err = tx.one(`SELECT COUNT(*), COALESCE(SUM(OCTET_LENGTH(wrapped) + OCTET_LENGTH(payload)), 0), MIN(peer), MAX(peer), MIN(class), MAX(class)
		FROM outbox WHERE row_no >= $1 AND row_no <= $2`, args(from, to), &n, &bytes, &peer, &otherPeer, &class, &otherClass)
	if err != nil || n == 0 {
		return 0, err
	}
	if peer == otherPeer && class == otherClass {
		q := PeerClass{clearbox.ServerName(peer), Class(class)}
		queues[q] = freed{queues[q].items + n, queues[q].bytes + bytes}
		return n, nil
	}
	return n, tx.each(`SELECT peer, class, OCTET_LENGTH(wrapped) + OCTET_LENGTH(payload) FROM outbox
		WHERE row_no >= $1 AND row_no <= $2`, args(from, to), []any{&peer, &class, &bytes}, func() error {
		q := PeerClass{clearbox.ServerName(peer), Class(class)}
		queues[q] = freed{queues[q].items + 1, queues[q].bytes + bytes}
		return nil
	})
}

// VoidOutbox withdraws items: those without a position are deleted, dispatched
// ones lose their payload and are marked, so that their position is not empty.
func (tx *Tx) VoidOutbox(rows []int64) error {
	its, err := tx.OutboxRows(rows)
	if err != nil {
		return err
	}
	for _, it := range its {
		if it.Pos == 0 {
			if err := tx.DeleteOutbox([]int64{it.Row}); err != nil {
				return err
			}
			continue
		}
		if err := tx.change("UPDATE outbox SET void = 1, wrapped = $1, payload = $2 WHERE row_no = $3", []byte{}, []byte{}, it.Row); err != nil {
			return err
		}
		if err := tx.change("UPDATE out_streams SET bytes = bytes - $1 WHERE peer = $2 AND class = $3", it.size(), string(it.Peer), string(it.Class)); err != nil {
			return err
		}
	}
	return nil
}

// DeferOutbox takes back the positions of rows, which their peer did not take,
// and holds them, with every other undispatched item of the same recipients,
// until the given moment.
func (tx *Tx) DeferOutbox(rows []int64, until clearbox.Millis) error {
	if until <= 0 {
		return errors.New("storage: a hold needs an end")
	}
	for _, row := range rows {
		var peer, class string
		var hold []byte
		err := tx.write("UPDATE outbox SET pos = 0, outcome = 0, deferred_until = $1 WHERE row_no = $2 RETURNING peer, class, hold_key",
			args(int64(until), row), &peer, &class, &hold)
		if err == ErrNotFound {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := tx.exec(`INSERT INTO outbox_holds (peer, class, hold_key, until) VALUES ($1, $2, $3, $4)
			ON CONFLICT (peer, class, hold_key) DO UPDATE SET until = excluded.until`, peer, class, hold, int64(until)); err != nil {
			return err
		}
		if _, err := tx.exec("UPDATE outbox SET deferred_until = $1 WHERE hold_key = $2 AND peer = $3 AND class = $4 AND pos = 0",
			int64(until), hold, peer, class); err != nil {
			return err
		}
	}
	return nil
}

// TriedOutbox counts an attempt of rows and how it ended: FirstTry is set once,
// LastTry always, and OutcomeUnknown stays.
func (tx *Tx) TriedOutbox(rows []int64, at clearbox.Millis, outcome Outcome) error {
	for _, row := range rows {
		if _, err := tx.exec(`UPDATE outbox SET attempts = attempts + 1, last_try = $1,
			first_try = CASE WHEN first_try = 0 THEN $1 ELSE first_try END,
			outcome = CASE WHEN outcome = 3 THEN 3 ELSE $2 END WHERE row_no = $3`, int64(at), int64(outcome), row); err != nil {
			return err
		}
	}
	return nil
}

// RepeatOutbox notes that rows are sent again. Of an open one nobody saw how the
// attempt before ended.
func (tx *Tx) RepeatOutbox(rows []int64) error {
	for from, to := range runs(rows) {
		_, err := tx.exec("UPDATE outbox SET outcome = CASE WHEN outcome = 1 OR outcome = 2 THEN 0 ELSE 3 END WHERE row_no >= $1 AND row_no <= $2", from, to)
		if err != nil {
			return err
		}
	}
	return nil
}

// OutboxExpired gives at most limit items whose time is up and that are not
// withdrawn yet, oldest first.
func (tx *Tx) OutboxExpired(now clearbox.Millis, limit int) ([]OutboxItem, error) {
	return tx.outbox(limit, -1, "WHERE expires <= $1 AND void = 0 ORDER BY expires, row_no LIMIT $2", int64(now), int64(limit))
}

// OutboxUndelayed gives at most limit items that were accepted at or before the
// given moment, whose senders were not told yet and that are not withdrawn,
// oldest first.
func (tx *Tx) OutboxUndelayed(before clearbox.Millis, limit int) ([]OutboxItem, error) {
	return tx.outbox(limit, -1, "WHERE delayed = 0 AND void = 0 AND accepted <= $1 ORDER BY accepted, row_no LIMIT $2", int64(before), int64(limit))
}

// OutboxOf gives at most limit items of a queue in any state.
func (tx *Tx) OutboxOf(peer clearbox.ServerName, class Class, limit int) ([]OutboxItem, error) {
	return tx.outbox(limit, -1, "WHERE peer = $1 AND class = $2 LIMIT $3", string(peer), string(class), int64(limit))
}

// MarkDelayed notes that the senders of rows were told.
func (tx *Tx) MarkDelayed(rows []int64) error {
	for _, row := range rows {
		if _, err := tx.exec("UPDATE outbox SET delayed = 1 WHERE row_no = $1", row); err != nil {
			return err
		}
	}
	return nil
}

// OutboxStats describes every queue that holds something.
func (tx *Tx) OutboxStats() ([]OutboxStat, error) {
	var out []OutboxStat
	var st OutboxStat
	var peer, class string
	err := tx.each("SELECT peer, class, items, bytes FROM out_streams WHERE items > 0 ORDER BY peer, class", nil,
		[]any{&peer, &class, &st.Count, &st.Bytes}, func() error {
			st.Peer, st.Class = clearbox.ServerName(peer), Class(class)
			out = append(out, st)
			return nil
		})
	if err != nil {
		return nil, err
	}
	for i := range out {
		var oldest int64
		// The index holds a queue in three stretches: due, held, dispatched. Rows
		// of the first and the last stand in order of age.
		err := tx.one(`SELECT MIN(accepted) FROM (
			SELECT accepted FROM (SELECT accepted FROM outbox WHERE peer = $1 AND class = $2 AND pos = 0 AND deferred_until = 0 ORDER BY row_no LIMIT 1) AS due
			UNION ALL SELECT accepted FROM (SELECT accepted FROM outbox WHERE peer = $1 AND class = $2 AND pos = 0 AND deferred_until > 0 ORDER BY deferred_until, row_no LIMIT 1) AS held
			UNION ALL SELECT accepted FROM (SELECT accepted FROM outbox WHERE peer = $1 AND class = $2 AND pos > 0 ORDER BY pos LIMIT 1) AS dispatched) AS firsts`,
			args(string(out[i].Peer), string(out[i].Class)), &oldest)
		if err != nil {
			return nil, err
		}
		out[i].Oldest = clearbox.Millis(oldest)
	}
	return out, nil
}
