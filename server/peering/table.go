// Package peering keeps the table of peers and lets two operators join their
// homeservers: the table behind federation.Peers, the one-time token and the
// handshake, and what an administrator does with a peer. It moves no messages.
package peering

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

// Table is the table of peers: in storage, with a copy in memory that every
// request is checked against. All changes of peers go through it, so the copy
// is never behind. It is safe for concurrent use.
type Table struct {
	store *storage.Store
	o     TableOptions
	busy  chan struct{} // capacity 1: one change at a time; held across the update

	mu     sync.RWMutex // guards the maps; never held across storage
	peers  map[clearbox.ServerName]storage.Peer
	listed map[clearbox.ServerName]Configured // what the configuration says
	blocks map[string]storage.PeerBlock       // by name, with *. before a domain
}

// TableOptions configure a Table.
type TableOptions struct {
	Now  func() time.Time // default time.Now
	Open *Open            // nil: servers become peers by agreement only
}

var _ federation.Peers = (*Table)(nil)

// OpenTable reads the table.
func OpenTable(ctx context.Context, store *storage.Store, o TableOptions) (*Table, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &Table{store: store, o: o, busy: make(chan struct{}, 1), peers: map[clearbox.ServerName]storage.Peer{}, listed: map[clearbox.ServerName]Configured{}}
	err := store.View(ctx, func(tx *storage.Tx) error {
		all, err := tx.Peers()
		for _, p := range all {
			t.peers[p.Server] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the peers: %w", err)
	}
	if err := t.readBlocks(ctx); err != nil {
		return nil, err
	}
	return t, t.RecordBasis(ctx)
}

// hold waits for the right to change something; release gives it back.
func (t *Table) hold(ctx context.Context) (release func(), err error) {
	select {
	case t.busy <- struct{}{}:
		return func() { <-t.busy }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// change runs fn on the stored peer (zero but for the name when there is none)
// inside an update, stores what fn left and then shows it to readers. fn may
// run twice and may write more in the same transaction.
func (t *Table) change(ctx context.Context, server clearbox.ServerName, fn func(tx *storage.Tx, p *storage.Peer, known bool) error) error {
	release, err := t.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	var changed storage.Peer
	err = t.store.Update(ctx, func(tx *storage.Tx) error {
		p, err := tx.Peer(server)
		known := err == nil
		if errors.Is(err, storage.ErrNotFound) {
			p, err = storage.Peer{Server: server, Direction: "both"}, nil
		}
		if err != nil {
			return err
		}
		before := p.State
		if err := fn(tx, &p, known); err != nil {
			return err
		}
		if p.State != before {
			p.StateSince = tx.Now()
		}
		changed = p
		return tx.PutPeer(&changed)
	})
	if err != nil {
		t.recall(context.WithoutCancel(ctx), server)
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers[server] = changed
	return nil
}

// recall reads a peer again after a change that failed: it may have been kept
// all the same. Where the store cannot be read the old state stays.
func (t *Table) recall(ctx context.Context, server clearbox.ServerName) {
	var p storage.Peer
	err := t.store.View(ctx, func(tx *storage.Tx) (err error) {
		p, err = tx.Peer(server)
		return err
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		t.peers[server] = p
	case errors.Is(err, storage.ErrNotFound):
		delete(t.peers, server)
	}
}

// Stored is a copy of the peer's record.
func (t *Table) Stored(server clearbox.ServerName) (storage.Peer, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p, ok := t.peers[server]
	return p, ok
}

// All gives every peer in order of name.
func (t *Table) All() []storage.Peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]storage.Peer, 0, len(t.peers))
	for _, name := range slices.Sorted(maps.Keys(t.peers)) {
		out = append(out, t.peers[name])
	}
	return out
}

// Peer is the peer as package federation sees it.
func (t *Table) Peer(_ context.Context, server clearbox.ServerName) (federation.Peer, error) {
	t.mu.RLock()
	p, ok := t.peers[server]
	fixed := len(t.listed[server].Endpoints) > 0
	_, blocked := t.blockOf(server)
	t.mu.RUnlock()
	if blocked {
		return federation.Peer{}, errBlocked()
	}
	if !ok {
		return federation.Peer{}, clearbox.Errorf(clearbox.CodeUnknownPeer, "there is no peering with this server")
	}
	out := federation.Peer{
		Server: server, State: federation.PeerState(p.State), Document: p.Document, Endpoints: p.Endpoints, Fixed: fixed,
		AllowPrivate: p.AllowPrivate, ClockOffset: time.Duration(p.ClockOffset) * time.Millisecond,
		Direction: federation.Direction(p.Direction), Features: p.Features, FirstUse: p.FirstUse,
	}
	out.Envelopes, out.Bytes = t.quota(&p)
	if p.State == storage.PeerLeaving || p.State == storage.PeerActive && !t.serves(&p) {
		out.State = federation.PeerSuspended
	}
	copy(out.Pin[:], p.Pin)
	return out, nil
}

func errBlocked() error {
	return clearbox.Errorf(clearbox.CodePeerBlocked, "this server exchanges no messages with that organisation")
}

// serves tells whether an active peer is one in the present mode: what the first
// contact made in mode open rests while the mode is another, or its country is
// not among those that are allowed.
func (t *Table) serves(p *storage.Peer) bool {
	return !p.FirstUse || t.o.Open != nil && t.o.Open.allows(p.Country)
}

// Route tells whether messages to the server may be queued, by what is known
// without asking anybody: nil, or why not, for the sender. Servers that mode open
// may still make peers of are none of its business.
func (t *Table) Route(ctx context.Context, server clearbox.ServerName) error {
	p, err := t.Peer(ctx, server)
	switch {
	case clearbox.CodeOf(err) == clearbox.CodeUnknownPeer && t.o.Open != nil:
		return nil
	case clearbox.CodeOf(err) == clearbox.CodeUnknownPeer, err == nil && p.State != federation.PeerActive:
		return errBlocked()
	case err == nil && p.Direction == federation.DirectionIn:
		return clearbox.Errorf(clearbox.CodeNoRoutePolicy, "this server takes messages from that organisation and sends none")
	}
	return err
}

// Active lists the peers in state active, in order of name.
func (t *Table) Active(context.Context) ([]clearbox.ServerName, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []clearbox.ServerName
	for name, p := range t.peers {
		if _, blocked := t.blockOf(name); p.State == storage.PeerActive && !blocked && t.serves(&p) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// SaveDocument stores a checked document and the identity that signed it.
func (t *Table) SaveDocument(ctx context.Context, server clearbox.ServerName, doc *federation.Document) error {
	return t.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known {
			return clearbox.Errorf(clearbox.CodeUnknownPeer, "there is no peering with this server")
		}
		if string(p.Document) == string(doc.Signed()) {
			return nil
		}
		if len(p.Document) > 0 && doc.Seq <= p.Seq {
			return &federation.RollbackError{Have: p.Seq, Got: doc.Seq}
		}
		if err := moved(tx, p, doc); err != nil {
			return err
		}
		t.adopt(p, doc)
		return nil
	})
}

// adopt writes a document and what follows from it into the record.
func (t *Table) adopt(p *storage.Peer, doc *federation.Document) {
	pin := doc.Pin()
	p.Document, p.Seq, p.Pin, p.Identity = doc.Signed(), doc.Seq, pin[:], doc.IdentityKey()
	t.mu.RLock()
	fixed := len(t.listed[p.Server].Endpoints) > 0
	t.mu.RUnlock()
	if fixed && len(p.Endpoints) > 0 {
		return
	}
	p.Endpoints = nil
	for _, e := range doc.Endpoints {
		p.Endpoints = append(p.Endpoints, e.URL)
	}
}

// SaveOffset keeps how far the peer's clock is ahead of ours.
func (t *Table) SaveOffset(ctx context.Context, server clearbox.ServerName, offset time.Duration) error {
	return t.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known {
			return storage.ErrNotFound
		}
		if err := settled(tx, server, federation.AlertClock); err != nil {
			return err
		}
		p.ClockOffset = offset.Milliseconds()
		return nil
	})
}

// SaveStatus keeps the sender's view of the peer. A server that is no peer any
// more has none.
func (t *Table) SaveStatus(ctx context.Context, server clearbox.ServerName, s federation.Status) error {
	err := t.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known {
			return storage.ErrNotFound
		}
		if p.LastError != "" && s.LastError == "" {
			if err := settled(tx, server, federation.AlertParked); err != nil {
				return err
			}
		}
		if s.LastSeen != 0 {
			p.LastSeen = s.LastSeen
		}
		p.LastTry, p.Failures, p.NextTry, p.LastError, p.Trouble = s.LastTry, s.Failures, s.NextTry, s.LastError, string(s.Kind)
		if s.Since == 0 || p.Since == 0 || s.Since < p.Since {
			p.Since = s.Since // a restart of ours does not shorten the peer's absence
		}
		return nil
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}
