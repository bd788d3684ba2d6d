package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Changes whose message is not here yet wait as long as a message may be on its
// way; of one conversation at most lateMost.
const (
	lateLife = 30 * 24 * time.Hour
	lateMost = 1024
)

// latePrefix begins the changes that wait for a message.
func latePrefix(conversation string, target Ref) string {
	return prefixLate + conversation + "/" + uuidOfUser(target.Author) + "/" + target.ID.String() + "/"
}

// keepLate keeps a change for a message that is not here. Of changes that would
// replace each other, the last one is kept.
func (b *Brain) keepLate(tx Tx, in ConversationID, target Ref, c *change) error {
	key := fmt.Sprintf("%s%d/%s", latePrefix(in.key(), target), c.Kind, uuidOfUser(c.Actor))
	before, err := load[change](tx, key)
	if err != nil || before != nil && !c.after(before.Sent, before.ID) {
		return err
	}
	if before == nil {
		waiting, err := tx.List(Range{Prefix: prefixLate + in.key() + "/", Limit: b.most.late})
		if err != nil {
			return err
		}
		if len(waiting) >= b.most.late {
			return b.ignored(tx)
		}
	}
	c.Stored = b.now()
	return save(tx, key, c)
}

// catchUp makes the changes to m that came before it.
func (b *Brain) catchUp(tx Tx, m *Message) error {
	waiting, err := tx.List(Range{Prefix: latePrefix(m.In().key(), m.Ref())})
	if err != nil || len(waiting) == 0 {
		return err
	}
	key, kind := messageKey(m.In().key(), m.Order), KindReaction
	for _, e := range waiting {
		c, err := parse[change](e.Value)
		if err != nil {
			return err
		}
		if err := tx.Delete(e.Key); err != nil {
			return err
		}
		if c.apply(m) && c.Kind != KindReaction {
			kind = c.Kind
		}
	}
	if m.Kind == MessageDeleted {
		kind = KindDelete
	}
	return b.altered(tx, m, key, kind)
}

// dropLate forgets changes that wait for a message.
func (b *Brain) dropLate(tx Tx, m *Message) error {
	waiting, err := tx.List(Range{Prefix: latePrefix(m.In().key(), m.Ref())})
	for _, e := range waiting {
		err = errors.Join(err, tx.Delete(e.Key))
	}
	return err
}

// endLate forgets changes whose message did not come in time.
func (b *Brain) endLate(ctx context.Context) error {
	now := b.now()
	return b.vault.Update(ctx, func(tx Tx) error {
		waiting, err := tx.List(Range{Prefix: prefixLate})
		if err != nil {
			return err
		}
		for _, e := range waiting {
			c, err := parse[change](e.Value)
			if err != nil {
				return err
			}
			if c.Stored+clearbox.Millis(lateLife.Milliseconds()) <= now {
				if err := errors.Join(tx.Delete(e.Key), b.mustForget(tx)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
