package storage

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
)

// A body is what the mails of many devices have in common. It is stored once,
// sealed under a key that stands in each of the mails; the mail that is deleted
// last takes it away. A mailbox counts it as if it had one of its own.

// Pointer is a mail for one device that refers to a body.
type Pointer struct {
	DeviceNo int64
	Sealed   Sealed // as long as that of every other one of the body
	Seq      int64  // given by PutShared; 0: the device is gone or its mailbox is full, and it got nothing
}

// pointersAt are the numbers of pointers that one statement stores: few, so that
// few statements are prepared.
var pointersAt = [...]int{64, 16, 4, 1}

// PutShared stores a body with a mail for each device, in ascending order of
// their numbers, and sets their Seq. Nothing is stored when nobody gets one.
func (tx *Tx) PutShared(body []byte, to []Pointer, expires clearbox.Millis) error {
	if len(to) == 0 {
		return nil
	}
	row := int64(len(to[0].Sealed.Payload) + len(to[0].Sealed.Wrapped))
	places := make(map[int64]int, len(to))
	for i := range to {
		if p := &to[i]; int64(len(p.Sealed.Payload)+len(p.Sealed.Wrapped)) != row || i > 0 && p.DeviceNo <= to[i-1].DeviceNo {
			return errors.New("storage: pointers to one body have one length, and stand in order of their devices")
		}
		to[i].Seq = 0
		places[to[i].DeviceNo] = i
	}
	stored := 0
	for part := range inParts(to) {
		n, err := tx.reserve(part, places, to, row+int64(len(body)), expires)
		if err != nil {
			return err
		}
		stored += n
	}
	if stored == 0 {
		return nil
	}
	var no int64
	if err := tx.write("INSERT INTO bodies (payload) VALUES ($1) RETURNING no", args(body), &no); err != nil {
		return err
	}
	if _, err := tx.exec("INSERT INTO body_refs (body_no, refs) VALUES ($1, $2)", no, int64(stored)); err != nil {
		return err
	}
	got := to
	if stored < len(to) {
		got = slices.DeleteFunc(slices.Clone(to), func(p Pointer) bool { return p.Seq == 0 })
	}
	for part := range inParts(got) {
		if err := tx.putPointers(part, no, int64(len(body)), expires); err != nil {
			return err
		}
	}
	return nil
}

// inParts cuts pointers into pieces of the lengths in pointersAt.
func inParts(to []Pointer) func(yield func([]Pointer) bool) {
	return func(yield func([]Pointer) bool) {
		for len(to) > 0 {
			i := slices.IndexFunc(pointersAt[:], func(n int) bool { return n <= len(to) })
			if !yield(to[:pointersAt[i]]) {
				return
			}
			to = to[pointersAt[i]:]
		}
	}
}

// Statements for each length in pointersAt.
var reserveQueries, pointerQueries = func() (reserve, point map[int]string) {
	reserve, point = map[int]string{}, map[int]string{}
	for _, n := range pointersAt {
		var b strings.Builder
		b.WriteString(`UPDATE mailboxes SET next_seq = CASE WHEN next_seq < $1 THEN $2 ELSE next_seq END + 1, mails = mails + 1, bytes = bytes + $3,
			next_expiry = CASE WHEN next_expiry > $4 THEN $5 ELSE next_expiry END WHERE mails < $6 AND bytes <= $7 AND device_no IN (`)
		placeholders(&b, 8, n)
		b.WriteString(") RETURNING device_no, next_seq - 1")
		reserve[n] = b.String()
		b.Reset()
		b.WriteString("INSERT INTO mail (id, expires, wrapped, payload, body_no, body_size) VALUES ")
		for i := range n {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteByte('(')
			placeholders(&b, 1+6*i, 6)
			b.WriteByte(')')
		}
		point[n] = b.String()
	}
	return reserve, point
}()

