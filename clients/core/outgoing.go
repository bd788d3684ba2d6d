package core

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// outItem is one content on its way to the own homeserver. Once it is sealed
// it is sent again byte by byte until the server has answered.
type outItem struct {
	ID      clearbox.MessageID `cbor:"1,keyasint"`
	To      clearbox.UserID    `cbor:"2,keyasint"`
	Kind    Kind               `cbor:"3,keyasint"`
	Content []byte             `cbor:"4,keyasint"`           // padded plaintext
	Sealed  []byte             `cbor:"5,keyasint,omitempty"` // wire.Submission in CBOR
	Stale   bool               `cbor:"6,keyasint,omitempty"` // Sealed goes to the wrong devices; the server stored nothing
	Own     bool               `cbor:"7,keyasint,omitempty"` // own other devices get a copy

	// For people of other servers: Wrapped is Sealed with every envelope sealed
	// for them, under a certificate that is valid until Until and with Token.
	Wrapped []byte             `cbor:"8,keyasint,omitempty"`
	Until   clearbox.Millis    `cbor:"9,keyasint,omitempty"`
	Token   []byte             `cbor:"10,keyasint,omitempty"`
	Pass    []byte             `cbor:"11,keyasint,omitempty"` // the knock that it answers, in place of a token
	Outer   clearbox.MessageID `cbor:"12,keyasint,omitzero"`  // its id at the servers, where that is not ID

	// Of what one device of the recipient is to have alone: the others get Filler.
	Only   clearbox.DeviceID `cbor:"70,keyasint,omitempty"`
	Filler []byte            `cbor:"71,keyasint,omitempty"`
}

// outer is the id under which the servers know it.
func (it *outItem) outer() clearbox.MessageID {
	if it.Outer != (clearbox.MessageID{}) {
		return it.Outer
	}
	return it.ID
}

// submission is what the server is sent.
func (it *outItem) submission() []byte {
	if it.Wrapped != nil {
		return it.Wrapped
	}
	return it.Sealed
}

// errNeedsList says that the recipient's devices are not known.
var errNeedsList = errors.New("core: device list not known")

// errHeldBack says that the recipient's keys changed and nobody accepted them.
var errHeldBack = clearbox.Errorf(clearbox.CodeIdentityChanged,
	"the contact's safety number changed; compare and accept the new one before writing")

// Send writes text to a contact. When it returns, the message is in the vault
// and will be sent by Run, now or when there is a network, in the order of the
// calls. Where they have to accept us first, it waits in the vault for that, and
// they are asked. ErrUnknownContact if Lookup never found them;
// CodeIdentityChanged if their keys changed and were not accepted;
// CodeForbidden if they are blocked.
func (b *Brain) Send(ctx context.Context, to clearbox.UserID, text string) (*Message, error) {
	s, err := b.me()
	if err != nil {
		return nil, err
	}
	switch {
	case text == "":
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the message is empty")
	case len(text) > MaxText:
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "a message has at most %d bytes", MaxText)
	case !utf8.ValidString(text):
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the message is not valid UTF-8")
	}
	id, err := clearbox.NewMessageID(b.opts.Random)
	if err != nil {
		return nil, err
	}
	now := b.now()
	m := &Message{
		ID: id, Conversation: to, Sender: s.User, SenderDevice: s.Device, Outgoing: true,
		Kind: MessageText, Text: text, Sent: now, Stored: now, State: StateQueued,
	}
	asking := false
	err = b.vault.Update(ctx, func(tx Tx) error {
		asking = false
		real, err := behind(tx, to)
		if err != nil {
			return err
		}
		m.Conversation = real
		uuid := uuidOfUser(real)
		c, err := load[contact](tx, contactKey(uuid))
		switch {
		case err != nil:
			return err
		case c == nil:
			return ErrUnknownContact
		case c.Changed != nil:
			return errHeldBack
		case c.Blocked:
			return clearbox.Errorf(clearbox.CodeForbidden, "they are blocked; unblock them to write to them")
		case !c.Accepted:
			c.Accepted = true
			if err := save(tx, contactKey(uuid), c); err != nil {
				return err
			}
		}
		if err := addMessage(tx, uuid, s.uuid, m); err != nil {
			return err
		}
		content := &Content{Kind: KindText, ID: id, Sent: now, To: real, Text: text}
		if !s.elsewhere(real) || c.Token != nil {
			return b.enqueue(tx, s, m.Order, content)
		}
		asking = true
		it := &outItem{ID: id, To: real, Kind: KindText, Own: true}
		if it.Content, err = b.compose(tx, s, content); err != nil {
			return err
		}
		if err := b.park(tx, s, c, it, m.Order); err != nil {
			return err
		}
		m.Reason = clearbox.CodeConsentRequired
		return save(tx, contactKey(uuid), c)
	})
	if err != nil {
		return nil, err
	}
	if asking {
		wake(b.tasksWake)
	}
	wake(b.queueWake)
	wake(b.receiptWake)
	b.changed()
	return m, nil
}

