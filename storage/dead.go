package storage

import (
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// DeadLetter is what is kept of a message that was not delivered to a peer: who
// sent it, when and why not, and nothing of the message.
type DeadLetter struct {
	No        int64 // given by PutDead; never reused
	Peer      clearbox.ServerName
	Class     Class
	Code      clearbox.Code // why it was given up
	SenderNo  int64         // 0: a report of the server itself
	SenderKey KeyID
	MessageID clearbox.MessageID
	Recipient []byte // sealed under SenderKey; empty where it is not known any more
	Accepted  clearbox.Millis
	FirstTry  clearbox.Millis // 0 when it was never tried
	LastTry   clearbox.Millis
	Attempts  int
	Died      clearbox.Millis // given by PutDead
}

// DeadPick chooses dead letters; a zero field chooses all.
type DeadPick struct {
	No   int64
	Peer clearbox.ServerName
	Code clearbox.Code
}

// DeadCount is how many dead letters a peer has for one reason.
type DeadCount struct {
	Peer  clearbox.ServerName
	Code  clearbox.Code
	Count int64
}

// PutDead keeps a dead letter and sets its No and Died.
func (tx *Tx) PutDead(d *DeadLetter) error {
	d.Died = tx.now
	return tx.write(`INSERT INTO dead_letters (peer, class, code, sender_no, sender_key, message_id, recipient, accepted, first_try, last_try, attempts, died)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING no`,
		args(string(d.Peer), string(d.Class), string(d.Code), d.SenderNo, d.SenderKey[:], d.MessageID[:], notNull(d.Recipient), int64(d.Accepted),
			int64(d.FirstTry), int64(d.LastTry), int64(d.Attempts), int64(d.Died)), &d.No)
}

func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Dead gives at most limit dead letters with numbers above after, in order.
func (tx *Tx) Dead(pick DeadPick, after int64, limit int) ([]DeadLetter, error) {
	var out []DeadLetter
	var d DeadLetter
	var peer, class, code string
	var key, id []byte
	var accepted, first, last, attempts, died int64
	dest := []any{&d.No, &peer, &class, &code, &d.SenderNo, &key, &id, &d.Recipient, &accepted, &first, &last, &attempts, &died}
	where, a := pick.where(3)
	err := tx.each(`SELECT no, peer, class, code, sender_no, sender_key, message_id, recipient, accepted, first_try, last_try, attempts, died
		FROM dead_letters WHERE no > $1`+where+" ORDER BY no LIMIT $2", append(args(after, int64(limit)), a...), dest, func() error {
		d.Peer, d.Class, d.Code, d.SenderKey, d.Attempts = clearbox.ServerName(peer), Class(class), clearbox.Code(code), keyID(key), int(attempts)
		copy(d.MessageID[:], id)
		d.Accepted, d.FirstTry, d.LastTry, d.Died = clearbox.Millis(accepted), clearbox.Millis(first), clearbox.Millis(last), clearbox.Millis(died)
		out = append(out, d)
		return nil
	})
	return out, err
}

// where is the condition for p with parameters from $n on.
func (p DeadPick) where(n int) (string, []any) {
	var cond string
	var a []any
	add := func(column string, v any) {
		cond += " AND " + column + " = $" + strconv.Itoa(n+len(a))
		a = append(a, v)
	}
	if p.No != 0 {
		add("no", p.No)
	}
	if p.Peer != "" {
		add("peer", string(p.Peer))
	}
	if p.Code != "" {
		add("code", string(p.Code))
	}
	return cond, a
}

// DeadCounts counts per peer and code, in this order.
func (tx *Tx) DeadCounts() ([]DeadCount, error) {
	var out []DeadCount
	var peer, code string
	var n int64
	err := tx.each("SELECT peer, code, COUNT(*) FROM dead_letters GROUP BY peer, code ORDER BY peer, code", nil, []any{&peer, &code, &n}, func() error {
		out = append(out, DeadCount{clearbox.ServerName(peer), clearbox.Code(code), n})
		return nil
	})
	return out, err
}

// DeleteDead removes one dead letter and tells whether it was there.
func (tx *Tx) DeleteDead(no int64) (bool, error) {
	n, err := tx.exec("DELETE FROM dead_letters WHERE no = $1", no)
	return n > 0, err
}

// DropDead removes at most limit dead letters and tells how many.
func (tx *Tx) DropDead(pick DeadPick, limit int) (int64, error) {
	where, a := pick.where(2)
	return tx.exec("DELETE FROM dead_letters WHERE no IN (SELECT no FROM dead_letters WHERE no > 0"+where+" ORDER BY no LIMIT $1)",
		append(args(int64(limit)), a...)...)
}

// ReviveDead removes the dead letter of a message that the peer has after all.
func (tx *Tx) ReviveDead(peer clearbox.ServerName, senderNo int64, id clearbox.MessageID) error {
	_, err := tx.exec("DELETE FROM dead_letters WHERE sender_no = $1 AND message_id = $2 AND peer = $3", senderNo, id[:], string(peer))
	return err
}

// ExpireDead removes at most limit dead letters that died at or before the
// given moment.
func (tx *Tx) ExpireDead(before clearbox.Millis, limit int) (int64, error) {
	return tx.exec("DELETE FROM dead_letters WHERE no IN (SELECT no FROM dead_letters WHERE died <= $1 ORDER BY died LIMIT $2)",
		int64(before), int64(limit))
}
