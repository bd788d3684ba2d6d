package peering

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// InviteTTL is how long a token lives when nothing else is asked for.
const InviteTTL = 72 * time.Hour

// Prober looks at an endpoint below the signatures.
type Prober interface {
	Endpoint(ctx context.Context, target federation.Target) (string, error)
	Resolve(ctx context.Context, base string, allowPrivate bool) ([]string, error)
	Handshake(ctx context.Context, base string, allowPrivate bool) (*transport.Probe, error)
	HandshakeQUIC(ctx context.Context, base string, allowPrivate bool) (*transport.Probe, error)
}

// Queues are what waits for peers.
type Queues interface {
	Retry(peer clearbox.ServerName) // try now
	Greet()                         // say hello to all active peers
}

// Options configure a Service.
type Options struct {
	Prober  Prober
	Queues  Queues
	Removed func(ctx context.Context, server clearbox.ServerName) error // after a peering ended, or nil: to report what waits
	Now     func() time.Time                                            // default time.Now
	Random  io.Reader                                                   // default crypto/rand
	Log     *slog.Logger                                                // default discards
}

// Service is what administrators do with peers, and the answering side of the
// handshake. Every deed writes its audit row in the transaction that does it.
// It is safe for concurrent use.
type Service struct {
	table  *Table
	self   *federation.Self
	client *federation.Client
	o      Options
}

var _ federation.Handshake = (*Service)(nil)

// New starts nothing.
func New(table *Table, self *federation.Self, client *federation.Client, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{table: table, self: self, client: client, o: o}
}

// OwnWords are the words of this server's identity, to be compared with what
// the other operator sees.
func (s *Service) OwnWords() []string {
	return keys.FingerprintWords(s.self.Document().IdentityKey())
}

// Invite makes the token for the operator of b.Server. The secret in it is
// kept as a hash; the token cannot be shown again.
func (s *Service) Invite(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerInvite) (wire.AdminPeerInvited, error) {
	var none wire.AdminPeerInvited
	if b.Server == s.self.Server() {
		return none, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "this is the server itself", Field: "/server"}
	}
	ttl := InviteTTL
	if b.TTL > 0 {
		ttl = time.Duration(b.TTL) * time.Second
	}
	secret := make([]byte, tokenSecret)
	if _, err := io.ReadFull(s.o.Random, secret); err != nil {
		return none, fmt.Errorf("draw a peering secret: %w", err)
	}
	doc := s.self.Document()
	pin := doc.Pin()
	t := &Token{Server: s.self.Server(), Pin: pin[:], Secret: secret, Expires: clearbox.Millis(s.o.Now().Add(ttl).UnixMilli())}
	for _, e := range doc.Endpoints {
		t.Endpoints = append(t.Endpoints, e.URL)
	}
	err := s.table.change(ctx, b.Server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		switch {
		case !known, p.State == storage.PeerRemoved, p.State == storage.PeerInvited, p.State == storage.PeerPending:
			p.State, p.Steps = storage.PeerInvited, nil
		default:
			return clearbox.Errorf(clearbox.CodeConflict, "there is a peering with this server already; see `clearbox peer list`")
		}
		p.Country, p.AllowPrivate = b.Country, b.AllowPrivate
		if err := tx.PutPeerInvite(storage.PeerInvite{Hash: secretHash(secret), Server: b.Server, Country: b.Country, Expires: t.Expires}); err != nil {
			return err
		}
		return audit(tx, deed, b.Server, "country "+b.Country)
	})
	if err != nil {
		return none, err
	}
	return wire.AdminPeerInvited{Server: b.Server, Token: t.String(), Words: s.OwnWords(), Expires: t.Expires}, nil
}

func audit(tx *storage.Tx, deed storage.AuditEntry, server clearbox.ServerName, detail string) error {
	deed.Object = string(server)
	if deed.Detail == "" {
		deed.Detail = detail
	}
	return tx.Audit(deed)
}

