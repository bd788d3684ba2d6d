package peering_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/peering"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

func TestHandshake(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		inv := a.invite("b.test")
		if a.state("b.test") != storage.PeerInvited {
			t.Errorf("state %q after the invitation", a.state("b.test"))
		}
		got, err := b.accept("  " + inv.Token[:30] + "\n " + inv.Token[30:] + "\n")
		must(t, err)
		pa, _ := b.table.Stored("a.test")
		pb, _ := a.table.Stored("b.test")
		if pa.State != storage.PeerActive || pb.State != storage.PeerActive || pa.Country != "FR" || pb.Country != "DE" {
			t.Errorf("a sees %s in %s, b sees %s in %s", pb.State, pb.Country, pa.State, pa.Country)
		}
		pin := a.self.Document().Pin()
		if !bytes.Equal(pa.Pin, pin[:]) || got.Peer.Pin != hex.EncodeToString(pin[:]) {
			t.Error("b pinned another key than a's")
		}
		if pin = b.self.Document().Pin(); !bytes.Equal(pb.Pin, pin[:]) {
			t.Error("a pinned another key than b's")
		}
		if !slices.Equal(got.Peer.Words, inv.Words) || !slices.Equal(got.Own, b.service.OwnWords()) || slices.Equal(got.Own, inv.Words) || len(got.Own) != 8 {
			t.Errorf("words %v and %v", got.Peer.Words, got.Own)
		}
		if want := []string{"peer.invite b.test", "peer.accepted b.test"}; !slices.Equal(a.audits(), want) {
			t.Errorf("audit at a: %v", a.audits())
		}
		if want := []string{"peer.accept a.test"}; !slices.Equal(b.audits(), want) {
			t.Errorf("audit at b: %v", b.audits())
		}
		for _, s := range []*site{a, b} {
			other := clearbox.ServerName("b.test")
			if s == b {
				other = "a.test"
			}
			report, err := s.service.Test(t.Context(), other)
			must(t, err)
			if !report.OK || len(report.Steps) != 8 {
				t.Errorf("%s: %+v", s.name, report)
			}
			if len(s.queues.retried) == 0 {
				t.Errorf("%s did not wake its queue", s.name)
			}
		}
	})
}

func TestTokenIsForOneServerOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		c := l.site("c.test", 3)
		defer c.close()
		inv := a.invite("b.test")
		if _, err := c.accept(inv.Token); clearbox.CodeOf(err) != clearbox.CodeInviteInvalid {
			t.Errorf("another server's token: %v", err)
		}
		if c.state("a.test") != "" || a.state("b.test") != storage.PeerInvited || a.state("c.test") != "" {
			t.Error("a refused token changed something")
		}
		a.invite("c.test")
		if _, err := c.accept(inv.Token); clearbox.CodeOf(err) != clearbox.CodeInviteInvalid || a.state("c.test") != storage.PeerInvited {
			t.Errorf("another invited server's token: %v", err)
		}
		withdrawn := a.invite("b.test")
		must(t, a.service.Remove(t.Context(), deed("peer.remove"), "b.test"))
		if _, err := b.accept(withdrawn.Token); clearbox.CodeOf(err) != clearbox.CodeInviteInvalid || a.state("b.test") != storage.PeerRemoved {
			t.Errorf("a withdrawn invitation: %v", err)
		}
		inv = a.invite("b.test")
		if _, err := b.accept(withdrawn.Token); clearbox.CodeOf(err) != clearbox.CodeInviteInvalid || a.state("b.test") != storage.PeerInvited {
			t.Errorf("a withdrawn invitation after a new one was made: %v", err)
		}
		_, err := b.accept(inv.Token)
		must(t, err)
		must(t, a.service.Remove(t.Context(), deed("peer.remove"), "b.test"))
		if _, err := b.accept(inv.Token); clearbox.CodeOf(err) != clearbox.CodeInviteInvalid || a.state("b.test") != storage.PeerRemoved {
			t.Errorf("a used token: %v", err)
		}
		again := a.invite("b.test")
		_, err = b.accept(again.Token)
		must(t, err)
		if a.state("b.test") != storage.PeerActive {
			t.Error("a removed peer could not be invited again")
		}
	})
}

func TestTokensThatAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		inv := a.invite("b.test")
		tok, err := peering.ParseToken(inv.Token)
		must(t, err)
		forged := *tok
		forged.Pin = bytes.Repeat([]byte{1}, 32)
		secret := *tok
		secret.Secret = bytes.Repeat([]byte{1}, 16)
		late := *tok
		late.Expires = clearbox.Millis(time.Now().Add(-time.Minute).UnixMilli())
		own := b.invite("x.test")
		for name, c := range map[string]struct {
			token string
			code  clearbox.Code
		}{
			"empty":            {"", clearbox.CodeBadRequest},
			"cut off":          {inv.Token[:len(inv.Token)-3], clearbox.CodeBadRequest},
			"one letter":       {strings.Replace(inv.Token, inv.Token[20:21], string(inv.Token[20]^1), 1), clearbox.CodeBadRequest},
			"no token":         {"https://a.test/join#x", clearbox.CodeBadRequest},
			"another identity": {forged.String(), clearbox.CodeIdentityChanged},
			"another secret":   {secret.String(), clearbox.CodeInviteInvalid},
			"expired":          {late.String(), clearbox.CodeInviteInvalid},
			"one's own":        {own.Token, clearbox.CodeBadRequest},
		} {
			if _, err := b.accept(c.token); clearbox.CodeOf(err) != c.code {
				t.Errorf("%s: %v", name, err)
			}
			if b.state("a.test") != "" || a.state("b.test") != storage.PeerInvited {
				t.Fatalf("%s changed something", name)
			}
		}
		time.Sleep(73 * time.Hour)
		if _, err := b.accept(inv.Token); clearbox.CodeOf(err) != clearbox.CodeInviteInvalid {
			t.Errorf("after 73 hours: %v", err)
		}
	})
}

// The answer is lost after the inviter has stored the peer: accepting again
// completes the peering.
func TestLostAnswerOfTheHandshake(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		inv := a.invite("b.test")
		l.lose = true
		if _, err := b.accept(inv.Token); err == nil {
			t.Fatal("the answer was not lost")
		}
		if a.state("b.test") != storage.PeerActive || b.state("a.test") != "" {
			t.Fatalf("a: %q, b: %q", a.state("b.test"), b.state("a.test"))
		}
		_, err := b.accept(inv.Token)
		must(t, err)
		if b.state("a.test") != storage.PeerActive {
			t.Error("not completed")
		}
	})
}

// A clock that is 14 minutes off does not prevent a peering.
func TestHandshakeWithClocksApart(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		inv := a.invite("b.test")
		b.offset = -14 * time.Minute
		_, err := b.accept(inv.Token)
		must(t, err)
		report, err := b.service.Test(t.Context(), "a.test")
		must(t, err)
		if i := slices.IndexFunc(report.Steps, func(s wire.AdminStep) bool { return s.Name == "clock" }); !report.OK || !strings.HasPrefix(report.Steps[i].Detail, "14m0s") {
			t.Errorf("%+v", report)
		}
	})
}

func TestSuspendResumeRemove(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		ctx := t.Context()
		hello := func() clearbox.Code {
			_, err := b.client.Hello(ctx, "a.test")
			return clearbox.CodeOf(err)
		}
		if c := hello(); c != "" {
			t.Fatal(c)
		}
		must(t, a.service.Suspend(ctx, deed("peer.suspend"), "b.test"))
		if c := hello(); c != clearbox.CodePeerBlocked {
			t.Errorf("suspended: %q", c)
		}
		if _, err := a.client.Hello(ctx, "b.test"); clearbox.CodeOf(err) != clearbox.CodePeerBlocked {
			t.Errorf("towards a suspended peer: %v", err)
		}
		if _, err := a.service.Invite(ctx, deed("peer.invite"), wire.AdminPeerInvite{Server: "b.test"}); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("inviting a suspended peer: %v", err)
		}
		must(t, a.service.Resume(ctx, deed("peer.resume"), "b.test"))
		if c := hello(); c != "" || a.queues.greeted != 1 {
			t.Errorf("resumed: %q, greeted %d", c, a.queues.greeted)
		}
		must(t, a.service.Remove(ctx, deed("peer.remove"), "b.test"))
		if c := hello(); c != clearbox.CodeUnknownPeer {
			t.Errorf("removed: %q", c)
		}
		if err := a.service.Suspend(ctx, deed("peer.suspend"), "b.test"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("suspending a removed peer: %v", err)
		}
		if err := a.service.Resume(ctx, deed("peer.resume"), "nobody.test"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("resuming nobody: %v", err)
		}
		want := []string{"peer.invite b.test", "peer.accepted b.test", "peer.suspend b.test", "peer.resume b.test", "peer.remove b.test"}
		if !slices.Equal(a.audits(), want) {
			t.Errorf("audit: %v", a.audits())
		}
	})
}