// reserve takes a place in each device's mailbox for size bytes and tells how
// many there were.
func (tx *Tx) reserve(part []Pointer, places map[int64]int, to []Pointer, size int64, expires clearbox.Millis) (n int, err error) {
	a := args(tx.s.seqFloor, tx.s.seqFloor, size, int64(expires), int64(expires), tx.s.mailboxMails, tx.s.mailboxBytes-size)
	for i := range part {
		a = append(a, part[i].DeviceNo)
	}
	var device, seq int64
	high := false
	err = tx.drain(reserveQueries[len(part)], a, []any{&device, &seq}, func() {
		to[places[device]].Seq = seq
		high = high || seq > maxSeq
		n++
	})
	if err == nil && high {
		err = tx.fail(errors.New("storage: a mailbox's sequence numbers are used up"))
	}
	return n, err
}

func (tx *Tx) putPointers(part []Pointer, body, size int64, expires clearbox.Millis) error {
	a := make([]any, 0, 6*len(part))
	for i := range part {
		p := &part[i]
		a = append(a, mailID(p.DeviceNo, p.Seq), int64(expires), p.Sealed.Wrapped, p.Sealed.Payload, body, size)
	}
	_, err := tx.exec(pointerQueries[len(part)], a...)
	return err
}

// Body gives a stored body; ErrNotFound once the last mail that points to it is
// gone.
func (tx *Tx) Body(no int64) ([]byte, error) {
	var payload []byte
	err := tx.one("SELECT payload FROM bodies WHERE no = $1", args(no), &payload)
	return payload, err
}

// releaseBody notes that n mails that pointed to a body are gone. The update
// counts at its end, all of its mails together.
func (tx *Tx) releaseBody(no, n int64) {
	if tx.released == nil {
		tx.released = map[int64]int64{}
	}
	tx.released[no] += n
}

// releaseBodies notes it for the mails of a range that point to one.
func (tx *Tx) releaseBodies(from, to int64) error {
	var no, n int64
	return tx.each("SELECT body_no, COUNT(*) FROM mail WHERE id >= $1 AND id <= $2 AND body_no > 0 GROUP BY body_no",
		args(from, to), []any{&no, &n}, func() error {
			tx.releaseBody(no, n)
			return nil
		})
}

// countBodies deletes the bodies to which nothing points any more. It runs at
// the end of every update.
func (tx *Tx) countBodies() error {
	for _, no := range slices.Sorted(maps.Keys(tx.released)) {
		var left int64
		err := tx.write("UPDATE body_refs SET refs = refs - $1 WHERE body_no = $2 RETURNING refs", args(tx.released[no], no), &left)
		if err != nil {
			return err
		}
		if left > 0 {
			continue
		}
		if _, err := tx.exec("DELETE FROM body_refs WHERE body_no = $1", no); err != nil {
			return err
		}
		if _, err := tx.exec("DELETE FROM bodies WHERE no = $1", no); err != nil {
			return err
		}
	}
	tx.released = nil
	return nil
}

// BodyCounts compares what is stored with what is counted; it reads everything
// and is for tests.
type BodyCounts struct {
	Bodies   int64 // stored
	Pointers int64 // mails that point to one
	Counted  int64 // what the bodies' counts say together
	Wrong    int64 // bodies whose own count is not that of their mails, or without one
}

// BodyCounts counts.
func (tx *Tx) BodyCounts() (c BodyCounts, err error) {
	err = tx.one(`SELECT (SELECT COUNT(*) FROM bodies), (SELECT COUNT(*) FROM mail WHERE body_no > 0), (SELECT COALESCE(SUM(refs), 0) FROM body_refs),
		(SELECT COUNT(*) FROM bodies b WHERE NOT EXISTS (SELECT 1 FROM body_refs r WHERE r.body_no = b.no
			AND r.refs = (SELECT COUNT(*) FROM mail m WHERE m.body_no = b.no)))`, nil, &c.Bodies, &c.Pointers, &c.Counted, &c.Wrong)
	return c, err
}
