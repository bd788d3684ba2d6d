package core

import (
	"context"
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
	"github.com/clearbox-im/clearbox/server/wire"
)

// arrivals is what a batch changed besides the vault; acted on after commit.
type arrivals struct {
	upTo     int64 // highest seq stored now
	shown    bool
	receipts bool
	queue    bool
	keysUsed int
	wrote    []clearbox.UserID
	names    bool     // somebody's name is to be confirmed
	tasks    bool     // something is to be asked of or told to the own server
	lost     []string // UUIDs of people whose messages could not be read
}

// receive stores a batch of mail in one transaction: the messages, the ratchets
// that they moved and the highest seq. Only after it may the batch be
// acknowledged; a crash before it means that the same mail comes again and is
// read again. Mail that was stored before is skipped.
func (b *Brain) receive(ctx context.Context, mail []*wire.ServerFrame) (arrivals, error) {
	s, err := b.me()
	if err != nil {
		return arrivals{}, err
	}
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{}
		seq, err := count(tx, keySeq)
		if err != nil {
			return err
		}
		got.upTo = int64(seq)
		for _, f := range mail {
			if f.Seq <= got.upTo {
				continue
			}
			got.upTo = f.Seq
			switch {
			case f.Envelope != nil:
				err = b.readEnvelope(tx, s, (*clearbox.Envelope)(f.Envelope), &got)
			case f.Notice != nil:
				err = b.readNotice(tx, s, f.Notice, &got)
			case f.Knock != nil:
				err = b.readKnock(tx, s, f.Knock, &got)
			case f.Group != nil:
				err = b.takeOp(tx, f.Group, &got)
			}
			if err != nil {
				return err
			}
		}
		if err := b.askAll(tx, s, &got); err != nil {
			return err
		}
		if got.upTo == int64(seq) {
			return nil
		}
		return setCount(tx, keySeq, uint64(got.upTo))
	})
	if err != nil {
		return arrivals{}, fmt.Errorf("store received mail: %w", err)
	}
	b.actOn(got)
	return got, nil
}

func (b *Brain) actOn(got arrivals) {
	if got.shown {
		b.changed()
	}
	if got.receipts {
		wake(b.receiptWake)
	}
	if got.queue {
		wake(b.queueWake)
	}
	for _, user := range got.wrote {
		b.wrote(user)
	}
	b.keysUsed.Add(int64(got.keysUsed))
	if got.keysUsed > 0 || got.names || got.tasks {
		wake(b.tasksWake)
	}
}

// readNotice moves an own message on by what the server reports.
func (b *Brain) readNotice(tx Tx, s *self, n *wire.Notice, got *arrivals) error {
	m, _, err := findMessage(tx, s.uuid, n.ID)
	if err == nil && m == nil {
		m, err = sentAgain(tx, n.ID)
	}
	if err == nil && m != nil && !m.Group.IsZero() {
		changed, err := b.memberNotice(tx, s, m, n, got)
		got.shown = got.shown || changed
		return err
	}
	if err == nil && m == nil && n.Kind == wire.NoticeUndeliverable {
		changed, err := unsent(tx, s, n.ID, n.Code)
		got.shown = got.shown || changed
		return err
	}
	if err != nil || m == nil || m.Conversation != n.Recipient {
		return err // not about a message that was written here to that person
	}
	if m.Outer != (clearbox.MessageID{}) && m.Outer != n.ID {
		return nil // about an earlier attempt
	}
	var changed bool
	switch n.Kind {
	case wire.NoticeDelayed:
		changed, err = b.advance(tx, s, n.ID, StateAtServer, "", true)
	case wire.NoticeUndeliverable:
		if n.Code == clearbox.CodeConsentRequired {
			if changed, err = b.again(tx, s, m, got); err != nil || changed {
				break
			}
		}
		// outcome_unknown included: a receipt that comes later corrects it.
		changed, err = b.advance(tx, s, n.ID, StateFailed, n.Code, false)
	case wire.NoticeRequeue:
		changed, err = b.requeue(tx, s, m)
		got.queue = got.queue || changed
	}
	got.shown = got.shown || changed
	return err
}

// reasons that an envelope cannot be read. They never leave the device, but
// stand in Message.Reason.
const (
	reasonMisrouted clearbox.Code = "misrouted"      // for somebody else, or its inside names somebody else
	reasonSession   clearbox.Code = "no_session"     // the keys for it are gone
	reasonDamaged   clearbox.Code = "not_authentic"  // altered on the way, or never encrypted for us
	reasonFormat    clearbox.Code = "not_understood" // decrypted, and malformed
)

