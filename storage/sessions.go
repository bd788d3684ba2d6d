package storage

import (
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// Session is a sign-in. DeviceNo is 0 for one without a device.
type Session struct {
	ID       string
	UserNo   int64
	DeviceNo int64
	Created  clearbox.Millis
	LastUsed clearbox.Millis
	Expires  clearbox.Millis
	Revoked  clearbox.Millis // 0 while it holds
}

// CreateSession stores a session. A zero Created means now; LastUsed begins
// there.
func (tx *Tx) CreateSession(s *Session) error {
	if s.Created == 0 {
		s.Created = tx.now
	}
	s.LastUsed = max(s.LastUsed, s.Created)
	n, err := tx.exec(`INSERT INTO sessions (id, user_no, device_no, created, last_used, expires, revoked)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
		s.ID, s.UserNo, s.DeviceNo, int64(s.Created), int64(s.LastUsed), int64(s.Expires), int64(s.Revoked))
	if err == nil && n == 0 {
		return &ExistsError{Field: "id"}
	}
	return err
}

const sessionColumns = "s.id, s.user_no, s.device_no, s.created, s.last_used, s.expires, s.revoked"

// sessionRow receives sessionColumns.
type sessionRow struct {
	s                                   Session
	created, lastUsed, expires, revoked int64
}

func (r *sessionRow) dest() []any {
	return []any{&r.s.ID, &r.s.UserNo, &r.s.DeviceNo, &r.created, &r.lastUsed, &r.expires, &r.revoked}
}

func (r *sessionRow) session() Session {
	s := r.s
	s.Created, s.LastUsed = clearbox.Millis(r.created), clearbox.Millis(r.lastUsed)
	s.Expires, s.Revoked = clearbox.Millis(r.expires), clearbox.Millis(r.revoked)
	return s
}

// Session finds a session, also a revoked or expired one: the caller looks at
// Revoked and Expires.
func (tx *Tx) Session(id string) (Session, error) {
	var r sessionRow
	err := tx.one("SELECT "+sessionColumns+" FROM sessions s WHERE s.id = $1", args(id), r.dest()...)
	return r.session(), err
}

// Sessions gives an account's sessions that are neither revoked nor expired.
func (tx *Tx) Sessions(userNo int64) ([]Session, error) {
	var out []Session
	var r sessionRow
	err := tx.each("SELECT "+sessionColumns+" FROM sessions s WHERE s.user_no = $1 AND s.revoked = 0 AND s.expires > $2 ORDER BY s.created, s.id",
		args(userNo, int64(tx.now)), r.dest(), func() error {
			out = append(out, r.session())
			return nil
		})
	return out, err
}

// TouchSession notes a use and a new end.
func (tx *Tx) TouchSession(id string, lastUsed, expires clearbox.Millis) error {
	return tx.change("UPDATE sessions SET last_used = $1, expires = $2 WHERE id = $3", int64(lastUsed), int64(expires), id)
}

// RevokeSession ends a session. It returns the id, or nothing if it was over
// already.
func (tx *Tx) RevokeSession(id string) ([]string, error) {
	return tx.revoke("UPDATE sessions SET revoked = $1 WHERE id = $2 AND revoked = 0 RETURNING id", id)
}

// RevokeSessions ends an account's sessions but exceptID (which may be empty)
// and returns the ids of those that it ended.
func (tx *Tx) RevokeSessions(userNo int64, exceptID string) ([]string, error) {
	return tx.revoke("UPDATE sessions SET revoked = $1 WHERE user_no = $2 AND id <> $3 AND revoked = 0 RETURNING id", userNo, exceptID)
}

// RevokeDeviceSessions ends a device's sessions and returns their ids.
func (tx *Tx) RevokeDeviceSessions(deviceNo int64) ([]string, error) {
	return tx.revoke("UPDATE sessions SET revoked = $1 WHERE device_no = $2 AND revoked = 0 RETURNING id", deviceNo)
}

func (tx *Tx) revoke(query string, a ...any) ([]string, error) {
	var ids []string
	var id string
	err := tx.drain(query, append(args(max(1, int64(tx.now))), a...), []any{&id}, func() { ids = append(ids, id) })
	return ids, err
}

// ExpireSessions deletes at most limit sessions that ended before the given
// moment, with their refresh tokens.
func (tx *Tx) ExpireSessions(before clearbox.Millis, limit int) (int64, error) {
	const old = "SELECT id FROM sessions WHERE expires <= $1 ORDER BY expires, id LIMIT $2"
	if _, err := tx.exec("DELETE FROM refresh_tokens WHERE session_id IN ("+old+")", int64(before), int64(limit)); err != nil {
		return 0, err
	}
	return tx.exec("DELETE FROM sessions WHERE id IN ("+old+")", int64(before), int64(limit))
}

// PutRefresh keeps the hash of a refresh token.
func (tx *Tx) PutRefresh(hash []byte, sessionID string, expires clearbox.Millis) error {
	_, err := tx.exec("INSERT INTO refresh_tokens (hash, session_id, expires, used) VALUES ($1, $2, $3, 0)", hash, sessionID, int64(expires))
	return err
}

// UseRefresh spends a refresh token and gives its session. The first use marks
// it used; any later one returns reused = true, and then the caller revokes the
// session. ErrNotFound: unknown or expired. Whether the session is revoked is
// the caller's to see.
func (tx *Tx) UseRefresh(hash []byte) (s Session, reused bool, err error) {
	var r sessionRow
	var expires, used int64
	err = tx.one("SELECT "+sessionColumns+", t.expires, t.used FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.hash = $1",
		args(hash), append(r.dest(), &expires, &used)...)
	if err != nil {
		return Session{}, false, err
	}
	s = r.session()
	if used != 0 {
		return s, true, nil
	}
	if expires <= int64(tx.now) {
		return Session{}, false, ErrNotFound
	}
	return s, false, tx.change("UPDATE refresh_tokens SET used = $1 WHERE hash = $2", max(1, int64(tx.now)), hash)
}

// SigningKey signs access tokens. Private is sealed under the server's key at
// rest.
type SigningKey struct {
	ID        string
	Private   []byte
	Public    []byte
	NotBefore clearbox.Millis // signs from then on
	Expires   clearbox.Millis // verifies until then
}

// PutSigningKey stores a key; *ExistsError with Field "id".
func (tx *Tx) PutSigningKey(k SigningKey) error {
	sealed, err := tx.seal(ServerKey, PurposeProfile, "signing_keys", "private_key", k.ID, k.Private)
	if err != nil {
		return err
	}
	n, err := tx.exec(`INSERT INTO signing_keys (id, private_key, public_key, not_before, expires) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		k.ID, sealed, k.Public, int64(k.NotBefore), int64(k.Expires))
	if err == nil && n == 0 {
		return &ExistsError{Field: "id"}
	}
	return err
}

// SigningKeys gives all keys in order of NotBefore.
func (tx *Tx) SigningKeys() ([]SigningKey, error) {
	var ks []SigningKey
	var k SigningKey
	var sealed []byte
	var notBefore, expires int64
	err := tx.each("SELECT id, private_key, public_key, not_before, expires FROM signing_keys ORDER BY not_before, id", nil,
		[]any{&k.ID, &sealed, &k.Public, &notBefore, &expires}, func() (err error) {
			if k.Private, err = tx.open(ServerKey, PurposeProfile, "signing_keys", "private_key", k.ID, sealed); err != nil {
				return fmt.Errorf("open a signing key: %w", err)
			}
			k.NotBefore, k.Expires = clearbox.Millis(notBefore), clearbox.Millis(expires)
			ks = append(ks, k)
			return nil
		})
	return ks, err
}

// DeleteSigningKeys drops keys that expired before the given moment.
func (tx *Tx) DeleteSigningKeys(before clearbox.Millis) (int64, error) {
	return tx.exec("DELETE FROM signing_keys WHERE expires <= $1", int64(before))
}
