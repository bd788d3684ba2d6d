package core

import (
	"context"
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// SetLimits gives b smaller limits than a product's: of an archive's items, messages
// under one sender key, and changes that wait for their message.
func SetLimits(b *Brain, n int) { b.most = limits{uint64(n), uint32(n), n} }

// FillTalk puts n lines of both sides into the conversation with user.
func FillTalk(ctx context.Context, b *Brain, user clearbox.UserID, n int) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		for i := range n {
			id, err := clearbox.NewMessageID(b.opts.Random)
			if err != nil {
				return err
			}
			m := &Message{
				ID: id, Conversation: user, Sender: user, SenderDevice: 1, Kind: MessageText, Sent: b.now(), Stored: b.now(),
				Text: fmt.Sprintf("line %d of a long conversation about the weather", i), State: StateReceived,
			}
			if i%2 == 0 {
				m.Sender, m.SenderDevice, m.Outgoing, m.State = s.User, s.Device, true, StateDelivered
			}
			if err := addMessage(tx, uuidOfUser(user), uuidOfUser(m.Sender), m); err != nil {
				return err
			}
		}
		return nil
	})
}

// Forget loses the conversation with user, as a damaged disk would.
func Forget(ctx context.Context, b *Brain, user clearbox.UserID) error {
	return b.vault.Update(ctx, func(tx Tx) error {
		for _, prefix := range []string{prefixMsg, prefixID, prefixNew} {
			entries, err := tx.List(Range{Prefix: prefix})
			if err != nil {
				return err
			}
			for _, e := range entries {
				if err := tx.Delete(e.Key); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// SaySync tells own devices what this one has not decided.
func SaySync(ctx context.Context, b *Brain, c SyncContact) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		_, err := b.enqueueSync(tx, s, &Sync{Contacts: []SyncContact{c}})
		return err
	})
}

// Shared gives what all devices of an account know alike: its delivery token and
// the key of its profile.
func Shared(ctx context.Context, b *Brain) (token, profile []byte, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		t, err := load[ownToken](r, keyOwnToken)
		if err != nil {
			return err
		}
		card, err := load[ownCard](r, keyProfile)
		if err != nil {
			return err
		}
		token, profile = t.Token, card.Key
		return nil
	})
	return token, profile, err
}
