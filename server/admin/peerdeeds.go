package admin

import (
	"context"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// SetPeer changes what a peering allows: direction, features, quotas, country.
// It holds at once.
func (s *Service) SetPeer(ctx context.Context, a Actor, server clearbox.ServerName, b wire.AdminPeerSet) (wire.AdminPeer, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeer{}, err
	}
	if err := peers.Set(ctx, a.deed("peer.set", server), server, b); err != nil {
		return wire.AdminPeer{}, found(err, errNoPeer)
	}
	return s.onePeer(ctx, server)
}

// DefederatePeer ends a peering step by step; the answer shows how far it has
// come. Calling it again goes on from there.
func (s *Service) DefederatePeer(ctx context.Context, a Actor, server clearbox.ServerName) (wire.AdminPeer, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeer{}, err
	}
	if err := peers.Defederate(ctx, a.deed("peer.defederate", server), server); err != nil {
		return wire.AdminPeer{}, found(err, errNoPeer)
	}
	return s.onePeer(ctx, server)
}

// BlockPeer puts a server or a whole domain on the block list.
func (s *Service) BlockPeer(ctx context.Context, a Actor, b wire.AdminBlockSet) (wire.AdminBlock, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminBlock{}, err
	}
	return peers.Block(ctx, a.deed("peer.block", ""), b)
}

// UnblockPeer ends a block.
func (s *Service) UnblockPeer(ctx context.Context, a Actor, b wire.AdminUnblock) error {
	peers, err := s.peering(a)
	if err != nil {
		return err
	}
	return found(peers.Unblock(ctx, a.deed("peer.unblock", ""), b.Name), errNoBlock)
}

// PeerBlocks is the block list, in order of name.
func (s *Service) PeerBlocks(ctx context.Context, a Actor) (wire.AdminBlocks, error) {
	list := wire.AdminBlocks{Blocks: []wire.AdminBlock{}}
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return list, err
	}
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		blocks, err := tx.PeerBlocks()
		list.Blocks = make([]wire.AdminBlock, 0, len(blocks))
		for _, b := range blocks {
			list.Blocks = append(list.Blocks, wire.AdminBlock(b))
		}
		return err
	})
	if err != nil {
		return list, fmt.Errorf("read the block list: %w", err)
	}
	return list, nil
}

// PeerAlerts is what somebody must look at, oldest first.
func (s *Service) PeerAlerts(ctx context.Context, a Actor) (wire.AdminPeerAlerts, error) {
	list := wire.AdminPeerAlerts{Alerts: []wire.AdminPeerAlert{}}
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return list, err
	}
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		list.Alerts, err = alerts(tx)
		return err
	})
	if err != nil {
		return list, fmt.Errorf("read the alerts about peers: %w", err)
	}
	return list, nil
}

func alerts(tx *storage.Tx) ([]wire.AdminPeerAlert, error) {
	open, err := tx.PeerAlerts()
	out := make([]wire.AdminPeerAlert, 0, len(open))
	for _, al := range open {
		out = append(out, wire.AdminPeerAlert{Server: al.Peer, Kind: al.Kind, Since: al.Since, Last: al.Last, Count: al.Count})
	}
	return out, err
}

// ResolveAlerts says that somebody has looked at alerts. What happens again is
// raised again.
func (s *Service) ResolveAlerts(ctx context.Context, a Actor, b wire.AdminAlertsResolve) (wire.AdminAlertsResolved, error) {
	var done wire.AdminAlertsResolved
	if err := a.require(auth.RoleAdmin); err != nil {
		return done, err
	}
	err := s.store.Update(ctx, func(tx *storage.Tx) (err error) {
		if done.Resolved, err = tx.ResolvePeerAlerts(b.Server, b.Kind); err != nil {
			return err
		}
		deed := a.deed("peer.alerts_resolve", b.Server)
		deed.Detail = b.Kind
		return tx.Audit(deed)
	})
	if err != nil {
		return wire.AdminAlertsResolved{}, fmt.Errorf("resolve alerts: %w", err)
	}
	return done, nil
}

func errNoBlock() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "nothing is blocked under this name; see `clearbox peer blocks`")
}
