package peering_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/peering"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

func listed() wire.AdminPeerSet { return wire.AdminPeerSet{Listed: true} }

// pair makes peers of a and b by token.
func pair(t *testing.T, a, b *site) {
	t.Helper()
	_, err := b.accept(a.invite(b.name).Token)
	must(t, err)
}

// queue puts something for a server into the site's outbox.
func (s *site) queue(to clearbox.ServerName) {
	s.lab.t.Helper()
	must(s.lab.t, s.store.Update(s.lab.t.Context(), func(tx *storage.Tx) error {
		return tx.PutOutbox(&storage.OutboxItem{
			Peer: to, Class: storage.ClassMessage, SenderKey: storage.ServerKey, MessageID: clearbox.MessageID{1}, Expires: tx.Now() + 1e9, HoldKey: []byte("hold"),
		})
	}))
}

func TestWhatAPeeringAllows(t *testing.T) {
	bubble(t, func(t *testing.T, _ *lab, a, b *site) {
		pair(t, a, b)
		direction, features, envelopes, bytes := "in", []string{"presence"}, int64(7), int64(1<<20)
		must(t, a.service.Set(t.Context(), deed("peer.set"), "b.test", wire.AdminPeerSet{Direction: &direction, Features: &features, Envelopes: &envelopes, Bytes: &bytes}))
		p, err := a.table.Peer(t.Context(), "b.test")
		if must(t, err); p.Direction != federation.DirectionIn || !p.Allows("presence") || p.Allows("typing") || p.Envelopes != 7 || p.Bytes != 1<<20 {
			t.Errorf("at once: %+v", p)
		}
		if err := a.table.Route(t.Context(), "b.test"); clearbox.CodeOf(err) != clearbox.CodeNoRoutePolicy {
			t.Errorf("messages to a peer that only sends: %v", err)
		}
		country := "AT"
		must(t, a.service.Set(t.Context(), deed("peer.set"), "b.test", wire.AdminPeerSet{Country: &country, Features: &[]string{}}))
		if p, _ := a.table.Stored("b.test"); p.Country != "AT" || len(p.Features) != 0 || p.Direction != "in" || p.Envelopes != 7 {
			t.Errorf("what was not named changed: %+v", p)
		}
		if err := a.service.Set(t.Context(), deed("peer.set"), "c.test", listed()); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("no peer: %v", err)
		}
		// What the file says goes before, and the rest stays as it was set.
		must(t, a.table.Configure(t.Context(), []peering.Configured{{Server: "b.test", Direction: "out", Features: []string{"typing"}}}))
		p, err = a.table.Peer(t.Context(), "b.test")
		if must(t, err); p.Direction != federation.DirectionOut || p.Allows("presence") || !p.Allows("typing") || p.Envelopes != 7 {
			t.Errorf("configured: %+v", p)
		}
		if err := a.service.Set(t.Context(), deed("peer.set"), "b.test", wire.AdminPeerSet{Direction: &direction}); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("against the file: %v", err)
		}
		must(t, a.service.Set(t.Context(), deed("peer.set"), "b.test", wire.AdminPeerSet{Envelopes: &envelopes}))
	})
}

func TestBlockList(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		pair(t, a, b)
		a.queue("b.test")
		block := func(name string, days int64) error {
			_, err := a.service.Block(t.Context(), deed("peer.block"), wire.AdminBlockSet{Name: name, Reason: "spam", TTL: days * 24 * 3600})
			return err
		}
		must(t, block("b.test", 30))
		l.mu.Lock()
		l.dialled = nil
		l.mu.Unlock()
		if got := a.reports.take(); !slices.Equal(got, []clearbox.ServerName{"b.test"}) {
			t.Errorf("reported to senders: %v", got)
		}
		if err := a.table.Route(t.Context(), "b.test"); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("messages to it: %v", err)
		}
		if err := a.hello("b.test"); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("greeting it: %v", err)
		}
		if active, _ := a.table.Active(t.Context()); len(active) != 0 || len(l.dialled) != 0 {
			t.Errorf("active %v, dialled %v", active, l.dialled)
		}
		var refused *federation.RefusedError
		if err := b.hello("a.test"); !errors.As(err, &refused) || refused.Code != clearbox.CodePeerBlocked || refused.Signed {
			t.Errorf("it comes: %v; it is refused by name, before any key", err)
		}
		if _, err := a.accept(b.invite2("a.test")); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("its token: %v", err)
		}
		time.Sleep(30*24*time.Hour + time.Second)
		if _, err := a.table.Peer(t.Context(), "b.test"); err != nil {
			t.Errorf("after its end: %v", err)
		}

		must(t, block("*.bad.test", 0))
		for name, want := range map[clearbox.ServerName]bool{"bad.test": true, "x.bad.test": true, "y.x.bad.test": true, "notbad.test": false, "good.test": false} {
			if _, blocked := a.table.Blocked(name); blocked != want {
				t.Errorf("%s blocked: %v", name, blocked)
			}
		}
		for _, name := range []string{"*.x.bad.test", "a.test", "*.a.test"} {
			if err := block(name, 0); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
				t.Errorf("%s: %v", name, err)
			}
		}
		a.close()
		a.open()
		if reason, blocked := a.table.Blocked("x.bad.test"); !blocked || reason != "spam" {
			t.Errorf("after a restart: %q, %v", reason, blocked)
		}
		a.service.Tend(t.Context())
		must(t, a.service.Unblock(t.Context(), deed("peer.unblock"), "*.bad.test"))
		if err := a.service.Unblock(t.Context(), deed("peer.unblock"), "*.bad.test"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("again: %v", err)
		}
		if err := a.service.Unblock(t.Context(), deed("peer.unblock"), "b.test"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("a block that is over is still there: %v", err)
		}
		if _, blocked := a.table.Blocked("x.bad.test"); blocked {
			t.Error("still blocked")
		}
	})
}

