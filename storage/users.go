package storage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/clearbox-im/clearbox"
)

// Role is what an account may do at this server.
type Role string

// The roles.
const (
	RoleAdmin     Role = "admin"
	RoleModerator Role = "moderator"
	RoleRights    Role = "rights"
	RoleDPO       Role = "dpo"
	RoleMember    Role = "member"
)

// UserState is whether an account may be used.
type UserState string

// The states.
const (
	UserActive UserState = "active"
	UserBanned UserState = "banned"
	UserErased UserState = "erased" // the row stays so that its number and uid are never given again
)

// User is an account. Handle, Password and DeviceList are sealed under Key at
// rest; once the key is destroyed they read as empty.
type User struct {
	No             int64 // given by CreateUser; small, local, never reused
	UID            clearbox.UID
	Key            KeyID
	Handle         clearbox.Handle
	Role           Role
	State          UserState
	Password       string // argon2id in PHC form
	DeviceList     []byte // signed by the account key
	DevicesVersion int64
	NoticeVersion  string // of the notice that was acknowledged last
	Created        clearbox.Millis
}

const userColumns = "no, uid, key_id, handle, role, state, password, device_list, devices_version, notice_version, created"

// CreateUser stores a new account and sets u.No. An empty State means active, a
// zero Created means now. It returns *ExistsError with Field "handle" or "uid".
func (tx *Tx) CreateUser(u *User) error {
	if u.Key.IsZero() {
		return errors.New("storage: a user needs a key")
	}
	if u.State == "" {
		u.State = UserActive
	}
	if u.Created == 0 {
		u.Created = tx.now
	}
	handle, err := tx.seal(u.Key, PurposeProfile, "users", "handle", string(u.UID), []byte(u.Handle))
	if err != nil {
		return err
	}
	password, err := tx.seal(u.Key, PurposeProfile, "users", "password", string(u.UID), []byte(u.Password))
	if err != nil {
		return err
	}
	list, err := tx.seal(u.Key, PurposeProfile, "users", "device_list", string(u.UID), u.DeviceList)
	if err != nil {
		return err
	}
	err = tx.write(`INSERT INTO users (uid, key_id, handle, handle_index, role, state, password, device_list, devices_version, notice_version, created)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING RETURNING no`,
		args(string(u.UID), u.Key[:], handle, tx.handleIndex(u.Handle), string(u.Role), string(u.State), password, list,
			u.DevicesVersion, u.NoticeVersion, int64(u.Created)), &u.No)
	if err != ErrNotFound {
		return err
	}
	if _, err := tx.UserByUID(u.UID); err == nil {
		return &ExistsError{Field: "uid"}
	}
	return &ExistsError{Field: "handle"}
}

func (tx *Tx) handleIndex(h clearbox.Handle) []byte { return tx.index("users.handle", string(h)) }

// UserByUID finds an account by its permanent name.
func (tx *Tx) UserByUID(uid clearbox.UID) (User, error) {
	return tx.user("SELECT "+userColumns+" FROM users WHERE uid = $1", string(uid))
}

// UserByHandle finds the account that has the handle now.
func (tx *Tx) UserByHandle(h clearbox.Handle) (User, error) {
	return tx.user("SELECT "+userColumns+" FROM users WHERE handle_index = $1", tx.handleIndex(h))
}

// UserByNo finds an account by its local number.
func (tx *Tx) UserByNo(no int64) (User, error) {
	return tx.user("SELECT "+userColumns+" FROM users WHERE no = $1", no)
}

// ListUsers gives at most limit accounts with numbers above afterNo, in order.
func (tx *Tx) ListUsers(afterNo int64, limit int) ([]User, error) {
	return tx.users("SELECT "+userColumns+" FROM users WHERE no > $1 ORDER BY no LIMIT $2", afterNo, int64(limit))
}

func (tx *Tx) user(query string, arg any) (User, error) {
	us, err := tx.users(query, arg)
	if err != nil {
		return User{}, err
	}
	if len(us) == 0 {
		return User{}, ErrNotFound
	}
	return us[0], nil
}

func (tx *Tx) users(query string, a ...any) ([]User, error) {
	var us []User
	var u User
	var uid, role, state string
	var key, handle, password, list []byte
	var created int64
	dest := []any{&u.No, &uid, &key, &handle, &role, &state, &password, &list, &u.DevicesVersion, &u.NoticeVersion, &created}
	err := tx.each(query, a, dest, func() error {
		u.UID, u.Role, u.State, u.Created = clearbox.UID(uid), Role(role), UserState(state), clearbox.Millis(created)
		copy(u.Key[:], key)
		h, err := tx.open(u.Key, PurposeProfile, "users", "handle", uid, handle)
		if err != nil {
			return fmt.Errorf("open a handle: %w", err)
		}
		p, err := tx.open(u.Key, PurposeProfile, "users", "password", uid, password)
		if err != nil {
			return fmt.Errorf("open a password: %w", err)
		}
		if u.DeviceList, err = tx.open(u.Key, PurposeProfile, "users", "device_list", uid, list); err != nil {
			return fmt.Errorf("open a device list: %w", err)
		}
		u.Handle, u.Password = clearbox.Handle(h), string(p)
		us = append(us, u)
		return nil
	})
	return us, err
}

// CountUsers counts the accounts that are not erased.
func (tx *Tx) CountUsers() (int64, error) {
	var n int64
	err := tx.one("SELECT COUNT(*) FROM users WHERE state <> 'erased'", nil, &n)
	return n, err
}

