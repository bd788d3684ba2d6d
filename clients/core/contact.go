package core

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Trust is how sure one is that a contact's keys are theirs.
type Trust string

// The levels of trust, in rising order.
const (
	TrustUnverified Trust = "unverified" // pinned when first seen
	TrustVouched    Trust = "vouched"    // and their organisation says that the keys are theirs
	TrustVerified   Trust = "verified"   // the safety number was compared
)

// pins are the keys that a contact's account is known by.
type pins struct {
	Identity  []byte              `cbor:"1,keyasint,omitempty"` // X25519 with its type byte
	Root      []byte              `cbor:"2,keyasint,omitempty"` // Ed25519; nil until a device list was seen
	List      []byte              `cbor:"3,keyasint,omitempty"` // newest signed device list
	Withdrawn []clearbox.DeviceID `cbor:"4,keyasint,omitempty"` // removed at their server before they signed so
}

// contact is what the vault knows of another account. It is keyed by the UUID
// of User.
type contact struct {
	pins     `cbor:"1,keyasint"`
	User     clearbox.UserID `cbor:"2,keyasint,omitzero"`
	Address  string          `cbor:"3,keyasint,omitempty"` // confirmed by their server
	Claimed  string          `cbor:"4,keyasint,omitempty"` // what they say they are called
	Trust    Trust           `cbor:"5,keyasint"`           // as the person marked it: unverified or verified
	Accepted bool            `cbor:"6,keyasint,omitempty"` // written to, or accepted: gets receipts
	Changed  *pins           `cbor:"7,keyasint,omitempty"` // new keys of a verified contact, not accepted yet
	pace

	// Of people of other servers. Token lets us write to them, and TokenSent is
	// when they gave it, by their clock. Knock is the open question to be
	// accepted. A provisional contact stands for an address whose owner did not
	// answer yet.
	Token       []byte             `cbor:"9,keyasint,omitempty"`
	TokenSent   clearbox.Millis    `cbor:"10,keyasint,omitempty"`
	Knock       clearbox.MessageID `cbor:"11,keyasint,omitzero"`
	Provisional bool               `cbor:"12,keyasint,omitempty"`
	Blocked     bool               `cbor:"13,keyasint,omitempty"`
	KnockAt     clearbox.Millis    `cbor:"14,keyasint,omitempty"` // of the last knock

	Vouched bool            `cbor:"73,keyasint,omitempty"` // their server named the pinned identity as theirs
	Marked  clearbox.Millis `cbor:"74,keyasint,omitempty"` // when Trust was last marked: the newest mark holds on all own devices

	Answered     int             `cbor:"75,keyasint,omitempty"` // knocks of theirs that were answered at once since AnsweredFrom
	AnsweredFrom clearbox.Millis `cbor:"76,keyasint,omitempty"`
	// Replaced is when the pinned identity took the place of another one; 0 if it
	// is the first.
	Replaced clearbox.Millis `cbor:"77,keyasint,omitempty"`

	Card     *Card           `cbor:"30,keyasint,omitempty"` // what they want to be called
	CardSent clearbox.Millis `cbor:"31,keyasint,omitempty"` // revision of ours that they were told

	linked []deviceEntry // devices that the list which was just adopted adds
}

// Contact is what is known of another account.
type Contact struct {
	User     clearbox.UserID
	Address  string // name@server as their server confirmed it, or empty
	Trust    Trust
	Accepted bool
	Changed  bool // their keys changed: nothing is sent until AcceptIdentity
	Devices  int  // active ones, 0 while not known
	Pending  bool // elsewhere, and has not accepted us: what is written waits, and they are asked
	Asked    bool // they were asked and did not answer
	Blocked  bool // nothing of theirs is shown
	// Name and Avatar are what they say of themselves; nobody confirms it.
	Name   string
	Avatar []byte // SHA-256 of a picture, or nil
}

func (c *contact) public() Contact {
	out := Contact{User: c.User, Address: c.Address, Trust: c.level(), Accepted: c.Accepted, Changed: c.Changed != nil,
		Pending: c.Provisional || c.Knock != (clearbox.MessageID{}), Asked: c.Knock != (clearbox.MessageID{}), Blocked: c.Blocked,
	}
	if c.Card != nil {
		out.Name, out.Avatar = c.Card.Name, c.Card.Avatar
	}
	if list, err := keys.ParseDeviceList(c.List); err == nil {
		out.Devices = len(list.Active())
	}
	return out
}

