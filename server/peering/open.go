package peering

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
	"golang.org/x/net/publicsuffix"
)

// Open is mode open: servers become peers by the first contact.
type Open struct {
	Basis     string   // the legal basis for people who are not known beforehand, in the operator's words
	Countries []string // from which servers may come, ISO 3166-1; empty: all
	Envelopes int      // a second that such a peer may bring; 200 if 0
	Bytes     int      // the same; 5 MiB if 0
}

// What mode open allows to servers that nobody here agreed with (federation.md,
// 9 and 10).
const (
	openEnvelopes   = 200
	openBytes       = 5 << 20
	probation       = 7 * 24 * time.Hour
	probationPart   = 20     // one such part of the quota during probation
	maxFirstUse     = 10_000 // such peers altogether
	maxBelowDomain  = 16     // and below one registrable domain
	openBasisRecord = "federation.open.basis"
)

var _ federation.Strangers = (*Table)(nil)

// Adopt implements federation.Strangers.
func (t *Table) Adopt(ctx context.Context, doc *federation.Document) error {
	if t.o.Open == nil {
		return clearbox.Errorf(clearbox.CodeUnknownPeer, "there is no peering with this server")
	}
	if err := t.may(doc); err != nil {
		return err
	}
	return t.change(ctx, doc.Server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		pin := doc.Pin()
		if known {
			if p.State == storage.PeerActive && string(p.Pin) == string(pin[:]) {
				return nil
			}
			return clearbox.Errorf(clearbox.CodeUnknownPeer, "there is no peering with this server")
		}
		p.State, p.FirstUse, p.Country = storage.PeerActive, true, doc.Legal.Country
		p.ProbationUntil = tx.Now() + clearbox.Millis(probation.Milliseconds())
		t.adopt(p, doc)
		return tx.Audit(storage.AuditEntry{Action: "peer.first_use", Object: string(doc.Server), Detail: "country " + p.Country + ", pin " + hex.EncodeToString(pin[:])})
	})
}

// forgetIdle takes the places back of servers that became peers by the first
// contact and exchanged nothing until the end of their probation. They are
// strangers again, who may come as before.
func (t *Table) forgetIdle(ctx context.Context) error {
	now := clearbox.Millis(t.o.Now().UnixMilli())
	for _, p := range t.All() {
		if !p.FirstUse || p.State != storage.PeerActive || p.LastSeen != 0 || p.ProbationUntil > now {
			continue
		}
		if err := t.forgetPeer(ctx, p.Server); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) forgetPeer(ctx context.Context, server clearbox.ServerName) error {
	release, err := t.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	err = t.store.Update(ctx, func(tx *storage.Tx) error {
		p, err := tx.Peer(server)
		if err != nil || !p.FirstUse || p.LastSeen != 0 {
			return err
		}
		for _, class := range []storage.Class{storage.ClassControl, storage.ClassMessage} {
			in, err := tx.InStream(server, class)
			if err != nil {
				return err
			}
			waits, _, err := tx.OutboxSize(server, class)
			if err != nil || len(in.Stream) > 0 || waits > 0 {
				return err
			}
		}
		if err := tx.DeletePeer(server); err != nil {
			return err
		}
		return tx.Audit(storage.AuditEntry{Action: "peer.idle", Object: string(server)})
	})
	t.recall(context.WithoutCancel(ctx), server)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// may holds the document against the rules for strangers.
func (t *Table) may(doc *federation.Document) error {
	if _, blocked := t.Blocked(doc.Server); blocked {
		return errBlocked()
	}
	if !t.o.Open.allows(doc.Legal.Country) {
		return clearbox.Errorf(clearbox.CodeNoRoutePolicy, "this server exchanges no messages with organisations of that country")
	}
	home := registrable(doc.Server)
	all, near := 0, 0
	t.mu.RLock()
	defer t.mu.RUnlock()
	for name, p := range t.peers {
		if !p.FirstUse {
			continue
		}
		all++
		if registrable(name) == home {
			near++
		}
	}
	if all >= maxFirstUse || near >= maxBelowDomain {
		return clearbox.Errorf(clearbox.CodeQuota, "too many servers have become peers by the first contact")
	}
	return nil
}

func (o *Open) allows(country string) bool {
	return len(o.Countries) == 0 || slices.Contains(o.Countries, country)
}

// moved follows the country of a server that came by itself, where nobody here
// has agreed with it on anything else.
func moved(tx *storage.Tx, p *storage.Peer, doc *federation.Document) error {
	before, err := federation.ParseDocument(p.Document)
	if !p.FirstUse || err != nil || before.Legal.Country == doc.Legal.Country {
		return nil
	}
	p.Country = doc.Legal.Country
	return tx.Audit(storage.AuditEntry{Action: "peer.country", Object: string(p.Server), Detail: "from " + before.Legal.Country + " to " + p.Country})
}

// registrable is the domain that somebody registered, the name itself where
// that cannot be told.
func registrable(server clearbox.ServerName) string {
	if home, err := publicsuffix.EffectiveTLDPlusOne(string(server)); err == nil {
		return home
	}
	return string(server)
}

// quota is what the peer may bring in a second; zero is what all peers may.
func (t *Table) quota(p *storage.Peer) (envelopes, bytes int) {
	envelopes, bytes = int(p.Envelopes), int(p.Bytes)
	if !p.FirstUse || t.o.Open == nil {
		return envelopes, bytes
	}
	standard := func(own, configured, shipped int) int {
		switch {
		case own > 0:
			return own
		case configured > 0:
			return configured
		}
		return shipped
	}
	envelopes, bytes = standard(envelopes, t.o.Open.Envelopes, openEnvelopes), standard(bytes, t.o.Open.Bytes, openBytes)
	if int64(p.ProbationUntil) > t.o.Now().UnixMilli() {
		envelopes, bytes = max(envelopes/probationPart, 1), max(bytes/probationPart, 1)
	}
	return envelopes, bytes
}

// RecordBasis writes the legal basis for mode open into the audit log, once for
// each text.
func (t *Table) RecordBasis(ctx context.Context) error {
	if t.o.Open == nil {
		return nil
	}
	return t.store.Update(ctx, func(tx *storage.Tx) error {
		before, err := tx.ServerState(openBasisRecord)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if string(before) == t.o.Open.Basis {
			return nil
		}
		if err := tx.SetServerState(openBasisRecord, []byte(t.o.Open.Basis)); err != nil {
			return err
		}
		return tx.Audit(storage.AuditEntry{Action: "federation.open", Detail: t.o.Open.Basis})
	})
}
