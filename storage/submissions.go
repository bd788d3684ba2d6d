package storage

import (
	"github.com/clearbox-im/clearbox"
)

// SubmissionState is how far a message came, as its sender may see it.
type SubmissionState string

// The states.
const (
	SubmissionAccepted      SubmissionState = "accepted"
	SubmissionAtPeer        SubmissionState = "at_peer"
	SubmissionUndeliverable SubmissionState = "undeliverable"
)

// Submission remembers an accepted message, so that the same id gets the same
// answer and another body under it is a conflict.
type Submission struct {
	UserNo   int64
	ID       clearbox.MessageID
	BodyHash [32]byte // SHA-256 of what was submitted
	Answer   []byte
	State    SubmissionState // accepted if empty
	Expires  clearbox.Millis

	// Of a message in several parts for other servers: how many of them are not
	// taken yet, for how many people they are, and of whom it is known that they
	// did not get it. All zero of a message in one part.
	Parts  int64
	People int64
	Told   []byte
}

// PutSubmission stores a submission; *ExistsError with Field "id" when the user
// used the id before.
func (tx *Tx) PutSubmission(s *Submission) error {
	if s.State == "" {
		s.State = SubmissionAccepted
	}
	n, err := tx.exec(`INSERT INTO submissions (user_no, message_id, body_hash, answer, state, expires, parts, people) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT DO NOTHING`, s.UserNo, s.ID[:], s.BodyHash[:], s.Answer, string(s.State), int64(s.Expires), s.Parts, s.People)
	if err == nil && n == 0 {
		return &ExistsError{Field: "id"}
	}
	return err
}

// Submission finds what a user submitted under an id.
func (tx *Tx) Submission(userNo int64, id clearbox.MessageID) (Submission, error) {
	s := Submission{UserNo: userNo, ID: id}
	var hash []byte
	var state string
	var expires int64
	err := tx.one("SELECT body_hash, answer, state, expires, parts, people, told FROM submissions WHERE user_no = $1 AND message_id = $2",
		args(userNo, id[:]), &hash, &s.Answer, &state, &expires, &s.Parts, &s.People, &s.Told)
	if err != nil {
		return Submission{}, err
	}
	copy(s.BodyHash[:], hash)
	s.State, s.Expires = SubmissionState(state), clearbox.Millis(expires)
	return s, nil
}

// SetSubmissionState notes how far a message came; ErrNotFound once it was
// forgotten.
func (tx *Tx) SetSubmissionState(userNo int64, id clearbox.MessageID, state SubmissionState) error {
	return tx.change("UPDATE submissions SET state = $1 WHERE user_no = $2 AND message_id = $3", string(state), userNo, id[:])
}

// SetTold notes of whom it is known that they did not get a message; ErrNotFound
// once it was forgotten.
func (tx *Tx) SetTold(userNo int64, id clearbox.MessageID, told []byte) error {
	return tx.change("UPDATE submissions SET told = $1 WHERE user_no = $2 AND message_id = $3", told, userNo, id[:])
}

// SentMessage names a message by its sender here.
type SentMessage struct {
	UserNo int64
	ID     clearbox.MessageID
}

// SetOutboxTaken notes that peers took what is in outbox rows: a message is at
// its peers when all of its parts are, and stays undeliverable when somebody did
// not get it. It gives those of which other parts still wait. Messages that were
// forgotten are left out.
func (tx *Tx) SetOutboxTaken(rows []int64) (waiting map[SentMessage]bool, err error) {
	for from, to := range runs(rows) {
		n, err := tx.exec(`UPDATE submissions SET state = 'at_peer' WHERE parts = 0 AND (user_no, message_id) IN
			(SELECT sender_no, message_id FROM outbox WHERE row_no >= $1 AND row_no <= $2)`, from, to)
		if err != nil {
			return nil, err
		}
		if n == to-from+1 {
			continue // each was a message of its own, in one part
		}
		if waiting, err = tx.partsTaken(from, to, waiting); err != nil {
			return nil, err
		}
	}
	return waiting, nil
}

// partsTaken is SetOutboxTaken for messages in several parts.
func (tx *Tx) partsTaken(from, to int64, waiting map[SentMessage]bool) (map[SentMessage]bool, error) {
	taken := map[SentMessage]int64{}
	var order []SentMessage
	var m SentMessage
	var id []byte
	err := tx.each(`SELECT o.sender_no, o.message_id FROM outbox o JOIN submissions s ON s.user_no = o.sender_no AND s.message_id = o.message_id
		WHERE o.row_no >= $1 AND o.row_no <= $2 AND s.parts > 0 ORDER BY o.row_no`, args(from, to), []any{&m.UserNo, &id}, func() error {
		copy(m.ID[:], id)
		if taken[m] == 0 {
			order = append(order, m)
		}
		taken[m]++
		return nil
	})
	if err != nil {
		return waiting, err
	}
	for _, m := range order {
		var left int64
		err := tx.write("UPDATE submissions SET parts = parts - $1 WHERE user_no = $2 AND message_id = $3 RETURNING parts",
			args(taken[m], m.UserNo, m.ID[:]), &left)
		if err != nil {
			return waiting, err
		}
		if left <= 0 {
			delete(waiting, m)
			if _, err := tx.exec("UPDATE submissions SET state = 'at_peer' WHERE user_no = $1 AND message_id = $2 AND OCTET_LENGTH(told) = 0", m.UserNo, m.ID[:]); err != nil {
				return waiting, err
			}
			continue
		}
		if waiting == nil {
			waiting = map[SentMessage]bool{}
		}
		waiting[m] = true
	}
	return waiting, nil
}

// ForgetSubmission lets the user submit under the id anew. It is no error when
// nothing was remembered.
func (tx *Tx) ForgetSubmission(userNo int64, id clearbox.MessageID) error {
	_, err := tx.exec("DELETE FROM submissions WHERE user_no = $1 AND message_id = $2", userNo, id[:])
	return err
}

// SubmissionStates gives the states of those ids that are known.
func (tx *Tx) SubmissionStates(userNo int64, ids []clearbox.MessageID) (map[clearbox.MessageID]SubmissionState, error) {
	out := make(map[clearbox.MessageID]SubmissionState, len(ids))
	for _, id := range ids {
		var state string
		err := tx.one("SELECT state FROM submissions WHERE user_no = $1 AND message_id = $2", args(userNo, id[:]), &state)
		if err == ErrNotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[id] = SubmissionState(state)
	}
	return out, nil
}

// ExpireSubmissions forgets at most limit submissions whose time is up.
func (tx *Tx) ExpireSubmissions(now clearbox.Millis, limit int) (int64, error) {
	return tx.exec(`DELETE FROM submissions WHERE (user_no, message_id) IN
		(SELECT user_no, message_id FROM submissions WHERE expires <= $1 ORDER BY expires LIMIT $2)`, int64(now), int64(limit))
}
