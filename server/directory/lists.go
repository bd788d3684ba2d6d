package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// listCache remembers parsed lists by the hash of their bytes, since a
// signature need not be verified twice.
type listCache struct {
	mu  sync.Mutex // guards all; the lists in it never change
	all map[[32]byte]*keys.DeviceList
}

const maxLists = 4096

// read is auth.ReadDeviceList. The caller must not change what it gets.
func (c *listCache) read(signed []byte, account clearbox.UserID) (*keys.DeviceList, error) {
	hash := sha256.Sum256(signed)
	c.mu.Lock()
	list := c.all[hash]
	c.mu.Unlock()
	if list != nil && list.Account == account.String() {
		return list, nil
	}
	list, err := auth.ReadDeviceList(signed, account)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) >= maxLists {
		for h := range c.all { // map order chooses
			delete(c.all, h)
			break
		}
	}
	c.all[hash] = list
	return list, nil
}

// Devices gives the caller's account and devices.
func (s *Service) Devices(ctx context.Context, p auth.Principal) (Own, error) {
	var own Own
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		own = Own{}
		user, err := tx.UserByNo(p.UserNo)
		if err != nil {
			return err
		}
		if own.Account, err = s.account(tx, user); err != nil {
			return err
		}
		devices, err := tx.Devices(p.UserNo)
		for _, d := range devices {
			own.Devices = append(own.Devices, DeviceInfo{
				ID: d.ID, Registration: d.Registration, Name: d.Name, Added: d.Added, LastSeenDay: d.LastSeenDay, Current: d.No == p.DeviceNo,
			})
		}
		return err
	})
	if err != nil {
		return Own{}, fmt.Errorf("list devices: %w", err)
	}
	return own, nil
}

// PublishList replaces the caller's device list. The new one must verify and
// follow the one before. Devices that it removes lose mail, keys and sessions,
// those that it adds get their keys, in one transaction. Where the identity is a
// new one, keys come for every device, which take the place of all that are here.
// The same list again is no error. The caller needs no device: the list is signed
// by the root key.
//
// Errors: bad_signature (list or prekey, or another root key), conflict (not
// newer than the list here), bad_request with the field.
func (s *Service) PublishList(ctx context.Context, p auth.Principal, u ListUpdate) (Account, error) {
	bucket := deviceBucket(p)
	if !p.HasDevice() { // somebody recovers the account: what counts is the root key
		bucket = "account|" + strconv.FormatInt(p.UserNo, 10)
	}
	if err := s.uploads.Take(s.o.Now(), bucket); err != nil {
		return Account{}, err
	}
	next, err := s.lists.read(u.Signed, p.User)
	if err != nil {
		return Account{}, err
	}
	for id, k := range u.Keys {
		if err := k.Check(next.Identity, true, fmt.Sprintf("/keys/%d", id)); err != nil {
			return Account{}, err
		}
		if err := auth.CheckDeviceName(u.Names[id], fmt.Sprintf("/names/%d", id)); err != nil {
			return Account{}, err
		}
	}
	var a Account
	var done replaced
	err = s.store.Update(ctx, func(tx *storage.Tx) (err error) {
		done = replaced{}
		user, err := tx.UserByNo(p.UserNo)
		if err != nil {
			return err
		}
		if string(user.DeviceList) != string(u.Signed) {
			if done, err = s.replaceList(tx, &user, next, u); err != nil {
				return err
			}
		}
		a, err = s.account(tx, user)
		return err
	})
	s.auth.Settle(auth.Revoked{Sessions: done.ended}, err)
	if err != nil {
		return Account{}, fmt.Errorf("publish a device list: %w", err)
	}
	for _, no := range done.low {
		s.low(no)
	}
	return a, nil
}

// replaced is what a new list led to.
type replaced struct {
	ended []string // sessions
	low   []int64  // devices that have no one-time keys left, since they were another identity's
}

func refuseList(code clearbox.Code, text string, cause error) error {
	return &clearbox.Error{Code: code, Text: text, Field: "/device_list", Cause: cause}
}

