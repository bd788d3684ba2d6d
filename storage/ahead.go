package storage

import (
	"encoding/hex"
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// KeysAhead are keys of a person of another server that were fetched before
// they are needed. They are sealed like RemoteUser.
type KeysAhead struct {
	User    clearbox.UserID
	Bundles []byte          // empty: not fetched yet
	Fetched clearbox.Millis // 0: not yet
	Used    clearbox.Millis // when somebody last wanted them
}

const aheadLabel = "keys_ahead.user"

// KeysAhead finds them.
func (tx *Tx) KeysAhead(u clearbox.UserID) (KeysAhead, error) {
	index := tx.index(aheadLabel, u.String())
	k := KeysAhead{User: u}
	var sealed []byte
	var fetched, used int64
	if err := tx.one("SELECT bundles, fetched, used FROM keys_ahead WHERE user_index = $1", args(index), &sealed, &fetched, &used); err != nil {
		return KeysAhead{}, err
	}
	k.Fetched, k.Used = clearbox.Millis(fetched), clearbox.Millis(used)
	var err error
	if len(sealed) > 0 {
		k.Bundles, err = tx.open(ServerKey, PurposeContacts, "keys_ahead", "bundles", hex.EncodeToString(index), sealed)
	}
	return k, err
}

// WantKeysAhead notes that somebody wants the person's keys. Those of a new
// person are due at the given moment.
func (tx *Tx) WantKeysAhead(u clearbox.UserID, due clearbox.Millis) error {
	index := tx.index(aheadLabel, u.String())
	uid, err := tx.seal(ServerKey, PurposeContacts, "keys_ahead", "uid", hex.EncodeToString(index), []byte(u.UID))
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO keys_ahead (user_index, server, uid, bundles, fetched, used, due) VALUES ($1, $2, $3, $4, 0, $5, $6)
		ON CONFLICT (user_index) DO UPDATE SET used = excluded.used`, index, string(u.Server), uid, []byte{}, int64(tx.now), int64(due))
	return err
}

// PutKeysAhead stores what was fetched now. The next are due at the given
// moment. ErrNotFound: nobody wants them.
func (tx *Tx) PutKeysAhead(u clearbox.UserID, bundles []byte, due clearbox.Millis) error {
	index := tx.index(aheadLabel, u.String())
	sealed, err := tx.seal(ServerKey, PurposeContacts, "keys_ahead", "bundles", hex.EncodeToString(index), bundles)
	if err != nil {
		return err
	}
	return tx.change("UPDATE keys_ahead SET bundles = $1, fetched = $2, due = $3 WHERE user_index = $4", sealed, int64(tx.now), int64(due), index)
}

// PostponeKeysAhead lets what is there stand until the next attempt.
func (tx *Tx) PostponeKeysAhead(u clearbox.UserID, due clearbox.Millis) error {
	return tx.change("UPDATE keys_ahead SET due = $1 WHERE user_index = $2", int64(due), tx.index(aheadLabel, u.String()))
}

// PostponeServerAhead is PostponeKeysAhead for all people of a server whose keys
// would be due before.
func (tx *Tx) PostponeServerAhead(server clearbox.ServerName, due clearbox.Millis) error {
	_, err := tx.exec("UPDATE keys_ahead SET due = $1 WHERE server = $2 AND due < $1", int64(due), string(server))
	return err
}

// DueKeysAhead lists at most limit people whose keys are due, those first that
// are due for longest.
func (tx *Tx) DueKeysAhead(limit int) ([]clearbox.UserID, error) {
	var out []clearbox.UserID
	var index, sealed []byte
	var server string
	err := tx.each("SELECT user_index, server, uid FROM keys_ahead WHERE due <= $1 ORDER BY due LIMIT $2", args(int64(tx.now), int64(limit)),
		[]any{&index, &server, &sealed}, func() error {
			uid, err := tx.open(ServerKey, PurposeContacts, "keys_ahead", "uid", hex.EncodeToString(index), sealed)
			if err != nil {
				return fmt.Errorf("open whose keys are fetched ahead: %w", err)
			}
			out = append(out, clearbox.UserID{UID: clearbox.UID(uid), Server: clearbox.ServerName(server)})
			return nil
		})
	return out, err
}

// DeleteKeysAhead forgets a person's keys; that there are none is no error.
func (tx *Tx) DeleteKeysAhead(u clearbox.UserID) error {
	_, err := tx.exec("DELETE FROM keys_ahead WHERE user_index = $1", tx.index(aheadLabel, u.String()))
	return err
}

// ExpireKeysAhead forgets at most limit people whose keys nobody wanted since
// the given moment.
func (tx *Tx) ExpireKeysAhead(before clearbox.Millis, limit int) (int64, error) {
	return tx.exec("DELETE FROM keys_ahead WHERE user_index IN (SELECT user_index FROM keys_ahead WHERE used < $1 ORDER BY used LIMIT $2)",
		int64(before), int64(limit))
}
