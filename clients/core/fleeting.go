package core

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/server/wire"
)

// How typing is told: one signal in typingEvery, which counts for typingShown
// at the other side. After typingMost without an answer no more are sent, so that
// a session does not run far ahead of somebody who is not there.
const (
	typingEvery = 5 * time.Second
	typingShown = 10 * time.Second
	typingMost  = 100
)

// errFleeting undoes what was begun for something that is not worth an error.
var errFleeting = errors.New("core: not worth it")

// fleeting is what has no worth a moment later. Nothing of it is in the vault.
type fleeting struct {
	conn     *connection                       // nil while there is none that was welcomed
	told     map[string]told                   // typing signals of ours, by the contact's UUID
	typing   map[clearbox.UserID]*time.Timer   // who types; the timer ends it
	observed []clearbox.UserID                 // whose presence is wanted
	presence map[clearbox.UserID]wire.Presence // of those, as far as it is known
}

// told is when a contact was last told that we type, and how often since they
// last wrote.
type told struct {
	at time.Time
	n  int
}

func newFleeting() fleeting {
	return fleeting{told: map[string]told{}, typing: map[clearbox.UserID]*time.Timer{}, presence: map[clearbox.UserID]wire.Presence{}}
}

// SetTyping lets an accepted contact know that a message to them is being
// written. The host calls it with every key; a signal goes out at most once in
// 5 seconds, while connected and in a conversation that has begun on both sides,
// and reaches them or nobody. Whether it is passed on is for both servers and
// for what both people agreed to.
func (b *Brain) SetTyping(ctx context.Context, user clearbox.UserID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	uuid, now := uuidOfUser(user), b.opts.Now()
	b.mu.Lock()
	conn, last := b.fleeting.conn, b.fleeting.told[uuid]
	due := conn != nil && now.Sub(last.at) >= typingEvery && last.n < typingMost
	if due {
		b.fleeting.told[uuid] = told{now, last.n + 1}
	}
	b.mu.Unlock()
	if !due {
		return nil
	}
	var to *wire.Recipient
	err = b.vault.Update(ctx, func(tx Tx) (err error) {
		to, err = b.sealTyping(tx, s, uuid)
		return err
	})
	if errors.Is(err, errFleeting) {
		return nil
	}
	if err != nil {
		return err
	}
	_ = conn.link.send(ctx, &wire.ClientFrame{Type: wire.FrameSignal, To: to}) // a link that ends is noticed elsewhere
	return nil
}

// sealTyping makes the envelopes of a typing signal; errFleeting where that
// would take more than a session that both sides use.
func (b *Brain) sealTyping(tx Tx, s *self, uuid string) (*wire.Recipient, error) {
	c, err := load[contact](tx, contactKey(uuid))
	if err != nil {
		return nil, err
	}
	if c == nil || !c.Accepted || c.Blocked || c.Changed != nil || c.List == nil {
		return nil, errFleeting
	}
	devices, err := c.active()
	if err != nil {
		return nil, err
	}
	id, err := clearbox.NewMessageID(b.opts.Random)
	if err != nil {
		return nil, err
	}
	content, err := EncodeContent(&Content{Kind: KindTyping, ID: id, Sent: b.now(), From: s.User, To: c.User})
	if err != nil {
		return nil, err
	}
	to := &wire.Recipient{User: c.User}
	for _, d := range devices {
		t := target{c.User, clearbox.DeviceID(d.ID), d.Registration}
		if ok, err := b.hasSession(tx, s, t); err != nil || !ok {
			return nil, errors.Join(errFleeting, err)
		}
		e, err := b.encrypt(tx, s, t, content, nil)
		if err != nil {
			return nil, err
		}
		if e.Type != clearbox.ContentWhisper { // they have not written back yet
			return nil, errFleeting
		}
		to.Envelopes = append(to.Envelopes, e)
	}
	if s.elsewhere(c.User) {
		if err := b.sealSignal(tx, s, c, to); err != nil {
			return nil, err
		}
	}
	for _, e := range to.Envelopes {
		if len(e.Content) > wire.MaxSignal {
			return nil, errFleeting
		}
	}
	if len(to.Envelopes) == 0 {
		return nil, errFleeting
	}
	return to, nil
}

