package storage

import (
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
)

// A mailbox is the range device_no<<32 | seq of one table: one b-tree, no
// second index, so an append and a cumulative acknowledgement touch pages that
// lie together.

// Mail is a queued item of one device.
type Mail struct {
	Seq     int64 // grows with every commit, by 1 while the store stays open; see MailFloor
	Sealed  Sealed
	Expires clearbox.Millis
	Body    int64 // the body that it points to, 0: none
}

// ExpiredMail is a mail that ExpireMail took away.
type ExpiredMail struct {
	DeviceNo int64
	Mail
}

// neverExpires is the next expiry of an empty mailbox.
const neverExpires = int64(1<<63 - 1)

const maxSeq = 1<<32 - 1

// MailFloor is what Options.MailFloor should be for a store that is opened at
// now: the seconds since 2000. It holds for devices that get less than one mail
// a second on average while the server runs.
func MailFloor(now time.Time) int64 {
	return max(0, min(now.Unix()-time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), maxSeq/2))
}

func mailID(deviceNo, seq int64) int64 { return deviceNo<<32 | seq }

// mailRange gives the first and the last id of a device.
func mailRange(deviceNo int64) (first, last int64) {
	return mailID(deviceNo, 0), mailID(deviceNo, maxSeq)
}

// PutMail appends to a device's mailbox and gives the sequence number. The
// order of sequence is the order of commit: lock several devices in ascending
// order of their numbers. ErrNotFound: the device was removed. ErrMailboxFull:
// at its limit of count or bytes; nothing was changed and the update may go on.
func (tx *Tx) PutMail(deviceNo int64, p Sealed, expires clearbox.Millis) (seq int64, err error) {
	return tx.putMail(deviceNo, p, expires, tx.s.mailboxMails, tx.s.mailboxBytes)
}

// PutNotice is PutMail without the limit, for the server's own few words
// (delayed, undeliverable), which must reach also those whose mailbox is full.
func (tx *Tx) PutNotice(deviceNo int64, p Sealed, expires clearbox.Millis) (seq int64, err error) {
	return tx.putMail(deviceNo, p, expires, neverExpires, neverExpires)
}

func (tx *Tx) putMail(deviceNo int64, p Sealed, expires clearbox.Millis, mails, bytes int64) (seq int64, err error) {
	size := int64(len(p.Payload) + len(p.Wrapped))
	err = tx.write(`UPDATE mailboxes SET next_seq = CASE WHEN next_seq < $6 THEN $6 ELSE next_seq END + 1, mails = mails + 1, bytes = bytes + $1,
		next_expiry = CASE WHEN next_expiry > $2 THEN $2 ELSE next_expiry END
		WHERE device_no = $3 AND mails < $4 AND bytes <= $5 RETURNING next_seq - 1`,
		args(size, int64(expires), deviceNo, mails, bytes-size, tx.s.seqFloor), &seq)
	if err == ErrNotFound {
		if _, _, err := tx.MailboxSize(deviceNo); err != nil {
			return 0, err
		}
		return 0, ErrMailboxFull
	}
	if err != nil {
		return 0, err
	}
	if seq > maxSeq {
		return 0, tx.fail(errors.New("storage: the mailbox's sequence numbers are used up"))
	}
	_, err = tx.exec("INSERT INTO mail (id, expires, wrapped, payload) VALUES ($1, $2, $3, $4)",
		mailID(deviceNo, seq), int64(expires), p.Wrapped, p.Payload)
	return seq, err
}

// MailAfter reads at most limit mails with sequence numbers above seq, in
// order, and stops before maxBytes of payload and bodies unless the first alone
// is larger. The slices are the caller's.
func (tx *Tx) MailAfter(deviceNo, seq int64, limit int, maxBytes int) ([]Mail, error) {
	if limit <= 0 {
		return nil, nil
	}
	_, last := mailRange(deviceNo)
	r, err := tx.c.query("SELECT id, expires, wrapped, payload, body_no, body_size FROM mail WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3",
		mailID(deviceNo, max(0, min(seq, maxSeq))), last, int64(limit))
	if err != nil {
		return nil, err
	}
	var out []Mail
	bytes := 0
	for r.next() {
		var id, expires, size int64
		var m Mail
		if err := r.scan(&id, &expires, &m.Sealed.Wrapped, &m.Sealed.Payload, &m.Body, &size); err != nil {
			r.close()
			return nil, err
		}
		bytes += len(m.Sealed.Wrapped) + len(m.Sealed.Payload) + int(size)
		if bytes > maxBytes && len(out) > 0 {
			break
		}
		m.Seq, m.Expires = id&maxSeq, clearbox.Millis(expires)
		out = append(out, m)
	}
	return out, r.close()
}

