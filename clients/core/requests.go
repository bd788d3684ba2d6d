package core

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// ContactRequest is somebody's wish to write, which waits for an answer. Everything in
// it is vouched for by their server.
type ContactRequest struct {
	User       clearbox.UserID
	Address    string
	Controller string // who runs their server
	Country    string
	At         clearbox.Millis // when they asked
	New        bool            // nobody was shown it yet
}

// request is a knock that came, in the vault.
type request struct {
	ID         clearbox.MessageID `cbor:"1,keyasint"`
	User       clearbox.UserID    `cbor:"2,keyasint"`
	Address    string             `cbor:"3,keyasint"`
	Controller string             `cbor:"4,keyasint,omitempty"`
	Country    string             `cbor:"5,keyasint,omitempty"`
	At         clearbox.Millis    `cbor:"6,keyasint"`
	Shown      bool               `cbor:"7,keyasint,omitempty"`
}

// maxRequests is how many wait at most; further ones are answered by nothing,
// like those of people who are not there.
const maxRequests = 256

// readKnock keeps a knock for the person to decide, or answers it at once where
// they did already.
func (b *Brain) readKnock(tx Tx, s *self, k *wire.Knock, got *arrivals) error {
	address, err := clearbox.ParseAddress(k.Address)
	if err != nil || address.Server != k.From.Server || !s.elsewhere(k.From) {
		return nil // not what a server may send
	}
	uuid := uuidOfUser(k.From)
	c, err := load[contact](tx, contactKey(uuid))
	if err != nil {
		return err
	}
	r := &request{ID: k.ID, User: k.From, Address: k.Address, Controller: k.Controller, Country: k.Country, At: k.AcceptedAt}
	got.tasks = true
	if c != nil && c.Blocked {
		return b.closeKnock(tx, k.ID, wire.KnockClose)
	}
	known := c // whom the answer is for, as far as we know them
	welcome := c != nil && c.Accepted
	if !welcome { // did we ask them ourselves?
		asked, err := optional(tx.Get(prefixAddr + k.Address))
		if err != nil {
			return err
		}
		if user, err := clearbox.ParseUserID(string(asked)); asked != nil && err == nil {
			other, err := load[contact](tx, contactKey(uuidOfUser(user)))
			if err != nil {
				return err
			}
			if other != nil && other.Blocked { // by the address, when no more was known of them
				return b.closeKnock(tx, k.ID, wire.KnockBlock)
			}
			known, welcome = other, other != nil && other.Knock != (clearbox.MessageID{})
		}
	}
	if welcome {
		if ok, err := b.mayAnswer(tx, known); err != nil || !ok {
			return errors.Join(err, b.closeKnock(tx, k.ID, wire.KnockClose))
		}
		got.queue = true
		if c != nil && c.Token != nil { // they have a token, and it does not serve: let the server have it again
			own, err := b.ownToken(tx)
			if err != nil {
				return err
			}
			own.Uploaded = false
			if err := save(tx, keyOwnToken, own); err != nil {
				return err
			}
		}
		return b.answer(tx, s, r)
	}
	before, err := load[request](tx, requestKey(uuid))
	if err != nil {
		return err
	}
	if before == nil {
		all, err := tx.List(Range{Prefix: prefixReq})
		if err != nil {
			return err
		}
		if len(all) >= maxRequests {
			return b.closeKnock(tx, k.ID, wire.KnockClose)
		}
	}
	got.shown = true
	return save(tx, requestKey(uuid), r)
}

// answersMost is how many knocks of one contact are answered at once in a
// resendDay: their client knocks again where a token was lost, and their server
// can say without end that it does.
const answersMost = 8

// mayAnswer counts an answer against what c may have, and tells whether it may.
func (b *Brain) mayAnswer(tx Tx, c *contact) (bool, error) {
	if now := b.now(); !within(now, c.AnsweredFrom, resendDay) {
		c.AnsweredFrom, c.Answered = now, 0
	}
	if c.Answered >= answersMost {
		return false, nil
	}
	c.Answered++
	return true, save(tx, contactKey(uuidOfUser(c.User)), c)
}

