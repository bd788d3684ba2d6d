package storage

import (
	"github.com/clearbox-im/clearbox"
)

// OutStream is our side of the stream to a peer in one class.
type OutStream struct {
	Stream  []byte // random epoch id; empty until SetOutStream
	NextPos int64  // the position that the next dispatched item gets; begins at 1
	Fence   int64  // number of the lease; a receiver refuses a lower one
}

// OutStream gives the stream's state; the zero stream with NextPos 1 if there
// is none yet.
func (tx *Tx) OutStream(peer clearbox.ServerName, class Class) (OutStream, error) {
	o := OutStream{NextPos: 1}
	err := tx.one("SELECT stream, next_pos, fence FROM out_streams WHERE peer = $1 AND class = $2",
		args(string(peer), string(class)), &o.Stream, &o.NextPos, &o.Fence)
	if err == ErrNotFound {
		err = nil
	}
	return o, err
}

// SetOutStream replaces the stream's state.
func (tx *Tx) SetOutStream(peer clearbox.ServerName, class Class, o OutStream) error {
	_, err := tx.exec(`INSERT INTO out_streams (peer, class, stream, next_pos, fence, items, bytes) VALUES ($1, $2, $3, $4, $5, 0, 0)
		ON CONFLICT (peer, class) DO UPDATE SET stream = excluded.stream, next_pos = excluded.next_pos, fence = excluded.fence`,
		string(peer), string(class), o.Stream, o.NextPos, o.Fence)
	return err
}

// BumpFence takes the lease: it raises the fence by one and gives the stream's
// state.
func (tx *Tx) BumpFence(peer clearbox.ServerName, class Class) (OutStream, error) {
	var o OutStream
	err := tx.write(`INSERT INTO out_streams (peer, class, stream, next_pos, fence, items, bytes) VALUES ($1, $2, $3, 1, 1, 0, 0)
		ON CONFLICT (peer, class) DO UPDATE SET fence = out_streams.fence + 1 RETURNING stream, next_pos, fence`,
		args(string(peer), string(class), []byte{}), &o.Stream, &o.NextPos, &o.Fence)
	return o, err
}

// InStream is what we accepted from a peer in one class.
type InStream struct {
	Stream  []byte
	LastPos int64 // accepted through
	Fence   int64 // highest seen
}

// InStream gives the stream's state; the zero value if the peer sent nothing
// yet.
func (tx *Tx) InStream(peer clearbox.ServerName, class Class) (InStream, error) {
	var s InStream
	err := tx.one("SELECT stream, last_pos, fence FROM in_streams WHERE peer = $1 AND class = $2",
		args(string(peer), string(class)), &s.Stream, &s.LastPos, &s.Fence)
	if err == ErrNotFound {
		err = nil
	}
	return s, err
}

// SetInStream replaces the stream's state, in the transaction that stores what
// the positions stand for.
func (tx *Tx) SetInStream(peer clearbox.ServerName, class Class, s InStream) error {
	_, err := tx.exec(`INSERT INTO in_streams (peer, class, stream, last_pos, fence, answers) VALUES ($1, $2, $3, $4, $5, 0)
		ON CONFLICT (peer, class) DO UPDATE SET stream = excluded.stream, last_pos = excluded.last_pos, fence = excluded.fence`,
		string(peer), string(class), s.Stream, s.LastPos, s.Fence)
	return err
}

// keptAnswers covers the batches that may be in flight (4) twice.
const keptAnswers = 8

// PutAnswer keeps the answer to a batch for its repetition; of each (peer,
// class) the newest 8 are kept.
func (tx *Tx) PutAnswer(peer clearbox.ServerName, class Class, stream []byte, firstPos int64, count int, answer []byte) error {
	var n int64
	err := tx.write(`INSERT INTO in_streams (peer, class, stream, last_pos, fence, answers) VALUES ($1, $2, $3, 0, 0, 1)
		ON CONFLICT (peer, class) DO UPDATE SET answers = in_streams.answers + 1 RETURNING answers`,
		args(string(peer), string(class), stream), &n)
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO in_answers (peer, class, slot, stream, first_pos, count, answer) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (peer, class, slot) DO UPDATE SET stream = excluded.stream, first_pos = excluded.first_pos,
		count = excluded.count, answer = excluded.answer`,
		string(peer), string(class), n%keptAnswers, stream, firstPos, int64(count), answer)
	return err
}

// Answer gives the kept answer to a batch and how many items it had;
// ErrNotFound once newer ones took its place.
func (tx *Tx) Answer(peer clearbox.ServerName, class Class, stream []byte, firstPos int64) (answer []byte, count int, err error) {
	var n int64
	err = tx.one("SELECT answer, count FROM in_answers WHERE peer = $1 AND class = $2 AND stream = $3 AND first_pos = $4 ORDER BY slot LIMIT 1",
		args(string(peer), string(class), stream, firstPos), &answer, &n)
	return answer, int(n), err
}