// level is how sure one may be of c's keys.
func (c *contact) level() Trust {
	if c.Trust != TrustVerified && c.Vouched {
		return TrustVouched
	}
	return c.Trust
}

// vouch notes that the contact's server certified the pinned identity.
func (s *sessions) vouch() error {
	c, err := s.contact()
	if err != nil || c.Vouched {
		return err
	}
	c.Vouched = true
	return save(s.tx, contactKey(s.uuid), c)
}

// Lookup finds the account behind an address at its server and keeps it as a
// contact with its keys pinned. CodeNotFound if there is none. Who is of another
// server and did not agree to be found gives a pending contact, whether anybody
// is called that or not: what is written to it waits until they accept. So does
// an address whose server does not answer.
func (b *Brain) Lookup(ctx context.Context, address clearbox.Address) (Contact, error) {
	var acc wire.Account
	err := b.call(ctx, "GET", userPath(address.String()), nil, &acc)
	if code := clearbox.CodeOf(err); code == clearbox.CodeConsentRequired || code == clearbox.CodePeerUnreachable {
		s, selfErr := b.me()
		if selfErr != nil {
			return Contact{}, selfErr
		}
		if address.Server != s.User.Server {
			return b.pending(ctx, address)
		}
	}
	if err != nil {
		return Contact{}, err
	}
	if acc.User.Server != address.Server {
		return Contact{}, clearbox.Errorf(clearbox.CodeBadSignature, "the server answered with an account of another server")
	}
	return b.adopt(ctx, &acc, address.String())
}

// Contact gives a contact by name@server or uid@server: from the vault, or else
// from their server by Lookup.
func (b *Brain) Contact(ctx context.Context, name string) (Contact, error) {
	c, err := b.Known(ctx, name)
	if !errors.Is(err, ErrUnknownContact) {
		return c, err
	}
	if user, err := clearbox.ParseUserID(name); err == nil {
		return b.refresh(ctx, user)
	}
	address, err := clearbox.ParseAddress(name)
	if err != nil {
		return Contact{}, err
	}
	return b.Lookup(ctx, address)
}

// Known gives a contact without the network; ErrUnknownContact if the vault
// has none by that name.
func (b *Brain) Known(ctx context.Context, name string) (Contact, error) {
	var found *contact
	err := b.vault.View(ctx, func(r Reader) error {
		user, err := clearbox.ParseUserID(name)
		if err != nil {
			id, err := optional(r.Get(prefixAddr + name))
			if err != nil || id == nil {
				return err
			}
			if user, err = clearbox.ParseUserID(string(id)); err != nil {
				return err
			}
		}
		if user, err = behind(r, user); err != nil {
			return err
		}
		found, err = load[contact](r, contactKey(uuidOfUser(user)))
		return err
	})
	if err != nil {
		return Contact{}, err
	}
	if found == nil {
		return Contact{}, ErrUnknownContact
	}
	return found.public(), nil
}

// Contacts gives everyone who was looked up or has written, in no special order.
func (b *Brain) Contacts(ctx context.Context) ([]Contact, error) {
	var out []Contact
	err := b.vault.View(ctx, func(r Reader) error {
		out = nil
		return eachContact(r, func(_ string, c *contact) error {
			out = append(out, c.public())
			return nil
		})
	})
	return out, err
}

// eachContact gives do everybody who is known, with their key; its error ends that.
func eachContact(r Reader, do func(key string, c *contact) error) error {
	entries, err := r.List(Range{Prefix: prefixContac})
	if err != nil {
		return err
	}
	for _, e := range entries {
		c, err := parse[contact](e.Value)
		if err != nil {
			return err
		}
		if err := do(e.Key, c); err != nil {
			return err
		}
	}
	return nil
}

// refresh asks for a contact's present device list.
func (b *Brain) refresh(ctx context.Context, user clearbox.UserID) (Contact, error) {
	return b.refreshFrom(ctx, user, 0)
}

