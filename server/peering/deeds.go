package peering

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Set changes what a peering allows, at once and for good. What the
// configuration says about a peer is changed there.
func (s *Service) Set(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, b wire.AdminPeerSet) error {
	if key := s.table.saidInFile(server, b); key != "" {
		return clearbox.Errorf(clearbox.CodeConflict, "the configuration says this about the peer (federation.peers, %s); change it there", key)
	}
	return s.table.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known || p.State == storage.PeerRemoved {
			return storage.ErrNotFound
		}
		return audit(tx, deed, server, strings.Join(assign(p, b), ", "))
	})
}

// assign does it and says what.
func assign(p *storage.Peer, b wire.AdminPeerSet) (said []string) {
	say := func(format string, a ...any) { said = append(said, fmt.Sprintf(format, a...)) }
	if b.Direction != nil {
		p.Direction = *b.Direction
		say("direction %s", p.Direction)
	}
	if b.Features != nil {
		p.Features = *b.Features
		say("features %s", cmp.Or(strings.Join(p.Features, " "), "none"))
	}
	if b.Envelopes != nil {
		p.Envelopes = *b.Envelopes
		say("envelopes_per_second %s", strconv.FormatInt(p.Envelopes, 10))
	}
	if b.Bytes != nil {
		p.Bytes = *b.Bytes
		say("bytes_per_second %s", strconv.FormatInt(p.Bytes, 10))
	}
	if b.Country != nil {
		p.Country = *b.Country
		say("country %s", p.Country)
	}
	if b.Listed {
		p.FirstUse, p.ProbationUntil = false, 0
		say("listed")
	}
	return said
}

// saidInFile is the first key of b that the configuration decides.
func (t *Table) saidInFile(server clearbox.ServerName, b wire.AdminPeerSet) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := t.listed[server]
	switch {
	case b.Direction != nil && c.Direction != "":
		return "direction"
	case b.Features != nil && len(c.Features) > 0:
		return "features"
	case b.Envelopes != nil && c.Envelopes > 0:
		return "envelopes_per_second"
	case b.Bytes != nil && c.Bytes > 0:
		return "bytes_per_second"
	case b.Country != nil && c.Server != "":
		return "country"
	}
	return ""
}

// The steps in which a peering ends. Each is safe to repeat.
const (
	stepTraffic = "traffic" // nothing new goes either way
	stepQueue   = "queue"   // what waits is reported to its senders
	stepClose   = "close"   // the server is no peer any more
)

// Defederate ends a peering step by step. What a failure or a restart leaves
// undone, Tend does; calling it again goes on where it stands.
func (s *Service) Defederate(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	if err := s.notConfigured(ctx, server); err != nil {
		return err
	}
	err := s.table.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		switch {
		case !known, p.State == storage.PeerRemoved && len(p.Steps) == 0:
			return storage.ErrNotFound
		case p.State == storage.PeerRemoved, p.State == storage.PeerLeaving:
			return audit(tx, deed, server, "again")
		}
		p.State = storage.PeerLeaving
		p.Steps = []storage.PeerStep{{Name: stepTraffic, Done: tx.Now()}, {Name: stepQueue}, {Name: stepClose}}
		if err := tx.DeletePeerInvites(server); err != nil {
			return err
		}
		return audit(tx, deed, server, "")
	})
	if err != nil {
		return err
	}
	s.leave(context.WithoutCancel(ctx), server)
	return nil
}

// leave does the steps that are left.
func (s *Service) leave(ctx context.Context, server clearbox.ServerName) {
	p, known := s.table.Stored(server)
	if !known || p.State != storage.PeerLeaving {
		return
	}
	for _, step := range p.Steps {
		if step.Done != 0 {
			continue
		}
		if step.Name == stepQueue {
			if err := s.giveUp(ctx, server); err != nil {
				return
			}
		}
		if err := s.stepDone(ctx, server, step.Name); err != nil {
			s.o.Log.Error("the end of a peering is not written down yet", "peer", string(server), "code", string(clearbox.CodeOf(err)))
			return
		}
	}
	s.o.Log.Info("peering ended", "peer", string(server))
}

func (s *Service) stepDone(ctx context.Context, server clearbox.ServerName, name string) error {
	return s.table.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if p.State != storage.PeerLeaving {
			return clearbox.Errorf(clearbox.CodeConflict, "the peering is %s", p.State) // somebody began anew
		}
		steps := append([]storage.PeerStep(nil), p.Steps...) // readers hold the old ones
		for i := range steps {
			if steps[i].Name == name {
				steps[i].Done = max(1, tx.Now())
			}
		}
		p.Steps = steps
		if name != stepClose {
			return nil
		}
		p.State = storage.PeerRemoved
		return tx.Audit(storage.AuditEntry{Action: "peer.defederated", Object: string(server)})
	})
}

// giveUp reports what waits for the server to its senders.
func (s *Service) giveUp(ctx context.Context, server clearbox.ServerName) error {
	if s.o.Removed == nil {
		return nil
	}
	err := s.o.Removed(ctx, server)
	if err != nil {
		s.o.Log.Error("what waits for a server is not reported yet", "peer", string(server), "code", string(clearbox.CodeOf(err)))
	}
	return err
}

// tendEvery is how often Run looks for what was left undone.
const tendEvery = time.Minute

// Run does what deeds left undone, at the start and every minute, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		s.Tend(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Tend goes on with peerings that are being ended, reports what waits for
// servers with which nothing is exchanged any more, and forgets what is over.
func (s *Service) Tend(ctx context.Context) {
	for _, p := range s.table.All() {
		if p.State == storage.PeerLeaving {
			s.leave(ctx, p.Server)
		}
	}
	var queues []storage.OutboxStat
	err := s.table.store.View(ctx, func(tx *storage.Tx) (err error) {
		queues, err = tx.OutboxStats()
		return err
	})
	for _, q := range queues {
		if s.nothingGoesTo(q.Peer) {
			_ = s.giveUp(ctx, q.Peer) // it is said in the log, and tried again
		}
	}
	if err == nil {
		err = s.table.forget(ctx)
	}
	if err == nil {
		err = s.table.forgetIdle(ctx)
	}
	if err != nil && ctx.Err() == nil {
		s.o.Log.Error("peers not tended", "code", string(clearbox.CodeOf(err)), "error", err.Error())
	}
}

// nothingGoesTo tells whether what waits for the server will never go out.
func (s *Service) nothingGoesTo(server clearbox.ServerName) bool {
	if _, blocked := s.table.Blocked(server); blocked {
		return true
	}
	p, known := s.table.Stored(server)
	if known {
		return p.State == storage.PeerRemoved
	}
	return s.client.Barred(server) != nil
}

// forget deletes blocks that are over and alerts that were resolved long ago.
func (t *Table) forget(ctx context.Context) error {
	long := clearbox.Millis(t.o.Now().Add(-alertsKept).UnixMilli())
	return t.changeBlocks(ctx, func(tx *storage.Tx) error {
		return errors.Join(tx.ExpirePeerBlocks(), tx.ForgetPeerAlerts(long))
	})
}

// Blocked tells why nothing is exchanged with a server, if it is blocked.
func (s *Service) Blocked(server clearbox.ServerName) (reason string, blocked bool) {
	return s.table.Blocked(server)
}
