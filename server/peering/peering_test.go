package peering_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server/peering"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

// lab is some homeservers on an in-memory network.
type lab struct {
	t    *testing.T
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	mu   sync.Mutex // guards the fields below
	at   map[string]chan net.Conn
	lose bool // the answer to the next peering request is lost
}

type site struct {
	lab     *lab
	name    clearbox.ServerName
	store   *storage.Store
	table   *peering.Table
	self    *federation.Self
	client  *federation.Client
	service *peering.Service
	queues  *queues
	inbox   *federation.Inbox
	offset  time.Duration
	stop    []func()
	dir     string
	id      ed25519.PrivateKey
}

type queues struct {
	mu      sync.Mutex
	retried []clearbox.ServerName
	greeted int
}

func (q *queues) Retry(p clearbox.ServerName) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.retried = append(q.retried, p)
}
func (q *queues) Greet() { q.greeted++ }

func newLab(t *testing.T) *lab {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	ca, err := x509.ParseCertificate(der)
	must(t, err)
	l := &lab{t: t, ca: ca, key: key, pool: x509.NewCertPool(), at: map[string]chan net.Conn{}}
	l.pool.AddCert(ca)
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lab) site(name clearbox.ServerName, seed byte) *site {
	s := &site{lab: l, name: name, queues: &queues{}, dir: l.t.TempDir(), id: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))}
	s.open()
	s.listen()
	return s
}

func (s *site) now() time.Time { return time.Now().Add(s.offset) }

func (s *site) open() {
	t, ctx := s.lab.t, context.Background()
	ks, err := keystore.Open(ctx, filepath.Join(s.dir, "keystore.db"), bytes.Repeat([]byte{7}, 32), keystore.Options{Now: s.now})
	must(t, err)
	s.store, err = storage.Open(ctx, storage.Options{Path: filepath.Join(s.dir, "clearbox.db"), Sealer: ks, Index: ks.Index, Now: s.now})
	must(t, err)
	s.table, err = peering.OpenTable(ctx, s.store)
	must(t, err)
	s.self, err = federation.OpenSelf(ctx, s.name, s.id, peering.SelfState{Store: s.store, Sealer: ks}, federation.SelfOptions{
		Endpoints: []federation.Endpoint{{URL: "https://" + string(s.name)}}, Now: s.now,
	})
	must(t, err)
	tr := transport.New(transport.Options{RootCAs: s.lab.pool, Dial: s.lab.dial, Now: s.now})
	s.client = federation.NewClient(s.self, s.table, tr, federation.ClientOptions{Now: s.now})
	s.service = peering.New(s.table, s.self, s.client, peering.Options{Prober: tr, Queues: s.queues, Now: s.now})
	s.inbox = federation.NewInbox(s.self, s.client, nil, nil, federation.InboxOptions{Handshake: s.service, Now: s.now})
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan struct{})
	go func() { defer close(ran); _ = s.client.Run(ctx) }()
	s.stop = append(s.stop, func() { cancel(); <-ran; tr.Close(); must(t, s.store.Close()); must(t, ks.Close()) })
}

func (s *site) close() {
	for _, f := range slices.Backward(s.stop) {
		f()
	}
	s.stop = nil
}

func (s *site) listen() {
	l := s.lab
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(l.t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{string(s.name)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(9000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, l.ca, key.Public(), l.key)
	must(l.t, err)
	conns := make(chan net.Conn)
	l.mu.Lock()
	l.at[string(s.name)+":443"] = conns
	l.mu.Unlock()
	srv := &http.Server{
		Handler:   http.HandlerFunc(s.serve),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2"}},
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.ServeTLS(&listener{conns: conns, done: make(chan struct{})}, "", "")
	}()
	s.stop = append(s.stop, func() { srv.Close(); <-served })
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.lab.mu.Lock()
	lose := s.lab.lose && r.URL.Path == federation.PathPeering
	s.lab.lose = s.lab.lose && !lose
	s.lab.mu.Unlock()
	if lose {
		s.inbox.ServeHTTP(nowhere{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	}
	s.inbox.ServeHTTP(w, r)
}

type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header         { return n.h }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *lab) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l.mu.Lock()
	conns := l.at[addr]
	l.mu.Unlock()
	if conns == nil {
		return nil, fmt.Errorf("connection to %s refused", addr)
	}
	ours, theirs := net.Pipe()
	select {
	case conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *site) invite(to clearbox.ServerName) wire.AdminPeerInvited {
	s.lab.t.Helper()
	inv, err := s.service.Invite(context.Background(), deed("peer.invite"), wire.AdminPeerInvite{Server: to, Country: "DE", AllowPrivate: true})
	must(s.lab.t, err)
	return inv
}

func (s *site) accept(token string) (wire.AdminPeerAccepted, error) {
	return s.service.Accept(context.Background(), deed("peer.accept"), wire.AdminPeerAccept{Token: token, Country: "FR", AllowPrivate: true})
}

func deed(action string) storage.AuditEntry { return storage.AuditEntry{Role: "admin", Action: action} }

func (s *site) state(of clearbox.ServerName) storage.PeerState {
	p, _ := s.table.Stored(of)
	return p.State
}

func (s *site) audits() []string {
	var out []string
	must(s.lab.t, s.store.View(context.Background(), func(tx *storage.Tx) error {
		out = nil
		es, err := tx.AuditEntries(0, 100)
		for _, e := range es {
			out = append(out, e.Action+" "+e.Object)
		}
		return err
	}))
	return out
}

func bubble(t *testing.T, fn func(t *testing.T, l *lab, a, b *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		a, b := l.site("a.test", 1), l.site("b.test", 2)
		defer b.close()
		defer a.close()
		fn(t, l, a, b)
	})
}

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
			if !report.OK || len(report.Steps) != 7 {
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
func TestHijackedHostIsRefused(t *testing.T) {
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
		must(t, b.table.SaveStatus(t.Context(), "a.test", federation.Status{Failures: 4, LastError: clearbox.CodePeerUnreachable}))
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