// Attack 6: the name resolves to somebody with a valid certificate and another
// identity.
func TestThreat06PinnedPeerHijacked(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		a.close()
		evil := l.site("a.test", 66)
		defer evil.close()
		before, _ := b.table.Stored("a.test")
		report, err := b.service.Test(t.Context(), "a.test")
		must(t, err)
		last := report.Steps[len(report.Steps)-1]
		if report.OK || last.Name != "identity" || last.Code != clearbox.CodeIdentityChanged {
			t.Errorf("%+v", report)
		}
		if after, _ := b.table.Stored("a.test"); !bytes.Equal(after.Document, before.Document) || !bytes.Equal(after.Pin, before.Pin) {
			t.Error("something was stored")
		}
	})
}

// A token that names another identity for a server that is a peer replaces
// nothing: the peering must be removed first.
func TestTokenDoesNotReplaceAnIdentity(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		a.close()
		evil := l.site("a.test", 66)
		defer evil.close()
		token := evil.invite("b.test").Token
		before, _ := b.table.Stored("a.test")
		for _, turn := range []func() error{
			func() error { return nil },
			func() error { return b.service.Suspend(t.Context(), deed("peer.suspend"), "a.test") },
		} {
			must(t, turn())
			_, err := b.accept(token)
			if clearbox.CodeOf(err) != clearbox.CodeIdentityChanged || !strings.Contains(err.Error(), "clearbox peer remove a.test") {
				t.Errorf("%s: %v", b.state("a.test"), err)
			}
			if after, _ := b.table.Stored("a.test"); !bytes.Equal(after.Document, before.Document) || !bytes.Equal(after.Pin, before.Pin) {
				t.Errorf("%s: something was stored", b.state("a.test"))
			}
			if evil.state("b.test") != storage.PeerInvited {
				t.Error("the token was spent")
			}
		}
		must(t, b.service.Remove(t.Context(), deed("peer.remove"), "a.test"))
		_, err = b.accept(token)
		must(t, err)
		pin := evil.self.Document().Pin()
		if after, _ := b.table.Stored("a.test"); after.State != storage.PeerActive || !bytes.Equal(after.Pin, pin[:]) {
			t.Errorf("after the removal: %s", after.State)
		}
	})
}

func TestReportOfATest(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		must(t, b.table.Configure(t.Context(), []peering.Configured{{Server: "nowhere.test", Endpoints: []string{"https://nowhere.test"}, AllowPrivate: true}}))
		report, err := b.service.Test(t.Context(), "nowhere.test")
		must(t, err)
		last := report.Steps[len(report.Steps)-1]
		if report.OK || last.Name != "tls" || last.Code != clearbox.CodePeerUnreachable {
			t.Errorf("%+v", report)
		}
		must(t, b.table.Configure(t.Context(), []peering.Configured{{Server: "local.test", Endpoints: []string{"https://127.0.0.1:8443"}}}))
		report, err = b.service.Test(t.Context(), "local.test")
		must(t, err)
		if last := report.Steps[len(report.Steps)-1]; last.Name != "address" || last.Code != clearbox.CodeForbidden {
			t.Errorf("%+v", report)
		}
		if _, err := b.service.Test(t.Context(), "unknown.test"); !errors.Is(err, storage.ErrNotFound) {
			t.Error(err)
		}
	})
}

