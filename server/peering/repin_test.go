package peering_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// A peer with a new identity that nobody vouches for is refused until somebody
// compared the words.
func TestRepin(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		ctx := context.Background()
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		time.Sleep(time.Minute)
		fresh := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{99}, 32))
		words := keys.FingerprintWords(fresh.Public().(ed25519.PublicKey))
		before := keys.FingerprintWords(b.id.Public().(ed25519.PublicKey))
		b.close()
		b.id = fresh
		b.open()
		b.listen()
		_, err = a.client.FetchDocument(ctx, "b.test")
		if clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
			t.Fatalf("a new identity: %v", err)
		}
		old, _ := a.table.Stored("b.test")
		for _, wrong := range [][]string{before, words[1:], append(words[:7:7], "zebra")} {
			if err := a.service.Repin(ctx, deed("peer.repin"), "b.test", wrong); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
				t.Errorf("other words: %v", err)
			}
		}
		if p, _ := a.table.Stored("b.test"); !bytes.Equal(p.Pin, old.Pin) {
			t.Fatal("other words changed the pin")
		}
		must(t, a.table.Alert(ctx, "b.test", federation.AlertIdentity))
		said := append([]string{}, words...)
		said[0] = " " + string(bytes.ToUpper([]byte(said[0])))
		must(t, a.service.Repin(ctx, deed("peer.repin"), "b.test", said))
		if _, err := a.client.Hello(ctx, "b.test"); err != nil {
			t.Errorf("after it: %v", err)
		}
		p, _ := a.table.Stored("b.test")
		if bytes.Equal(p.Pin, old.Pin) || p.State != storage.PeerActive || p.Country != old.Country {
			t.Errorf("%+v", p)
		}
		must(t, a.store.View(ctx, func(tx *storage.Tx) error {
			alerts, err := tx.PeerAlerts()
			if len(alerts) != 0 {
				t.Errorf("still told: %+v", alerts)
			}
			return err
		}))
		if got := a.audits(); got[len(got)-1] != "peer.repin b.test" {
			t.Errorf("audit: %v", got)
		}
		for _, server := range []clearbox.ServerName{"c.test", "a.test"} {
			if err := a.service.Repin(ctx, deed("peer.repin"), server, words); err != storage.ErrNotFound {
				t.Errorf("%s: %v", server, err)
			}
		}
		if _, err := a.service.Invite(ctx, deed("peer.invite"), wire.AdminPeerInvite{Server: "c.test", Country: "DE"}); err != nil {
			t.Fatal(err)
		}
		if err := a.service.Repin(ctx, deed("peer.repin"), "c.test", words); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("an open invitation: %v", err)
		}
	})
}

// A real peer keeps the protocol, and nothing changes at it; whoever is no
// active peer is not asked.
func TestConformance(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		ctx := context.Background()
		if _, err := a.service.Conformance(ctx, "b.test"); err != storage.ErrNotFound {
			t.Errorf("a stranger: %v", err)
		}
		_, err := b.accept(a.invite("b.test").Token)
		must(t, err)
		time.Sleep(time.Minute)
		before, _ := b.table.Stored("a.test")
		audits := len(b.audits())
		r, err := a.service.Conformance(ctx, "b.test")
		must(t, err)
		for _, c := range r.Checks {
			if !c.OK {
				t.Errorf("%s: %s, want %s", c.Name, c.Got, c.Want)
			}
		}
		after, _ := b.table.Stored("a.test")
		if !r.OK || len(r.Checks) < 40 || !bytes.Equal(before.Document, after.Document) || before.State != after.State || len(b.audits()) != audits {
			t.Errorf("ok %v, %d checks", r.OK, len(r.Checks))
		}
		must(t, a.service.Suspend(ctx, deed("peer.suspend"), "b.test"))
		if _, err := a.service.Conformance(ctx, "b.test"); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("suspended: %v", err)
		}
	})
}
