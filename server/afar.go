package server

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/afar"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// buildAfar makes what carries presence and signals to and from peers.
func (s *Server) buildAfar(name clearbox.ServerName) {
	s.ephemera = federation.NewEphemera(s.client, federation.EphemeraOptions{Now: s.o.Now, Log: s.log})
	s.afar = afar.New(name, s.presence, afar.Options{
		Now: s.o.Now, Log: s.log, Allows: s.allows, MayReach: s.delivery.MayReach, Person: s.seenAfar, Send: s.ephemera.Send,
		Deliver: func(e clearbox.Envelope) { s.api.Signal(e) }, // built with the doors; peers come after
	})
}

// allows tells whether a feature is exchanged with a peer.
func (s *Server) allows(ctx context.Context, peer clearbox.ServerName, feature string) bool {
	p, err := s.table.Peer(ctx, peer)
	return err == nil && p.State == federation.PeerActive && p.Allows(feature)
}

// seenAfar tells whether somebody here is seen by people elsewhere: with both
// consents to presence.
func (s *Server) seenAfar(ctx context.Context, uid clearbox.UID) (afar.Person, error) {
	var p afar.Person
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		p = afar.Person{Shown: true}
		u, err := tx.UserByUID(uid)
		if err != nil {
			return err
		}
		if u.State != storage.UserActive {
			return storage.ErrNotFound
		}
		for _, purpose := range []auth.Purpose{auth.PurposePresence, auth.PurposeFederatedPresence} {
			ok, err := s.auth.ConsentedTx(tx, u.No, purpose)
			if err != nil {
				return err
			}
			p.Shown = p.Shown && ok
		}
		devices, err := tx.Devices(u.No)
		for _, d := range devices {
			p.LastDay = max(p.LastDay, d.LastSeenDay)
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return afar.Person{}, nil
	}
	return p, err
}