// enqueue puts a content for c.To into the queue and, where every session is
// there already, encrypts it at once: one transaction, and ready to go.
func (b *Brain) enqueue(tx Tx, s *self, order uint64, c *Content) error {
	padded, err := b.compose(tx, s, c)
	if err != nil {
		return err
	}
	it := &outItem{ID: c.ID, To: c.To, Kind: c.Kind, Content: padded, Own: c.Kind == KindText}
	if c.Kind == KindAccept {
		it.Pass = c.Knock[:]
	}
	return b.queueItem(tx, s, outKey(uuidOfUser(c.To), order), it)
}

// compose writes a content that is to be sent: from us, and with our token where
// its recipient needs one to write back.
func (b *Brain) compose(tx Tx, s *self, c *Content) ([]byte, error) {
	c.From, c.Address, c.Token = s.User, s.address().String(), nil
	if s.elsewhere(c.To) {
		own, err := b.ownToken(tx)
		if err != nil {
			return nil, err
		}
		c.Token = own.Token
	}
	return EncodeContent(c)
}

// queueItem saves an item, encrypted and sealed as far as that goes without the
// network.
func (b *Brain) queueItem(tx Tx, s *self, key string, it *outItem) error {
	need, err := b.seal(tx, s, it, nil)
	if err == nil && len(need) == 0 {
		err = b.wrap(tx, s, it)
	}
	for _, later := range []error{errNeedsList, errNeedsCertificate, errNeedsUpload, errNeedsConsent} {
		if errors.Is(err, later) {
			err = nil
		}
	}
	if err != nil && clearbox.CodeOf(err) != clearbox.CodeNoDevice {
		return err
	}
	return save(tx, key, it)
}

// target is one device to encrypt to.
type target struct {
	user         clearbox.UserID
	device       clearbox.DeviceID
	registration uint16
}

// targets gives the devices that it goes to, the recipient's first.
func (b *Brain) targets(tx Tx, s *self, it *outItem) ([]target, error) {
	c, err := load[contact](tx, contactKey(uuidOfUser(it.To)))
	if err != nil {
		return nil, err
	}
	if c == nil || c.List == nil {
		return nil, errNeedsList
	}
	if c.Changed != nil {
		return nil, errHeldBack
	}
	devices, err := c.active()
	if err != nil {
		return nil, err
	}
	if len(devices) == 0 {
		return nil, clearbox.Errorf(clearbox.CodeNoDevice, "the recipient has no device")
	}
	var out []target
	for _, d := range devices {
		out = append(out, target{it.To, clearbox.DeviceID(d.ID), d.Registration})
	}
	if it.Own {
		for _, d := range s.others() {
			out = append(out, target{s.User, clearbox.DeviceID(d.ID), d.Registration})
		}
	}
	return out, nil
}

// seal brings it.Sealed in line with the devices it goes to: envelopes that
// exist and still fit stay as they are, missing ones are encrypted. Where a
// session is missing, it takes it from bundles; if that lacks one too, nothing
// is changed and the devices that need one are returned. The caller saves it.
func (b *Brain) seal(tx Tx, s *self, it *outItem, bundles map[target]*keys.Bundle) (need []target, err error) {
	targets, err := b.targets(tx, s, it)
	if err != nil {
		return nil, err
	}
	kept := map[target]wire.Outgoing{}
	if it.Sealed != nil {
		var old wire.Submission
		if err := wire.Decode(wire.CBOR, it.Sealed, &old); err != nil {
			return nil, fmt.Errorf("read a queued message: %w", err)
		}
		for _, to := range old.To {
			for _, e := range to.Envelopes {
				kept[target{to.User, e.Device, e.Registration}] = e
			}
		}
	}
	for _, t := range targets {
		if _, ok := kept[t]; ok || bundles[t] != nil {
			continue
		}
		ok, err := b.hasSession(tx, s, t)
		if err != nil {
			return nil, err
		}
		if !ok {
			need = append(need, t)
		}
	}
	if len(need) > 0 {
		return need, nil
	}
	sub := wire.Submission{ID: it.ID}
	for _, t := range targets {
		e, ok := kept[t]
		if !ok {
			if e, err = b.encrypt(tx, s, t, it.contentFor(t), bundles[t]); err != nil {
				return nil, err
			}
		}
		if n := len(sub.To); n == 0 || sub.To[n-1].User != t.user {
			sub.To = append(sub.To, wire.Recipient{User: t.user})
		}
		to := &sub.To[len(sub.To)-1]
		to.Envelopes = append(to.Envelopes, e)
	}
	if it.Own && sub.To[len(sub.To)-1].User != s.User {
		// Named without an envelope, so that the server can say if we have
		// other devices that we do not know of.
		sub.To = append(sub.To, wire.Recipient{User: s.User, Envelopes: []wire.Outgoing{}})
	}
	if it.Sealed, err = wire.Append(wire.CBOR, nil, &sub); err != nil {
		return nil, fmt.Errorf("write a queued message: %w", err)
	}
	it.Stale, it.Wrapped = false, nil
	return nil, nil
}

