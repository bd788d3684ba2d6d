package core

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	sender "github.com/clearbox-im/clearbox/crypto/group"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// When a device takes a new sender key, besides every time when somebody who has
// the old one is not to read on.
const (
	senderMessages = 1000
	senderFor      = 7 * 24 * time.Hour
)

// maxSenderKey bounds a SenderKeyDistributionMessage, in bytes.
const maxSenderKey = 256

// askFirst is the pause between two requests for a sender key, doubled each time,
// and askMost how many there are until nothing was asked for healCalm. That the key
// came changes nothing: it may not be what was missing.
const (
	askFirst = 5 * time.Second
	askMost  = 6
)

// ownSender is this device's sender key in a group.
type ownSender struct {
	Key  []byte          `cbor:"1,keyasint"` // as crypto/group stores it
	Made clearbox.Millis `cbor:"2,keyasint"`
	// Given are the devices that were sent it: by account, device and registration.
	Given []givenTo `cbor:"3,keyasint,omitempty"`
}

type givenTo struct {
	UUID         string            `cbor:"1,keyasint"`
	Device       clearbox.DeviceID `cbor:"2,keyasint"`
	Registration uint16            `cbor:"3,keyasint"`
}

func senderKey(id clearbox.GroupID) string { return prefixSender + id.String() }

func hearKey(id clearbox.GroupID, uuid string, d clearbox.DeviceID) string {
	return fmt.Sprintf("%s%s/%s/%03d", prefixHear, id, uuid, d)
}

// distributionOf names a group's sender keys: each device has one of its own.
func distributionOf(id clearbox.GroupID) sender.ID {
	h := sha256.Sum256(append([]byte("clearbox sender keys v1\x00"), id[:]...))
	return sender.ID(h[:16])
}

// audience is a person in a group with the devices that a message goes to.
type audience struct {
	user     clearbox.UserID
	uuid     string
	identity []byte
	devices  []keys.DeviceEntry
}

