package storage

import (
	"github.com/clearbox-im/clearbox"
)

// ConsentAction is what a person did with a purpose.
type ConsentAction string

// The actions.
const (
	ConsentGranted   ConsentAction = "granted"
	ConsentWithdrawn ConsentAction = "withdrawn"
)

// Consent is one decision of a person: gdpr.md 10. Decisions are appended and
// kept, so that it can be shown what was agreed to and when.
type Consent struct {
	Purpose       string
	NoticeVersion string
	NoticeHash    []byte // SHA-256 of the notice's text
	Language      string
	Action        ConsentAction
	At            clearbox.Millis // now if 0
}

// PutConsent appends a decision.
func (tx *Tx) PutConsent(userNo int64, c Consent) error {
	if c.At == 0 {
		c.At = tx.now
	}
	_, err := tx.exec(`INSERT INTO user_consents (user_no, purpose, notice_version, notice_hash, language, action, at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, userNo, c.Purpose, c.NoticeVersion, c.NoticeHash, c.Language, string(c.Action), int64(c.At))
	return err
}

// Consents gives the latest decision for each purpose, in order of purpose.
func (tx *Tx) Consents(userNo int64) ([]Consent, error) {
	return tx.consents(`SELECT purpose, notice_version, notice_hash, language, action, at FROM user_consents
		WHERE no IN (SELECT MAX(no) FROM user_consents WHERE user_no = $1 GROUP BY purpose) ORDER BY purpose`, userNo)
}

// ConsentHistory gives every decision, oldest first.
func (tx *Tx) ConsentHistory(userNo int64) ([]Consent, error) {
	return tx.consents(`SELECT purpose, notice_version, notice_hash, language, action, at FROM user_consents WHERE user_no = $1 ORDER BY no`, userNo)
}

func (tx *Tx) consents(query string, userNo int64) ([]Consent, error) {
	var cs []Consent
	var c Consent
	var action string
	var at int64
	err := tx.each(query, args(userNo), []any{&c.Purpose, &c.NoticeVersion, &c.NoticeHash, &c.Language, &action, &at}, func() error {
		c.Action, c.At = ConsentAction(action), clearbox.Millis(at)
		cs = append(cs, c)
		return nil
	})
	return cs, err
}

// HasConsent tells whether the latest decision for purpose is a grant.
func (tx *Tx) HasConsent(userNo int64, purpose string) (bool, error) {
	var action string
	err := tx.one("SELECT action FROM user_consents WHERE user_no = $1 AND purpose = $2 ORDER BY no DESC LIMIT 1",
		args(userNo, purpose), &action)
	if err == ErrNotFound {
		return false, nil
	}
	return ConsentAction(action) == ConsentGranted, err
}

// ConsentedSince tells when the account's latest decision for purpose was made,
// if it is a grant under that version of the notice; 0 otherwise. It is one
// statement that gives a row in each case, of nobody too.
func (tx *Tx) ConsentedSince(userNo int64, purpose, notice string) (clearbox.Millis, error) {
	var action, version string
	var at int64
	err := tx.one(`SELECT c.action, c.notice_version, c.at FROM (SELECT 1 AS always) AS a
		LEFT JOIN user_consents c ON c.no = (SELECT MAX(no) FROM user_consents WHERE user_no = $1 AND purpose = $2)`,
		args(userNo, purpose), &action, &version, &at)
	if err != nil || ConsentAction(action) != ConsentGranted || version != notice {
		return 0, err
	}
	return clearbox.Millis(at), nil
}

// ConsentingByHandle gives the permanent name of the active account that has the
// handle, if its latest decision for purpose is a grant under that version of
// the notice. Everybody else is ErrNotFound like nobody. It is one statement that
// opens nothing and reads a row of an account in each case: of nobody, the last one.
func (tx *Tx) ConsentingByHandle(h clearbox.Handle, purpose, notice string) (clearbox.UID, error) {
	var found int64
	var uid, state, action, version string
	err := tx.one(`SELECT COALESCE(f.no, 0), u.uid, u.state, c.action, c.notice_version FROM (SELECT MAX(no) AS last FROM users) AS a
		LEFT JOIN users f ON f.handle_index = $1
		LEFT JOIN users u ON u.no = COALESCE(f.no, a.last)
		LEFT JOIN user_consents c ON c.no = (SELECT MAX(no) FROM user_consents WHERE user_no = COALESCE(f.no, 0) AND purpose = $2)`,
		args(tx.handleIndex(h), purpose), &found, &uid, &state, &action, &version)
	if err != nil {
		return "", err
	}
	if found == 0 || UserState(state) != UserActive || ConsentAction(action) != ConsentGranted || version != notice {
		return "", ErrNotFound
	}
	return clearbox.UID(uid), nil
}

// PutNoticeAck notes that a person acknowledged a version of the privacy
// notice. Repeating it keeps the first moment.
func (tx *Tx) PutNoticeAck(userNo int64, version string, hash []byte) error {
	_, err := tx.exec("INSERT INTO notice_acks (user_no, version, hash, at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
		userNo, version, hash, int64(tx.now))
	if err != nil {
		return err
	}
	return tx.change("UPDATE users SET notice_version = $1 WHERE no = $2", version, userNo)
}
