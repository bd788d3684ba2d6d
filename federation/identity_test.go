package federation_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// world3 runs fn with three nodes that are all peers of each other.
func world3(t *testing.T, before func(*world), fn func(w *world, a, b, c *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.test", "b.test", "c.test")
		if before != nil {
			before(w)
		}
		w.start()
		defer w.stop()
		wait(t, time.Minute) // everybody was greeted
		fn(w, w.nodes["a.test"], w.nodes["b.test"], w.nodes["c.test"])
	})
}

func (n *node) hello(to clearbox.ServerName) error {
	_, err := n.client.Hello(context.Background(), to)
	return err
}

func (n *node) seqOf(peer clearbox.ServerName) int64 {
	d := n.client.Document(context.Background(), peer)
	if d == nil {
		return 0
	}
	return d.Seq
}

// replaceDocument makes the wire serve another document than the node's own.
func replaceDocument(host string, raw []byte) func(*http.Request, []byte, *http.Response) {
	return func(req *http.Request, _ []byte, resp *http.Response) {
		if req.URL.Host == host && req.URL.Path == federation.PathServer {
			resp.Body = io.NopCloser(bytes.NewReader(raw))
		}
	}
}

// Row 5 of the threat model: an older document is refused, told to the operator
// and changes nothing.
func TestThreat05RollbackToARevokedKey(t *testing.T) {
	world3(t, nil, func(w *world, a, b, _ *node) {
		old := bytes.Clone(b.self.Document().Signed())
		stolen := b.self.SigningKey()
		wait(t, time.Minute)
		if err := b.self.RevokeKey(context.Background(), stolen.KID); err != nil {
			t.Fatal(err)
		}
		wait(t, 2*time.Minute)
		seq := a.seqOf("b.test")
		if seq != b.self.Document().Seq {
			t.Fatal("the new document did not arrive")
		}
		w.set(func(x *wire) { x.answer = replaceDocument("b.test", old) })
		a.alerts.take()
		_, err := a.client.FetchDocument(context.Background(), "b.test")
		var rollback *federation.RollbackError
		if !errors.As(err, &rollback) || rollback.Have != seq {
			t.Errorf("an older document: %v", err)
		}
		if got := a.alerts.take(); !slices.Equal(got, []string{"rollback b.test"}) {
			t.Errorf("alerts: %v", got)
		}
		if a.seqOf("b.test") != seq {
			t.Error("the older document was stored")
		}
		if _, err := a.client.FetchDocument(context.Background(), "b.test"); err == nil || len(a.alerts.take()) != 0 {
			t.Error("the same trouble is told again within the hour")
		}
	})
}

// Row 6's sibling in this part: another identity is refused and told.
func TestAnotherIdentityIsTold(t *testing.T) {
	world3(t, nil, func(w *world, a, b, _ *node) {
		d := document(b.self.Document().Seq + 1000)
		d.Server, d.Issued = "b.test", clearbox.Millis(time.Now().UnixMilli())
		d.Expires = d.Issued + 86_400_000
		w.set(func(x *wire) { x.answer = replaceDocument("b.test", signed(t, d, identity(77))) })
		if _, err := a.client.FetchDocument(context.Background(), "b.test"); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
			t.Errorf("another identity: %v", err)
		}
		if got := a.alerts.take(); !slices.Equal(got, []string{"identity_changed b.test"}) {
			t.Errorf("alerts: %v", got)
		}
	})
}

// Row 7: whoever c.test is to a.test, b.test sees another document under the
// same sequence, or another identity. One greeting between a and b shows it.
func TestThreat07GossipShowsASplitView(t *testing.T) {
	for name, identityOfC := range map[string]ed25519.PrivateKey{
		"the same identity": ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32)), "another identity": identity(66),
	} {
		t.Run(name, func(t *testing.T) {
			world3(t, nil, func(w *world, a, b, c *node) {
				wait(t, 11*time.Minute) // since the last answer
				genuine := c.self.Document()
				other := *genuine
				other.Legal.Controller = "Somebody else"
				if name == "another identity" { // and of another time, so that nothing else tells
					other.Seq--
				}
				forged, err := federation.ParseDocument(signed(t, &other, identityOfC))
				if err != nil {
					t.Fatal(err)
				}
				b.peers.change("c.test", func(p *federation.Peer) { p.Document, p.Pin = forged.Signed(), forged.Pin() })
				a.alerts.take()
				if err := a.hello("b.test"); err != nil {
					t.Fatal(err)
				}
				if got := a.alerts.take(); !slices.Equal(got, []string{"split_view c.test"}) {
					t.Errorf("after one greeting: %v", got)
				}
			})
		})
	}
}

