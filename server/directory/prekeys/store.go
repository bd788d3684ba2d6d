package prekeys

import (
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// Store keeps what Check accepted for the device. quota_exceeded when the device
// would have more than MaxOneTime one-time keys of a kind, conflict when an id
// is in use.
func (u *Upload) Store(tx *storage.Tx, deviceNo int64) error {
	if u.Signed != nil {
		if err := tx.PutSignedPreKeys(deviceNo, storage.PreKey(*u.Signed), storage.PreKey(*u.LastResort)); err != nil {
			return err
		}
	}
	if len(u.OneTime)+len(u.KEM) == 0 {
		return nil
	}
	err := tx.AddOneTimePreKeys(deviceNo, stored(u.OneTime), stored(u.KEM))
	switch {
	case errors.Is(err, storage.ErrQuota):
		return clearbox.Wrap(clearbox.CodeQuota, "a device keeps at most 100 one-time prekeys of each kind here", err)
	case errors.Is(err, storage.ErrExists):
		return clearbox.Wrap(clearbox.CodeConflict, "a prekey with this id is here already", err)
	}
	return err
}

func stored(ks []PreKey) []storage.PreKey {
	out := make([]storage.PreKey, len(ks))
	for i, k := range ks {
		out[i] = storage.PreKey(k)
	}
	return out
}
