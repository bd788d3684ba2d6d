package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	sender "github.com/clearbox-im/clearbox/crypto/group"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
	"github.com/clearbox-im/clearbox/server/wire"
)

// speakable refuses to write to a group that this account is not in.
func (b *Brain) speakable(r Reader, id clearbox.GroupID) error {
	g, st, err := b.loadGroup(r, id)
	switch {
	case err != nil:
		return err
	case g == nil || g.Epoch == 0:
		return ErrNoGroup
	}
	return active(g, st)
}

// enqueueToGroup queues a content for all members; what is said of the group in it
// is what this device knows when it is encrypted.
func (b *Brain) enqueueToGroup(tx Tx, s *self, id clearbox.GroupID, c *Content) error {
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	if c.ID == (clearbox.MessageID{}) {
		if c.ID, err = clearbox.NewMessageID(b.opts.Random); err != nil {
			return err
		}
		c.Sent = b.now()
	}
	return b.queueToGroup(tx, s, id, order, c)
}

// queueToGroup is enqueueToGroup for a line that has its place.
func (b *Brain) queueToGroup(tx Tx, s *self, id clearbox.GroupID, order uint64, c *Content) error {
	c.Group, c.To = &GroupContext{ID: id}, s.User
	content, err := b.compose(tx, s, c)
	if err != nil {
		return err
	}
	return save(tx, outKey(In(id).key(), order), &outItem{ID: c.ID, Kind: c.Kind, Content: content, Group: id})
}

// errNobody says that there is nobody else in the group who could read.
var errNobody = errors.New("core: a group without another device")

// prepareMany gives the item at key ready to be sent to a whole group; nil if it
// is gone. What the network has to tell first is asked.
func (b *Brain) prepareMany(ctx context.Context, key string) (*outItem, error) {
	for range 3 * syncRounds {
		s, err := b.me()
		if err != nil {
			return nil, err
		}
		var it *outItem
		var later error
		err = b.vault.Update(ctx, func(tx Tx) error {
			later = nil
			it, err = load[outItem](tx, key)
			if err != nil || it == nil || it.Wrapped != nil && !it.Stale {
				return err
			}
			later = b.many(tx, s, it)
			if asks(later) {
				return nil
			}
			if later != nil {
				return later
			}
			return save(tx, key, it)
		})
		var stranger *strangerError
		var abroad *countryError
		switch {
		case errors.As(later, &stranger):
			if err := b.meet(ctx, stranger); err != nil {
				return nil, err
			}
		case errors.As(later, &abroad):
			if err := b.fetchRoots(ctx, abroad.server); err != nil {
				return nil, err
			}
		case errors.Is(later, errNeedsCertificate):
			if err := b.fetchCertificate(ctx); err != nil {
				return nil, err
			}
		case err != nil:
			return it, err
		default:
			wake(b.queueWake) // sender keys may have been queued for members
			return it, nil
		}
	}
	return nil, clearbox.Errorf(clearbox.CodeUnavailable, "the devices of the group keep changing")
}

// asks tells errors that say what the network has to tell first.
func asks(err error) bool {
	var stranger *strangerError
	var abroad *countryError
	return errors.As(err, &stranger) || errors.As(err, &abroad) || errors.Is(err, errNeedsCertificate)
}

// many encrypts an item once for everybody in its group and seals that for each
// of them. The caller saves it.
func (b *Brain) many(tx Tx, s *self, it *outItem) error {
	g, st, err := b.loadGroup(tx, it.Group)
	switch {
	case err != nil:
		return err
	case g == nil || g.Epoch == 0:
		return ErrNoGroup
	case g.behind(st) && g.Alarm == "":
		return clearbox.Errorf(clearbox.CodeUnavailable, "your server does not show what changed in the group")
	case g.UnnamedTo != 0:
		return clearbox.Errorf(clearbox.CodeUnavailable, "your server does not say who changed the group: it waits until a member confirms that")
	}
	if err := active(g, st); err != nil {
		return err
	}
	to, err := b.audienceOf(tx, s, g, st)
	if err != nil {
		return err
	}
	cert, err := load[ownCertificate](tx, keyCertificate)
	if err != nil {
		return err
	}
	if cert == nil || cert.Expires <= b.soon(certificateMargin) {
		return errNeedsCertificate
	}
	from, err := certificate.ParseSender(cert.Certificate)
	if err != nil {
		return errors.Join(errNeedsCertificate, tx.Delete(keyCertificate))
	}
	recipients, err := recipientsOf(s, to)
	if err != nil {
		return err
	}
	if len(recipients) == 0 {
		return errNobody
	}
	if kinds[it.Kind].line {
		if err := readers(tx, s, it.ID, countOthers(s, to)); err != nil {
			return err
		}
	}
	key, own, err := b.senderFor(tx, s, g, to)
	if err != nil {
		return err
	}
	multi, err := b.speak(tx, s, g, st.Policy.Disappear, it, key, recipients, from)
	if err != nil {
		return err
	}
	own.Key = key.Append(nil)
	if err := save(tx, senderKey(g.ID), own); err != nil {
		return err
	}
	sub := wire.Submission{ID: it.outer(), To: []wire.Recipient{}, Group: &clearbox.GroupRef{ID: g.ID, Epoch: st.Epoch}, Multi: multi}
	if it.Wrapped, err = wire.Append(wire.CBOR, nil, &sub); err != nil {
		return fmt.Errorf("write a queued message: %w", err)
	}
	it.Until, it.Stale, it.Epoch = cert.Expires, false, st.Epoch
	return noteEpoch(tx, s, it)
}