// audienceOf gives everybody who is to read what is written now: the devices of
// all active members, own other ones included. A *strangerError asks for
// somebody's devices, a *countryError for where a server is. It refuses where
// somebody's keys are not those that they were invited with, or not known, and
// where the rules exclude somebody.
func (b *Brain) audienceOf(tx Tx, s *self, g *group, st *chain.State) ([]audience, error) {
	var out []audience
	twice := map[clearbox.UserID]bool{} // where servers let somebody in under two memberships
	for id, m := range st.Members {
		if m.Status != chain.StatusActive {
			continue
		}
		o, user, err := whoIs(tx, g.ID, id)
		if err != nil {
			return nil, err
		}
		if o == nil {
			return nil, clearbox.Errorf(clearbox.CodeUnavailable, "your server does not say who a member of the group is")
		}
		if err := b.mayRead(tx, &st.Policy, user); err != nil {
			return nil, err
		}
		a := audience{user: user, uuid: uuidOfUser(user)}
		again := twice[user]
		twice[user] = true
		if user == s.User {
			if a.devices = s.others(); !again {
				out = append(out, a)
			}
			continue
		}
		c, err := load[contact](tx, contactKey(a.uuid))
		switch {
		case err != nil:
			return nil, err
		case c == nil || c.List == nil:
			return nil, &strangerError{user: user}
		case c.Changed != nil:
			return nil, errHeldBack
		case !c.known(o.Identity[:]): // unless they have a newer list
			if !b.mayCheck(prefixCheck + a.uuid + "/group") {
				return nil, errHeldBack
			}
			return nil, &strangerError{user, c.version() + 1}
		}
		a.identity = c.Identity
		if a.devices, err = c.active(); err != nil {
			return nil, err
		}
		if len(a.devices) > 0 && !again {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(x, y audience) int { return slices.Compare([]byte(x.uuid), []byte(y.uuid)) })
	return out, nil
}

// countOthers counts the people of an audience besides this account.
func countOthers(s *self, to []audience) (n int) {
	for _, a := range to {
		if a.user != s.User {
			n++
		}
	}
	return n
}

// version is that of the list that is known; 0 where there is none.
func (p *pins) version() int64 {
	list, err := keys.ParseDeviceList(p.List)
	if err != nil {
		return 0
	}
	return list.Version
}

// senderFor gives the own sender key for an audience: a new one where the old one
// is worn out, or known to a device that is not in the audience any more. Whoever
// lacks it is sent it, in sessions. The caller stores what it makes of it.
func (b *Brain) senderFor(tx Tx, s *self, g *group, to []audience) (*sender.Sender, *ownSender, error) {
	own, err := load[ownSender](tx, senderKey(g.ID))
	if err != nil {
		return nil, nil, err
	}
	wanted := map[givenTo]clearbox.UserID{}
	for _, a := range to {
		for _, d := range a.devices {
			wanted[givenTo{a.uuid, clearbox.DeviceID(d.ID), d.Registration}] = a.user
		}
	}
	var key *sender.Sender
	if own != nil {
		if key, err = sender.ParseSender(own.Key); err != nil {
			return nil, nil, err
		}
		gone := slices.ContainsFunc(own.Given, func(d givenTo) bool { _, ok := wanted[d]; return !ok })
		if gone || key.Sent() >= b.most.sender || !within(b.now(), own.Made, senderFor) {
			key = nil
		}
	}
	if key == nil {
		if key, err = sender.New(b.opts.Random, distributionOf(g.ID)); err != nil {
			return nil, nil, err
		}
		own = &ownSender{Made: b.now()}
	}
	lacking := map[clearbox.UserID]bool{}
	for d, user := range wanted {
		if !slices.Contains(own.Given, d) {
			lacking[user] = true
			own.Given = append(own.Given, d)
		}
	}
	identities := map[clearbox.UserID][]byte{}
	for _, a := range to {
		identities[a.user] = a.identity
	}
	own.Key = key.Append(nil)
	if err := save(tx, senderKey(g.ID), own); err != nil {
		return nil, nil, err
	}
	for user := range lacking {
		if err := b.giveSender(tx, s, g, user, identities[user], 0, key); err != nil {
			return nil, nil, err
		}
	}
	return key, own, nil
}

// giveSender sends somebody's devices, or one of them, the own sender key from
// the next message on. identity is that of the member.
func (b *Brain) giveSender(tx Tx, s *self, g *group, user clearbox.UserID, identity []byte, only clearbox.DeviceID, key *sender.Sender) error {
	c := &Content{Kind: KindSenderKey, To: user, SenderKey: key.Distribution()}
	return b.enqueueInGroup(tx, s, g, only, c, identity)
}

// enqueueInGroup queues a content for one member, in the name of the group: they
// need not have accepted us. identity is the only one that may have it, or nil.
func (b *Brain) enqueueInGroup(tx Tx, s *self, g *group, only clearbox.DeviceID, c *Content, identity []byte) error {
	_, err := b.enqueueNumbered(tx, s, g, only, c, identity)
	return err
}

// enqueueNumbered is enqueueInGroup, and gives the id under which servers know it.
func (b *Brain) enqueueNumbered(tx Tx, s *self, g *group, only clearbox.DeviceID, c *Content, identity []byte) (number clearbox.MessageID, err error) {
	c.Group = &GroupContext{ID: g.ID, Epoch: g.Epoch, Head: g.Head}
	if number, err = b.number(c); err != nil {
		return number, err
	}
	if c.ID == (clearbox.MessageID{}) {
		c.ID, c.Sent = number, b.now()
	}
	order, err := nextOrder(tx)
	if err != nil {
		return number, err
	}
	kind := c.Kind
	if kinds[kind].line { // it is no line under this id
		kind = KindVoid
	}
	it := &outItem{ID: number, To: c.To, Kind: kind, Only: only, Group: g.ID, Epoch: g.Epoch, For: identity}
	if it.Content, err = b.compose(tx, s, c); err != nil {
		return number, err
	}
	if only != 0 {
		filler := &Content{Kind: KindVoid, ID: number, Sent: b.now(), To: c.To, Group: c.Group}
		if it.Filler, err = b.compose(tx, s, filler); err != nil {
			return number, err
		}
	}
	err = b.queueItem(tx, s, outKey(uuidOfUser(c.To), order), it)
	if errors.Is(err, errHeldBack) || errors.Is(err, errOtherKeys) {
		return number, nil
	}
	return number, err
}

// lostSender forgets that somebody has the own sender key: what carried it was
// given up.
func (b *Brain) lostSender(tx Tx, id clearbox.GroupID, user clearbox.UserID) error {
	own, err := load[ownSender](tx, senderKey(id))
	if err != nil || own == nil {
		return err
	}
	uuid := uuidOfUser(user)
	own.Given = slices.DeleteFunc(own.Given, func(d givenTo) bool { return d.UUID == uuid })
	return save(tx, senderKey(id), own)
}

// giveGroupKey sends somebody the key under which the group's name is sealed.
func (b *Brain) giveGroupKey(ctx context.Context, id clearbox.GroupID, user clearbox.UserID, identity []byte) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		g, err := load[group](tx, groupKey(id))
		if err != nil || g == nil || len(g.Keys) == 0 {
			return err
		}
		return b.enqueueInGroup(tx, s, g, 0, &Content{Kind: KindGroupKey, To: user, GroupKey: g.Keys[0]}, identity)
	})
	wake(b.queueWake)
	return err
}

