package peering_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
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
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

// lab is some homeservers on an in-memory network.
type lab struct {
	t       *testing.T
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
	pool    *x509.CertPool
	mu      sync.Mutex // guards the fields below
	at      map[string]chan net.Conn
	forged  map[string]netip.Addr // by host
	asked   []string              // hosts that were looked up
	dialled []string              // addresses
	lose    bool                  // the answer to the next peering request is lost
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
	faults  *storage.Faults
	stop    []func()
	dir     string
	id      ed25519.PrivateKey
	rules   *peering.Open // not nil: mode open
	country string        // of its document; DE if empty
	reports reports
}

// reports is what was given up, by server.
type reports struct {
	mu     sync.Mutex
	of     []clearbox.ServerName
	broken error
}

func (r *reports) giveUp(_ context.Context, server clearbox.ServerName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return r.broken
	}
	r.of = append(r.of, server)
	return nil
}

func (r *reports) take() []clearbox.ServerName {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.of
	r.of = nil
	return of
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

// rootKey is that of every site.
var rootKey = bytes.Repeat([]byte{7}, 32)

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

func (l *lab) site(name clearbox.ServerName, seed byte) *site { return l.siteIn(name, seed, nil) }

// siteIn makes a site in mode open, unless there are no rules for it.
func (l *lab) siteIn(name clearbox.ServerName, seed byte, rules *peering.Open) *site {
	s := &site{rules: rules, lab: l, name: name, queues: &queues{}, faults: &storage.Faults{}, dir: l.t.TempDir(), id: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))}
	storagetest.Files(l.t, filepath.Join(s.dir, "clearbox.db"), filepath.Join(s.dir, "keystore.db"), rootKey)
	s.open()
	s.listen()
	return s
}

func (s *site) now() time.Time { return time.Now().Add(s.offset) }

func (s *site) open() {
	t, ctx := s.lab.t, context.Background()
	ks, err := keystore.Open(ctx, filepath.Join(s.dir, "keystore.db"), rootKey, keystore.Options{Now: s.now})
	must(t, err)
	s.store, err = storage.Open(ctx, storage.Options{Path: filepath.Join(s.dir, "clearbox.db"), Sealer: ks, Index: ks.Index, Now: s.now, Faults: s.faults})
	must(t, err)
	s.table, err = peering.OpenTable(ctx, s.store, peering.TableOptions{Now: s.now, Open: s.rules})
	must(t, err)
	s.self, err = federation.OpenSelf(ctx, s.name, s.id, peering.SelfState{Store: s.store, Sealer: ks}, federation.SelfOptions{
		Endpoints: []federation.Endpoint{{URL: "https://" + string(s.name)}}, Now: s.now, Legal: federation.Legal{Country: cmp.Or(s.country, "DE")},
	})
	must(t, err)
	var strangers federation.Strangers
	if s.rules != nil {
		strangers = s.table
	}
	alert := func(peer clearbox.ServerName, kind federation.Alert) {
		must(t, s.table.Alert(context.Background(), peer, kind))
	}
	tr := transport.New(transport.Options{RootCAs: s.lab.pool, Dial: s.lab.dial, Resolve: s.lab.resolve, Now: s.now})
	s.client = federation.NewClient(s.self, s.table, tr, federation.ClientOptions{Now: s.now, Strangers: strangers, Alert: alert})
	s.service = peering.New(s.table, s.self, s.client, peering.Options{Prober: tr, Queues: s.queues, Removed: s.reports.giveUp, Now: s.now})
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

// resolve gives every site a public address of its own; what is no site has none.
func (l *lab) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, host)
	if a, forged := l.forged[host]; forged {
		return []netip.Addr{a}, nil
	}
	if l.at[host+":443"] == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{addressOf(host)}, nil
}

func addressOf(host string) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, host[0]}) }

func (l *lab) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l.mu.Lock()
	conns := l.at[addr]
	for name := range l.at {
		host, port, _ := net.SplitHostPort(name)
		if conns == nil && addr == net.JoinHostPort(addressOf(host).String(), port) {
			conns = l.at[name]
		}
	}
	l.dialled = append(l.dialled, addr)
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
