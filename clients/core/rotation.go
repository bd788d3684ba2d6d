package core

import (
	"context"
	"errors"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

const (
	keyRotate  = "rotate"          // removals after which this device has to rotate
	keyExposed = "archive/exposed" // a removed device knows the secrets of the archive
)

// removal names own devices that this device took off the list. It is in the vault
// before the server is asked, and until what they knew was replaced.
type removal struct {
	Devices []clearbox.DeviceID `cbor:"1,keyasint"`
}

// struck gives the devices that prev has and next has not any more.
func struck(prev, next *keys.DeviceList) (gone []clearbox.DeviceID) {
	stay := next.Active()
	for _, d := range prev.Active() {
		if !slices.ContainsFunc(stay, func(e deviceEntry) bool { return e.ID == d.ID }) {
			gone = append(gone, clearbox.DeviceID(d.ID))
		}
	}
	return gone
}

// noteRemoval has rotate replace what the devices gone know, when the list says
// that they are removed.
func noteRemoval(tx Tx, gone []clearbox.DeviceID) error {
	if len(gone) == 0 {
		return nil
	}
	due, err := load[removal](tx, keyRotate)
	if err != nil {
		return err
	}
	if due == nil {
		due = new(removal)
	}
	for _, id := range gone {
		if !slices.Contains(due.Devices, id) {
			due.Devices = append(due.Devices, id)
		}
	}
	return save(tx, keyRotate, due)
}

// rotate replaces what devices knew that are off the list by this device's doing:
// the delivery token, which all contacts are told, the key of the profile, and the
// signed prekeys. Sender keys are replaced by whoever has given them, before the
// next message (senderFor). The archive's secrets come from the recovery key, which
// no device has: that they are known is noted for Backup.
func (b *Brain) rotate(ctx context.Context) error {
	var due *removal
	err := b.vault.View(ctx, func(r Reader) (err error) {
		due, err = load[removal](r, keyRotate)
		return err
	})
	if err != nil || due == nil {
		return err
	}
	s, err := b.me()
	if err != nil {
		return err
	}
	listed := s.list.Active()
	rotated := false
	err = b.vault.Update(ctx, func(tx Tx) error {
		rotated = false
		due, err := load[removal](tx, keyRotate)
		if err != nil || due == nil {
			return err
		}
		before := len(due.Devices)
		due.Devices = slices.DeleteFunc(due.Devices, func(id clearbox.DeviceID) bool {
			return !slices.ContainsFunc(listed, func(d deviceEntry) bool { return clearbox.DeviceID(d.ID) == id })
		})
		if len(due.Devices) == before {
			return nil
		}
		rotated = true
		if len(due.Devices) > 0 {
			err = save(tx, keyRotate, due)
		} else {
			err = tx.Delete(keyRotate)
		}
		return errors.Join(err, b.changeLocks(tx, s), b.changeProfileKey(tx), staleSignedPreKeys(tx), exposeArchive(tx))
	})
	if err == nil && rotated {
		b.keysLow.Store(true) // so that the tasks look after the prekeys at once
		b.stir()
	}
	return err
}

// staleSignedPreKeys has tendPreKeys replace the signed and the last-resort prekey.
func staleSignedPreKeys(tx Tx) error {
	st, err := loadPreKeyState(tx)
	if err != nil {
		return err
	}
	st.Rotated = 0
	return save(tx, keyPreKeys, st)
}

// exposeArchive notes that somebody who is not to know has the archive's secrets.
func exposeArchive(tx Tx) error {
	on, err := optional(tx.Get(keyArchive))
	if err != nil || on == nil {
		return err
	}
	return tx.Put(keyExposed, []byte{1})
}
