package core

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// knockLife is how long servers keep an open knock. A person who writes again
// after it is asked for again.
const knockLife = 14 * 24 * time.Hour

// knockEvery is how often one person is asked at most.
const knockEvery = time.Hour

// ownToken is the account's delivery token: what people of other servers need
// to write to it.
type ownToken struct {
	Token    []byte `cbor:"1,keyasint"`
	Uploaded bool   `cbor:"2,keyasint,omitempty"` // the own server has it
}

// ownToken gives the token, drawing one the first time.
func (b *Brain) ownToken(tx Tx) (*ownToken, error) {
	t, err := load[ownToken](tx, keyOwnToken)
	if err != nil || t != nil {
		return t, err
	}
	return b.rotateToken(tx)
}

// rotateToken draws a new token. It is uploaded before anything tells others.
func (b *Brain) rotateToken(tx Tx) (*ownToken, error) {
	t := &ownToken{Token: make([]byte, len(clearbox.DeliveryToken{}))}
	if _, err := io.ReadFull(b.opts.Random, t.Token); err != nil {
		return nil, err
	}
	return t, save(tx, keyOwnToken, t)
}

// uploadToken lets the own server know the token, if it does not.
func (b *Brain) uploadToken(ctx context.Context) error {
	var t *ownToken
	err := b.vault.View(ctx, func(r Reader) (err error) {
		t, err = load[ownToken](r, keyOwnToken)
		return err
	})
	if err == nil && t == nil {
		err = b.vault.Update(ctx, func(tx Tx) (err error) {
			t, err = b.ownToken(tx)
			return err
		})
	}
	if err != nil || t.Uploaded {
		return err
	}
	if err := b.call(ctx, "PUT", "/contacts/token", wire.TokenUpdate{Token: t.Token}, nil); err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		now, err := b.ownToken(tx)
		if err != nil || !bytes.Equal(now.Token, t.Token) { // rotated meanwhile
			return err
		}
		now.Uploaded = true
		return save(tx, keyOwnToken, now)
	})
}

// learnToken keeps the newest token that a contact gave. What waited for one may
// go out then.
func (b *Brain) learnToken(tx Tx, s *self, l *letter, c *Content, got *arrivals) error {
	if c.Token == nil || !s.elsewhere(l.Sender) {
		return nil
	}
	who, err := load[contact](tx, contactKey(l.uuid))
	if err != nil || who == nil || c.Sent < who.TokenSent {
		return err
	}
	news := !bytes.Equal(who.Token, c.Token)
	who.Token, who.TokenSent = c.Token, c.Sent
	if err := save(tx, contactKey(l.uuid), who); err != nil || !news {
		return err
	}
	return b.letGo(tx, s, who, got)
}

// ownKnock is a knock of ours that was not answered yet.
type ownKnock struct {
	Address string             `cbor:"1,keyasint"`
	User    clearbox.UserID    `cbor:"2,keyasint"` // whose conversation waits for it; provisional for a stranger
	At      clearbox.Millis    `cbor:"3,keyasint"` // when it was made, or may be sent
	Sent    bool               `cbor:"4,keyasint,omitempty"`
	ID      clearbox.MessageID `cbor:"5,keyasint"`
}

// provisional stands for somebody of whom only the address is known.
func provisional(address string, server clearbox.ServerName) clearbox.UserID {
	return clearbox.UserID{UID: derivedUID("clearbox provisional", address), Server: server}
}

// pending makes or finds the contact that stands for an address of another
// server whose owner must be asked first. Who is known by it already stays who
// they are.
func (b *Brain) pending(ctx context.Context, address clearbox.Address) (Contact, error) {
	if known, err := b.Known(ctx, address.String()); !errors.Is(err, ErrUnknownContact) {
		return known, err
	}
	user := provisional(address.String(), address.Server)
	c := &contact{User: user, Address: address.String(), Trust: TrustUnverified, Provisional: true}
	err := b.vault.Update(ctx, func(tx Tx) error {
		if err := tx.Put(prefixAddr+c.Address, []byte(user.String())); err != nil {
			return err
		}
		return save(tx, contactKey(uuidOfUser(user)), c)
	})
	if err == nil {
		b.changed()
	}
	return c.public(), err
}

// ask knocks at c's address, unless a knock is still open. The caller saves c.
func (b *Brain) ask(tx Tx, c *contact) error {
	if c.Address == "" {
		return errNeedsConsent // known by uid alone: there is no door to knock at
	}
	if c.Knock != (clearbox.MessageID{}) {
		open, err := load[ownKnock](tx, knockKey(c.Knock))
		if err != nil || open != nil && b.now() < open.At+clearbox.Millis(knockLife.Milliseconds()) {
			return err
		}
		if err := tx.Delete(knockKey(c.Knock)); err != nil {
			return err
		}
	}
	id, err := clearbox.NewMessageID(b.opts.Random)
	if err != nil {
		return err
	}
	c.Knock = id
	if c.KnockAt != 0 {
		c.KnockAt += clearbox.Millis(knockEvery.Milliseconds())
	}
	c.KnockAt = max(c.KnockAt, b.now())
	return save(tx, knockKey(id), ownKnock{Address: c.Address, User: c.User, At: c.KnockAt, ID: id})
}