// Accept takes the other operator's token: it fetches that server's document,
// compares it with the pin in the token, introduces this server with the
// secret and, when that was accepted, stores the peer as active. Accepting
// again is harmless, so a lost answer is cured by a repeat.
func (s *Service) Accept(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerAccept) (wire.AdminPeerAccepted, error) {
	var none wire.AdminPeerAccepted
	t, err := ParseToken(b.Token)
	if err != nil {
		return none, err
	}
	switch {
	case t.Server == s.self.Server():
		return none, clearbox.Errorf(clearbox.CodeBadRequest, "this token was made by this server; it belongs to the other one")
	case int64(t.Expires) <= s.o.Now().UnixMilli():
		return none, clearbox.Errorf(clearbox.CodeInviteInvalid, "this token has expired; ask for a new one")
	}
	if _, blocked := s.table.Blocked(t.Server); blocked {
		return none, clearbox.Errorf(clearbox.CodeConflict, "this server is on the block list; first: clearbox peer unblock %s", t.Server)
	}
	if p, ok := s.table.Stored(t.Server); ok {
		if err := acceptable(&p, t); err != nil {
			return none, err
		}
	}
	target := federation.Target{Server: t.Server, Endpoints: t.Endpoints, AllowPrivate: b.AllowPrivate, Pinned: true}
	doc, err := s.introduce(ctx, target, t)
	if err != nil {
		return none, err
	}
	err = s.table.change(ctx, t.Server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if err := acceptable(p, t); err != nil { // it may have changed meanwhile
			return err
		}
		p.State, p.Country, p.AllowPrivate = storage.PeerActive, b.Country, b.AllowPrivate
		s.renew(p, doc)
		return audit(tx, deed, t.Server, "country "+b.Country+", pin "+hex.EncodeToString(p.Pin))
	})
	if err != nil {
		return none, err
	}
	s.retry(t.Server)
	p, _ := s.table.Stored(t.Server)
	return wire.AdminPeerAccepted{Peer: shown(&p), Own: s.OwnWords()}, nil
}

// acceptable tells whether a token may make or renew the peering. A token alone
// never replaces the identity of a server that is a peer: whoever makes it could
// then step into that server's place.
func acceptable(p *storage.Peer, t *Token) error {
	if p.State != storage.PeerActive && p.State != storage.PeerSuspended {
		return nil
	}
	if len(p.Pin) > 0 && !bytes.Equal(p.Pin, t.Pin) {
		return clearbox.Errorf(clearbox.CodeIdentityChanged,
			"there is a peering with %s under another identity than this token names; if that server really has a new one, remove the peering first: clearbox peer remove %s", t.Server, t.Server)
	}
	if p.State == storage.PeerSuspended {
		return clearbox.Errorf(clearbox.CodeConflict, "this peering is suspended; resume it instead: clearbox peer resume %s", t.Server)
	}
	return nil
}

// introduce makes the handshake over the wire and returns the other side's
// checked document.
func (s *Service) introduce(ctx context.Context, target federation.Target, t *Token) (*federation.Document, error) {
	doc, err := s.client.GetDocument(ctx, target)
	if err != nil {
		return nil, refuseIntroduction(err)
	}
	if err := doc.Check(t.Server, [32]byte(t.Pin), s.o.Now()); err != nil {
		return nil, refuseIdentity(err)
	}
	body, err := federation.EncodePeering(&federation.PeeringRequest{Secret: t.Secret, Document: s.self.Document().Signed()})
	if err != nil {
		return nil, err
	}
	raw, err := s.client.Introduce(ctx, target, doc, federation.PathPeering, body, 2*federation.MaxDocument)
	if err != nil {
		return nil, refuseIntroduction(err)
	}
	answer, err := federation.DecodePeering(raw)
	if err != nil {
		return nil, err
	}
	newest, err := federation.ParseDocument(answer.Document)
	if err != nil {
		return nil, err
	}
	if err := newest.Check(t.Server, [32]byte(t.Pin), s.o.Now()); err != nil {
		return nil, refuseIdentity(err)
	}
	return newest, newest.Follows(doc)
}

func refuseIdentity(err error) error {
	if clearbox.CodeOf(err) == clearbox.CodeIdentityChanged {
		return clearbox.Wrap(clearbox.CodeIdentityChanged, "the server at the token's address has another identity than the token names; nothing was changed", err)
	}
	return err
}

func refuseIntroduction(err error) error {
	if private := (*transport.AddressError)(nil); errors.As(err, &private) {
		return clearbox.Wrap(clearbox.CodeForbidden, private.Host+" has no public address; for two servers on one machine or in a private network accept with --allow-private", err)
	}
	if cert := (*tls.CertificateVerificationError)(nil); errors.As(err, &cert) {
		return clearbox.Wrap(clearbox.CodePeerUnreachable, "the certificate that the other server shows is not valid or not known here; a private certificate authority is named in federation.ca_file", err)
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodeInviteInvalid:
		return clearbox.Wrap(clearbox.CodeInviteInvalid, "the other server does not accept this token: it was used, has expired or is meant for another server", err)
	case clearbox.CodeClockSkew:
		return clearbox.Wrap(clearbox.CodeClockSkew, "the clocks of the two servers differ by more than 15 minutes", err)
	}
	return err
}

// renew takes the handshake's document, whatever was known before.
func (s *Service) renew(p *storage.Peer, doc *federation.Document) {
	if p.FirstUse, p.ProbationUntil, p.Steps = false, 0, nil; p.Direction == "" {
		p.Direction = "both"
	}
	p.Failures, p.NextTry, p.LastError, p.Trouble, p.Since = 0, 0, "", "", 0
	p.LastSeen = clearbox.Millis(s.o.Now().UnixMilli())
	s.table.adopt(p, doc)
}