// A server that shows another document in our name meets us in a greeting.
func TestThreat07OurOwnNameIsSplit(t *testing.T) {
	world3(t, nil, func(w *world, a, b, _ *node) {
		fake := *a.self.Document()
		fake.Legal.Controller = "Somebody else"
		raw := signed(t, &fake, a.identity)
		b.peers.change("a.test", func(p *federation.Peer) { p.Document = raw })
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		if got := a.alerts.take(); !slices.Contains(got, "split_view b.test") {
			t.Errorf("alerts: %v", got)
		}
	})
}

// Without trouble nobody is alarmed, gossip says nothing about peers that only
// one side has, a peer that does not take part gets none, and one that asks
// often gets one answer in ten minutes.
func TestGossipSaysOnlyWhatBothKnow(t *testing.T) {
	world3(t, func(w *world) { w.nodes["c.test"].mute = true }, func(w *world, a, b, c *node) {
		wait(t, 11*time.Minute)
		var bodies [][]byte
		var paths []string
		w.set(func(x *wire) {
			x.ask = func(req *http.Request, body []byte) []byte {
				bodies, paths = append(bodies, body), append(paths, req.URL.Host)
				return body
			}
			x.answer = func(req *http.Request, _ []byte, resp *http.Response) {
				b, _ := io.ReadAll(resp.Body)
				resp.Body = io.NopCloser(bytes.NewReader(b))
				bodies = append(bodies, b)
			}
		})
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		if len(bodies) != 2 || !bytes.Contains(bodies[0], []byte("asked")) || !bytes.Contains(bodies[1], []byte("views")) {
			t.Fatal("no gossip between two that take part")
		}
		for _, b := range bodies {
			if bytes.Contains(b, []byte("c.test")) {
				t.Error("a name travels in the clear")
			}
		}
		bodies = nil
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(bodies[1], []byte("views")) {
			t.Error("answered twice within ten minutes")
		}
		bodies = nil
		wait(t, 11*time.Minute)
		bodies = nil
		if err := c.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		if err := a.hello("c.test"); err != nil {
			t.Fatal(err)
		}
		for i, b := range bodies {
			if bytes.Contains(b, []byte("views")) || i < 2 && bytes.Contains(b, []byte("asked")) {
				t.Errorf("message %d has gossip for one that takes no part", i)
			}
		}
		for _, n := range []*node{a, b, c} {
			if got := n.alerts.take(); len(got) != 0 {
				t.Errorf("%s was alarmed: %v", n.name, got)
			}
		}
		b.peers.change("a.test", func(p *federation.Peer) { p.FirstUse = true })
		wait(t, 11*time.Minute)
		bodies = nil
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(bodies[1], []byte("views")) {
			t.Error("a server that came by itself is told about third servers")
		}
	})
}