// hasSession tells whether there is a session that fits t: usable, with the
// device that is listed now and with the pinned identity.
func (b *Brain) hasSession(tx Tx, s *self, t target) (bool, error) {
	store := sessionsOf(tx, s, t.user)
	peer := store.peer(t.device)
	record, err := store.Session(peer)
	if err != nil || record == nil {
		return false, err
	}
	info, err := s.device.Inspect(record, b.opts.Now())
	if err != nil {
		return false, err
	}
	pin, err := store.Pin(peer)
	if err != nil {
		return false, err
	}
	return info.Usable && info.Registration == t.registration && pin != nil && info.Identity == *pin, nil
}

// encrypt makes the envelope for one device; with a bundle it begins a session
// first, unless one has come to be meanwhile.
func (b *Brain) encrypt(tx Tx, s *self, t target, content []byte, bundle *keys.Bundle) (wire.Outgoing, error) {
	store := sessionsOf(tx, s, t.user)
	peer := store.peer(t.device)
	if bundle != nil {
		ok, err := b.hasSession(tx, s, t)
		if err != nil {
			return wire.Outgoing{}, err
		}
		if !ok {
			if err := s.device.Initiate(store, b.opts.Now(), peer, bundle); err != nil {
				return wire.Outgoing{}, fmt.Errorf("begin a session: %w", err)
			}
		}
	}
	c, err := s.device.Encrypt(store, b.opts.Now(), peer, content)
	if err != nil {
		return wire.Outgoing{}, fmt.Errorf("encrypt: %w", err)
	}
	return wire.Outgoing{Device: t.device, Registration: t.registration, Type: clearbox.ContentType(c.Type), Content: c.Body}, nil
}

// prepare gives the item at key ready to be sent, asking the network for
// device lists and prekeys where they are missing; nil if the item is gone.
// Errors carry codes; errHeldBack where nothing may be sent.
func (b *Brain) prepare(ctx context.Context, key string) (*outItem, error) {
	var bundles map[target]*keys.Bundle
	for range 6 {
		s, err := b.me()
		if err != nil {
			return nil, err
		}
		var it *outItem
		var need []target
		var unwrapped error
		err = b.vault.Update(ctx, func(tx Tx) error {
			need, unwrapped = nil, nil
			it, err = load[outItem](tx, key)
			if err != nil || it == nil {
				return err
			}
			if it.Sealed == nil || it.Stale {
				if need, err = b.seal(tx, s, it, bundles); err != nil || len(need) > 0 {
					return err
				}
				if err := save(tx, key, it); err != nil {
					return err
				}
			} else if !s.elsewhere(it.To) {
				return nil
			}
			if unwrapped = b.wrap(tx, s, it); unwrapped != nil {
				return nil // what was encrypted is kept
			}
			return save(tx, key, it)
		})
		switch {
		case errors.Is(err, errNeedsList):
			if _, err = b.contactWithList(ctx, it.To); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case it == nil || len(need) == 0 && unwrapped == nil:
			return it, nil
		case errors.Is(unwrapped, errNeedsCertificate):
			if err := b.fetchCertificate(ctx); err != nil {
				return nil, err
			}
		case errors.Is(unwrapped, errNeedsUpload):
			if err := b.uploadToken(ctx); err != nil {
				return nil, err
			}
		case unwrapped != nil:
			return nil, unwrapped
		default:
			if bundles, err = b.claim(ctx, it, need); err != nil {
				return nil, err
			}
		}
	}
	return nil, clearbox.Errorf(clearbox.CodeUnavailable, "the recipient's devices keep changing")
}