// noteEpoch notes in which epoch a message was encrypted: who came later has no
// right to it.
func noteEpoch(tx Tx, s *self, it *outItem) error {
	m, key, err := findMessage(tx, s.uuid, it.ID)
	if err != nil || m == nil || m.Epoch == it.Epoch {
		return err
	}
	m.Epoch = it.Epoch
	return save(tx, key, m)
}

// speak encrypts an item's content with the own sender key and seals it for all
// recipients, in a size that sealed messages have.
func (b *Brain) speak(tx Tx, s *self, g *group, timer uint32, it *outItem, key *sender.Sender, to []sealed.Recipient, from *certificate.Sender) ([]byte, error) {
	content, err := DecodeContent(it.Content)
	if err != nil {
		return nil, err
	}
	content.Group = &GroupContext{ID: g.ID, Epoch: g.Epoch, Head: g.Head}
	if err := keepTime(tx, s, content, timer); err != nil {
		return nil, err
	}
	plain, err := EncodeContent(content)
	if err != nil {
		return nil, err
	}
	plain = plain[:contentHead+(int(plain[1])<<16|int(plain[2])<<8|int(plain[3]))] // filled up below
	sealing := &sealing{b: b, s: s, key: key.Append(nil), from: from}
	fill, name, err := sealing.fit(plain, g.ID)
	if err != nil {
		return nil, err
	}
	body, err := key.Encrypt(b.opts.Random, append(plain, make([]byte, fill)...))
	if err != nil {
		return nil, fmt.Errorf("encrypt for a group: %w", err)
	}
	multi, err := sealed.SealV2(b.opts.Random, s.identity, sealing.content(body, name), to, nil)
	if err != nil {
		return nil, fmt.Errorf("seal for a group: %w", err)
	}
	return multi, nil
}

// sealing finds out how a message is filled up so that what a recipient gets has
// one of the sizes of clearbox.SealedSize.
type sealing struct {
	b    *Brain
	s    *self
	key  []byte // the sender key, of which copies are used
	from *certificate.Sender
}

// content is what is sealed.
func (m *sealing) content(body, name []byte) *sealed.Content {
	return &sealed.Content{Type: sealed.TypeSenderKey, Sender: m.from, Body: body, Hint: sealed.HintResendable, Group: name}
}

// fit gives how many zeros follow the plaintext, which count in steps of the
// cipher's block, and the group's name with the zeros that make up the rest.
func (m *sealing) fit(plain []byte, id clearbox.GroupID) (fill int, name []byte, err error) {
	name = id[:]
	size, err := m.size(len(plain), len(name))
	if err != nil {
		return 0, nil, err
	}
	target := clearbox.SealedSize(size)
	if target == 0 {
		return 0, nil, clearbox.Errorf(clearbox.CodeTooLarge, "the message is too long")
	}
	const block, room = 16, 96 // bytes; of the room in the name, some is left for longer lengths
	fill = max(0, target-size-room)
	for range 4 { // the lengths in between may grow by a byte
		if size, err = m.size(len(plain)+fill, len(name)); err != nil {
			return 0, nil, err
		}
		rest := target - size
		for _, n := range []int{rest, rest - 1, rest - 2} {
			if n < 0 || len(name)+n > sealed.MaxGroup {
				continue
			}
			got, err := m.size(len(plain)+fill, len(name)+n)
			if err != nil {
				return 0, nil, err
			}
			if got == target {
				return fill, append(slices.Clone(name), make([]byte, n)...), nil
			}
		}
		fill = max(0, fill-block)
	}
	return 0, nil, clearbox.Errorf(clearbox.CodeTooLarge, "the message is too long")
}