// readEnvelope decrypts and stores one envelope. Errors are the vault's;
// whatever is wrong with the envelope becomes a line in the conversation, once.
func (b *Brain) readEnvelope(tx Tx, s *self, env *clearbox.Envelope, got *arrivals) error {
	ours := env.Recipient == s.User && env.Device == s.Device
	if env.Type == clearbox.ContentSealed && ours {
		return b.takeSealed(tx, s, env, got)
	}
	l := openLetter(env)
	if !ours || env.Sender.IsZero() {
		return b.unreadable(tx, s, l, reasonMisrouted, got)
	}
	return b.readLetter(tx, s, l, got)
}

// readLetter decrypts and stores what somebody sent.
func (b *Brain) readLetter(tx Tx, s *self, env *letter, got *arrivals) error {
	if env.Type == clearbox.ContentPlaintext {
		return nil // a decryption error: ours travel in a KindRenew, which is authenticated
	}
	read, err := b.decrypt(tx, s, env, got)
	var changed *ratchet.IdentityChangedError
	var unknown *ratchet.UnknownPreKeyError
	switch {
	case err == nil:
		if ok, err := b.certified(tx, s, env, read.Identity); err != nil || !ok {
			return errors.Join(err, b.unreadable(tx, s, env, reasonIdentity, got))
		}
		return b.readContent(tx, s, env, read.Plaintext, got)
	case errors.Is(err, errDoubt) && errors.As(err, &changed):
		return b.doubt(tx, env, changed.Offered, got)
	case errors.As(err, &changed) && env.Type == clearbox.ContentPreKey && env.Sender != s.User:
		return b.hold(tx, env, changed, got)
	case errors.As(err, &changed):
		return b.unreadable(tx, s, env, clearbox.CodeIdentityChanged, got)
	case errors.Is(err, ratchet.ErrDuplicate):
		return b.unreadable(tx, s, env, reasonSession, got) // unless the message is known, which is usual
	case errors.Is(err, ratchet.ErrNoSession), errors.As(err, &unknown), errors.Is(err, ratchet.ErrKEMReused):
		return b.unreadable(tx, s, env, reasonSession, got)
	case readingFault(err):
		return b.unreadable(tx, s, env, reasonDamaged, got)
	case errors.Is(err, ratchet.ErrRecord):
		// The session is of no use any more; mail must not wait behind it.
		if err := tx.Delete(sessionKey(env.sessions(tx, s).peer(env.SenderDevice))); err != nil {
			return err
		}
		return b.unreadable(tx, s, env, reasonSession, got)
	}
	return err
}

// certified tells whether the certificate names the identity that the session
// was read with.
func (b *Brain) certified(tx Tx, s *self, l *letter, read curve.PublicKey) (bool, error) {
	if l.identity == nil {
		return true, nil
	}
	if string(read.Bytes()) != string(l.identity) {
		return false, nil
	}
	store := l.sessions(tx, s)
	pin, err := store.Pin(store.peer(l.SenderDevice))
	if err != nil || pin == nil || *pin != read { // of a session from before they renewed their keys
		return err == nil, err
	}
	return true, store.vouch()
}

// readingFault tells errors about a message from errors of the vault.
func readingFault(err error) bool {
	var version *ratchet.VersionError
	for _, known := range []error{ratchet.ErrMalformed, ratchet.ErrMAC, ratchet.ErrJump, ratchet.ErrAddress, ratchet.ErrPostQuantum,
		ratchet.ErrTooLong, ratchet.ErrAddressRange} {
		if errors.Is(err, known) {
			return true
		}
	}
	return errors.As(err, &version)
}

