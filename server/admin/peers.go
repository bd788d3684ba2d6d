package admin

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Peers does the peering. deed is the audit row, complete: the implementation
// writes it in the transaction that changes the peer.
type Peers interface {
	Invite(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerInvite) (wire.AdminPeerInvited, error)
	Accept(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerAccept) (wire.AdminPeerAccepted, error)
	Test(ctx context.Context, server clearbox.ServerName) (wire.AdminPeerTest, error)
	Suspend(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error
	Resume(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error
	Remove(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error
	Conformance(ctx context.Context, server clearbox.ServerName) (wire.AdminConformance, error)
	Defederate(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error
	Set(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, b wire.AdminPeerSet) error
	Block(ctx context.Context, deed storage.AuditEntry, b wire.AdminBlockSet) (wire.AdminBlock, error)
	Unblock(ctx context.Context, deed storage.AuditEntry, name string) error
	// Blocked tells why nothing is exchanged with a server, if it is blocked.
	Blocked(server clearbox.ServerName) (reason string, blocked bool)
	Repin(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, words []string) error
}

// peering gives the peer operations to whoever may use them.
func (s *Service) peering(a Actor) (Peers, error) {
	if err := a.require(auth.RoleAdmin); err != nil {
		return nil, err
	}
	if s.o.Peers == nil {
		return nil, clearbox.Errorf(clearbox.CodeUnavailable, "federation is closed at this server (federation.mode)")
	}
	return s.o.Peers, nil
}

func (a Actor) deed(action string, server clearbox.ServerName) storage.AuditEntry {
	return storage.AuditEntry{ActorNo: a.UserNo, Role: storage.Role(a.Role), Action: action, Object: string(server)}
}

// Peers lists the peers in order of name.
func (s *Service) Peers(ctx context.Context, a Actor) (wire.AdminPeers, error) {
	list := wire.AdminPeers{Peers: []wire.AdminPeer{}}
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return list, err
	}
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		peers, err := tx.Peers()
		list.Peers = make([]wire.AdminPeer, 0, len(peers))
		for _, p := range peers {
			list.Peers = append(list.Peers, s.peer(p))
		}
		if err != nil {
			return err
		}
		blocks, err := tx.PeerBlocks()
		list.Blocks = len(blocks)
		return err
	})
	if err != nil {
		return list, fmt.Errorf("list peers: %w", err)
	}
	return list, nil
}

func (s *Service) peer(p storage.Peer) wire.AdminPeer {
	shown := wire.AdminPeer{
		Server: p.Server, State: string(p.State), Country: p.Country, Pin: hex.EncodeToString(p.Pin), Endpoints: p.Endpoints,
		AllowPrivate: p.AllowPrivate, ClockOffset: p.ClockOffset, LastSeen: p.LastSeen, LastTry: p.LastTry, NextTry: p.NextTry,
		Failures: p.Failures, LastError: p.LastError, Trouble: p.Trouble, Since: p.Since,
		Direction: p.Direction, Features: p.Features, Envelopes: p.Envelopes, Bytes: p.Bytes, FirstUse: p.FirstUse,
		ProbationUntil: p.ProbationUntil, StateSince: p.StateSince,
	}
	for _, step := range p.Steps {
		shown.Steps = append(shown.Steps, wire.AdminPeerStep(step))
	}
	if s.o.Peers != nil {
		shown.Blocked, _ = s.o.Peers.Blocked(p.Server)
	}
	if doc, err := federation.ParseDocument(p.Document); err == nil {
		shown.Document = doc.Expires
	}
	if len(p.Identity) > 0 {
		shown.Words = keys.FingerprintWords(p.Identity)
	}
	return shown
}

// InvitePeer makes the token that the other server's admin accepts.
func (s *Service) InvitePeer(ctx context.Context, a Actor, b wire.AdminPeerInvite) (wire.AdminPeerInvited, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeerInvited{}, err
	}
	if b.Server == s.server {
		return wire.AdminPeerInvited{}, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "this is the server itself", Field: "/server"}
	}
	return peers.Invite(ctx, a.deed("peer.invite", b.Server), b)
}

// AcceptPeer takes the other server's token: both servers exchange their
// documents and pin each other.
func (s *Service) AcceptPeer(ctx context.Context, a Actor, b wire.AdminPeerAccept) (wire.AdminPeerAccepted, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeerAccepted{}, err
	}
	return peers.Accept(ctx, a.deed("peer.accept", ""), b)
}

// TestPeer tries the way to a peer step by step. Steps that fail are no error.
func (s *Service) TestPeer(ctx context.Context, a Actor, server clearbox.ServerName) (wire.AdminPeerTest, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeerTest{}, err
	}
	t, err := peers.Test(ctx, server)
	t.Steps = notNil(t.Steps)
	return t, found(err, errNoPeer)
}

// SuspendPeer stops all traffic with a peer until ResumePeer; what waits for it
// stays in the queue until it expires.
func (s *Service) SuspendPeer(ctx context.Context, a Actor, server clearbox.ServerName) (wire.AdminPeer, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeer{}, err
	}
	if err := peers.Suspend(ctx, a.deed("peer.suspend", server), server); err != nil {
		return wire.AdminPeer{}, found(err, errNoPeer)
	}
	return s.onePeer(ctx, server)
}

