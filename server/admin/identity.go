package admin

import (
	"context"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Identity is the server's identity. deed is the audit row, complete but for
// what the implementation knows better.
type Identity interface {
	Show() wire.AdminIdentity
	Rotate(ctx context.Context, deed storage.AuditEntry) (wire.AdminIdentity, error)
	Offline(ctx context.Context, deed storage.AuditEntry, b wire.AdminIdentityOffline) (wire.AdminIdentity, error)
	Online(ctx context.Context, deed storage.AuditEntry) (wire.AdminIdentity, error)
	RevokeKey(ctx context.Context, deed storage.AuditEntry, kid string) (wire.AdminIdentity, error)
}

func (s *Service) identity(a Actor, roles ...auth.Role) (Identity, error) {
	if err := a.require(roles...); err != nil {
		return nil, err
	}
	if s.o.Identities == nil {
		return nil, clearbox.Errorf(clearbox.CodeUnavailable, "federation is closed at this server (federation.mode)")
	}
	return s.o.Identities, nil
}

// Identity shows the identity and the operational keys.
func (s *Service) Identity(a Actor) (wire.AdminIdentity, error) {
	id, err := s.identity(a, auth.RoleAdmin, auth.RoleDPO)
	if err != nil {
		return wire.AdminIdentity{}, err
	}
	return id.Show(), nil
}

// RotateIdentity makes a new identity, which peers follow.
func (s *Service) RotateIdentity(ctx context.Context, a Actor) (wire.AdminIdentity, error) {
	id, err := s.identity(a, auth.RoleAdmin)
	if err != nil {
		return wire.AdminIdentity{}, err
	}
	return id.Rotate(ctx, a.deed("identity.rotate", ""))
}

// RevokeKey drops an operational key at once.
func (s *Service) RevokeKey(ctx context.Context, a Actor, kid string) (wire.AdminIdentity, error) {
	id, err := s.identity(a, auth.RoleAdmin)
	if err != nil {
		return wire.AdminIdentity{}, err
	}
	return id.RevokeKey(ctx, a.deed("identity.revoke_key", ""), kid)
}

// IdentityOffline signs documents in advance and removes the identity key from
// the disk. Only whoever holds the machine may ask: the export lies there.
func (s *Service) IdentityOffline(ctx context.Context, a Actor, b wire.AdminIdentityOffline) (wire.AdminIdentity, error) {
	id, err := s.identity(a, auth.RoleAdmin)
	if err != nil {
		return wire.AdminIdentity{}, err
	}
	if !a.local() {
		return wire.AdminIdentity{}, errForbidden()
	}
	return id.Offline(ctx, a.deed("identity.offline", ""), b)
}

// IdentityOnline takes over the key that was put back on the disk.
func (s *Service) IdentityOnline(ctx context.Context, a Actor) (wire.AdminIdentity, error) {
	id, err := s.identity(a, auth.RoleAdmin)
	if err != nil {
		return wire.AdminIdentity{}, err
	}
	if !a.local() {
		return wire.AdminIdentity{}, errForbidden()
	}
	return id.Online(ctx, a.deed("identity.online", ""))
}

// RepinPeer pins the identity that a peer shows now, when its fingerprint has
// the words that its administrator reads out.
func (s *Service) RepinPeer(ctx context.Context, a Actor, server clearbox.ServerName, b wire.AdminPeerRepin) (wire.AdminPeer, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeer{}, err
	}
	if err := peers.Repin(ctx, a.deed("peer.repin", server), server, b.Words); err != nil {
		return wire.AdminPeer{}, found(err, errNoPeer)
	}
	return s.onePeer(ctx, server)
}

// Conformance asks a peer whether it keeps the protocol. Checks that fail are
// no error.
func (s *Service) Conformance(ctx context.Context, a Actor, server clearbox.ServerName) (wire.AdminConformance, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminConformance{}, err
	}
	r, err := peers.Conformance(ctx, server)
	r.Checks = notNil(r.Checks)
	return r, found(err, errNoPeer)
}
