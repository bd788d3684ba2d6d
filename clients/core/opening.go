package core

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
	"github.com/clearbox-im/clearbox/server/wire"
)

// rootsEvery is how often a server's roots are asked for at most.
const rootsEvery = time.Minute

// letter is one envelope for this device with who sent it: as the own server
// says, or as the certificate inside proves.
type letter struct {
	clearbox.Envelope        // Sender is zero as long as only the service id is known
	uuid              string // of the sender
	identity          []byte // that the certificate names; nil where there is none
}

func openLetter(env *clearbox.Envelope) *letter {
	return &letter{Envelope: *env, uuid: uuidOfUser(env.Sender)}
}

// sessions is the ratchet's view of the sender's devices.
func (l *letter) sessions(tx Tx, s *self) *sessions {
	return &sessions{tx: tx, self: s, user: l.Sender, uuid: l.uuid}
}

// SomebodyAt stands for a sender of a server who cannot be told: what could not
// be opened is shown in a conversation of that name.
func SomebodyAt(server clearbox.ServerName) clearbox.UserID {
	return clearbox.UserID{UID: derivedUID("clearbox somebody", string(server)), Server: server}
}

// serverRoots is what vouches for people of a server.
type serverRoots struct {
	Roots []senderRoot    `cbor:"1,keyasint"`
	Asked clearbox.Millis `cbor:"2,keyasint"` // when the server was last asked
	// Country is where it is, as the own server has it; empty where that is not known.
	Country string `cbor:"3,keyasint,omitempty"`
}

// senderRoot is wire.SenderRoot in the vault.
type senderRoot struct {
	Key       []byte          `cbor:"1,keyasint"`
	NotBefore clearbox.Millis `cbor:"2,keyasint"`
	Expires   clearbox.Millis `cbor:"3,keyasint"`
}

// rootsMargin is by how much a server's clock may have stepped back since it made
// its root.
const rootsMargin = 24 * time.Hour

// at gives the keys that were in force at a moment.
func (r *serverRoots) at(moment clearbox.Millis) []curve.PublicKey {
	var out []curve.PublicKey
	for _, root := range r.Roots {
		key, err := curve.ParsePublicKey(root.Key)
		if err == nil && root.NotBefore-clearbox.Millis(rootsMargin.Milliseconds()) <= moment && moment <= root.Expires {
			out = append(out, key)
		}
	}
	return out
}

// sealedHeld is a sealed envelope that waits for the roots of its server.
type sealedHeld struct {
	Envelope wire.Envelope   `cbor:"1,keyasint"` // whose sender may be absent
	Since    clearbox.Millis `cbor:"2,keyasint"`
}

// takeSealed reads a sealed envelope that has just come, or lets it wait behind
// others of its server.
func (b *Brain) takeSealed(tx Tx, s *self, env *clearbox.Envelope, got *arrivals) error {
	h := sealedHeld{Envelope: wire.Envelope(*env), Since: b.now()}
	before, err := tx.List(Range{Prefix: sealedPrefix(env.Origin), Limit: 1})
	if err != nil {
		return err
	}
	wait := len(before) > 0
	if !wait {
		if wait, err = b.readSealed(tx, s, &h, got); err != nil {
			return err
		}
	}
	if !wait {
		return nil
	}
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	got.tasks = true
	return save(tx, sealedKey(env.Origin, order), h)
}

// reasons that a sealed envelope is refused, besides those of receive.go.
const (
	reasonPadding   clearbox.Code = "bad_padding"           // not padded as sealed messages are
	reasonSealed    clearbox.Code = "not_sealed_for_us"     // altered, or sealed for other keys
	reasonSealer    clearbox.Code = "certificate_stolen"    // sealed by another key than the certificate's
	reasonExpired   clearbox.Code = "certificate_expired"   // before the sender's server accepted the message
	reasonUntrusted clearbox.Code = "certificate_untrusted" // not of the server that sent it
	reasonOrigin    clearbox.Code = "wrong_server"          // names somebody who is not of the server that sent it
	reasonIdentity  clearbox.Code = "wrong_identity"        // its key is not that of the session
)