// hear takes a sender key that a device gave for a group.
func (b *Brain) hear(tx Tx, l *letter, c *Content, got *arrivals) error {
	id := c.Group.ID
	key := hearKey(id, l.uuid, l.SenderDevice)
	r, err := receiverAt(tx, key, id)
	if err != nil {
		return err
	}
	if err := r.Process(c.SenderKey); err != nil {
		return nil // of another group, or noise: what is encrypted under it cannot be read
	}
	got.tasks = true
	return tx.Put(key, r.Append(nil))
}

func receiverAt(r Reader, key string, id clearbox.GroupID) (*sender.Receiver, error) {
	raw, err := optional(r.Get(key))
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return sender.NewReceiver(distributionOf(id)), nil
	}
	return sender.ParseReceiver(slices.Clone(raw))
}

// keyAsked is when a device was last asked for its sender key.
type keyAsked struct {
	At    clearbox.Millis `cbor:"1,keyasint"`
	Tries int             `cbor:"2,keyasint"`
}

// prefixAskKey comes before the key of the sender key that is asked for.
const prefixAskKey = "askkey/"

// askSender asks a device for its sender key and for the messages that could not
// be read without it, at most as often as the pauses allow.
func (b *Brain) askSender(tx Tx, s *self, g *group, user clearbox.UserID, d clearbox.DeviceID, missing []clearbox.MessageID) error {
	at := prefixAskKey + hearKey(g.ID, uuidOfUser(user), d)
	asked, err := load[keyAsked](tx, at)
	if err != nil {
		return err
	}
	if asked == nil || !within(b.now(), asked.At, healCalm) {
		asked = new(keyAsked)
	}
	if asked.Tries > 0 && within(b.now(), asked.At, askFirst<<asked.Tries) || asked.Tries >= askMost {
		return nil
	}
	asked.At, asked.Tries = b.now(), asked.Tries+1
	if err := errors.Join(save(tx, at, asked), tally(tx, func(h *Healing) { h.Asked++ })); err != nil {
		return err
	}
	missing = missing[:min(len(missing), maxReceipts)]
	return b.enqueueInGroup(tx, s, g, d, &Content{Kind: KindKeyRequest, To: user, Unread: missing}, nil)
}