// SetUserState bans, unbans or marks as erased. Erased also drops the handle's
// index, so that the name is free and finds nobody.
func (tx *Tx) SetUserState(no int64, state UserState) error {
	if err := tx.peopleChanged(); err != nil {
		return err
	}
	if state == UserErased {
		return tx.change("UPDATE users SET state = $1, handle_index = NULL WHERE no = $2", string(state), no)
	}
	return tx.change("UPDATE users SET state = $1 WHERE no = $2", string(state), no)
}

// SetRole changes what the account may do.
func (tx *Tx) SetRole(no int64, role Role) error {
	return tx.change("UPDATE users SET role = $1 WHERE no = $2", string(role), no)
}

// SetPassword replaces the password's PHC string and drops open resets.
func (tx *Tx) SetPassword(no int64, phc string) error {
	sealed, err := tx.sealUser(no, "password", []byte(phc))
	if err != nil {
		return err
	}
	if _, err := tx.exec("DELETE FROM resets WHERE user_no = $1", no); err != nil {
		return err
	}
	return tx.change("UPDATE users SET password = $1 WHERE no = $2", sealed, no)
}

// SetDeviceList replaces the signed list and its version.
func (tx *Tx) SetDeviceList(no int64, signed []byte, version int64) error {
	sealed, err := tx.sealUser(no, "device_list", signed)
	if err != nil {
		return err
	}
	return tx.change("UPDATE users SET device_list = $1, devices_version = $2 WHERE no = $3", sealed, version, no)
}

func (tx *Tx) sealUser(no int64, column string, plain []byte) ([]byte, error) {
	var uid string
	var key []byte
	if err := tx.one("SELECT uid, key_id FROM users WHERE no = $1", args(no), &uid, &key); err != nil {
		return nil, err
	}
	return tx.seal(keyID(key), PurposeProfile, "users", column, uid, plain)
}

func keyID(b []byte) (k KeyID) {
	copy(k[:], b)
	return k
}

// userKey is the key of a local account.
func (tx *Tx) userKey(no int64) (KeyID, error) {
	var key []byte
	err := tx.one("SELECT key_id FROM users WHERE no = $1", args(no), &key)
	return keyID(key), err
}

// PutReset keeps the hash of a code with which the password may be set anew,
// once. Earlier codes of the account die.
func (tx *Tx) PutReset(no int64, hash []byte, expires clearbox.Millis) error {
	if _, err := tx.exec("DELETE FROM resets WHERE user_no = $1", no); err != nil {
		return err
	}
	_, err := tx.exec("INSERT INTO resets (hash, user_no, expires) VALUES ($1, $2, $3)", hash, no, int64(expires))
	return err
}

// UseReset spends a code and gives its account; ErrNotFound if it is unknown,
// spent or expired.
func (tx *Tx) UseReset(hash []byte) (userNo int64, err error) {
	var expires int64
	if err := tx.write("DELETE FROM resets WHERE hash = $1 RETURNING user_no, expires", args(hash), &userNo, &expires); err != nil {
		return 0, err
	}
	if expires <= int64(tx.now) {
		return 0, ErrNotFound
	}
	return userNo, nil
}

// Recipient is an account as delivery sees it: nothing sealed, so it is cheap.
type Recipient struct {
	No             int64
	Key            KeyID
	State          UserState
	DevicesVersion int64
	Devices        []RecipientDevice // active ones, in order of No
}

// RecipientDevice is one active device.
type RecipientDevice struct {
	No           int64
	ID           clearbox.DeviceID
	Registration uint16
}

// Recipient finds an account and its active devices for delivery, in one
// statement: it runs for every message.
func (tx *Tx) Recipient(uid clearbox.UID) (Recipient, error) {
	var r Recipient
	var key []byte
	var state string
	var no, id, registration int64
	err := tx.each(`SELECT u.no, u.key_id, u.state, u.devices_version, d.no, d.device_id, d.registration
		FROM users u LEFT JOIN devices d ON d.user_no = u.no AND d.removed = 0 WHERE u.uid = $1`,
		args(string(uid)), []any{&r.No, &key, &state, &r.DevicesVersion, &no, &id, &registration}, func() error {
			if no != 0 {
				r.Devices = append(r.Devices, RecipientDevice{no, clearbox.DeviceID(id), uint16(registration)})
			}
			return nil
		})
	if err != nil {
		return Recipient{}, err
	}
	if r.No == 0 {
		return Recipient{}, ErrNotFound
	}
	r.Key, r.State = keyID(key), UserState(state)
	slices.SortFunc(r.Devices, func(a, b RecipientDevice) int { return cmp.Compare(a.No, b.No) })
	return r, nil
}

// UIDByHandle gives the permanent name of the account that has the handle now,
// and opens nothing.
func (tx *Tx) UIDByHandle(h clearbox.Handle) (clearbox.UID, error) {
	var uid string
	err := tx.one("SELECT uid FROM users WHERE handle_index = $1", args(tx.handleIndex(h)), &uid)
	return clearbox.UID(uid), err
}

// PeopleVersion is another number after every change of which account is active
// and has which devices: what was read of many accounts under a version is still
// so under the same one.
func (tx *Tx) PeopleVersion() (n int64, err error) {
	err = tx.one("SELECT n FROM people_version", nil, &n)
	return n, err
}

func (tx *Tx) peopleChanged() error {
	_, err := tx.exec("UPDATE people_version SET n = n + 1")
	return err
}
