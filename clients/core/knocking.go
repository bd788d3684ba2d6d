package core

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// errands counts knocks and answers that are to be brought to the own server.
func errands(r Reader, now clearbox.Millis) (int, error) {
	answers, err := r.List(Range{Prefix: prefixAnswer})
	if err != nil {
		return 0, err
	}
	drops, err := r.List(Range{Prefix: prefixDrop})
	if err != nil {
		return 0, err
	}
	n := len(answers) + len(drops)
	knocks, err := r.List(Range{Prefix: prefixKnock})
	if err != nil {
		return 0, err
	}
	for _, e := range knocks {
		k, err := parse[ownKnock](e.Value)
		if err != nil {
			return 0, err
		}
		if !k.Sent && k.At <= now {
			n++
		}
	}
	return n, nil
}

// sendKnocks brings knocks to the own server, which brings them on.
func (b *Brain) sendKnocks(ctx context.Context) error {
	var open []ownKnock
	err := b.vault.View(ctx, func(r Reader) error {
		open = nil
		entries, err := r.List(Range{Prefix: prefixKnock})
		if err != nil {
			return err
		}
		for _, e := range entries {
			k, err := parse[ownKnock](e.Value)
			if err != nil {
				return err
			}
			if !k.Sent && k.At <= b.now() {
				open = append(open, *k)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var first error
	for _, k := range open {
		if found, err := b.found(ctx, &k); err != nil || found {
			if err != nil {
				return err
			}
			continue
		}
		err := b.call(ctx, "POST", "/contacts/knocks", wire.KnockRequest{ID: k.ID, To: k.Address}, nil)
		code := clearbox.CodeOf(err)
		if err != nil && (lasting(err) || ctx.Err() != nil || passing(code)) {
			first = errors.Join(first, err)
			continue
		}
		if err := b.knocked(ctx, k.ID, err); err != nil {
			return err
		}
	}
	return first
}

// found tells whether the one to be asked lets strangers find them: then their
// server gives what is needed, and what waited goes out. Errors are those that
// leave no sense in knocking.
func (b *Brain) found(ctx context.Context, k *ownKnock) (bool, error) {
	var acc wire.Account
	if err := b.call(ctx, "GET", userPath(k.Address), nil, &acc); err != nil {
		if lasting(err) || ctx.Err() != nil {
			return false, err
		}
		return false, nil
	}
	_, noToken := clearbox.ParseDeliveryToken(acc.Token)
	if noToken != nil || acc.User.Server != k.User.Server {
		return false, nil
	}
	s, err := b.me()
	if err != nil {
		return false, err
	}
	if _, err := b.adopt(ctx, &acc, k.Address); err != nil {
		return false, nil
	}
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{shown: true}
		now, err := load[ownKnock](tx, knockKey(k.ID))
		if err != nil || now == nil {
			return err
		}
		who, err := sessionsOf(tx, s, acc.User).contact()
		if err != nil {
			return err
		}
		was, err := load[contact](tx, contactKey(uuidOfUser(k.User)))
		if err != nil {
			return err
		}
		if was != nil && was.Provisional {
			if err := b.convert(tx, was.User, who.User); err != nil {
				return err
			}
		}
		who.Accepted, who.Knock = true, clearbox.MessageID{}
		if err := errors.Join(tx.Delete(knockKey(k.ID)), save(tx, contactKey(uuidOfUser(who.User)), who)); err != nil {
			return err
		}
		return b.letGo(tx, s, who, &got)
	})
	if err == nil {
		b.actOn(got)
	}
	return err == nil, err
}

// knocked notes that the own server has a knock, or does not take it: what
// waited for it is given up then.
func (b *Brain) knocked(ctx context.Context, id clearbox.MessageID, refused error) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		k, err := load[ownKnock](tx, knockKey(id))
		if err != nil || k == nil {
			return err
		}
		if refused == nil {
			k.Sent = true
			return save(tx, knockKey(id), k)
		}
		uuid := uuidOfUser(k.User)
		c, err := load[contact](tx, contactKey(uuid))
		if err != nil {
			return err
		}
		if c != nil {
			c.Knock = clearbox.MessageID{}
			if err := save(tx, contactKey(uuid), c); err != nil {
				return err
			}
		}
		waiting, err := tx.List(Range{Prefix: prefixWait + uuid + "/"})
		if err != nil {
			return err
		}
		for _, e := range waiting {
			it, err := parse[outItem](e.Value)
			if err != nil {
				return err
			}
			if err := tx.Delete(e.Key); err != nil {
				return err
			}
			if _, err := b.fail(tx, s, it.ID, clearbox.CodeOf(refused)); err != nil {
				return err
			}
		}
		return tx.Delete(knockKey(id))
	})
	b.changed()
	return err
}