// size is what a recipient gets for a plaintext and a name of these lengths.
func (m *sealing) size(plain, name int) (int, error) {
	key, err := sender.ParseSender(m.key)
	if err != nil {
		return 0, err
	}
	body, err := key.Encrypt(m.b.opts.Random, make([]byte, plain))
	if err != nil {
		return 0, clearbox.Wrap(clearbox.CodeTooLarge, "the message is too long", err)
	}
	trial := []sealed.Recipient{{Account: m.s.id, Identity: m.s.identity.Public(), Devices: []fanout.Device{{ID: uint8(m.s.Device), Registration: m.s.Registration}}}}
	multi, err := sealed.SealV2(m.b.opts.Random, m.s.identity, m.content(body, make([]byte, name)), trial, nil)
	if err != nil {
		return 0, clearbox.Wrap(clearbox.CodeTooLarge, "the message is too long", err)
	}
	parsed, err := fanout.Parse(multi, fanout.Limits{})
	if err != nil {
		return 0, err
	}
	return parsed.ReceivedSize(), nil
}

// keysWait is how long a message to a group waits for the sender keys that its
// readers need: whoever does not have theirs by then asks for it.
const keysWait = 5 * time.Second

// keysFirst waits until the own server has the sender keys for a group that are
// queued, so that they come before what is encrypted under them. Nobody waits for
// those that cannot be sent now.
func (c *connection) keysFirst(ctx context.Context, id clearbox.GroupID) error {
	var people []string
	err := c.b.vault.View(ctx, func(r Reader) (err error) {
		people, err = heads(r, prefixOut)
		return err
	})
	if err != nil {
		return err
	}
	timer := time.NewTimer(keysWait)
	defer timer.Stop()
	for len(people) > 0 {
		c.mu.Lock()
		step := c.step
		c.mu.Unlock()
		waits, err := c.keyQueued(ctx, people[0], id)
		if err != nil {
			return err
		}
		if !waits {
			people = people[1:]
			continue
		}
		select {
		case <-step:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// keyQueued tells whether a sender key for a group is on its way to somebody from
// here, and nothing holds it up.
func (c *connection) keyQueued(ctx context.Context, uuid string, id clearbox.GroupID) (found bool, err error) {
	c.mu.Lock()
	later := c.notUntil[uuid].After(c.b.opts.Now())
	c.mu.Unlock()
	if later || c.b.heldBack(uuid) {
		return false, nil
	}
	err = c.b.vault.View(ctx, func(r Reader) error {
		found = false
		entries, err := r.List(Range{Prefix: prefixOut + uuid + "/"})
		for _, e := range entries {
			it, err := parse[outItem](e.Value)
			if err != nil {
				return err
			}
			found = found || it.Kind == KindSenderKey && it.Group == id
		}
		return err
	})
	return found, err
}

// recipientsOf gives an audience as package sealed wants it.
func recipientsOf(s *self, to []audience) ([]sealed.Recipient, error) {
	var out []sealed.Recipient
	for _, a := range to {
		if len(a.devices) == 0 {
			continue
		}
		identity := s.identity.Public()
		if a.user != s.User {
			var err error
			if identity, err = curve.ParsePublicKey(a.identity); err != nil {
				return nil, err
			}
		}
		r := sealed.Recipient{Account: keys.AccountServiceID(a.user.String()), Identity: identity}
		for _, d := range a.devices {
			r.Devices = append(r.Devices, fanout.Device{ID: d.ID, Registration: d.Registration})
		}
		out = append(out, r)
	}
	return out, nil
}

// sentToNobody moves a message on that had no other reader. Since no server was
// asked about it, the own one is first asked whether that is still so: somebody
// may have accepted the invitation meanwhile.
func (b *Brain) sentToNobody(ctx context.Context, key string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	var id clearbox.GroupID
	err = b.vault.View(ctx, func(r Reader) error {
		it, err := load[outItem](r, key)
		if it != nil {
			id = it.Group
		}
		return err
	})
	if err != nil || id.IsZero() {
		return err
	}
	if err := b.syncGroup(ctx, id, true); err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		g, st, err := b.loadGroup(tx, id)
		if err != nil || g == nil {
			return err
		}
		to, err := b.audienceOf(tx, s, g, st)
		switch {
		case asks(err):
			return nil // somebody is there now: it is prepared anew
		case err != nil:
			return err
		}
		for _, a := range to {
			if len(a.devices) > 0 {
				return nil
			}
		}
		if err := tx.Delete(key); err != nil {
			return err
		}
		_, err = b.advance(tx, s, it.ID, StateAtPeer, "", false)
		return err
	})
	b.changed()
	return err
}

// regroup has an item encrypted anew after the group or devices changed.
func (b *Brain) regroup(ctx context.Context, key string) error {
	var id clearbox.GroupID
	err := b.vault.Update(ctx, func(tx Tx) error {
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		it.Stale, id = true, it.Group
		return save(tx, key, it)
	})
	if err != nil || id.IsZero() {
		return err
	}
	if err := b.syncGroup(ctx, id, true); err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		g, err := load[group](tx, groupKey(id))
		if err != nil || g == nil {
			return err
		}
		it.Epoch = g.Epoch
		return save(tx, key, it)
	})
}