func TestConfiguredPeers(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		ctx := t.Context()
		pin := a.self.Document().Pin()
		entry := peering.Configured{Server: "a.test", Endpoints: []string{"https://a.test"}, Pin: pin[:], Country: "DE", AllowPrivate: true}
		must(t, b.table.Configure(ctx, []peering.Configured{entry}))
		must(t, b.table.Configure(ctx, []peering.Configured{entry})) // as at every start
		if _, err := b.client.FetchDocument(ctx, "a.test"); err != nil {
			t.Error(err)
		}
		if err := b.service.Remove(ctx, deed("peer.remove"), "a.test"); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("removing a configured peer: %v", err)
		}
		must(t, b.service.Suspend(ctx, deed("peer.suspend"), "a.test"))
		must(t, b.table.Configure(ctx, []peering.Configured{entry}))
		if b.state("a.test") != storage.PeerSuspended {
			t.Error("a restart ended a suspension")
		}
		must(t, b.service.Resume(ctx, deed("peer.resume"), "a.test"))
		entry.Pin = bytes.Repeat([]byte{1}, 32) // the operator pins another identity
		must(t, b.table.Configure(ctx, []peering.Configured{entry}))
		if _, err := b.client.FetchDocument(ctx, "a.test"); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
			t.Errorf("another pin: %v", err)
		}
		must(t, b.table.Configure(ctx, nil))
		if b.state("a.test") != storage.PeerRemoved {
			t.Error("a peer that left the configuration stayed")
		}
		want := []string{"peer.configure a.test", "peer.suspend a.test", "peer.resume a.test", "peer.configure a.test", "peer.unconfigure a.test"}
		if !slices.Equal(b.audits(), want) {
			t.Errorf("audit: %v", b.audits())
		}
	})
}

// Attack 5: an older document, or another one under the same sequence, is not
// stored.
func TestDocumentsDoNotGoBack(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		stored, _ := b.table.Stored("a.test")
		for _, seq := range []int64{stored.Seq - 1, stored.Seq} {
			d, err := federation.ParseDocument(stored.Document)
			must(t, err)
			d.Seq, d.Legal.Controller = seq, "somebody else"
			raw, err := d.Sign(a.id)
			must(t, err)
			d, err = federation.ParseDocument(raw)
			must(t, err)
			var rollback *federation.RollbackError
			if err := b.table.SaveDocument(t.Context(), "a.test", d); !errors.As(err, &rollback) {
				t.Errorf("sequence %d after %d: %v", seq, stored.Seq, err)
			}
		}
		if after, _ := b.table.Stored("a.test"); !bytes.Equal(after.Document, stored.Document) {
			t.Error("something was stored")
		}
	})
}

// Everything survives a restart.
func TestRestart(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		must(t, b.table.SaveOffset(t.Context(), "a.test", 3*time.Second))
		must(t, b.table.SaveStatus(t.Context(), "a.test", federation.Status{Failures: 4, LastError: clearbox.CodePeerUnreachable, Kind: federation.TroubleDNS, Since: 1000}))
		seq, kid := b.self.Document().Seq, b.self.SigningKey().KID
		b.close()
		b.open()
		b.listen()
		p, err := b.table.Peer(t.Context(), "a.test")
		must(t, err)
		stored, _ := b.table.Stored("a.test")
		if p.State != federation.PeerActive || p.ClockOffset != 3*time.Second || p.Pin != a.self.Document().Pin() || stored.Failures != 4 {
			t.Errorf("%+v", stored)
		}
		// What is counted anew is not away for a shorter time; an answer ends it.
		must(t, b.table.SaveStatus(t.Context(), "a.test", federation.Status{Failures: 1, LastError: clearbox.CodePeerUnreachable, Kind: federation.TroubleTCP, Since: 2000}))
		if s, _ := b.table.Stored("a.test"); s.Since != 1000 || s.Trouble != "tcp" {
			t.Errorf("%+v", s)
		}
		must(t, b.table.SaveStatus(t.Context(), "a.test", federation.Status{LastSeen: 3000}))
		if s, _ := b.table.Stored("a.test"); s.Since != 0 || s.Trouble != "" {
			t.Errorf("%+v", s)
		}
		if b.self.Document().Seq != seq || b.self.SigningKey().KID != kid {
			t.Error("the restart made another document or key")
		}
		if _, err := b.client.Hello(t.Context(), "a.test"); err != nil {
			t.Error(err)
		}
	})
}

func FuzzToken(f *testing.F) {
	tok := &peering.Token{Server: "a.test", Endpoints: []string{"https://a.test"}, Pin: make([]byte, 32), Secret: make([]byte, 16), Expires: 5}
	f.Add(tok.String())
	f.Add("cbpeer1-AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := peering.ParseToken(s)
		if err != nil {
			return
		}
		again, err := peering.ParseToken(tok.String())
		if err != nil || again.String() != tok.String() {
			t.Errorf("parse, print, parse: %v", err)
		}
	})
}
