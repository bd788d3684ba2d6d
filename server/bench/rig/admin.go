package rig

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox/server/wire"
)

// Admin speaks with the server's admin socket, as the admin commands do.
// Close it.
func (s *Server) Admin() (*Client, error) {
	cfg, err := s.Config()
	if err != nil {
		return nil, err
	}
	path := cfg.AdminSocket()
	return &Client{base: "http://admin", http: &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}},
	}}, nil
}

// Peer lets two running servers become peers through the handshake that
// admins use: an invite of the one, accepted by the other.
func Peer(ctx context.Context, a, b *Server) error {
	inviting, err := a.Admin()
	if err != nil {
		return err
	}
	defer inviting.Close()
	accepting, err := b.Admin()
	if err != nil {
		return err
	}
	defer accepting.Close()
	var invited wire.AdminPeerInvited
	if err := inviting.Do(ctx, http.MethodPost, "/admin/peers/invite", "", &wire.AdminPeerInvite{Server: b.Name, Country: "AT", AllowPrivate: true}, &invited); err != nil {
		return fmt.Errorf("invite %s: %w", b.Name, err)
	}
	var accepted wire.AdminPeerAccepted
	if err := accepting.Do(ctx, http.MethodPost, "/admin/peers/accept", "", &wire.AdminPeerAccept{Token: invited.Token, Country: "AT", AllowPrivate: true}, &accepted); err != nil {
		return fmt.Errorf("accept the invite of %s: %w", a.Name, err)
	}
	for _, side := range []struct {
		c    *Client
		peer *Server
	}{{inviting, b}, {accepting, a}} {
		if err := waitActive(ctx, side.c, side.peer); err != nil {
			return err
		}
	}
	return nil
}

func waitActive(ctx context.Context, c *Client, peer *Server) error {
	state := "unknown"
	for range 100 {
		var list wire.AdminPeers
		if err := c.Do(ctx, http.MethodGet, "/admin/peers", "", nil, &list); err != nil {
			return err
		}
		for _, p := range list.Peers {
			if p.Server == peer.Name {
				state = p.State
			}
		}
		if state == "active" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("rig: the peer %s stays %s", peer.Name, state)
}