// claim asks for the prekeys of devices. The claim's id is made from what it
// is for, so that a repeat after a lost answer or a crash uses up no more keys.
func (b *Brain) claim(ctx context.Context, it *outItem, need []target) (map[target]*keys.Bundle, error) {
	out := map[target]*keys.Bundle{}
	for len(need) > 0 {
		user := need[0].user
		claim := wire.KeyClaim{User: user}
		if user == it.To {
			token, err := b.tokenFor(ctx, it)
			if err != nil {
				return nil, err
			}
			claim.Token = token
		}
		h := sha256.New()
		fmt.Fprintf(h, "clearbox claim\x00%s\x00%s", it.ID, user)
		wanted := map[clearbox.DeviceID]target{}
		for len(need) > 0 && need[0].user == user {
			claim.Devices = append(claim.Devices, int(need[0].device))
			fmt.Fprintf(h, "\x00%d.%d", need[0].device, need[0].registration)
			wanted[need[0].device] = need[0]
			need = need[1:]
		}
		copy(claim.ClaimID[:], h.Sum(nil))
		var answer wire.Bundles
		if err := b.call(ctx, "POST", "/keys/claim", claim, &answer); err != nil {
			return nil, err
		}
		got := 0
		for i := range answer.Bundles {
			t, ok := wanted[answer.Bundles[i].Device]
			bundle, err := bundleOf(&answer.Bundles[i])
			if err != nil {
				return nil, clearbox.Wrap(clearbox.CodeBadSignature, "the recipient's keys do not verify", err)
			}
			if ok && bundle.Registration == t.registration {
				out[t] = bundle
				got++
			}
		}
		if got < len(wanted) || !b.pinned(ctx, user, out) {
			// Somebody reinstalled or changed keys a moment ago: look again.
			if err := b.lookAgain(ctx, user); err != nil {
				return nil, err
			}
			if got < len(wanted) {
				return nil, clearbox.Errorf(clearbox.CodeUnavailable, "a device of the recipient has no keys yet")
			}
		}
	}
	return out, nil
}

// tokenFor gives what an item's recipient lets us write with; nil where none is
// needed or known.
func (b *Brain) tokenFor(ctx context.Context, it *outItem) (token []byte, err error) {
	s, err := b.me()
	if err != nil || !s.elsewhere(it.To) {
		return nil, err
	}
	err = b.vault.View(ctx, func(r Reader) error {
		c, err := load[contact](r, contactKey(uuidOfUser(it.To)))
		if err == nil && c != nil {
			token = c.Token
		}
		return err
	})
	if it.Pass != nil {
		token = it.Pass
	}
	return token, err
}

// pinned tells whether the bundles of user carry the pinned identity.
func (b *Brain) pinned(ctx context.Context, user clearbox.UserID, bundles map[target]*keys.Bundle) bool {
	s, err := b.me()
	if err != nil {
		return false
	}
	ok := true
	err = b.vault.View(ctx, func(r Reader) error {
		for t, bundle := range bundles {
			pin := s.identity.Public()
			if user != s.User {
				c, err := load[contact](r, contactKey(uuidOfUser(user)))
				if err != nil || c == nil || c.Identity == nil {
					return err
				}
				if pin, err = curve.ParsePublicKey(c.Identity); err != nil {
					return err
				}
			}
			if t.user == user && bundle.Identity != pin {
				ok = false
				delete(bundles, t)
			}
		}
		return nil
	})
	return ok && err == nil
}

// lookAgain asks for the newest device list of somebody, oneself included.
func (b *Brain) lookAgain(ctx context.Context, user clearbox.UserID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if user == s.User {
		_, err = b.Devices(ctx)
	} else {
		_, err = b.refresh(ctx, user)
	}
	return err
}

// bundleOf checks the shape of a bundle; Initiate checks its signatures.
func bundleOf(w *wire.Bundle) (*keys.Bundle, error) {
	out := &keys.Bundle{Registration: w.Registration, Device: uint8(w.Device)}
	var err error
	if out.Identity, err = curve.ParsePublicKey(w.Identity); err != nil {
		return nil, err
	}
	out.Signed.ID, out.Signed.Signature = w.Signed.ID, w.Signed.Signature
	if out.Signed.Key, err = curve.ParsePublicKey(w.Signed.Key); err != nil {
		return nil, err
	}
	if w.OneTime != nil {
		one := keys.OneTimePreKey{ID: w.OneTime.ID}
		if one.Key, err = curve.ParsePublicKey(w.OneTime.Key); err != nil {
			return nil, err
		}
		out.OneTime = &one
	}
	out.KEM.ID, out.KEM.Signature = w.KEM.ID, w.KEM.Signature
	if out.KEM.Key, err = keys.ParseKEMPublicKey(w.KEM.Key); err != nil {
		return nil, err
	}
	return out, nil
}

// stale notes that an item goes to the wrong devices and learns the right ones.
// The server stored nothing, so the item is encrypted anew where it must be.
func (b *Brain) stale(ctx context.Context, key string, e *clearbox.StaleDevicesError) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if err := b.lookAgain(ctx, e.User); err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		it.Stale = true
		it.Own = it.Own || e.User == s.User
		return save(tx, key, it)
	})
}