// replaceList makes the devices of user what next says, within a transaction.
func (s *Service) replaceList(tx *storage.Tx, user *storage.User, next *keys.DeviceList, u ListUpdate) (done replaced, err error) {
	prev, err := s.lists.read(user.DeviceList, clearbox.UserID{UID: user.UID, Server: s.server})
	if err != nil {
		return done, fmt.Errorf("a stored device list: %w", err)
	}
	if err := follows(next, prev); err != nil {
		return done, err
	}
	renewed := next.Identity != prev.Identity
	have, err := tx.Devices(user.No)
	if err != nil {
		return done, err
	}
	stays := make(map[clearbox.DeviceID]bool)
	for _, d := range have {
		if !lists(next, d) {
			sessions, err := tx.RemoveDevice(user.No, d.ID)
			if err != nil {
				return done, err
			}
			done.ended = append(done.ended, sessions...)
			continue
		}
		stays[d.ID] = true
		if renewed {
			if err := renewKeys(tx, d, u); err != nil {
				return done, err
			}
			done.low = append(done.low, d.No)
		}
	}
	added := 0
	for i, e := range next.Devices {
		id := clearbox.DeviceID(e.ID)
		switch {
		case e.Removed != 0 || stays[id]:
			continue
		case i < len(prev.Devices):
			return done, refuseList(clearbox.CodeBadRequest, fmt.Sprintf("device %d was removed here; the list must say so", id), nil)
		}
		if err := addDevice(tx, user.No, e, u); err != nil {
			return done, err
		}
		added++
	}
	if added+len(done.low) != len(u.Keys) {
		return done, refuseList(clearbox.CodeBadRequest, "keys come for devices that the list adds and for no others", nil)
	}
	user.DeviceList, user.DevicesVersion = u.Signed, next.Version
	return done, tx.SetDeviceList(user.No, u.Signed, next.Version)
}

// follows tells a client why its list does not take the place of the one here.
func follows(next, prev *keys.DeviceList) error {
	switch err := next.Follows(prev); {
	case errors.Is(err, keys.ErrVersionNotNewer):
		return refuseList(clearbox.CodeConflict, "a newer device list is here already; fetch it and begin from it", err)
	case errors.Is(err, keys.ErrOtherRoot):
		return refuseList(clearbox.CodeBadSignature, "the device list is signed by another root key", err)
	case err != nil:
		return refuseList(clearbox.CodeBadRequest, "the device list does not continue the one here", err)
	}
	return nil
}

// renewKeys puts keys that the new identity signed in place of all that a device
// has here.
func renewKeys(tx *storage.Tx, d storage.DeviceRecord, u ListUpdate) error {
	k, ok := u.Keys[d.ID]
	if !ok {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "with a new identity every device needs prekeys that it signed", Field: fmt.Sprintf("/keys/%d", d.ID)}
	}
	if err := tx.ClearOneTimePreKeys(d.No); err != nil {
		return err
	}
	return k.Store(tx, d.No)
}

// lists tells whether d is an active device of l.
func lists(l *keys.DeviceList, d storage.DeviceRecord) bool {
	for _, e := range l.Devices {
		if e.Removed == 0 && clearbox.DeviceID(e.ID) == d.ID && e.Registration == d.Registration && string(e.Key) == string(d.Key) {
			return true
		}
	}
	return false
}

func addDevice(tx *storage.Tx, userNo int64, e keys.DeviceEntry, u ListUpdate) error {
	id := clearbox.DeviceID(e.ID)
	k, ok := u.Keys[id]
	if !ok {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "a device that is added needs its prekeys", Field: fmt.Sprintf("/keys/%d", id)}
	}
	d := storage.DeviceRecord{UserNo: userNo, ID: id, Registration: e.Registration, Key: e.Key, Name: u.Names[id]}
	if err := tx.AddDevice(&d); err != nil {
		return err
	}
	return k.Store(tx, d.No)
}

// RemoveDevice cuts an own device off at once: its sessions end, its mail and
// keys are deleted. It works without the root key, for a lost device; the device
// is Account.Withdrawn until a list says that it was removed.
func (s *Service) RemoveDevice(ctx context.Context, p auth.Principal, id clearbox.DeviceID) error {
	var ended auth.Revoked
	err := s.store.Update(ctx, func(tx *storage.Tx) (err error) {
		ended = auth.Revoked{}
		ended.Sessions, err = tx.RemoveDevice(p.UserNo, id)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return clearbox.Errorf(clearbox.CodeNotFound, "the account has no such device")
	}
	s.auth.Settle(ended, err)
	if err != nil {
		return fmt.Errorf("remove a device: %w", err)
	}
	return nil
}

// List gives the verified device list of a person, here or elsewhere, and which of
// its devices the account has removed since. When the one known of a person
// elsewhere is older than version atLeast, their server is asked anew; it may still
// be older. Errors are those of Lookup. The caller must not change the list.
func (s *Service) List(ctx context.Context, user clearbox.UserID, atLeast int64) (*keys.DeviceList, []clearbox.DeviceID, error) {
	if user.Server == s.server {
		a, err := s.local(ctx, func(tx *storage.Tx) (storage.User, error) { return tx.UserByUID(user.UID) })
		if err != nil {
			return nil, nil, err
		}
		list, err := s.lists.read(a.DeviceList, user)
		return list, a.Withdrawn, err
	}
	a, err := s.remoteByID(ctx, user)
	if err == nil && a.Version < atLeast {
		if err = s.refetch(ctx, user); err == nil {
			a, err = s.remoteByID(ctx, user)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	list, err := s.lists.read(a.DeviceList, user)
	return list, a.Withdrawn, err
}