// sealSignal seals what goes to another server, if everything for it is there.
func (b *Brain) sealSignal(tx Tx, s *self, c *contact, to *wire.Recipient) error {
	cert, err := load[ownCertificate](tx, keyCertificate)
	if err != nil {
		return err
	}
	if c.Token == nil || cert == nil || cert.Expires <= b.soon(certificateMargin) {
		return errFleeting
	}
	sender, err := certificate.ParseSender(cert.Certificate)
	if err != nil {
		return errFleeting
	}
	identity, err := curve.ParsePublicKey(c.Identity)
	if err != nil {
		return err
	}
	to.Token = c.Token
	for i := range to.Envelopes {
		if err := b.sealOne(s, identity, sender, &to.Envelopes[i]); err != nil {
			return err
		}
	}
	return nil
}

// takeSignal reads a signal. What is wrong with one is nobody's concern: it
// leaves nothing behind.
func (b *Brain) takeSignal(ctx context.Context, env *clearbox.Envelope) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	var from clearbox.UserID
	err = b.vault.Update(ctx, func(tx Tx) (err error) {
		from, err = b.readSignal(tx, s, env)
		return err
	})
	if errors.Is(err, errFleeting) {
		return nil
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	if old := b.fleeting.typing[from]; old != nil {
		old.Stop()
	}
	b.fleeting.typing[from] = time.AfterFunc(typingShown, func() { b.stopTyping(from) })
	b.mu.Unlock()
	b.changed()
	return nil
}

// readSignal gives the accepted contact who types; everything else is errFleeting.
func (b *Brain) readSignal(tx Tx, s *self, env *clearbox.Envelope) (from clearbox.UserID, err error) {
	if env.Recipient != s.User || env.Device != s.Device {
		return from, errFleeting
	}
	l := openLetter(env)
	if env.Type == clearbox.ContentSealed {
		if l, err = b.openSignal(tx, s, env); err != nil {
			return from, err
		}
	} else if env.Sender.IsZero() || s.elsewhere(env.Sender) {
		return from, errFleeting
	}
	c, err := load[contact](tx, contactKey(l.uuid))
	if err != nil {
		return from, err
	}
	if l.Type != clearbox.ContentWhisper || c == nil || !c.Accepted || c.Blocked || c.Changed != nil || env.Origin != "" && c.User.Server != env.Origin {
		return from, errFleeting
	}
	l.Sender = c.User
	var got arrivals
	read, err := b.decrypt(tx, s, l, &got)
	if err != nil {
		return from, errors.Join(errFleeting, err)
	}
	if ok, err := b.certified(tx, s, l, read.Identity); err != nil || !ok {
		return from, errors.Join(errFleeting, err)
	}
	content, err := DecodeContent(read.Plaintext)
	if err != nil || content.Kind != KindTyping || content.From != c.User || content.To != s.User {
		return from, errFleeting
	}
	return c.User, nil
}

// openSignal opens a sealed signal if the roots of its server are known.
func (b *Brain) openSignal(tx Tx, s *self, env *clearbox.Envelope) (*letter, error) {
	body, ok := unpad(env.Content)
	if !ok || env.Origin == "" || env.Origin == s.User.Server {
		return nil, errFleeting
	}
	roots, err := load[serverRoots](tx, rootsKey(env.Origin))
	if err != nil {
		return nil, err
	}
	if roots == nil {
		return nil, errFleeting
	}
	content, err := b.unseal(tx, s, env, body, roots)
	if err != nil {
		return nil, errors.Join(errFleeting, err)
	}
	subject := content.Sender.Subject()
	l := &letter{Envelope: *env, uuid: subject.Account.UUID(), identity: subject.Identity.Bytes()}
	l.SenderDevice, l.Type, l.Content = clearbox.DeviceID(subject.Device), clearbox.ContentType(content.Type.Outer()), content.Body
	return l, nil
}

