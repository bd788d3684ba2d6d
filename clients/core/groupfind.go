package core

import (
	"context"

	"github.com/clearbox-im/clearbox/server/wire"
)

// keyGroupsAsked is in the vault once the own server was asked which groups the
// account is in. A device that was linked has not had their operations in its
// mailbox, and one that goes on from an older copy may have lost some.
const keyGroupsAsked = "asked/groups"

// findGroups asks once for the groups that the account is in, and verifies them.
func (b *Brain) findGroups(ctx context.Context) error {
	var asked []byte
	err := b.vault.View(ctx, func(r Reader) (err error) {
		asked, err = optional(r.Get(keyGroupsAsked))
		return err
	})
	if err != nil || asked != nil {
		return err
	}
	var out wire.Groups
	if err := b.call(ctx, "GET", "/groups", nil, &out); err != nil {
		return err
	}
	for _, g := range out.Groups {
		if err := b.syncGroup(ctx, g.Group, true); err != nil {
			return err // and asked again with the next look
		}
	}
	return b.vault.Update(ctx, func(tx Tx) error { return tx.Put(keyGroupsAsked, []byte{1}) })
}
