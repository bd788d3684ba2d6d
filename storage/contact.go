package storage

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// Reach is by what messages from other servers reach an account.
type Reach struct {
	UserNo   int64
	Token    clearbox.DeliveryToken // zero: none was set, or the person's key is gone
	Previous clearbox.DeliveryToken // the one before; zero when there is none
	Until    clearbox.Millis        // the end of Previous
	Knocks   []OpenKnock            // the account's own, which let their answers in
}

// OpenKnock is a knock of an account that is neither closed nor expired.
type OpenKnock struct {
	ID      [32]byte // as KnockIndex gives it
	Peer    clearbox.ServerName
	Expires clearbox.Millis
}

// knockLabel names knock ids in the keyed hash. They are secret: each is the
// delivery token of its answer.
const knockLabel = "knocks.id"

// KnockIndex is how a knock's id is stored; index is the Index of Options.
func KnockIndex(index func(label string, value []byte) []byte, id []byte) (out [32]byte) {
	copy(out[:], index(knockLabel, id))
	return out
}

// Reach finds by what messages from other servers reach the account.
// ErrNotFound: there is none; it took the same statements to find out.
func (tx *Tx) Reach(uid clearbox.UID) (Reach, error) {
	var r Reach
	var key, token, previous []byte
	var until int64
	err := tx.each(`SELECT u.no, u.key_id, t.token, t.previous, t.until FROM users u LEFT JOIN delivery_tokens t ON t.user_no = u.no
		WHERE u.uid = $1`, args(string(uid)), []any{&r.UserNo, &key, &token, &previous, &until}, func() error { return nil })
	if err != nil {
		return Reach{}, err
	}
	var id []byte
	var peer string
	var expires int64
	err = tx.each("SELECT id_index, peer, expires FROM knocks WHERE user_no = $1 AND closed = 0 AND expires > $2",
		args(r.UserNo, int64(tx.now)), []any{&id, &peer, &expires}, func() error {
			k := OpenKnock{Peer: clearbox.ServerName(peer), Expires: clearbox.Millis(expires)}
			copy(k.ID[:], id)
			r.Knocks = append(r.Knocks, k)
			return nil
		})
	if err != nil {
		return Reach{}, err
	}
	if r.UserNo == 0 {
		return Reach{}, ErrNotFound
	}
	if r.Token, err = tx.openToken(keyID(key), "token", r.UserNo, token); err != nil {
		return Reach{}, err
	}
	if r.Previous, err = tx.openToken(keyID(key), "previous", r.UserNo, previous); err != nil {
		return Reach{}, err
	}
	r.Until = clearbox.Millis(until)
	return r, nil
}

func (tx *Tx) openToken(k KeyID, column string, userNo int64, sealed []byte) (t clearbox.DeliveryToken, err error) {
	plain, err := tx.open(k, PurposeContacts, "delivery_tokens", column, number64(userNo), sealed)
	if err != nil {
		return t, fmt.Errorf("open a delivery token: %w", err)
	}
	copy(t[:], plain)
	return t, nil
}

func number64(n int64) string { return strconv.FormatInt(n, 10) }