// Row 18: a document whose versions were changed does not verify, one that the
// peer signed itself is believed and told, and a request that speaks less than
// both do is told.
func TestThreat18VersionDowngrade(t *testing.T) {
	newer := federation.Protocol{Min: "1.1", Max: "1.2"}
	world3(t, func(w *world) {
		w.nodes["a.test"].protocol, w.nodes["b.test"].protocol = newer, newer
	}, func(w *world, a, b, c *node) {
		spoken := map[string]string{}
		w.set(func(x *wire) {
			x.ask = func(req *http.Request, body []byte) []byte {
				spoken[req.Header.Get("Clearbox-Origin")+" "+req.URL.Host] = req.Header.Get("Clearbox-Version")
				return body
			}
		})
		for _, err := range []error{a.hello("b.test"), a.hello("c.test"), c.hello("a.test")} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if spoken["a.test b.test"] != "1.2" || spoken["a.test c.test"] != "1.1" || spoken["c.test a.test"] != "1.1" {
			t.Errorf("spoken: %v", spoken)
		}
		w.set(func(x *wire) { x.ask = nil })

		// The header is covered by the signature.
		w.set(func(x *wire) {
			x.ask = func(req *http.Request, body []byte) []byte { req.Header.Set("Clearbox-Version", "1.1"); return body }
		})
		if err := a.hello("b.test"); clearbox.CodeOf(err) != clearbox.CodeBadSignature {
			t.Errorf("a version that was changed on the way: %v", err)
		}
		w.set(func(x *wire) { x.ask = nil })
		if got := b.alerts.take(); len(got) != 0 {
			t.Errorf("told too early: %v", got)
		}

		// A request of a.test that says less than its document and ours do.
		r, err := http.NewRequest(http.MethodPost, "https://b.test"+federation.PathHello, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", federation.TypeCBOR)
		r.Header.Set("Clearbox-Version", "1.1")
		if _, err := federation.SignRequest(r, nil, "a.test", "b.test", a.self.SigningKey(), time.Now(), seeded{rng(1)}); err != nil {
			t.Fatal(err)
		}
		b.receive(r, nil)
		if got := b.alerts.take(); !slices.Equal(got, []string{"downgrade a.test"}) {
			t.Errorf("alerts: %v", got)
		}

		// The same when the receiver does not know yet which document of it the peer holds.
		w.set(func(x *wire) { x.cut = true })
		b.restart()
		wait(t, time.Minute)
		if r, err = http.NewRequest(http.MethodPost, "https://b.test"+federation.PathHello, nil); err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", federation.TypeCBOR)
		r.Header.Set("Clearbox-Version", "1.1")
		if _, err := federation.SignRequest(r, nil, "a.test", "b.test", a.self.SigningKey(), time.Now(), seeded{rng(3)}); err != nil {
			t.Fatal(err)
		}
		b.receive(r, nil)
		if got := b.alerts.take(); !slices.Equal(got, []string{"downgrade a.test"}) {
			t.Errorf("alerts after a restart: %v", got)
		}
		w.set(func(x *wire) { x.cut = false })

		// The document with other versions, under the old signature.
		var form struct{ Payload, Signatures string }
		raw := string(a.self.Document().Signed())
		_, rest, _ := strings.Cut(raw, `"payload":"`)
		form.Payload, form.Signatures, _ = strings.Cut(rest, `"`)
		payload, err := base64.RawURLEncoding.DecodeString(form.Payload)
		if err != nil {
			t.Fatal(err)
		}
		lower := strings.Replace(string(payload), `"max":"1.2"`, `"max":"1.1"`, 1)
		changed := `{"payload":"` + base64.RawURLEncoding.EncodeToString([]byte(lower)) + `"` + form.Signatures
		if _, err := federation.ParseDocument([]byte(changed)); lower == string(payload) || clearbox.CodeOf(err) != clearbox.CodeBadSignature {
			t.Errorf("a modified document: %v", err)
		}

		// One that a.test signed itself after it went back: then its requests have a reason.
		wait(t, 2*time.Hour)
		a.protocol = federation.Protocol{}
		a.restart()
		wait(t, time.Minute)
		if got := b.alerts.take(); !slices.Contains(got, "downgrade a.test") {
			t.Errorf("a document that offers less: %v", got)
		}
		wait(t, 2*time.Hour)
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		if got := b.alerts.take(); len(got) != 0 {
			t.Errorf("told again: %v", got)
		}
	})
}

// An upgrade is no downgrade: a peer that still holds our older document speaks
// what that one offers.
func TestUpgradeIsNoDowngrade(t *testing.T) {
	world3(t, func(w *world) { w.nodes["a.test"].protocol.Min, w.nodes["a.test"].protocol.Max = "1.1", "1.2" }, func(w *world, a, b, _ *node) {
		w.set(func(x *wire) { // b's new document does not reach a
			x.answer = func(req *http.Request, _ []byte, resp *http.Response) {
				if req.URL.Host == "b.test" && req.URL.Path == federation.PathServer {
					resp.StatusCode = http.StatusBadGateway
				}
			}
		})
		b.protocol = federation.Protocol{Min: "1.1", Max: "1.2"}
		b.restart()
		wait(t, time.Hour)
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		w.set(func(x *wire) { x.answer = nil })
		wait(t, time.Hour)
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		wait(t, time.Minute)
		if err := a.hello("b.test"); err != nil {
			t.Fatal(err)
		}
		if got := b.alerts.take(); len(got) != 0 {
			t.Errorf("alerts: %v", got)
		}
	})
}

func TestCommonVersion(t *testing.T) {
	for _, c := range []struct{ aMin, aMax, bMin, bMax, want string }{
		{"1.1", "1.1", "1.1", "1.1", "1.1"}, {"1.1", "1.4", "1.2", "1.3", "1.3"}, {"1.0", "1.10", "1.0", "1.9", "1.9"},
		{"1.1", "1.2", "1.3", "1.4", ""}, {"1.3", "1.4", "1.1", "1.2", ""}, {"1.1", "2.0", "1.1", "1.3", "1.3"},
		{"2.0", "2.1", "2.0", "2.1", ""}, {"1.1", "2.0", "1.1", "2.1", ""}, {"1.2", "1.1", "1.1", "1.2", ""}, {"x", "y", "1.1", "1.1", ""},
	} {
		got, err := federation.Common(federation.Protocol{Min: c.aMin, Max: c.aMax}, federation.Protocol{Min: c.bMin, Max: c.bMax})
		if got != c.want || (err != nil) != (c.want == "") || err != nil && clearbox.CodeOf(err) != clearbox.CodeUnsupportedVersion {
			t.Errorf("%+v: %q %v", c, got, err)
		}
	}
}

// Two that have no version in common find out before a message is in danger.
func TestNoCommonVersion(t *testing.T) {
	world3(t, func(w *world) { w.nodes["a.test"].protocol = federation.Protocol{Min: "1.2", Max: "1.3"} }, func(w *world, a, b, _ *node) {
		if err := a.hello("b.test"); clearbox.CodeOf(err) != clearbox.CodeUnsupportedVersion {
			t.Errorf("a to b: %v", err)
		}
		r, _ := http.NewRequest(http.MethodPost, "https://a.test"+federation.PathHello, nil)
		r.Header.Set("Content-Type", federation.TypeCBOR)
		if _, err := federation.SignRequest(r, nil, "b.test", "a.test", b.self.SigningKey(), time.Now(), seeded{rng(2)}); err != nil {
			t.Fatal(err)
		}
		resp := a.receive(r, nil)
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden || !bytes.Contains(body, []byte("unsupported_version")) || resp.Header.Get("Signature") == "" {
			t.Errorf("b to a: %d %s", resp.StatusCode, body)
		}
		a.send("b.test", 3)
		wait(t, time.Hour)
		if a.outbox.unsettled() != 3 {
			t.Error("messages were settled")
		}
		if a.protocol = (federation.Protocol{}); true {
			a.restart()
		}
		wait(t, 2*time.Hour)
		w.check("a.test", "b.test")
	})
}

// Row 25: whoever stole a signing key can use it until the peer hears the next
// greeting.
func TestThreat25StolenSigningKey(t *testing.T) {
	world3(t, nil, func(w *world, a, b, _ *node) {
		wait(t, time.Minute)
		stolen := a.self.SigningKey()
		attack := func() *http.Response {
			r, err := http.NewRequest(http.MethodPost, "https://b.test"+federation.PathHello, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", federation.TypeCBOR)
			body := []byte{0xa0}
			if _, err := federation.SignRequest(r, body, "a.test", "b.test", stolen, time.Now(), seeded{rng(time.Now().UnixNano())}); err != nil {
				t.Fatal(err)
			}
			return b.receive(r, body)
		}
		if resp := attack(); resp.StatusCode != http.StatusOK {
			t.Fatalf("the key is not stolen: %d", resp.StatusCode)
		}
		before := a.self.Document()
		if err := a.self.RevokeKey(context.Background(), stolen.KID); err != nil {
			t.Fatal(err)
		}
		after := a.self.Document()
		if after.Seq <= before.Seq || a.self.SigningKey().KID == stolen.KID {
			t.Fatal("nothing was revoked")
		}
		if _, ok := after.FedSign(a.self.SigningKey().KID, time.Now()); !ok {
			t.Error("the new key is not in the document, or not valid yet")
		}
		wait(t, 40*time.Second) // the greeting and what follows from it
		resp := attack()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusUnauthorized || !bytes.Contains(body, []byte("unknown_key")) {
			t.Errorf("the stolen key after one greeting: %d %s", resp.StatusCode, body)
		}
		a.send("b.test", 5)
		wait(t, time.Minute)
		w.check("a.test", "b.test")
		if err := a.self.RevokeKey(context.Background(), stolen.KID); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Errorf("revoked twice: %v", err)
		}
		a.restart()
		for _, k := range a.self.Document().Keys {
			if k.KID == stolen.KID {
				t.Error("a restart brought the key back")
			}
		}
	})
}

// A peer holds each new signing key before the first request under it.
func TestPeersSeeAKeyBeforeItIsUsed(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		used := map[string]bool{}
		w.set(func(x *wire) {
			x.ask = func(req *http.Request, body []byte) []byte {
				if req.Header.Get("Clearbox-Origin") != "a.test" {
					return body
				}
				_, kid, _ := strings.Cut(req.Header.Get("Signature-Input"), `keyid="`)
				kid, _, _ = strings.Cut(kid, `"`)
				doc := b.client.Document(context.Background(), "a.test")
				if _, ok := doc.FedSign(kid, time.Now()); !ok {
					t.Errorf("after %d keys: %s is used before the peer has it", len(used), kid)
				}
				used[kid] = true
				return body
			}
		})
		for range 80 {
			wait(t, 24*time.Hour)
			if err := a.hello("b.test"); err != nil {
				t.Fatal(err)
			}
		}
		if len(used) != 2 {
			t.Errorf("%d signing keys were used", len(used))
		}
	})
}