// decrypt opens env. The first message under new keys of a contact who was
// never verified moves the pin, if it reads under them and their list does not say
// whose they are: errDoubt asks for that.
func (b *Brain) decrypt(tx Tx, s *self, env *letter, got *arrivals) (*ratchet.Opened, error) {
	store := env.sessions(tx, s)
	open := func() (*ratchet.Opened, error) { return b.decipher(tx, s, store, env) }
	out, err := open()
	var changed *ratchet.IdentityChangedError
	if errors.As(err, &changed) && env.Type == clearbox.ContentPreKey && env.Sender != s.User {
		c, loadErr := store.contact()
		if loadErr != nil {
			return nil, loadErr
		}
		ask, loadErr := doubtful(tx, store.uuid, c, changed.Offered)
		if loadErr != nil {
			return nil, loadErr
		}
		if ask {
			return nil, errors.Join(errDoubt, err)
		}
		if c.Trust == TrustVerified {
			return nil, err
		}
		was := *c
		if err := b.tryIdentity(tx, store, c, changed); err != nil {
			return nil, err
		}
		if out, err = open(); err != nil {
			if back := save(tx, contactKey(store.uuid), &was); back != nil {
				return nil, back
			}
			return nil, err
		}
		// It did read: say so in the conversation.
		if err := b.changeIdentity(tx, &was, pins{Identity: changed.Offered.Bytes()}); err != nil {
			return nil, err
		}
		if err := save(tx, contactKey(store.uuid), &was); err != nil {
			return nil, err
		}
		got.shown = true
	}
	if err != nil {
		return nil, err
	}
	if out.Began {
		got.keysUsed++
	}
	return out, nil
}

// tryIdentity pins the offered key for one attempt at reading.
func (b *Brain) tryIdentity(tx Tx, store *sessions, c *contact, changed *ratchet.IdentityChangedError) error {
	next := *c
	next.pins = pins{Identity: changed.Offered.Bytes()}
	return save(tx, contactKey(store.uuid), &next)
}

// held is an envelope that waits for a changed identity to be accepted; a sealed
// one was opened already, and Identity is what its certificate names.
type held struct {
	Envelope clearbox.Envelope `cbor:"1,keyasint"`
	Identity []byte            `cbor:"2,keyasint,omitempty"`
}

// hold keeps what a verified contact sent under new keys, unread.
func (b *Brain) hold(tx Tx, env *letter, changed *ratchet.IdentityChangedError, got *arrivals) error {
	uuid := env.uuid
	c, err := load[contact](tx, contactKey(uuid))
	if err != nil {
		return err
	}
	if c == nil || c.Trust != TrustVerified {
		return errors.New("an envelope was held without a verified contact")
	}
	if err := b.changeIdentity(tx, c, nextPins(c, changed)); err != nil {
		return err
	}
	if err := save(tx, contactKey(uuid), c); err != nil {
		return err
	}
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	got.shown = true
	return save(tx, heldKey(uuid, order), held{env.Envelope, env.identity})
}

// nextPins keeps what is known already of keys that wait for acceptance.
func nextPins(c *contact, changed *ratchet.IdentityChangedError) pins {
	offered := changed.Offered.Bytes()
	if c.Changed != nil && string(c.Changed.Identity) == string(offered) {
		return *c.Changed
	}
	return pins{Identity: offered}
}

// readHeld reads what was held, after the keys were accepted.
func (b *Brain) readHeld(tx Tx, s *self, user clearbox.UserID) error {
	entries, err := tx.List(Range{Prefix: prefixHeld + uuidOfUser(user) + "/"})
	if err != nil {
		return err
	}
	var got arrivals
	for _, e := range entries {
		h, err := parse[held](e.Value)
		if err != nil {
			return err
		}
		if err := tx.Delete(e.Key); err != nil {
			return err
		}
		l := openLetter(&h.Envelope)
		l.identity = h.Identity
		if err := b.readLetter(tx, s, l, &got); err != nil {
			return err
		}
	}
	return b.askAll(tx, s, &got)
}

// unreadable notes once that a message could not be decrypted. A message that
// was read before needs no note: it merely came twice.
func (b *Brain) unreadable(tx Tx, s *self, env *letter, reason clearbox.Code, got *arrivals) error {
	uuid, sender := env.uuid, env.Sender
	if sender.IsZero() { // sealed, and by nobody whom we know
		if err := b.forgetStranger(tx, s, env); err != nil {
			return err
		}
		sender = SomebodyAt(env.Origin)
		uuid = uuidOfUser(sender)
	}
	known, err := optional(tx.Get(idKey(uuid, env.ID)))
	if err != nil || known != nil {
		return err
	}
	m := &Message{
		ID: env.ID, Conversation: sender, Sender: sender, SenderDevice: env.SenderDevice,
		Kind: MessageUndecryptable, Reason: reason, Sent: env.AcceptedAt, Stored: b.now(), State: StateReceived,
	}
	if err := addMessage(tx, uuid, uuid, m); err != nil {
		return err
	}
	got.shown = true
	if (reason == reasonSession || reason == reasonDamaged) && !env.Sender.IsZero() {
		return b.miss(tx, s, env, m, got)
	}
	return nil
}
