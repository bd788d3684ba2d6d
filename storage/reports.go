package storage

import (
	"encoding/hex"

	"github.com/clearbox-im/clearbox"
)

// ReportState is what became of a report.
type ReportState string

// The states. Upheld ones are the account's strikes.
const (
	ReportOpen      ReportState = "open"
	ReportUpheld    ReportState = "upheld"
	ReportDismissed ReportState = "dismissed"
)

// Report is a message of an account here that a recipient showed.
type Report struct {
	No       int64 // given by PutReport
	UserNo   int64 // who wrote it
	Message  clearbox.MessageID
	Peer     clearbox.ServerName // of whoever showed it
	Received clearbox.Millis     // given
	Expires  clearbox.Millis
	State    ReportState // ReportOpen when put
	Strikes  int64       // upheld reports of the account; given by Reports
	Body     []byte      // what was shown; sealed under the key of who wrote it
}

func reportRow(userNo int64, id clearbox.MessageID) string {
	return number64(userNo) + "/" + hex.EncodeToString(id[:])
}

// PutReport stores a report; *ExistsError with Field "id" when the message was
// shown before.
func (tx *Tx) PutReport(r *Report) error {
	key, err := tx.userKey(r.UserNo)
	if err != nil {
		return err
	}
	sealed, err := tx.seal(key, PurposeContacts, "reports", "body", reportRow(r.UserNo, r.Message), r.Body)
	if err != nil {
		return err
	}
	r.Received, r.State = tx.now, ReportOpen
	err = tx.write(`INSERT INTO reports (user_no, message_id, peer, received, expires, state, body) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT DO NOTHING RETURNING no`,
		args(r.UserNo, r.Message[:], string(r.Peer), int64(r.Received), int64(r.Expires), string(r.State), sealed), &r.No)
	if err == ErrNotFound {
		return &ExistsError{Field: "id"}
	}
	return err
}

// Reports gives at most limit reports with numbers above after, in order and
// without bodies.
func (tx *Tx) Reports(after int64, limit int) ([]Report, error) {
	var out []Report
	var r Report
	var id []byte
	var peer, state string
	var received, expires int64
	err := tx.each(`SELECT r.no, r.user_no, r.message_id, r.peer, r.received, r.expires, r.state,
		(SELECT COUNT(*) FROM reports u WHERE u.user_no = r.user_no AND u.state = 'upheld')
		FROM reports r WHERE r.no > $1 ORDER BY r.no LIMIT $2`, args(after, int64(limit)),
		[]any{&r.No, &r.UserNo, &id, &peer, &received, &expires, &state, &r.Strikes}, func() error {
			copy(r.Message[:], id)
			r.Peer, r.State = clearbox.ServerName(peer), ReportState(state)
			r.Received, r.Expires = clearbox.Millis(received), clearbox.Millis(expires)
			out = append(out, r)
			return nil
		})
	return out, err
}

// Report gives one with its body.
func (tx *Tx) Report(no int64) (Report, error) {
	found, err := tx.Reports(no-1, 1)
	if err == nil && (len(found) == 0 || found[0].No != no) {
		err = ErrNotFound
	}
	if err != nil {
		return Report{}, err
	}
	r := found[0]
	var sealed []byte
	if err := tx.one("SELECT body FROM reports WHERE no = $1", args(no), &sealed); err != nil {
		return Report{}, err
	}
	key, err := tx.userKey(r.UserNo)
	if err != nil {
		return Report{}, err
	}
	r.Body, err = tx.open(key, PurposeContacts, "reports", "body", reportRow(r.UserNo, r.Message), sealed)
	return r, err
}

// CloseReport says what became of a report; it may be said anew.
func (tx *Tx) CloseReport(no int64, state ReportState) error {
	return tx.change("UPDATE reports SET state = $1 WHERE no = $2", string(state), no)
}

// ExpireReports forgets at most limit reports whose time is up.
func (tx *Tx) ExpireReports(now clearbox.Millis, limit int) (int64, error) {
	return tx.exec("DELETE FROM reports WHERE no IN (SELECT no FROM reports WHERE expires <= $1 ORDER BY expires LIMIT $2)", int64(now), int64(limit))
}