// Every kind of key can be revoked, in use or waiting, and has a usable
// successor at once.
func TestRevokeEveryKey(t *testing.T) {
	now := base
	s, err := federation.OpenSelf(context.Background(), "a.test", identity(1), &blob{}, federation.SelfOptions{
		Endpoints: []federation.Endpoint{{URL: "https://a.test"}}, Now: func() time.Time { return now }, Random: seeded{rng(1)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, k := range s.Document().Keys {
			if err := s.RevokeKey(context.Background(), k.KID); err != nil {
				t.Fatal(err)
			}
			in := map[federation.KeyPurpose]int{}
			for _, left := range s.Document().Keys {
				if left.KID == k.KID {
					t.Errorf("%s is still there", k.KID)
				}
				if left.NotBefore <= clearbox.Millis(now.UnixMilli()) {
					in[left.Purpose]++
				}
			}
			if len(in) != 4 {
				t.Errorf("after %s: %v", k.KID, in)
			}
		}
		now = now.Add(90*24*time.Hour - 15*24*time.Hour + time.Minute) // successors are published and wait
		if err := s.RevokeKey(context.Background(), "fs-none"); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Error(err)
		}
	}
}

// Peers follow a rotation of the identity without anybody doing anything, and
// one that was away for it needs a person.
func TestIdentityRotationIsFollowed(t *testing.T) {
	world3(t, nil, func(w *world, a, b, c *node) {
		old, next := a.identity, identity(42)
		if err := a.self.SetIdentity(context.Background(), federation.Identity{Key: next}); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
			t.Errorf("a new identity alone: %v", err)
		}
		until := clearbox.Millis(time.Now().Add(30 * 24 * time.Hour).UnixMilli())
		a.identity, a.previous = next, old
		if err := a.self.SetIdentity(context.Background(), federation.Identity{Key: next, Previous: old, PreviousUntil: until}); err != nil {
			t.Fatal(err)
		}
		wait(t, time.Minute)
		for _, n := range []*node{b, c} {
			if p, _ := n.peers.Peer(context.Background(), "a.test"); p.Pin != pinOf(next) {
				t.Errorf("%s did not follow", n.name)
			}
			if got := n.alerts.take(); len(got) != 0 {
				t.Errorf("%s was alarmed: %v", n.name, got)
			}
		}
		r := a.self.Report()
		if r.Previous == nil || r.PreviousUntil != until {
			t.Errorf("report: %+v", r)
		}
		wait(t, 31*24*time.Hour)
		if r := a.self.Report(); r.Previous != nil {
			t.Error("the old identity still signs")
		}
		if a.self.Document().Check("a.test", pinOf(old), time.Now()) == nil {
			t.Error("the document is still signed by the old identity")
		}
		for _, n := range []*node{b, c} {
			if err := a.hello(n.name); err != nil {
				t.Error(err)
			}
		}
	})
}