// refreshFrom is refresh where there is reason to believe that there is a list of
// version; 0 where there is none.
func (b *Brain) refreshFrom(ctx context.Context, user clearbox.UserID, version int64) (Contact, error) {
	path := userPath(user.String())
	if version > 0 {
		path += "?version=" + strconv.FormatInt(version, 10)
	}
	var acc wire.Account
	if err := b.call(ctx, "GET", path, nil, &acc); err != nil {
		return Contact{}, err
	}
	if acc.User != user {
		return Contact{}, clearbox.Errorf(clearbox.CodeBadSignature, "the server answered with another account")
	}
	return b.adopt(ctx, &acc, "")
}

// adopt checks what a server says of an account and stores it.
func (b *Brain) adopt(ctx context.Context, acc *wire.Account, address string) (Contact, error) {
	s, err := b.me()
	if err != nil {
		return Contact{}, err
	}
	if acc.User == s.User {
		return Contact{}, clearbox.Errorf(clearbox.CodeBadRequest, "that is yourself")
	}
	list, err := keys.ParseDeviceList(acc.DeviceList)
	if err != nil || list.Account != acc.User.String() {
		return Contact{}, clearbox.Wrap(clearbox.CodeBadSignature, "the contact's list of devices does not verify", err)
	}
	var out Contact
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{}
		store := sessionsOf(tx, s, acc.User)
		c, err := store.contact()
		if err != nil {
			return err
		}
		// What a server gives strangers ends with their consent: a token that the
		// contact gave is better, before and after.
		if _, err := clearbox.ParseDeliveryToken(acc.Token); err == nil && c.Token == nil && s.elsewhere(acc.User) {
			c.Token = acc.Token
		}
		if address != "" {
			c.Address = address
			if err := tx.Put(prefixAddr+address, []byte(acc.User.String())); err != nil {
				return err
			}
		}
		if err := b.adoptList(tx, c, list, acc); err != nil {
			return err
		}
		c.Vouched = c.Vouched || address != "" && c.Changed == nil
		out = c.public()
		return errors.Join(save(tx, contactKey(store.uuid), c), b.topUp(tx, s, c), b.resolve(tx, s, c, &got))
	})
	if err == nil {
		b.actOn(got)
		wake(b.queueWake)
		b.changed()
	}
	return out, err
}

// adoptList takes a device list that verifies by itself into a contact: as
// theirs if it follows from what is pinned, as a change of identity otherwise.
// The caller saves c.
func (b *Brain) adoptList(tx Tx, c *contact, list *keys.DeviceList, acc *wire.Account) error {
	next := pins{Identity: list.Identity.Bytes(), Root: list.Root, List: acc.DeviceList}
	for _, d := range acc.Withdrawn {
		next.Withdrawn = append(next.Withdrawn, clearbox.DeviceID(d))
	}
	known := &c.pins
	if c.Changed != nil && bytes.Equal(c.Changed.Identity, next.Identity) && (c.Changed.Root == nil || bytes.Equal(c.Changed.Root, next.Root)) {
		known = c.Changed // news of the keys that wait for acceptance
	}
	if c.Changed != nil && c.Root != nil && bytes.Equal(c.Root, next.Root) {
		known = &c.pins // their root says so after all
	}
	renewed := known.Identity != nil && !bytes.Equal(known.Identity, next.Identity)
	if known.Root != nil && !bytes.Equal(known.Root, next.Root) || renewed && known.Root == nil && !list.Vouches(known.Identity) {
		return b.changeIdentity(tx, c, next)
	}
	if renewed && known.List == nil && !replaced(list, known.Identity) {
		return clearbox.Errorf(clearbox.CodeUnavailable, "the contact's list of devices is older than what is known of them")
	}
	if known.List != nil {
		was, err := keys.ParseDeviceList(known.List)
		if err != nil {
			return err
		}
		switch err := list.Follows(was); {
		case errors.Is(err, keys.ErrVersionNotNewer):
			// An older list, or the same again: only the withdrawals are news.
			if !renewed {
				known.Withdrawn = next.Withdrawn
			}
			return nil
		case err != nil:
			return clearbox.Wrap(clearbox.CodeBadSignature, "the contact's list of devices does not follow from the one before", err)
		}
		if known == &c.pins && c.Accepted {
			c.linked = linkedSince(was, list)
		}
		if len(c.linked) > 0 {
			if err := b.noteDevices(tx, c); err != nil {
				return err
			}
		}
	}
	if renewed && known == &c.pins {
		if err := b.noteRenewed(tx, c); err != nil {
			return err
		}
		if c.Changed != nil && bytes.Equal(c.Changed.Identity, next.Identity) {
			c.Changed = nil
		}
	}
	*known = next
	return nil
}