// Peering is the inviter's side of the handshake. The secret is spent in the
// transaction that makes the peer active; a repeat by the same identity is
// answered like the first time, because the answer may have been lost.
func (s *Service) Peering(ctx context.Context, doc *federation.Document, secret []byte) error {
	invalid := clearbox.Errorf(clearbox.CodeInviteInvalid, "this invitation is not valid")
	if _, blocked := s.table.Blocked(doc.Server); blocked || len(secret) != tokenSecret || doc.Server == s.self.Server() {
		return invalid
	}
	pin := doc.Pin()
	if p, ok := s.table.Stored(doc.Server); ok && p.State == storage.PeerActive && bytes.Equal(p.Pin, pin[:]) {
		return nil
	}
	err := s.table.change(ctx, doc.Server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known || p.State != storage.PeerInvited {
			return invalid
		}
		v, err := tx.UsePeerInvite(secretHash(secret))
		if errors.Is(err, storage.ErrNotFound) || err == nil && v.Server != doc.Server {
			return invalid
		}
		if err != nil {
			return err
		}
		p.State, p.Country = storage.PeerActive, v.Country
		s.renew(p, doc)
		return tx.Audit(storage.AuditEntry{Action: "peer.accepted", Object: string(doc.Server), Detail: "country " + v.Country + ", pin " + hex.EncodeToString(pin[:])})
	})
	if err != nil {
		return err
	}
	s.o.Log.Info("peering made", "peer", string(doc.Server))
	s.retry(doc.Server)
	return nil
}

// Suspend stops traffic in both directions; what waits stays.
func (s *Service) Suspend(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return s.turn(ctx, deed, server, storage.PeerSuspended, storage.PeerActive)
}

// Resume ends a suspension: what waits goes out, and the peer is greeted so
// that its queue wakes too.
func (s *Service) Resume(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	if err := s.turn(ctx, deed, server, storage.PeerActive, storage.PeerSuspended); err != nil {
		return err
	}
	s.retry(server)
	if s.o.Queues != nil {
		s.o.Queues.Greet()
	}
	return nil
}

// Remove ends the peering. The record stays so that the peer's requests are
// refused by name; invitations that are still open are withdrawn, and a new one
// begins anew. A peer from the configuration
// is removed there.
func (s *Service) Remove(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	if err := s.notConfigured(ctx, server); err != nil {
		return err
	}
	err := s.turn(ctx, deed, server, storage.PeerRemoved, storage.PeerActive, storage.PeerSuspended, storage.PeerInvited, storage.PeerPending)
	if err != nil {
		return err
	}
	_ = s.giveUp(context.WithoutCancel(ctx), server) // what is left, Tend does
	return nil
}

// notConfigured refuses to end what the configuration would begin again.
func (s *Service) notConfigured(ctx context.Context, server clearbox.ServerName) error {
	before, err := s.table.configuredBefore(ctx)
	if err == nil && slices.Contains(before, server) {
		err = clearbox.Errorf(clearbox.CodeConflict, "this peer stands in the configuration (federation.peers); take it out there")
	}
	return err
}

// turn changes the state when it is one of from; being there already is fine
// and writes the deed all the same.
func (s *Service) turn(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, to storage.PeerState, from ...storage.PeerState) error {
	return s.table.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known || p.State == storage.PeerRemoved {
			return storage.ErrNotFound
		}
		allowed := p.State == to
		for _, f := range from {
			allowed = allowed || p.State == f
		}
		if !allowed {
			return clearbox.Errorf(clearbox.CodeConflict, "the peering is %s", p.State)
		}
		if p.State = to; to == storage.PeerRemoved {
			if err := tx.DeletePeerInvites(server); err != nil {
				return err
			}
		}
		return audit(tx, deed, server, "")
	})
}

// Retry forgets the backoff of one active peer, or of all with an empty name,
// and tells which were woken.
func (s *Service) Retry(ctx context.Context, server clearbox.ServerName) ([]clearbox.ServerName, error) {
	peers, err := s.table.Active(ctx)
	if err != nil {
		return nil, err
	}
	var woken []clearbox.ServerName
	for _, p := range peers {
		if server == "" || p == server {
			s.retry(p)
			woken = append(woken, p)
		}
	}
	return woken, nil
}

func (s *Service) retry(server clearbox.ServerName) {
	if s.o.Queues != nil {
		s.o.Queues.Retry(server)
	}
}

func shown(p *storage.Peer) wire.AdminPeer {
	return wire.AdminPeer{
		Server: p.Server, State: string(p.State), Country: p.Country, Words: keys.FingerprintWords(p.Identity), Pin: hex.EncodeToString(p.Pin),
		Endpoints: p.Endpoints, AllowPrivate: p.AllowPrivate, ClockOffset: p.ClockOffset, LastSeen: p.LastSeen,
	}
}