// The identity goes away for 90 days. Documents go on, keys rotate with their
// overlap, peers notice nothing; afterwards nothing is exchanged until it is
// back, and what it signs then is newer than all that was signed in advance.
func TestIdentityOffline(t *testing.T) {
	world3(t, nil, func(w *world, a, b, _ *node) {
		key := a.identity
		start := time.Now()
		until, err := a.self.GoOffline(context.Background(), 90*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if until != clearbox.Millis(start.Add(90*24*time.Hour).UnixMilli()) {
			t.Errorf("until %d", until)
		}
		if _, err := a.self.GoOffline(context.Background(), 90*24*time.Hour); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("twice: %v", err)
		}
		if err := a.self.RevokeKey(context.Background(), a.self.SigningKey().KID); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("a revocation without the identity: %v", err)
		}
		published := map[string]time.Time{}
		used := map[string]bool{}
		last := a.self.Document()
		wait(t, time.Hour) // Self looks once an hour
		for day := range 89 {
			if day == 30 { // the process starts anew without a key
				a.identity = nil
				a.restart()
			}
			wait(t, 24*time.Hour)
			doc := a.self.Document()
			if doc.Seq != last.Seq+1 || time.Until(time.UnixMilli(int64(doc.Expires))) < 22*time.Hour {
				t.Fatalf("day %d: document %d after %d, ends %v", day, doc.Seq, last.Seq, time.UnixMilli(int64(doc.Expires)))
			}
			if h := last.Hash(); doc.Prev != base64.RawURLEncoding.EncodeToString(h[:]) {
				t.Fatalf("day %d: the chain is broken", day)
			}
			if doc.Expires-doc.Issued > clearbox.Millis(federation.MaxDocumentLife.Milliseconds()) {
				t.Fatalf("day %d: lives too long", day)
			}
			last = doc
			for _, k := range doc.Keys {
				if _, ok := published[k.KID]; !ok {
					published[k.KID] = time.Now()
				}
			}
			kid := a.self.SigningKey().KID
			if !used[kid] && len(used) > 0 && time.Since(published[kid]) < 24*time.Hour {
				t.Errorf("day %d: a key is used %v after it was published", day, time.Since(published[kid]))
			}
			used[kid] = true
			if day%10 == 0 {
				a.send("b.test", 2)
				wait(t, time.Minute)
				if a.outbox.unsettled() != 0 {
					t.Fatalf("day %d: messages do not arrive", day)
				}
			}
			if got := b.alerts.take(); len(got) != 0 {
				t.Fatalf("day %d: %v", day, got)
			}
		}
		if len(used) != 2 {
			t.Errorf("%d signing keys were used", len(used))
		}
		if r := a.self.Report(); !r.Offline || r.OfflineUntil != until || r.Stale || r.Ahead != 0 {
			t.Errorf("report: offline %v until %d stale %v ahead %d", r.Offline, r.OfflineUntil, r.Stale, r.Ahead)
		}
		wait(t, 30*time.Hour) // they have run out
		if clearbox.CodeOf(a.self.Usable()) != clearbox.CodeExpired {
			t.Error("usable without a document")
		}
		w.set(func(x *wire) {
			x.ask = func(req *http.Request, body []byte) []byte {
				if req.Header.Get("Clearbox-Origin") == "a.test" {
					t.Error("a request was signed that nobody can believe")
				}
				return body
			}
		})
		a.send("b.test", 1)
		wait(t, time.Hour)
		if a.outbox.unsettled() != 1 {
			t.Error("a message went out")
		}
		r, err := http.NewRequest(http.MethodGet, "https://a.test"+federation.PathServer, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp := a.receive(r, nil); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("the document that ended is answered with %d", resp.StatusCode)
		}
		w.set(func(x *wire) { x.ask = nil })
		if err := b.hello("a.test"); err == nil {
			t.Error("a greeting was answered")
		}
		if err := a.self.SetIdentity(context.Background(), federation.Identity{Key: identity(99)}); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
			t.Errorf("another identity: %v", err)
		}
		if err := a.self.SetIdentity(context.Background(), federation.Identity{Key: key}); err != nil {
			t.Fatal(err)
		}
		wait(t, 2*time.Hour)
		if a.outbox.unsettled() != 0 {
			t.Error("the message still waits")
		}
		w.check("a.test", "b.test")
	})
}