// replaced tells whether a list names an identity, 33 bytes, as a former one.
func replaced(l *keys.DeviceList, identity []byte) bool {
	k, err := curve.ParsePublicKey(identity)
	if err != nil {
		return false
	}
	_, ok := l.Replaced(k)
	return ok
}

// known tells whether identity, by which a group knows a person, is the one that is
// pinned here, or one that it took the place of, whose word for the root is on the
// list.
func (p *pins) known(identity []byte) bool {
	if bytes.Equal(p.Identity, identity) {
		return true
	}
	list, err := keys.ParseDeviceList(p.List)
	return err == nil && list.Vouches(identity)
}

// noteRenewed says in the conversation that the contact's account has a new
// identity. Their root key, which is pinned, vouches for it: whoever compared the
// safety number has compared that key, too, so a mark of trust stays, as it does
// when they link a device.
func (b *Brain) noteRenewed(tx Tx, c *contact) error {
	uuid := uuidOfUser(c.User)
	c.Replaced = b.now() // what they have read is not given again to the new keys
	b.release(uuid)
	return addMessage(tx, uuid, uuid, &Message{
		Conversation: c.User, Sender: c.User, Kind: MessageRenewed, State: StateReceived, Sent: b.now(), Stored: b.now(),
	})
}

// noteDevices says in the conversation that the contact linked a device. Their root
// key, which is pinned, vouches for it.
func (b *Brain) noteDevices(tx Tx, c *contact) error {
	uuid := uuidOfUser(c.User)
	return addMessage(tx, uuid, uuid, &Message{
		Conversation: c.User, Sender: c.User, Kind: MessageDevices, State: StateReceived, Sent: b.now(), Stored: b.now(),
	})
}

// changeIdentity deals with keys that are not the pinned ones: a contact who
// was never verified gets them with a line in the conversation, a verified one
// is blocked until somebody decides. The caller saves c.
func (b *Brain) changeIdentity(tx Tx, c *contact, next pins) error {
	again := c.Changed != nil && bytes.Equal(c.Changed.Identity, next.Identity)
	if c.Trust == TrustVerified {
		c.Changed = &next
	} else {
		c.pins, c.Changed, c.Vouched, c.Replaced = next, nil, false, b.now()
	}
	if again {
		return nil
	}
	uuid := uuidOfUser(c.User)
	return addMessage(tx, uuid, uuid, &Message{
		Conversation: c.User, Sender: c.User, Kind: MessageIdentityChanged, State: StateReceived,
		Reason: clearbox.CodeIdentityChanged, Sent: b.now(), Stored: b.now(),
	})
}

// changeContact edits a contact that exists.
func (b *Brain) changeContact(ctx context.Context, user clearbox.UserID, edit func(tx Tx, s *self, c *contact) error) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		key := contactKey(uuidOfUser(user))
		c, err := load[contact](tx, key)
		if err != nil {
			return err
		}
		if c == nil {
			return ErrUnknownContact
		}
		if err := edit(tx, s, c); err != nil {
			return err
		}
		return save(tx, key, c)
	})
	if err == nil {
		b.release(uuidOfUser(user))
		b.changed()
		wake(b.queueWake)
		wake(b.receiptWake)
	}
	return err
}

// Accept takes somebody as a contact: from now on they are told what was
// delivered. Writing to somebody accepts them too. A request of theirs is answered;
// doing it again changes nothing.
func (b *Brain) Accept(ctx context.Context, user clearbox.UserID) error {
	err := b.withRequest(ctx, user, b.answer)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrUnknownContact) {
		return err
	}
	return b.changeContact(ctx, user, func(_ Tx, _ *self, c *contact) error {
		if c.Blocked {
			return clearbox.Errorf(clearbox.CodeForbidden, "they are blocked; unblock them first")
		}
		c.Accepted = true
		return nil
	})
}