// park keeps an item until its recipient has accepted us, and says so at its
// line. The recipient is asked unless that happened already. The caller saves c.
func (b *Brain) park(tx Tx, s *self, c *contact, it *outItem, order uint64) error {
	if err := b.ask(tx, c); err != nil {
		return err
	}
	it.Sealed, it.Wrapped, it.Token = nil, nil, nil
	if err := save(tx, waitKey(uuidOfUser(c.User), order), it); err != nil {
		return err
	}
	m, at, err := findMessage(tx, s.uuid, it.ID)
	if err != nil || m == nil {
		return err
	}
	m.State, m.Reason, m.Delayed = StateQueued, clearbox.CodeConsentRequired, false
	return save(tx, at, m)
}

// letGo queues what waited until c could be written to.
func (b *Brain) letGo(tx Tx, s *self, c *contact, got *arrivals) error {
	uuid := uuidOfUser(c.User)
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
		content, err := DecodeContent(it.Content)
		if err != nil {
			return err
		}
		content.To, it.To = c.User, c.User
		if it.Content, err = b.compose(tx, s, content); err != nil {
			return err
		}
		order := e.Key[len(prefixWait):]
		if err := b.queueItem(tx, s, prefixOut+order, it); err != nil && !errors.Is(err, errHeldBack) {
			return err
		} else if err != nil {
			if err := save(tx, prefixOut+order, it); err != nil {
				return err
			}
		}
		m, at, err := findMessage(tx, s.uuid, it.ID)
		if err != nil {
			return err
		}
		if m != nil && m.State == StateQueued {
			m.Reason = ""
			if err := save(tx, at, m); err != nil {
				return err
			}
		}
		got.queue, got.shown = true, true
	}
	return nil
}

// readAccept takes the answer to a knock: it must come from the server that was
// knocked at and name the address. What was written to the address becomes the
// conversation with the account behind it.
func (b *Brain) readAccept(tx Tx, s *self, l *letter, c *Content, got *arrivals) (bool, error) {
	var k *ownKnock
	if c.Knock != nil {
		var err error
		if k, err = load[ownKnock](tx, knockKey(*c.Knock)); err != nil {
			return false, err
		}
	}
	if k == nil {
		return true, nil // answered or given up before; the token was taken
	}
	address, err := clearbox.ParseAddress(k.Address)
	if err != nil || address.Server != l.Origin || c.Address != k.Address {
		return false, nil
	}
	was, err := load[contact](tx, contactKey(uuidOfUser(k.User)))
	if err != nil {
		return false, err
	}
	if was != nil && !was.Provisional && was.User != l.Sender {
		return false, nil // the address has another owner than the one who was asked
	}
	who, err := l.sessions(tx, s).contact()
	if err != nil {
		return false, err
	}
	who.Accepted, who.Address, who.Claimed, who.Knock = true, k.Address, "", clearbox.MessageID{}
	if c.Token != nil {
		who.Token, who.TokenSent = c.Token, c.Sent
	}
	err = errors.Join(
		save(tx, contactKey(l.uuid), who),
		tx.Put(prefixAddr+k.Address, []byte(who.User.String())),
		b.closeKnock(tx, *c.Knock, wire.KnockClose),
	)
	if err != nil {
		return false, err
	}
	got.shown, got.queue, got.tasks, got.receipts = true, true, true, true
	if was != nil && was.Provisional {
		if err := b.convert(tx, was.User, who.User); err != nil {
			return false, err
		}
	}
	if err := b.letGo(tx, s, who, got); err != nil {
		return false, err
	}
	return true, b.giveToken(tx, s, who)
}

// closeKnock forgets a knock and has the server told, for as long as it takes.
func (b *Brain) closeKnock(tx Tx, id clearbox.MessageID, action wire.KnockAction) error {
	return errors.Join(tx.Delete(knockKey(id)), tx.Put(prefixAnswer+id.String(), []byte(action)))
}

// convert moves everything that was written to a provisional contact into the
// conversation with the account that turned out to be behind the address.
func (b *Brain) convert(tx Tx, from, to clearbox.UserID) error {
	old, uuid := uuidOfUser(from), uuidOfUser(to)
	lines, err := tx.List(Range{Prefix: prefixMsg + old + "/"})
	if err != nil {
		return err
	}
	for _, e := range lines {
		m, err := parse[Message](e.Value)
		if err != nil {
			return err
		}
		m.Conversation = to
		if err := errors.Join(tx.Delete(e.Key), save(tx, messageKey(uuid, m.Order), m)); err != nil {
			return err
		}
		for _, id := range []clearbox.MessageID{m.ID, m.Outer} {
			if id == (clearbox.MessageID{}) {
				continue
			}
			if err := save(tx, idKey(uuidOfUser(m.Sender), id), place{UUID: uuid, Order: m.Order}); err != nil {
				return err
			}
		}
		unseen, err := optional(tx.Get(fateKey(m.Order)))
		if err != nil {
			return err
		}
		if unseen != nil {
			if err := tx.Put(fateKey(m.Order), []byte(uuid)); err != nil {
				return err
			}
		}
	}
	kept, err := tx.Get(prefixConv + old)
	if !errors.Is(err, ErrNoValue) {
		if err := errors.Join(err, tx.Delete(prefixConv+old), tx.Put(prefixConv+uuid, kept)); err != nil {
			return err
		}
	}
	waiting, err := tx.List(Range{Prefix: prefixWait + old + "/"})
	if err != nil {
		return err
	}
	for _, e := range waiting {
		key := prefixWait + uuid + e.Key[len(prefixWait)+len(old):]
		if err := errors.Join(tx.Delete(e.Key), tx.Put(key, e.Value)); err != nil {
			return err
		}
	}
	return errors.Join(tx.Delete(contactKey(old)), tx.Put(prefixAlias+old, []byte(to.String())))
}