// What an offline server cannot say is told, and the identity's return makes
// everything signed in advance old at once.
func TestIdentityReturnsEarly(t *testing.T) {
	now := base
	state := &blob{}
	legal := federation.Legal{Country: "AT"}
	open := func(id ed25519.PrivateKey) (*federation.Self, error) {
		return federation.OpenSelf(context.Background(), "a.test", id, state, federation.SelfOptions{
			Endpoints: []federation.Endpoint{{URL: "https://a.test"}}, Legal: legal, Now: func() time.Time { return now }, Random: seeded{rng(1)},
		})
	}
	if _, err := open(nil); clearbox.CodeOf(err) != clearbox.CodeNotFound {
		t.Errorf("no identity and nothing signed: %v", err)
	}
	s, err := open(identity(1))
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	for _, d := range []time.Duration{0, time.Hour, 366 * 24 * time.Hour} {
		if _, err := s.GoOffline(context.Background(), d); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
			t.Errorf("for %v: %v", d, err)
		}
	}
	if _, err := s.GoOffline(context.Background(), 30*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	away := s.Document().Seq
	legal.Country = "DE"
	if s, err = open(nil); err != nil {
		t.Fatal(err)
	}
	if r := s.Report(); !r.Stale || s.Document().Legal.Country != "AT" {
		t.Error("the words changed without the identity, or nobody is told")
	}
	now = now.Add(time.Second) // the killed command is repeated: the key was not removed
	if s, err = open(identity(1)); err != nil {
		t.Fatal(err)
	}
	if r := s.Report(); r.Offline || r.Ahead != 0 || s.Document().Legal.Country != "DE" || s.Document().Seq < away+30 {
		t.Errorf("back: %+v, document %d after %d", r, s.Document().Seq, away)
	}
}