// Typing gives who types a message to us now. Watch tells when that changes; it
// ends 10 seconds after the last signal, or with the message.
func (b *Brain) Typing() []clearbox.UserID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []clearbox.UserID
	for user := range b.fleeting.typing {
		out = append(out, user)
	}
	return out
}

func (b *Brain) stopTyping(user clearbox.UserID) {
	b.mu.Lock()
	timer := b.fleeting.typing[user]
	if timer != nil {
		timer.Stop()
		delete(b.fleeting.typing, user)
	}
	b.mu.Unlock()
	if timer != nil {
		b.changed()
	}
}

// wrote notes that somebody has written: they do not type any more, and they
// are there.
func (b *Brain) wrote(user clearbox.UserID) {
	b.stopTyping(user)
	b.mu.Lock()
	if t, ok := b.fleeting.told[uuidOfUser(user)]; ok {
		b.fleeting.told[uuidOfUser(user)] = told{at: t.at}
	}
	b.mu.Unlock()
}

// Observe replaces the contacts whose presence is wanted, at most wire.MaxWatch;
// those elsewhere count only once they have accepted us.
func (b *Brain) Observe(ctx context.Context, users ...clearbox.UserID) error {
	if len(users) > wire.MaxWatch {
		return clearbox.Errorf(clearbox.CodeBadRequest, "at most %d people can be watched", wire.MaxWatch)
	}
	b.mu.Lock()
	b.fleeting.observed = slices.Clone(users)
	for user := range b.fleeting.presence {
		if !slices.Contains(users, user) {
			delete(b.fleeting.presence, user)
		}
	}
	conn := b.fleeting.conn
	b.mu.Unlock()
	if conn == nil {
		return nil // asked for with the next connection
	}
	return b.observe(ctx, conn)
}

// observeAgain asks over a new connection, if there is anything to ask.
func (b *Brain) observeAgain(ctx context.Context, conn *connection) error {
	b.mu.Lock()
	none := len(b.fleeting.observed) == 0
	b.mu.Unlock()
	if none {
		return nil
	}
	return b.observe(ctx, conn)
}

// observe asks the own server for the presence of those who are observed.
func (b *Brain) observe(ctx context.Context, conn *connection) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	b.mu.Lock()
	users := b.fleeting.observed
	b.mu.Unlock()
	f := &wire.ClientFrame{Type: wire.FrameWatch}
	err = b.vault.View(ctx, func(r Reader) error {
		f.Users, f.Tokens = nil, nil
		for _, user := range users {
			if !s.elsewhere(user) {
				f.Users = append(f.Users, user)
				continue
			}
			c, err := load[contact](r, contactKey(uuidOfUser(user)))
			if err != nil {
				return err
			}
			if c != nil && c.Accepted && !c.Blocked && c.Token != nil {
				f.Tokens = append(f.Tokens, wire.WatchToken{User: user, Token: c.Token})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	_ = conn.link.send(ctx, f) // a link that ends is noticed elsewhere, and the next one asks again
	return nil
}

// Presence is how an observed contact was last seen; PresenceAway also where it
// is not known.
func (b *Brain) Presence(user clearbox.UserID) wire.Presence {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.fleeting.presence[user]; ok {
		return p
	}
	return wire.PresenceAway
}

// seen takes what the own server says of somebody's presence.
func (b *Brain) seen(f *wire.ServerFrame) {
	p := f.Presence
	if p == "" && f.Online != nil && *f.Online {
		p = wire.PresenceActive
	}
	if p != wire.PresenceActive && p != wire.PresenceRecent {
		p = wire.PresenceAway
	}
	b.mu.Lock()
	known := slices.Contains(b.fleeting.observed, f.User)
	if known {
		b.fleeting.presence[f.User] = p
	}
	b.mu.Unlock()
	if known {
		b.changed()
	}
}

// attach makes conn the one that signals go over; nil after the last one, when
// nothing that was seen holds any more.
func (b *Brain) attach(conn *connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fleeting.conn = conn
	if conn != nil {
		return
	}
	clear(b.fleeting.presence)
	for user, timer := range b.fleeting.typing {
		timer.Stop()
		delete(b.fleeting.typing, user)
	}
}