// answer accepts a knock: the contact is there, and the message that says so is
// in the queue.
func (b *Brain) answer(tx Tx, s *self, r *request) error {
	uuid := uuidOfUser(r.User)
	c, err := sessionsOf(tx, s, r.User).contact()
	if err != nil {
		return err
	}
	c.Accepted, c.Address, c.Claimed = true, r.Address, ""
	if c.Token == nil {
		c.Token = append([]byte(nil), r.ID[:]...) // good until they close the knock, which they do by giving theirs
	}
	known, err := optional(tx.Get(prefixAddr + r.Address))
	if err != nil {
		return err
	}
	if known == nil { // else the answer to our own knock moves it
		if err := tx.Put(prefixAddr+r.Address, []byte(r.User.String())); err != nil {
			return err
		}
	}
	id := r.ID
	return errors.Join(
		save(tx, contactKey(uuid), c),
		tx.Delete(requestKey(uuid)),
		tx.Put(prefixAnswer+r.ID.String(), []byte(wire.KnockClose)),
		b.enqueueQuiet(tx, s, &Content{Kind: KindAccept, To: r.User, Knock: &id}),
	)
}

// Requests gives who asked to be accepted and was not answered, oldest first.
func (b *Brain) Requests(ctx context.Context) (out []ContactRequest, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		entries, err := r.List(Range{Prefix: prefixReq})
		if err != nil {
			return err
		}
		for _, e := range entries {
			q, err := parse[request](e.Value)
			if err != nil {
				return err
			}
			at := len(out)
			for at > 0 && out[at-1].At > q.At {
				at--
			}
			out = append(out, ContactRequest{})
			copy(out[at+1:], out[at:])
			out[at] = ContactRequest{User: q.User, Address: q.Address, Controller: q.Controller, Country: q.Country, At: q.At, New: !q.Shown}
		}
		return nil
	})
	return out, err
}

// MarkRequestsShown says that these requests were shown.
func (b *Brain) MarkRequestsShown(ctx context.Context, shown ...ContactRequest) error {
	return b.vault.Update(ctx, func(tx Tx) error {
		for _, one := range shown {
			key := requestKey(uuidOfUser(one.User))
			q, err := load[request](tx, key)
			if err != nil {
				return err
			}
			if q == nil {
				continue
			}
			q.Shown = true
			if err := save(tx, key, q); err != nil {
				return err
			}
		}
		return nil
	})
}

// Decline answers a request by nothing: the other side is not told.
// ErrUnknownContact if there is none.
func (b *Brain) Decline(ctx context.Context, user clearbox.UserID) error {
	return b.withRequest(ctx, user, func(tx Tx, _ *self, r *request) error {
		return errors.Join(tx.Delete(requestKey(uuidOfUser(user))), b.closeKnock(tx, r.ID, wire.KnockClose))
	})
}

// withRequest changes something about a request that must be there.
func (b *Brain) withRequest(ctx context.Context, user clearbox.UserID, change func(Tx, *self, *request) error) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		r, err := load[request](tx, requestKey(uuidOfUser(user)))
		if err == nil && r == nil {
			err = ErrUnknownContact
		}
		if err != nil {
			return err
		}
		return change(tx, s, r)
	})
	if err == nil {
		b.stir()
	}
	return err
}

// stir wakes everything that a decision about a contact may concern.
func (b *Brain) stir() {
	wake(b.queueWake)
	wake(b.receiptWake)
	wake(b.tasksWake)
	b.changed()
}

// Block shuts somebody out: nothing of theirs is shown any more, and they are
// not told. The account's token changes, and all other contacts are given the
// new one; for a day the old one still brings mail, which is dropped here.
func (b *Brain) Block(ctx context.Context, user clearbox.UserID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if user == s.User {
		return clearbox.Errorf(clearbox.CodeBadRequest, "that is yourself")
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		uuid := uuidOfUser(user)
		c, err := sessionsOf(tx, s, user).contact()
		if err != nil {
			return err
		}
		r, err := load[request](tx, requestKey(uuid))
		if err != nil {
			return err
		}
		if r != nil {
			if c.Address == "" {
				c.Address = r.Address
			}
			err = errors.Join(tx.Delete(requestKey(uuid)), b.closeKnock(tx, r.ID, wire.KnockBlock))
			if err != nil {
				return err
			}
		}
		if c.Knock != (clearbox.MessageID{}) {
			if err := b.closeKnock(tx, c.Knock, wire.KnockClose); err != nil {
				return err
			}
			c.Knock = clearbox.MessageID{}
		}
		knew := c.Accepted
		c.Accepted, c.Blocked = false, true
		if err := errors.Join(save(tx, contactKey(uuid), c), b.dropReceipts(tx, uuid), b.blocksChanged(tx)); err != nil {
			return err
		}
		if !knew {
			return nil
		}
		if err := b.changeProfileKey(tx); err != nil || !s.elsewhere(user) {
			return err
		}
		return b.changeLocks(tx, s)
	})
	if err == nil {
		b.stir()
	}
	return err
}