// Verify notes whether the safety number was compared. It is refused while a
// change of identity waits.
func (b *Brain) Verify(ctx context.Context, user clearbox.UserID, verified bool) error {
	return b.changeContact(ctx, user, func(_ Tx, _ *self, c *contact) error {
		switch {
		case !verified:
			c.Trust = TrustUnverified
		case c.Changed != nil:
			return clearbox.Errorf(clearbox.CodeIdentityChanged, "the safety number changed: accept the new one first")
		case c.Identity == nil || c.Root == nil:
			return clearbox.Errorf(clearbox.CodeNotFound, "the contact's keys are not known yet")
		default:
			c.Trust = TrustVerified
		}
		c.Marked = b.now()
		return nil
	})
}

// AcceptIdentity takes a verified contact's new keys, unverified, and reads
// what arrived under them meanwhile.
func (b *Brain) AcceptIdentity(ctx context.Context, user clearbox.UserID) error {
	return b.changeContact(ctx, user, func(tx Tx, s *self, c *contact) error {
		if c.Changed == nil {
			return clearbox.Errorf(clearbox.CodeConflict, "the contact's keys did not change")
		}
		c.pins, c.Changed, c.Trust, c.Vouched, c.Marked = *c.Changed, nil, TrustUnverified, false, b.now()
		c.Replaced = c.Marked
		if err := save(tx, contactKey(uuidOfUser(user)), c); err != nil {
			return err
		}
		if err := b.readHeld(tx, s, user); err != nil {
			return err
		}
		// Reading may have changed the contact; the caller saves the newer one.
		fresh, err := load[contact](tx, contactKey(uuidOfUser(user)))
		if err == nil {
			*c = *fresh
		}
		return err
	})
}

// safetyIterations is the protocol's (5,200 rounds of SHA-512 per side).
const safetyIterations = 5200

// SafetyNumber gives the number that two people compare, as 60 digits to read
// out and as bytes for a QR code. It covers both accounts' identity keys, their
// service ids and root keys.
func (b *Brain) SafetyNumber(ctx context.Context, user clearbox.UserID) (*keys.Fingerprint, error) {
	s, err := b.me()
	if err != nil {
		return nil, err
	}
	c, err := b.contactWithList(ctx, user)
	if err != nil {
		return nil, err
	}
	theirs := c.pins
	if c.Changed != nil && c.Changed.List != nil {
		theirs = *c.Changed // what is to be compared now
	}
	list, err := keys.ParseDeviceList(theirs.List)
	if err != nil {
		return nil, err
	}
	identity, err := curve.ParsePublicKey(theirs.Identity)
	if err != nil {
		return nil, err
	}
	return keys.SafetyNumber(safetyIterations, s.list.SafetyID(), s.list.Identity, list.SafetyID(), identity)
}

// contactWithList gives a contact whose device list is known, asking for it
// where it is not.
func (b *Brain) contactWithList(ctx context.Context, user clearbox.UserID) (*contact, error) {
	for range 2 {
		var c *contact
		err := b.vault.View(ctx, func(r Reader) (err error) {
			c, err = load[contact](r, contactKey(uuidOfUser(user)))
			return err
		})
		if err != nil {
			return nil, err
		}
		if c != nil && c.List != nil && (c.Changed == nil || c.Changed.List != nil) {
			return c, nil
		}
		if _, err := b.refresh(ctx, user); err != nil {
			return nil, err
		}
	}
	return nil, clearbox.Errorf(clearbox.CodeNotFound, "the contact's devices are not known")
}

// active gives the devices to encrypt to: on the list and not withdrawn.
func (p *pins) active() ([]keys.DeviceEntry, error) {
	list, err := keys.ParseDeviceList(p.List)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Active(), func(d keys.DeviceEntry) bool {
		return slices.Contains(p.Withdrawn, clearbox.DeviceID(d.ID))
	}), nil
}