// readSealed opens a sealed envelope and reads what is inside. wait tells that
// nothing was done because the roots of its server are not known, or none of
// those that were known when it came fits. Errors are the vault's.
func (b *Brain) readSealed(tx Tx, s *self, h *sealedHeld, got *arrivals) (wait bool, err error) {
	env := (*clearbox.Envelope)(&h.Envelope)
	l := &letter{Envelope: *env}
	many := len(env.Content) > 0 && env.Content[0] == fanout.TypeReceived // of a group, where the own server's people seal too
	if env.Origin == "" || env.Origin == s.User.Server && !many {
		return false, b.unreadable(tx, s, l, reasonMisrouted, got)
	}
	body, ok := unpad(env.Content)
	if many {
		body, ok = env.Content, true
	}
	if !ok {
		return false, b.unreadable(tx, s, l, reasonPadding, got)
	}
	roots, err := load[serverRoots](tx, rootsKey(env.Origin))
	if err != nil || roots == nil {
		return true, err
	}
	content, err := b.unseal(tx, s, env, body, roots)
	switch {
	case err == nil:
	case errors.Is(err, certificate.ErrUntrusted):
		if roots.Asked < h.Since || roots.Asked > b.now() { // not asked since, or the clock was put back
			return true, nil
		}
		return false, b.unreadable(tx, s, l, reasonUntrusted, got)
	case errors.Is(err, certificate.ErrSignature):
		return false, b.unreadable(tx, s, l, reasonUntrusted, got)
	case errors.Is(err, certificate.ErrExpired):
		return false, b.unreadable(tx, s, l, reasonExpired, got)
	case errors.Is(err, sealed.ErrSender):
		return false, b.unreadable(tx, s, l, reasonSealer, got)
	case errors.Is(err, sealed.ErrOwn):
		return false, b.unreadable(tx, s, l, reasonOrigin, got)
	default:
		return false, b.unreadable(tx, s, l, reasonSealed, got)
	}
	subject := content.Sender.Subject()
	l.uuid, l.identity = subject.Account.UUID(), subject.Identity.Bytes()
	if many != (content.Type == sealed.TypeSenderKey) || many && !names(content.Group) {
		return false, b.unreadable(tx, s, l, reasonSealed, got)
	}
	l.SenderDevice, l.Type, l.Content = clearbox.DeviceID(subject.Device), clearbox.ContentType(content.Type.Outer()), content.Body
	c, err := load[contact](tx, contactKey(l.uuid))
	switch {
	case err != nil:
		return false, err
	case l.uuid == s.uuid && (!many || env.Origin != s.User.Server) || c != nil && c.User.Server != env.Origin:
		// The server of one organisation vouched for a person of another one.
		l.uuid = ""
		return false, b.unreadable(tx, s, l, reasonOrigin, got)
	case c != nil:
		l.Sender = c.User
	}
	if many {
		return false, b.readMany(tx, s, l, clearbox.GroupID(content.Group[:32]), got)
	}
	return false, b.readLetter(tx, s, l, got)
}

// unseal opens what was sealed for this device, whichever identity of the account
// its sender knew.
func (b *Brain) unseal(r Reader, s *self, env *clearbox.Envelope, body []byte, roots *serverRoots) (*sealed.Content, error) {
	open := func(identity *curve.PrivateKey) (*sealed.Content, error) {
		receiver := sealed.Receiver{Account: s.id, Device: uint8(s.Device), Identity: identity}
		return receiver.Open(body, time.UnixMilli(int64(env.AcceptedAt)), roots.at(env.AcceptedAt)...)
	}
	content, err := open(s.identity)
	if err == nil || opened(err) {
		return content, err
	}
	all, fault := b.identities(r, s)
	if fault != nil {
		return nil, fault
	}
	for _, identity := range all {
		if content, other := open(identity); other == nil || opened(other) {
			return content, other
		}
	}
	return nil, err
}