// changeLocks gives the account a new token, and tells everybody who may have it.
func (b *Brain) changeLocks(tx Tx, s *self) error {
	if _, err := b.rotateToken(tx); err != nil {
		return err
	}
	return eachContact(tx, func(_ string, c *contact) error {
		if !c.Accepted || c.Blocked || c.Token == nil || !s.elsewhere(c.User) {
			return nil
		}
		return b.giveToken(tx, s, c)
	})
}

func (b *Brain) dropReceipts(tx Tx, uuid string) error {
	waiting, err := tx.List(Range{Prefix: prefixRcpt + uuid + "/"})
	for _, e := range waiting {
		err = errors.Join(err, tx.Delete(e.Key))
	}
	return err
}

// Unblock takes a block back. They may ask to be accepted again.
func (b *Brain) Unblock(ctx context.Context, user clearbox.UserID) error {
	return b.changeContact(ctx, user, func(tx Tx, _ *self, c *contact) error {
		c.Blocked = false
		wake(b.tasksWake)
		return b.blocksChanged(tx)
	})
}

// putBlocks tells the own server who is blocked, after a change.
func (b *Brain) putBlocks(ctx context.Context) error {
	all := wire.Blocks{Users: []clearbox.UserID{}}
	var due []byte
	err := b.vault.View(ctx, func(r Reader) (err error) {
		if due, err = optional(r.Get(keyBlocks)); err != nil || due == nil {
			return err
		}
		return eachContact(r, func(_ string, c *contact) error {
			if c.Blocked && !c.Provisional {
				all.Users = append(all.Users, c.User)
			}
			return nil
		})
	})
	if err != nil || due == nil {
		return err
	}
	if err := b.keepBlocks(ctx, &all); err != nil {
		return err
	}
	if err := b.call(ctx, "PUT", "/contacts/blocks", all, nil); err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		now, err := optional(tx.Get(keyBlocks))
		if err != nil || !bytes.Equal(now, due) { // changed meanwhile
			return err
		}
		return tx.Delete(keyBlocks)
	})
}

// keepBlocks adds who is blocked at the server and not known here: another own
// device did so, which has not told of it yet.
func (b *Brain) keepBlocks(ctx context.Context, all *wire.Blocks) error {
	var have wire.Blocks
	if err := b.call(ctx, "GET", "/contacts/blocks", nil, &have); err != nil {
		return err
	}
	return b.vault.View(ctx, func(r Reader) error {
		for _, user := range have.Users {
			c, err := load[contact](r, contactKey(uuidOfUser(user)))
			if err != nil {
				return err
			}
			if c == nil {
				all.Users = append(all.Users, user)
			}
		}
		return nil
	})
}

// blocksChanged notes that the own server is to be told who is blocked.
func (b *Brain) blocksChanged(tx Tx) error {
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	return setCount(tx, keyBlocks, order)
}

// answerKnocks tells the own server which knocks are done with.
func (b *Brain) answerKnocks(ctx context.Context) error {
	var done []Entry
	err := b.vault.View(ctx, func(r Reader) (err error) {
		done, err = r.List(Range{Prefix: prefixAnswer})
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range done {
		id := strings.TrimPrefix(e.Key, prefixAnswer)
		err := b.call(ctx, "POST", "/contacts/knocks/"+id, wire.KnockAnswer{Action: wire.KnockAction(e.Value)}, nil)
		if err != nil && (lasting(err) || ctx.Err() != nil || passing(clearbox.CodeOf(err))) {
			return err
		}
		if err := b.vault.Update(ctx, func(tx Tx) error { return tx.Delete(e.Key) }); err != nil {
			return err
		}
		b.changed()
	}
	return nil
}