// ResumePeer ends a suspension.
func (s *Service) ResumePeer(ctx context.Context, a Actor, server clearbox.ServerName) (wire.AdminPeer, error) {
	peers, err := s.peering(a)
	if err != nil {
		return wire.AdminPeer{}, err
	}
	if err := peers.Resume(ctx, a.deed("peer.resume", server), server); err != nil {
		return wire.AdminPeer{}, found(err, errNoPeer)
	}
	return s.onePeer(ctx, server)
}

// RemovePeer ends the peering. What waits for the peer is reported to its
// senders as undeliverable.
func (s *Service) RemovePeer(ctx context.Context, a Actor, server clearbox.ServerName) error {
	peers, err := s.peering(a)
	if err != nil {
		return err
	}
	return found(peers.Remove(ctx, a.deed("peer.remove", server), server), errNoPeer)
}

func (s *Service) onePeer(ctx context.Context, server clearbox.ServerName) (wire.AdminPeer, error) {
	var shown wire.AdminPeer
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		p, err := tx.Peer(server)
		shown = s.peer(p)
		return err
	})
	return shown, found(err, errNoPeer)
}

// FedStatus is what waits for each peer, and for each server that has a queue
// but is no peer any more.
func (s *Service) FedStatus(ctx context.Context, a Actor) (wire.AdminFedStatus, error) {
	st := wire.AdminFedStatus{Mode: s.o.Mode, Peers: []wire.AdminFedQueue{}, Alerts: []wire.AdminPeerAlert{}}
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return st, err
	}
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		peers, err := tx.Peers()
		if err != nil {
			return err
		}
		queues, err := tx.OutboxStats()
		if err != nil {
			return err
		}
		if st.Alerts, err = alerts(tx); err != nil {
			return err
		}
		st.Peers = make([]wire.AdminFedQueue, 0, len(peers))
		row := map[clearbox.ServerName]int{}
		for _, p := range peers {
			row[p.Server] = len(st.Peers)
			st.Peers = append(st.Peers, wire.AdminFedQueue{
				Server: p.Server, State: string(p.State), Failures: p.Failures, NextTry: p.NextTry, LastSeen: p.LastSeen,
				LastError: p.LastError, Trouble: p.Trouble, Since: p.Since, ClockOffset: p.ClockOffset,
			})
		}
		for _, q := range queues {
			i, known := row[q.Peer]
			if !known {
				i = len(st.Peers)
				row[q.Peer] = i
				st.Peers = append(st.Peers, wire.AdminFedQueue{Server: q.Peer, State: "unknown"})
			}
			r := &st.Peers[i]
			r.Queued += q.Count
			r.Bytes += q.Bytes
			if q.Oldest != 0 && (r.Oldest == 0 || q.Oldest < r.Oldest) {
				r.Oldest = q.Oldest
			}
		}
		return nil
	})
	if err != nil {
		return st, fmt.Errorf("read the outgoing queues: %w", err)
	}
	s.showPaths(st.Peers)
	s.showCircuits(st.Peers)
	return st, nil
}

// showCircuits adds what fails towards each peer.
func (s *Service) showCircuits(rows []wire.AdminFedQueue) {
	if s.o.Circuits == nil {
		return
	}
	for i := range rows {
		for _, o := range s.o.Circuits(rows[i].Server) {
			rows[i].Circuits = append(rows[i].Circuits, wire.AdminCircuit{
				Circuit: string(o.Circuit), Since: clearbox.Millis(o.Since.UnixMilli()), Until: clearbox.Millis(o.Until.UnixMilli()),
			})
		}
	}
}

// showPaths adds by which protocol each peer is reached now. Of several
// endpoints the one in use counts.
func (s *Service) showPaths(rows []wire.AdminFedQueue) {
	if s.o.Paths == nil {
		return
	}
	for _, p := range s.o.Paths() {
		for i := range rows {
			if rows[i].Server != p.Server {
				continue
			}
			if p.Proto != "" {
				rows[i].Protocol = string(p.Proto)
			}
			if !p.BrokenUntil.IsZero() {
				rows[i].H3BrokenUntil = clearbox.Millis(p.BrokenUntil.UnixMilli())
			}
		}
	}
}

// FedRetry forgets the backoff of one peer, or of all, and tries now.
func (s *Service) FedRetry(ctx context.Context, a Actor, b wire.AdminFedRetry) (wire.AdminFedRetried, error) {
	var none wire.AdminFedRetried
	if err := a.require(auth.RoleAdmin); err != nil {
		return none, err
	}
	if s.o.Retry == nil {
		return none, clearbox.Errorf(clearbox.CodeUnavailable, "federation is closed at this server (federation.mode)")
	}
	err := s.store.Update(ctx, func(tx *storage.Tx) error {
		if b.Server != "" {
			if _, err := tx.Peer(b.Server); err != nil {
				return err
			}
		}
		return tx.Audit(a.deed("fed.retry", b.Server))
	})
	if err != nil {
		return none, found(err, errNoPeer)
	}
	woken, err := s.o.Retry(ctx, b.Server)
	return wire.AdminFedRetried{Servers: notNil(woken)}, err
}

func errNoPeer() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "there is no peer with this name; see `clearbox peer list`")
}