// opened tells errors of who sealed something from that it was not for us.
func opened(err error) bool {
	for _, known := range []error{certificate.ErrUntrusted, certificate.ErrSignature, certificate.ErrExpired, sealed.ErrSender, sealed.ErrOwn} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// names tells whether what a sealed message says of its group is an id, filled up
// with zeros.
func names(b []byte) bool {
	return len(b) >= 32 && len(bytes.TrimRight(b[32:], "\x00")) == 0
}

// introduce learns the uid of a sender whose service id alone was known, from
// inside the encryption. What the session left behind goes when it does not fit.
func (b *Brain) introduce(tx Tx, s *self, l *letter, from clearbox.UserID) (ok bool, err error) {
	if uuidOfUser(from) != l.uuid || from.Server != l.Origin {
		return false, b.forgetStranger(tx, s, l)
	}
	l.Sender = from
	store := l.sessions(tx, s)
	c, err := store.contact()
	if err != nil {
		return false, err
	}
	c.User = from
	return true, save(tx, contactKey(l.uuid), c)
}

// forgetStranger removes what a message of somebody without a uid left behind.
func (b *Brain) forgetStranger(tx Tx, s *self, l *letter) error {
	if l.uuid == "" || !l.Sender.IsZero() {
		return nil
	}
	store := l.sessions(tx, s)
	return errors.Join(tx.Delete(contactKey(l.uuid)), tx.Delete(sessionKey(store.peer(l.SenderDevice))))
}

// tendRoots asks for the roots that sealed mail waits for, and reads the mail.
func (b *Brain) tendRoots(ctx context.Context) error {
	servers := map[clearbox.ServerName]clearbox.Millis{} // when each was last asked
	err := b.vault.View(ctx, func(r Reader) error {
		entries, err := r.List(Range{Prefix: prefixSealed})
		if err != nil {
			return err
		}
		for _, e := range entries {
			server := serverOf(e.Key)
			if _, seen := servers[server]; seen {
				continue
			}
			roots, err := load[serverRoots](r, rootsKey(server))
			if err != nil {
				return err
			}
			servers[server] = 0
			if roots != nil {
				servers[server] = roots.Asked
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var first error
	for server, asked := range servers {
		if now := b.now(); asked > 0 && asked <= now && now < asked+clearbox.Millis(rootsEvery.Milliseconds()) {
			continue // the next round of tasks
		}
		if err := b.fetchRoots(ctx, server); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// fetchRoots learns a server's roots from the own one and reads what waits for
// them, in the order in which it came.
func (b *Brain) fetchRoots(ctx context.Context, server clearbox.ServerName) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	info, err := b.Server(ctx, server)
	if err != nil && (passing(clearbox.CodeOf(err)) || lasting(err) || ctx.Err() != nil) {
		return err
	}
	now, unknown := b.now(), err != nil
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{}
		roots, err := load[serverRoots](tx, rootsKey(server))
		if err != nil {
			return err
		}
		next := serverRoots{Asked: now, Country: info.Country}
		for _, r := range info.Roots {
			next.Roots = append(next.Roots, senderRoot(r))
		}
		switch {
		case roots == nil:
		case unknown: // refused: nothing was withdrawn
			next.Roots, next.Country = roots.Roots, roots.Country
		default:
			next.keepEnded(roots, now)
		}
		if err := save(tx, rootsKey(server), next); err != nil {
			return err
		}
		waiting, err := tx.List(Range{Prefix: sealedPrefix(server)})
		if err != nil {
			return err
		}
		for _, e := range waiting {
			h, err := parse[sealedHeld](e.Value)
			if err != nil {
				return err
			}
			if wait, err := b.readSealed(tx, s, h, &got); err != nil || wait {
				return errors.Join(err, b.askAll(tx, s, &got))
			}
			if err := tx.Delete(e.Key); err != nil {
				return err
			}
		}
		return b.askAll(tx, s, &got)
	})
	if err == nil {
		b.actOn(got)
	}
	return err
}

// keepEnded takes over roots whose time is up: mail of their time may still
// come. What the server leaves out before its time was withdrawn.
func (r *serverRoots) keepEnded(old *serverRoots, now clearbox.Millis) {
	const most = 64
	for _, o := range old.Roots {
		if o.Expires < now && len(r.Roots) < most && !r.has(o.Key) {
			r.Roots = append(r.Roots, o)
		}
	}
}

func (r *serverRoots) has(key []byte) bool {
	for _, root := range r.Roots {
		if string(root.Key) == string(key) {
			return true
		}
	}
	return false
}

// Server asks the own homeserver what it knows of an organisation: whether it
// answers and since when not, and who runs it.
func (b *Brain) Server(ctx context.Context, name clearbox.ServerName) (wire.ServerInfo, error) {
	var info wire.ServerInfo
	if err := b.call(ctx, "GET", "/servers/"+string(name), nil, &info); err != nil {
		return wire.ServerInfo{}, err
	}
	if info.Server != name {
		return wire.ServerInfo{}, clearbox.Errorf(clearbox.CodeInternal, "the server answered about another one")
	}
	return info, nil
}

// derivedUID makes the uid that stands for something that has none.
func derivedUID(label, name string) clearbox.UID {
	id := keys.AccountServiceID(label + "\x00" + name)
	return clearbox.UID(clearbox.MessageID(id[1:]).String())
}