// behind gives the account that a provisional contact became, or user itself.
func behind(r Reader, user clearbox.UserID) (clearbox.UserID, error) {
	to, err := optional(r.Get(prefixAlias + uuidOfUser(user)))
	if err != nil || to == nil {
		return user, err
	}
	return clearbox.ParseUserID(string(to))
}

// giveToken tells a contact the own token, with nothing else.
func (b *Brain) giveToken(tx Tx, s *self, c *contact) error {
	return b.enqueueQuiet(tx, s, &Content{Kind: KindToken, To: c.User})
}

// enqueueQuiet queues a content that is no line of a conversation.
func (b *Brain) enqueueQuiet(tx Tx, s *self, c *Content) error {
	id, err := clearbox.NewMessageID(b.opts.Random)
	if err != nil {
		return err
	}
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	c.ID, c.Sent = id, b.now()
	if err = b.enqueue(tx, s, order, c); errors.Is(err, errHeldBack) {
		return nil // their keys changed; once accepted, the next message says it all
	}
	return err
}

// refused deals with an item that the recipient's server does not deliver
// without their consent. A text is kept and they are asked; with a token that is
// newer than the one that was shown, it goes out again first.
func (b *Brain) refused(ctx context.Context, key string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		c, err := load[contact](tx, contactKey(uuidOfUser(it.To)))
		if err != nil || c == nil {
			return err
		}
		if c.Token != nil && it.Pass == nil && it.Wrapped != nil && !bytes.Equal(c.Token, it.Token) {
			it.Wrapped, it.Token = nil, nil
			return save(tx, key, it)
		}
		if err := tx.Delete(key); err != nil || !kinds[it.Kind].talk {
			return err
		}
		c.Token, c.TokenSent = nil, 0
		err = b.park(tx, s, c, it, orderOf(key))
		if errors.Is(err, errNeedsConsent) {
			_, err = b.fail(tx, s, it.ID, clearbox.CodeConsentRequired)
		}
		return errors.Join(err, save(tx, contactKey(uuidOfUser(it.To)), c))
	})
	wake(b.tasksWake)
	b.changed()
	return err
}

// again takes a text back that the recipient's server refused for want of
// consent: with a newer token it goes out once more, under another number at the
// server, since that one is used up; else the contact is asked.
func (b *Brain) again(tx Tx, s *self, m *Message, got *arrivals) (bool, error) {
	if m.State.Arrived() || !m.sendable() || !m.Outgoing || m.SenderDevice != s.Device {
		return false, nil
	}
	c, err := load[contact](tx, contactKey(uuidOfUser(m.Conversation)))
	if err != nil || c == nil || !s.elsewhere(c.User) || c.Blocked {
		return false, err
	}
	uuid := uuidOfUser(c.User)
	if m.State == StateQueued {
		sent, err := load[outItem](tx, outKey(uuid, m.Order))
		if err != nil || sent == nil {
			return true, err // it waits already
		}
		m.Token = sent.Token // the notice overtook the server's answer
		if err := tx.Delete(outKey(uuid, m.Order)); err != nil {
			return false, err
		}
	}
	newer := c.Token != nil && !bytes.Equal(c.Token, m.Token)
	if !newer && c.Address == "" {
		return false, nil
	}
	content := m.content()
	number, err := b.number(content)
	if err != nil {
		return false, err
	}
	it := &outItem{ID: m.ID, To: c.User, Kind: content.Kind, Own: true, Outer: number}
	if it.Content, err = b.compose(tx, s, content); err != nil {
		return false, err
	}
	m.State, m.Reason, m.Delayed = StateQueued, "", false
	err = errors.Join(tx.Delete(fateKey(m.Order)), b.resendAs(tx, s, m, number), save(tx, messageKey(uuid, m.Order), m))
	if err != nil {
		return false, err
	}
	got.queue, got.tasks = true, true
	if newer {
		return true, b.queueItem(tx, s, outKey(uuid, m.Order), it)
	}
	c.Token, c.TokenSent = nil, 0
	if err := b.park(tx, s, c, it, m.Order); err != nil {
		return false, err
	}
	return true, save(tx, contactKey(uuid), c)
}