// Each step of going offline may fail or be the last before a kill: what is
// loaded afterwards is one of the two states and works.
func TestOfflineFailsBeforeOrAfterSaving(t *testing.T) {
	for _, kept := range []bool{false, true} {
		state := &failingState{}
		open := func(id ed25519.PrivateKey) (*federation.Self, error) {
			return federation.OpenSelf(context.Background(), "a.test", id, state, federation.SelfOptions{
				Endpoints: []federation.Endpoint{{URL: "https://a.test"}}, Now: func() time.Time { return base }, Random: seeded{rng(1)},
			})
		}
		s, err := open(identity(1))
		if err != nil {
			t.Fatal(err)
		}
		state.fail, state.keep = true, kept
		if _, err := s.GoOffline(context.Background(), 30*24*time.Hour); err == nil {
			t.Fatal("the failure is not told")
		}
		if r := s.Report(); r.Offline {
			t.Error("the identity was forgotten although nothing is known to be saved")
		}
		state.fail = false
		if s, err = open(identity(1)); err != nil || s.Report().Offline {
			t.Errorf("kept %v: %v", kept, err)
		}
		if _, err := open(nil); (err == nil) != false {
			t.Errorf("kept %v: a server whose identity is at hand opens without it: %v", kept, err)
		}
	}
}

type failingState struct {
	blob
	fail, keep bool
}

func (f *failingState) SaveSelf(ctx context.Context, b []byte) error {
	if f.fail {
		if f.keep {
			_ = f.blob.SaveSelf(ctx, b)
		}
		return fmt.Errorf("the disk is full")
	}
	return f.blob.SaveSelf(ctx, b)
}
