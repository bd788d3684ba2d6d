package server

import (
	"context"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/peering"
)

// openPeers reads the table of peers and what the configuration says about them.
func (s *Server) openPeers(ctx context.Context, c *config.Config) (err error) {
	o := peering.TableOptions{Now: s.o.Now}
	if c.Federation.Mode == config.ModeOpen {
		open := c.Federation.Open
		o.Open = &peering.Open{
			Basis: open.LegalBasis, Countries: open.Countries, Envelopes: open.PeerEnvelopesPerSecond, Bytes: int(open.PeerBytesPerSecond),
		}
	}
	if s.table, err = peering.OpenTable(ctx, s.store, o); err != nil {
		return err
	}
	var listed []peering.Configured
	for _, p := range c.Federation.Peers {
		pin, err := hexPin(p.Pin)
		if err != nil {
			return fmt.Errorf("federation.peers: %s: %w", p.Server, err)
		}
		listed = append(listed, peering.Configured{
			Server: p.Server, Endpoints: p.Endpoints, Pin: pin, Country: p.Country, AllowPrivate: p.AllowPrivate,
			Direction: p.Direction, Features: p.Features, Envelopes: int64(p.EnvelopesPerSecond), Bytes: int64(p.BytesPerSecond),
		})
	}
	return s.table.Configure(ctx, listed)
}

// strangers is who makes peers of servers that nobody agreed with: nobody unless
// the mode is open.
func (s *Server) strangers(c *config.Config) federation.Strangers {
	if c.Federation.Mode != config.ModeOpen {
		return nil
	}
	return s.table
}

// alert keeps what an administrator must look at.
func (s *Server) alert(peer clearbox.ServerName, kind federation.Alert) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.table.Alert(ctx, peer, kind); err != nil {
		s.log.Error("an alert about a peer is not kept", "peer", string(peer), "kind", string(kind), "code", string(clearbox.CodeOf(err)))
	}
}

// routes tells delivery which peers may be written to.
type routes struct{ s *Server }

func (r routes) Route(ctx context.Context, peer clearbox.ServerName) error {
	if r.s.table == nil {
		return clearbox.Errorf(clearbox.CodePeerBlocked, "this server exchanges no messages with other organisations")
	}
	if err := r.s.table.Route(ctx, peer); err != nil {
		return err
	}
	if _, known := r.s.table.Stored(peer); known {
		return nil
	}
	return r.s.client.Barred(peer)
}