// invite2 makes a token although there is a peering already.
func (s *site) invite2(to clearbox.ServerName) string {
	s.lab.t.Helper()
	must(s.lab.t, s.service.Remove(s.lab.t.Context(), deed("peer.remove"), to))
	return s.invite(to).Token
}

// The end of a peering goes on where it stopped, after failures and restarts.
func TestDefederate(t *testing.T) {
	bubble(t, func(t *testing.T, _ *lab, a, b *site) {
		pair(t, a, b)
		steps := func() (out []string) {
			p, _ := a.table.Stored("b.test")
			for _, s := range p.Steps {
				out = append(out, fmt.Sprint(s.Name, " ", s.Done != 0))
			}
			return append(out, string(p.State))
		}
		a.reports.broken = storage.ErrIO
		begun := clearbox.Millis(time.Now().UnixMilli())
		must(t, a.service.Defederate(t.Context(), deed("peer.defederate"), "b.test"))
		if got := steps(); !slices.Equal(got, []string{"traffic true", "queue false", "close false", "leaving"}) {
			t.Errorf("with a store that fails: %v", got)
		}
		if info, _ := a.service.Known(t.Context(), "b.test"); info.State != wire.ServerNotPeered || info.Since != begun {
			t.Errorf("clients see %+v", info)
		}
		if err := a.table.Route(t.Context(), "b.test"); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("messages to it: %v", err)
		}
		var refused *federation.RefusedError
		if err := b.hello("a.test"); !errors.As(err, &refused) || refused.Code != clearbox.CodePeerBlocked || !refused.Signed {
			t.Errorf("it comes while it is leaving: %v", err)
		}
		a.close()
		a.open()
		a.listen()
		a.service.Tend(t.Context())
		if got := steps(); got[len(got)-1] != "leaving" {
			t.Errorf("it still fails: %v", got)
		}
		must(t, a.service.Defederate(t.Context(), deed("peer.defederate"), "b.test"))
		a.reports.broken = nil
		a.service.Tend(t.Context())
		if got := steps(); !slices.Equal(got, []string{"traffic true", "queue true", "close true", "removed"}) {
			t.Errorf("in the end: %v", got)
		}
		if got := a.reports.take(); !slices.Equal(got, []clearbox.ServerName{"b.test"}) {
			t.Errorf("reported: %v", got)
		}
		must(t, a.service.Defederate(t.Context(), deed("peer.defederate"), "b.test"))
		if got := a.reports.take(); len(got) != 0 {
			t.Errorf("once more: reported %v", got)
		}
		if err := a.service.Defederate(t.Context(), deed("peer.defederate"), "c.test"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("no peer: %v", err)
		}
		audits := a.audits()
		if !slices.Contains(audits, "peer.defederate b.test") || !slices.Contains(audits, "peer.defederated b.test") {
			t.Errorf("audit: %v", audits)
		}
		// A new peering begins anew.
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		if got := steps(); !slices.Equal(got, []string{"active"}) {
			t.Errorf("peered again: %v", got)
		}
	})
}

func TestAlerts(t *testing.T) {
	bubble(t, func(t *testing.T, _ *lab, a, b *site) {
		pair(t, a, b)
		raise := func(kind federation.Alert) { must(t, a.table.Alert(t.Context(), "b.test", kind)) }
		must(t, a.table.Alert(t.Context(), "stranger.test", federation.AlertRollback))
		raise(federation.AlertRollback)
		raise(federation.AlertParked)
		raise(federation.AlertParked)
		raise(federation.AlertClock)
		want := []string{"b.test clock_skew 1", "b.test queue_parked 2", "b.test rollback 1"}
		if got := a.alerts(); !slices.Equal(got, want) {
			t.Fatalf("alerts: %v", got)
		}
		// An accepted queue and a clock that was corrected close theirs.
		must(t, a.table.SaveStatus(t.Context(), "b.test", federation.Status{LastError: clearbox.CodePeerBlocked, Failures: 1}))
		must(t, a.table.SaveStatus(t.Context(), "b.test", federation.Status{LastSeen: 1}))
		must(t, a.table.SaveOffset(t.Context(), "b.test", time.Second))
		if got := a.alerts(); !slices.Equal(got, want[2:]) {
			t.Errorf("after a success: %v", got)
		}
		must(t, a.store.Update(t.Context(), func(tx *storage.Tx) error { _, err := tx.ResolvePeerAlerts("", ""); return err }))
		if got := a.alerts(); len(got) != 0 {
			t.Errorf("resolved: %v", got)
		}
		raise(federation.AlertRollback)
		if got := a.alerts(); !slices.Equal(got, want[2:]) {
			t.Errorf("raised again: %v", got)
		}
	})
}