// answerKey gives a member's device the sender key that it asked for, and the
// messages that it could not read: those that were written while the member and
// the device were there.
func (b *Brain) answerKey(tx Tx, s *self, l *letter, c *Content, got *arrivals) error {
	g, st, err := b.loadGroup(tx, c.Group.ID)
	if err != nil || g == nil || g.Epoch == 0 {
		return err
	}
	member, in, err := memberOf(tx, g, st, l.Sender)
	if err != nil || !in || st.Members[member].Status != chain.StatusActive || g.UnnamedTo != 0 {
		return err
	}
	opening, _, err := whoIs(tx, g.ID, member)
	if err != nil || opening == nil {
		return err
	}
	identity := opening.Identity[:]
	who, err := load[contact](tx, contactKey(l.uuid))
	if err != nil || who == nil && l.Sender != s.User {
		return err
	}
	var added clearbox.Millis
	if l.Sender != s.User {
		if who.Changed != nil || !who.known(identity) {
			return nil
		}
		if added, err = who.added(l.SenderDevice); err != nil {
			return err
		}
		if now := b.now(); !within(now, who.ResentFrom, resendDay) {
			who.ResentFrom, who.Resent = now, 0
		}
		if who.Resent >= resendMost {
			return nil
		}
		who.Resent++
	}
	own, err := load[ownSender](tx, senderKey(g.ID))
	if err != nil {
		return err
	}
	if own != nil {
		key, err := sender.ParseSender(own.Key)
		if err != nil {
			return err
		}
		if err := b.giveSender(tx, s, g, l.Sender, identity, l.SenderDevice, key); err != nil {
			return err
		}
	}
	epoch := st.Members[member].Joined
	joined, err := b.timeOf(tx, g, epoch)
	if err != nil {
		return err
	}
	if err := b.resendInGroup(tx, s, l, g, c.Unread, lacks{max(added, joined), epoch, identity}, who); err != nil {
		return err
	}
	got.queue = true
	if who == nil {
		return nil
	}
	return save(tx, contactKey(l.uuid), who)
}

// lacks is a member's device that could not read what we wrote.
type lacks struct {
	since    clearbox.Millis // when it came, as it says itself
	joined   uint64          // the epoch in which its person joined
	identity []byte          // by which the group knows the person
}

// resendInGroup sends a member's device again what it could not read of ours, if it
// was written while it was there, and says of what stands for nothing any more that
// it does. Whoever joins dates that, so the group's epoch counts. who, whose budget
// it is, is nil for own devices.
func (b *Brain) resendInGroup(tx Tx, s *self, l *letter, g *group, ids []clearbox.MessageID, d lacks, who *contact) error {
	void := &Content{Kind: KindVoid, To: l.Sender}
	for _, id := range ids {
		again, m, err := lostContent(tx, s, id)
		if err != nil {
			return err
		}
		older := m != nil && m.Outgoing && m.Epoch < d.joined
		if again == nil || older && m.Group == g.ID && !kinds[again.Kind].line { // a change of what they never had
			void.Unread = append(void.Unread, id)
			continue
		}
		if older || m.Group != g.ID || !b.mayResend(s, again, m, d.since) || who != nil && who.Resent >= resendMost {
			continue
		}
		if who != nil {
			who.Resent++
		}
		again.To, again.Unread = l.Sender, []clearbox.MessageID{id}
		if err := b.enqueueInGroup(tx, s, g, l.SenderDevice, again, d.identity); err != nil {
			return err
		}
	}
	if len(void.Unread) == 0 {
		return nil
	}
	return b.enqueueInGroup(tx, s, g, l.SenderDevice, void, nil)
}

// timeOf says when the operation of an epoch was signed.
func (b *Brain) timeOf(r Reader, g *group, epoch uint64) (clearbox.Millis, error) {
	raw, err := r.Get(opKey(prefixOp, g.ID, epoch))
	if err != nil {
		return 0, err
	}
	o, err := chain.Parse(raw)
	if err != nil {
		return 0, err
	}
	return clearbox.Millis(o.Time), nil
}