// SetToken replaces an account's delivery token. The one before stays valid
// until the given moment, the one before that no longer. Setting the same again
// changes nothing.
func (tx *Tx) SetToken(userNo int64, t clearbox.DeliveryToken, until clearbox.Millis) error {
	key, err := tx.userKey(userNo)
	if err != nil {
		return err
	}
	row := number64(userNo)
	var sealed []byte
	err = tx.one("SELECT token FROM delivery_tokens WHERE user_no = $1", args(userNo), &sealed)
	if err != nil && err != ErrNotFound {
		return err
	}
	before, err := tx.openToken(key, "token", userNo, sealed)
	if err != nil || before == t {
		return err
	}
	var previous []byte
	if before == (clearbox.DeliveryToken{}) {
		previous, until = []byte{}, 0
	} else if previous, err = tx.seal(key, PurposeContacts, "delivery_tokens", "previous", row, before[:]); err != nil {
		return err
	}
	token, err := tx.seal(key, PurposeContacts, "delivery_tokens", "token", row, t[:])
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO delivery_tokens (user_no, token, previous, until) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_no) DO UPDATE SET token = excluded.token, previous = excluded.previous, until = excluded.until`,
		userNo, token, previous, int64(until))
	return err
}

// Knock is what somebody here asked somebody elsewhere.
type Knock struct {
	ID      clearbox.MessageID
	UserNo  int64
	To      clearbox.Address
	Created clearbox.Millis // now if 0
	Expires clearbox.Millis
}

func (tx *Tx) knockAddress(userNo int64, a clearbox.Address) []byte {
	return tx.index("knocks.address", number64(userNo)+"|"+a.String())
}

func (tx *Tx) knockID(id clearbox.MessageID) []byte { return tx.index(knockLabel, string(id[:])) }

// PutKnock stores a knock; *ExistsError with Field "id" when there is one of
// this id.
func (tx *Tx) PutKnock(k *Knock) error {
	if k.Created == 0 {
		k.Created = tx.now
	}
	n, err := tx.exec(`INSERT INTO knocks (id_index, user_no, peer, address_index, created, expires, closed) VALUES ($1, $2, $3, $4, $5, $6, 0)
		ON CONFLICT DO NOTHING`, tx.knockID(k.ID), k.UserNo, string(k.To.Server), tx.knockAddress(k.UserNo, k.To), int64(k.Created), int64(k.Expires))
	if err == nil && n == 0 {
		err = &ExistsError{Field: "id"}
	}
	return err
}

// KnockMade tells when the account knocked at the address under the id, open or
// closed; 0 when the id is of another knock. ErrNotFound: there is none.
func (tx *Tx) KnockMade(id clearbox.MessageID, userNo int64, to clearbox.Address) (clearbox.Millis, error) {
	var owner, created int64
	var address []byte
	if err := tx.one("SELECT user_no, address_index, created FROM knocks WHERE id_index = $1", args(tx.knockID(id)), &owner, &address, &created); err != nil {
		return 0, err
	}
	if owner != userNo || string(address) != string(tx.knockAddress(userNo, to)) {
		return 0, nil
	}
	return clearbox.Millis(created), nil
}

// OpenKnocks counts an account's open knocks, and those at one address.
func (tx *Tx) OpenKnocks(userNo int64, to clearbox.Address) (all, there int64, err error) {
	err = tx.one(`SELECT COUNT(*), COALESCE(SUM(CASE WHEN address_index = $1 THEN 1 ELSE 0 END), 0) FROM knocks
		WHERE user_no = $2 AND closed = 0 AND expires > $3`, args(tx.knockAddress(userNo, to), userNo, int64(tx.now)), &all, &there)
	return all, there, err
}

// CloseKnock ends a knock of the account, its own or one that came; one that is
// not there is no error. It gives who knocked, or nobody.
func (tx *Tx) CloseKnock(userNo int64, id clearbox.MessageID) (stranger clearbox.UserID, err error) {
	if _, err := tx.exec("UPDATE knocks SET closed = 1 WHERE id_index = $1 AND user_no = $2", tx.knockID(id), userNo); err != nil {
		return stranger, err
	}
	index := tx.receivedID(userNo, id)
	var sealed []byte
	err = tx.write("UPDATE received_knocks SET closed = 1 WHERE id_index = $1 RETURNING stranger", args(index), &sealed)
	if err == ErrNotFound {
		return stranger, nil
	}
	if err != nil {
		return stranger, err
	}
	key, err := tx.userKey(userNo)
	if err != nil {
		return stranger, err
	}
	name, err := tx.open(key, PurposeContacts, "received_knocks", "stranger", hex.EncodeToString(index), sealed)
	if err != nil || len(name) == 0 {
		return stranger, err
	}
	return clearbox.ParseUserID(string(name))
}

// ArrivedKnock is a knock of a peer's person that waits to be looked at.
type ArrivedKnock struct {
	No      int64 // given by PutArrivedKnock
	Peer    clearbox.ServerName
	Payload []byte // sealed under the server's key
	Broken  error  // why it does not open, in what ArrivedKnocks gives
}

// PutArrivedKnock keeps a knock until it is looked at. seal are 16 random bytes
// that bind the sealed payload to its row.
func (tx *Tx) PutArrivedKnock(k *ArrivedKnock, seal []byte) error {
	sealed, err := tx.seal(ServerKey, PurposeContacts, "arrived_knocks", "payload", hex.EncodeToString(seal), k.Payload)
	if err != nil {
		return err
	}
	return tx.write("INSERT INTO arrived_knocks (peer, seal_id, payload) VALUES ($1, $2, $3) RETURNING no", args(string(k.Peer), seal, sealed), &k.No)
}

// ArrivedKnocks gives at most limit of them, oldest first. One that does not
// open has no payload, and says why.
func (tx *Tx) ArrivedKnocks(limit int) ([]ArrivedKnock, error) {
	var out []ArrivedKnock
	var k ArrivedKnock
	var peer string
	var seal, sealed []byte
	err := tx.each("SELECT no, peer, seal_id, payload FROM arrived_knocks ORDER BY no LIMIT $1", args(int64(limit)),
		[]any{&k.No, &peer, &seal, &sealed}, func() error {
			k.Peer = clearbox.ServerName(peer)
			k.Payload, k.Broken = tx.open(ServerKey, PurposeContacts, "arrived_knocks", "payload", hex.EncodeToString(seal), sealed)
			out = append(out, k)
			return nil
		})
	return out, err
}

// CountArrivedKnocks counts a peer's knocks that wait.
func (tx *Tx) CountArrivedKnocks(peer clearbox.ServerName) (n int64, err error) {
	err = tx.one("SELECT COUNT(*) FROM arrived_knocks WHERE peer = $1", args(string(peer)), &n)
	return n, err
}

// DeleteArrivedKnock forgets one that was looked at.
func (tx *Tx) DeleteArrivedKnock(no int64) error {
	_, err := tx.exec("DELETE FROM arrived_knocks WHERE no = $1", no)
	return err
}

// ReceivedKnock is a knock at an account that its devices are told of.
type ReceivedKnock struct {
	ID       clearbox.MessageID
	UserNo   int64
	Peer     clearbox.ServerName
	Stranger clearbox.UserID
	Expires  clearbox.Millis
}

func (tx *Tx) receivedID(userNo int64, id clearbox.MessageID) []byte {
	return tx.index("received_knocks.id", number64(userNo)+"|"+string(id[:]))
}

// strangerIndex is keyed to the account too, so that nobody sees in the file
// that two people know the same stranger.
func (tx *Tx) strangerIndex(userNo int64, u clearbox.UserID) []byte {
	return tx.index("blocks.user", number64(userNo)+"|"+u.String())
}

// ReceivedKnocks counts the open knocks that came to the account, those from the
// peer, and those of one stranger there.
func (tx *Tx) ReceivedKnocks(userNo int64, peer clearbox.ServerName, stranger clearbox.UserID) (all, from, theirs int64, err error) {
	err = tx.one(`SELECT COUNT(*), COALESCE(SUM(CASE WHEN peer = $1 THEN 1 ELSE 0 END), 0),
		COALESCE(SUM(CASE WHEN peer = $1 AND stranger_index = $2 THEN 1 ELSE 0 END), 0) FROM received_knocks
		WHERE user_no = $3 AND closed = 0 AND expires > $4`,
		args(string(peer), tx.strangerIndex(userNo, stranger), userNo, int64(tx.now)), &all, &from, &theirs)
	return all, from, theirs, err
}

// PutReceivedKnock stores it; *ExistsError with Field "id" when it came before.
func (tx *Tx) PutReceivedKnock(k *ReceivedKnock) error {
	key, err := tx.userKey(k.UserNo)
	if err != nil {
		return err
	}
	index := tx.receivedID(k.UserNo, k.ID)
	name, err := tx.seal(key, PurposeContacts, "received_knocks", "stranger", hex.EncodeToString(index), []byte(k.Stranger.String()))
	if err != nil {
		return err
	}
	n, err := tx.exec(`INSERT INTO received_knocks (id_index, user_no, peer, stranger_index, stranger, expires, closed) VALUES ($1, $2, $3, $4, $5, $6, 0)
		ON CONFLICT DO NOTHING`, index, k.UserNo, string(k.Peer), tx.strangerIndex(k.UserNo, k.Stranger), name, int64(k.Expires))
	if err == nil && n == 0 {
		err = &ExistsError{Field: "id"}
	}
	return err
}

// Block keeps the knocks of somebody of another server from the account, the
// open ones included. Blocking again changes nothing.
func (tx *Tx) Block(userNo int64, u clearbox.UserID) error {
	key, err := tx.userKey(userNo)
	if err != nil {
		return err
	}
	index := tx.strangerIndex(userNo, u)
	name, err := tx.seal(key, PurposeContacts, "blocks", "name", hex.EncodeToString(index), []byte(u.String()))
	if err != nil {
		return err
	}
	if _, err := tx.exec("INSERT INTO blocks (user_no, block_index, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", userNo, index, name); err != nil {
		return err
	}
	_, err = tx.exec("UPDATE received_knocks SET closed = 1 WHERE user_no = $1 AND peer = $2 AND stranger_index = $3", userNo, string(u.Server), index)
	return err
}

// Blocked tells whether the account has blocked somebody.
func (tx *Tx) Blocked(userNo int64, u clearbox.UserID) (bool, error) {
	var n int64
	err := tx.one("SELECT COUNT(*) FROM blocks WHERE user_no = $1 AND block_index = $2", args(userNo, tx.strangerIndex(userNo, u)), &n)
	return n > 0, err
}

// Blocks gives whom the account has blocked, in no order that means anything.
func (tx *Tx) Blocks(userNo int64) ([]clearbox.UserID, error) {
	key, err := tx.userKey(userNo)
	if err != nil {
		return nil, err
	}
	var out []clearbox.UserID
	var index, sealed []byte
	err = tx.each("SELECT block_index, name FROM blocks WHERE user_no = $1 ORDER BY block_index", args(userNo), []any{&index, &sealed}, func() error {
		name, err := tx.open(key, PurposeContacts, "blocks", "name", hex.EncodeToString(index), sealed)
		if err != nil {
			return fmt.Errorf("open a block: %w", err)
		}
		if len(name) == 0 {
			return nil
		}
		u, err := clearbox.ParseUserID(string(name))
		out = append(out, u)
		return err
	})
	return out, err
}

// Unblock forgets every block of the account.
func (tx *Tx) Unblock(userNo int64) error {
	_, err := tx.exec("DELETE FROM blocks WHERE user_no = $1", userNo)
	return err
}

// ExpireContact forgets at most limit knocks of each kind whose time is over,
// and as many tokens that were replaced long enough ago.
func (tx *Tx) ExpireContact(limit int) (n int64, err error) {
	for _, q := range [...]string{
		"DELETE FROM knocks WHERE id_index IN (SELECT id_index FROM knocks WHERE expires <= $1 ORDER BY expires LIMIT $2)",
		"DELETE FROM received_knocks WHERE id_index IN (SELECT id_index FROM received_knocks WHERE expires <= $1 ORDER BY expires LIMIT $2)",
	} {
		m, err := tx.exec(q, int64(tx.now), int64(limit))
		if err != nil {
			return n, err
		}
		n = max(n, m)
	}
	m, err := tx.exec(`UPDATE delivery_tokens SET previous = $1, until = 0 WHERE user_no IN
		(SELECT user_no FROM delivery_tokens WHERE until > 0 AND until <= $2 LIMIT $3)`, []byte{}, int64(tx.now), int64(limit))
	return max(n, m), err
}
