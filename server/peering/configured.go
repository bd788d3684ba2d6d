package peering

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// Configured is a peer from the configuration file.
type Configured struct {
	Server       clearbox.ServerName
	Endpoints    []string // empty: discovery
	Pin          []byte   // SHA-256 of the identity key; empty: the first document seen is trusted and pinned
	Country      string
	AllowPrivate bool

	// What is empty here is as it was set by an administrator.
	Direction string // in, out, both
	Features  []string
	Envelopes int64 // a second that it may bring
	Bytes     int64 // the same
}

// apply writes what the file says about the peer beyond how to reach it, and
// tells whether that was new.
func (c *Configured) apply(p *storage.Peer) bool {
	old := *p
	if c.Direction != "" {
		p.Direction = c.Direction
	}
	if len(c.Features) > 0 {
		p.Features = c.Features
	}
	if c.Envelopes > 0 {
		p.Envelopes = c.Envelopes
	}
	if c.Bytes > 0 {
		p.Bytes = c.Bytes
	}
	p.FirstUse, p.ProbationUntil = false, 0
	return p.Direction != old.Direction || !slices.Equal(p.Features, old.Features) || p.Envelopes != old.Envelopes || p.Bytes != old.Bytes ||
		old.FirstUse || old.ProbationUntil != 0
}

const configuredKey = "federation.configured"

// Configure makes the configured peers active with what the file says about
// them; a pin that differs from the stored one replaces it and what was known
// under it. A peer that stood in the file the last time and does not any more
// is removed. A peer that an administrator suspended stays suspended.
func (t *Table) Configure(ctx context.Context, list []Configured) error {
	before, err := t.configuredBefore(ctx)
	if err != nil {
		return err
	}
	names := make([]clearbox.ServerName, 0, len(list))
	for _, c := range list {
		names = append(names, c.Server)
	}
	t.mu.Lock()
	clear(t.listed)
	for _, c := range list {
		t.listed[c.Server] = c
	}
	t.mu.Unlock()
	for _, c := range list {
		if err := t.configure(ctx, c); err != nil {
			return fmt.Errorf("configure peer %s: %w", c.Server, err)
		}
	}
	for _, name := range before {
		if slices.Contains(names, name) {
			continue
		}
		if err := t.unconfigure(ctx, name); err != nil {
			return fmt.Errorf("remove peer %s: %w", name, err)
		}
	}
	raw, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return t.store.Update(ctx, func(tx *storage.Tx) error { return tx.SetServerState(configuredKey, raw) })
}

func (t *Table) configuredBefore(ctx context.Context) ([]clearbox.ServerName, error) {
	var names []clearbox.ServerName
	err := t.store.View(ctx, func(tx *storage.Tx) error {
		raw, err := tx.ServerState(configuredKey)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &names)
	})
	if err != nil {
		return nil, fmt.Errorf("read the configured peers: %w", err)
	}
	return names, nil
}

func (t *Table) configure(ctx context.Context, c Configured) error {
	old, known := t.Stored(c.Server)
	same := old
	if known && old.State != storage.PeerRemoved && old.State != storage.PeerLeaving && !c.apply(&same) && old.State != storage.PeerInvited && slices.Equal(old.Endpoints, c.Endpoints) &&
		old.Country == c.Country && old.AllowPrivate == c.AllowPrivate && (len(c.Pin) == 0 || bytes.Equal(old.Pin, c.Pin)) {
		return nil // nothing to write at every start
	}
	return t.change(ctx, c.Server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if p.State != storage.PeerSuspended {
			p.State, p.Steps = storage.PeerActive, nil
		}
		c.apply(p)
		if len(c.Endpoints) > 0 {
			p.Endpoints = c.Endpoints
		}
		p.Country, p.AllowPrivate = c.Country, c.AllowPrivate
		if len(c.Pin) > 0 && !bytes.Equal(p.Pin, c.Pin) {
			p.Pin, p.Identity, p.Document, p.Seq = c.Pin, nil, nil, 0
		}
		return tx.Audit(storage.AuditEntry{Action: "peer.configure", Object: string(c.Server)})
	})
}

func (t *Table) unconfigure(ctx context.Context, server clearbox.ServerName) error {
	return t.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known || p.State == storage.PeerRemoved {
			return nil
		}
		p.State = storage.PeerRemoved
		if err := tx.DeletePeerInvites(server); err != nil {
			return err
		}
		return tx.Audit(storage.AuditEntry{Action: "peer.unconfigure", Object: string(server)})
	})
}