// AckMail deletes every mail up to and including upTo and tells how many there
// were. An acknowledgement beyond the newest mail covers what there is;
// repeating one does nothing. ErrNotFound: the device was removed.
func (tx *Tx) AckMail(deviceNo, upTo int64) (n int64, err error) {
	upTo = max(0, min(upTo, maxSeq))
	from, to := mailID(deviceNo, 0), mailID(deviceNo, upTo)
	// Counting first and then deleting a plain range is cheaper than DELETE with
	// RETURNING, which keeps every row aside: 6.3 against 8.4 us a mail, commit included.
	var bytes, body int64
	err = tx.one("SELECT COUNT(*), COALESCE(SUM(OCTET_LENGTH(wrapped) + OCTET_LENGTH(payload) + body_size), 0), COALESCE(MAX(body_no), 0) FROM mail WHERE id > $1 AND id <= $2",
		args(from, to), &n, &bytes, &body)
	if err != nil {
		return 0, err
	}
	switch {
	case body == 0:
	case n == 1:
		tx.releaseBody(body, 1)
	default:
		if err := tx.releaseBodies(from+1, to); err != nil {
			return 0, err
		}
	}
	if n > 0 {
		if _, err := tx.exec("DELETE FROM mail WHERE id > $1 AND id <= $2", from, to); err != nil {
			return 0, err
		}
	}
	err = tx.change(`UPDATE mailboxes SET acked_seq = CASE WHEN $1 < next_seq THEN $1 ELSE next_seq - 1 END,
		mails = mails - $2, bytes = bytes - $3, next_expiry = CASE WHEN mails = $2 THEN $4 ELSE next_expiry END
		WHERE device_no = $5 AND acked_seq < $1`, upTo, n, bytes, neverExpires, deviceNo)
	if err == ErrNotFound {
		_, _, err = tx.MailboxSize(deviceNo) // acknowledged before, or no such device
	}
	return n, err
}

// MailboxSize gives what a device's mailbox holds; it reads one small row.
func (tx *Tx) MailboxSize(deviceNo int64) (mails, bytes int64, err error) {
	err = tx.one("SELECT mails, bytes FROM mailboxes WHERE device_no = $1", args(deviceNo), &mails, &bytes)
	return mails, bytes, err
}

// ExpireMail deletes at most limit mails whose time is up and returns them, so
// that the caller can report them. Fewer than limit means that no more are due.
func (tx *Tx) ExpireMail(now clearbox.Millis, limit int) ([]ExpiredMail, error) {
	var out []ExpiredMail
	for len(out) < limit {
		var deviceNo int64
		err := tx.one("SELECT device_no FROM mailboxes WHERE next_expiry <= $1 ORDER BY device_no LIMIT 1", args(int64(now)), &deviceNo)
		if err == ErrNotFound {
			break
		}
		if err != nil {
			return nil, err
		}
		if out, err = tx.expireMailbox(deviceNo, now, limit, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (tx *Tx) expireMailbox(deviceNo int64, now clearbox.Millis, limit int, out []ExpiredMail) ([]ExpiredMail, error) {
	first, last := mailRange(deviceNo)
	var id, expires, bytes, body, size int64
	var p Sealed
	begin := len(out)
	err := tx.each(`SELECT id, expires, wrapped, payload, body_no, body_size FROM mail WHERE id >= $1 AND id <= $2 AND expires <= $3 ORDER BY id LIMIT $4`,
		args(first, last, int64(now), int64(limit-begin)), []any{&id, &expires, &p.Wrapped, &p.Payload, &body, &size}, func() error {
			bytes += int64(len(p.Wrapped)+len(p.Payload)) + size
			if body > 0 {
				tx.releaseBody(body, 1)
			}
			out = append(out, ExpiredMail{deviceNo, Mail{id & maxSeq, p, clearbox.Millis(expires), body}})
			return nil
		})
	if err != nil {
		return nil, err
	}
	if len(out) > begin {
		last := mailID(deviceNo, out[len(out)-1].Seq)
		if _, err := tx.exec("DELETE FROM mail WHERE id >= $1 AND id <= $2 AND expires <= $3", first, last, int64(now)); err != nil {
			return nil, err
		}
	}
	var next int64
	if err := tx.one("SELECT COALESCE(MIN(expires), $1) FROM mail WHERE id >= $2 AND id <= $3", args(neverExpires, first, last), &next); err != nil {
		return nil, err
	}
	return out, tx.change("UPDATE mailboxes SET mails = mails - $1, bytes = bytes - $2, next_expiry = $3 WHERE device_no = $4",
		int64(len(out)-begin), bytes, next, deviceNo)
}
