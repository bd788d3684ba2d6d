package storage

import (
	"encoding/hex"
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// RemoteUser is what another server said about one of its people. It is sealed
// under the server's key and found by keyed hashes, so the file alone does not
// tell whom the people here write to.
type RemoteUser struct {
	User       clearbox.UserID
	Handle     clearbox.Handle // empty if not known
	DeviceList []byte          // signed by the person's account key
	Version    int64           // of DeviceList
	Fetched    clearbox.Millis // now if 0
}

// PutRemoteUser stores or replaces it. An address that moved to another person
// is taken from the former.
func (tx *Tx) PutRemoteUser(u *RemoteUser) error {
	if u.Fetched == 0 {
		u.Fetched = tx.now
	}
	user := tx.index("remote_users.user", u.User.String())
	row := hex.EncodeToString(user)
	var address any // NULL: an address that is not known is nobody's
	if u.Handle != "" {
		index := tx.addressIndex(clearbox.Address{Handle: u.Handle, Server: u.User.Server})
		if _, err := tx.exec("UPDATE remote_users SET address_index = NULL WHERE address_index = $1 AND user_index <> $2", index, user); err != nil {
			return err
		}
		address = index
	}
	uid, err := tx.seal(ServerKey, PurposeContacts, "remote_users", "uid", row, []byte(u.User.UID))
	if err != nil {
		return err
	}
	handle, err := tx.seal(ServerKey, PurposeContacts, "remote_users", "handle", row, []byte(u.Handle))
	if err != nil {
		return err
	}
	list, err := tx.seal(ServerKey, PurposeContacts, "remote_users", "device_list", row, u.DeviceList)
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO remote_users (user_index, address_index, server, uid, handle, device_list, version, fetched)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (user_index) DO UPDATE SET address_index = excluded.address_index,
		uid = excluded.uid, handle = excluded.handle, device_list = excluded.device_list, version = excluded.version, fetched = excluded.fetched`,
		user, address, string(u.User.Server), uid, handle, list, u.Version, int64(u.Fetched))
	return err
}

func (tx *Tx) addressIndex(a clearbox.Address) []byte {
	return tx.index("remote_users.address", a.String())
}

// RemoteUser finds a person of another server.
func (tx *Tx) RemoteUser(u clearbox.UserID) (RemoteUser, error) {
	return tx.remoteUser("user_index = $1", tx.index("remote_users.user", u.String()))
}

// RemoteUserByAddress finds the person that had the address when it was asked
// for last.
func (tx *Tx) RemoteUserByAddress(a clearbox.Address) (RemoteUser, error) {
	return tx.remoteUser("address_index = $1", tx.addressIndex(a))
}

func (tx *Tx) remoteUser(where string, index []byte) (RemoteUser, error) {
	var u RemoteUser
	var key, uid, handle, list []byte
	var server string
	var fetched int64
	err := tx.one("SELECT user_index, server, uid, handle, device_list, version, fetched FROM remote_users WHERE "+where,
		args(index), &key, &server, &uid, &handle, &list, &u.Version, &fetched)
	if err != nil {
		return RemoteUser{}, err
	}
	row := hex.EncodeToString(key)
	plain := [3][]byte{}
	for i, c := range [3]struct {
		column string
		sealed []byte
	}{{"uid", uid}, {"handle", handle}, {"device_list", list}} {
		if plain[i], err = tx.open(ServerKey, PurposeContacts, "remote_users", c.column, row, c.sealed); err != nil {
			return RemoteUser{}, fmt.Errorf("open a remote user's %s: %w", c.column, err)
		}
	}
	u.User = clearbox.UserID{UID: clearbox.UID(plain[0]), Server: clearbox.ServerName(server)}
	u.Handle, u.DeviceList, u.Fetched = clearbox.Handle(plain[1]), plain[2], clearbox.Millis(fetched)
	return u, nil
}

// DeleteRemoteUser forgets a person of another server.
func (tx *Tx) DeleteRemoteUser(u clearbox.UserID) error {
	return tx.change("DELETE FROM remote_users WHERE user_index = $1", tx.index("remote_users.user", u.String()))
}
