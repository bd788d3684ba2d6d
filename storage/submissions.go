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
}

// PutSubmission stores a submission; *ExistsError with Field "id" when the user
// used the id before.
func (tx *Tx) PutSubmission(s *Submission) error {
	if s.State == "" {
		s.State = SubmissionAccepted
	}
	n, err := tx.exec(`INSERT INTO submissions (user_no, message_id, body_hash, answer, state, expires) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT DO NOTHING`, s.UserNo, s.ID[:], s.BodyHash[:], s.Answer, string(s.State), int64(s.Expires))
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
	err := tx.one("SELECT body_hash, answer, state, expires FROM submissions WHERE user_no = $1 AND message_id = $2",
		args(userNo, id[:]), &hash, &s.Answer, &state, &expires)
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

// SetOutboxState is SetSubmissionState for the messages of outbox rows; those
// that were forgotten are left out.
func (tx *Tx) SetOutboxState(rows []int64, state SubmissionState) error {
	for from, to := range runs(rows) {
		_, err := tx.exec(`UPDATE submissions SET state = $1 WHERE (user_no, message_id) IN
			(SELECT sender_no, message_id FROM outbox WHERE row_no >= $2 AND row_no <= $3)`, string(state), from, to)
		if err != nil {
			return err
		}
	}
	return nil
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
