package core

import (
	"context"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

type deviceEntry = keys.DeviceEntry

// publish signs the list that follows the known one with edit, has the server take
// it, and gives it as signed. What devices knew that it removes is replaced.
func (b *Brain) publish(ctx context.Context, edit func(next *keys.DeviceList, now int64) error, added ...wire.AddedDevice) ([]byte, error) {
	s, err := b.me()
	if err != nil {
		return nil, err
	}
	next := *s.list
	next.Version, next.Devices = s.list.Version+1, slices.Clone(s.list.Devices)
	next.Issued = max(int64(b.now()), s.list.Issued)
	if err := edit(&next, int64(b.now())); err != nil {
		return nil, err
	}
	signed, err := next.Sign(s.root)
	if err != nil {
		return nil, err
	}
	if gone := struck(s.list, &next); len(gone) > 0 {
		if err := b.vault.Update(ctx, func(tx Tx) error { return noteRemoval(tx, gone) }); err != nil {
			return nil, err
		}
	}
	if err := b.call(ctx, "PUT", "/devices/list", wire.DeviceListUpload{DeviceList: signed, Added: added}, nil); err != nil {
		return nil, err
	}
	if _, err := b.Devices(ctx); err != nil {
		return signed, err
	}
	return signed, b.rotate(ctx)
}

// tendDevices signs a list without the devices that were withdrawn: by another
// device that has no root key, or by the server, since nobody used them for long.
// So the signed list stays the truth.
func (b *Brain) tendDevices(ctx context.Context) error {
	if _, err := b.Devices(ctx); err != nil {
		return err
	}
	if err := b.askOwn(ctx); err != nil {
		return err
	}
	if err := b.rotate(ctx); err != nil { // where publish was interrupted
		return err
	}
	s, err := b.me()
	if err != nil || len(s.Withdrawn) == 0 {
		return err
	}
	_, err = b.publish(ctx, func(l *keys.DeviceList, now int64) error {
		strike(l, now, s.Withdrawn)
		return nil
	})
	if clearbox.CodeOf(err) == clearbox.CodeConflict {
		return nil // another device was faster
	}
	return err
}

// strike marks devices as removed.
func strike(l *keys.DeviceList, now int64, gone []clearbox.DeviceID) {
	for i := range l.Devices {
		d := &l.Devices[i]
		if d.Removed == 0 && slices.Contains(gone, clearbox.DeviceID(d.ID)) {
			d.Removed = max(now, d.Added)
		}
	}
}
