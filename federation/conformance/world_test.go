package conformance_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is the moment of everything in the vectors.
var start = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// counted is randomness that is the same each time.
type counted struct{ r *rand.Rand }

func fixed(seed uint64) io.Reader { return counted{rand.New(rand.NewPCG(seed, 1))} }

func (c counted) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c.r.Uint32())
	}
	return len(b), nil
}

func identityOf(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
}

// memory is a server's state and its table of peers; it counts what is written.
type memory struct {
	blob   []byte
	peer   federation.Peer
	writes int
}

func (m *memory) LoadSelf(context.Context) ([]byte, error)              { return m.blob, nil }
func (m *memory) SaveSelf(_ context.Context, b []byte) error            { m.blob = b; return nil }
func (m *memory) Active(context.Context) ([]clearbox.ServerName, error) { return nil, nil }
func (m *memory) Peer(_ context.Context, s clearbox.ServerName) (federation.Peer, error) {
	if s != m.peer.Server {
		return federation.Peer{}, &clearbox.Error{Code: clearbox.CodeUnknownPeer}
	}
	return m.peer, nil
}
func (m *memory) SaveDocument(context.Context, clearbox.ServerName, *federation.Document) error {
	m.writes++
	return nil
}
func (m *memory) SaveOffset(context.Context, clearbox.ServerName, time.Duration) error {
	m.writes++
	return nil
}
func (m *memory) SaveStatus(context.Context, clearbox.ServerName, federation.Status) error {
	m.writes++
	return nil
}

// Everything that stores or answers about people counts as a write.
func (m *memory) Accept(_ context.Context, _ clearbox.ServerName, txn *federation.Transaction) (*federation.Answer, error) {
	switch {
	case txn.Fence == 7:
		return nil, &federation.FencedError{Fence: 8}
	case txn.FirstPos > 1:
		return nil, &federation.GapError{Expected: 1}
	}
	m.writes++
	return &federation.Answer{Stream: txn.Stream, FirstPos: 1, AcceptedThrough: 1, Verdicts: []federation.Verdict{{Code: federation.VerdictOK, DevicesVersion: 3}}}, nil
}
func (m *memory) Resume(context.Context, clearbox.ServerName, federation.Position) (federation.Position, error) {
	m.writes++
	return federation.Position{}, nil
}
func (m *memory) PeerResolve(context.Context, clearbox.ServerName, clearbox.Handle) (federation.Account, error) {
	return federation.Account{}, clearbox.Errorf(clearbox.CodeConsentRequired, "nobody")
}
func (m *memory) PeerDevices(context.Context, clearbox.ServerName, clearbox.UID) (federation.Account, error) {
	return federation.Account{}, clearbox.Errorf(clearbox.CodeRecipientUnavailable, "nobody")
}
func (m *memory) PeerClaim(context.Context, clearbox.ServerName, string, clearbox.UID, []byte, []clearbox.DeviceID) ([]federation.Bundle, error) {
	m.writes++
	return nil, errors.New("not asked for")
}

// node is one server.
type node struct {
	name   clearbox.ServerName
	memory *memory
	self   *federation.Self
	client *federation.Client
	inbox  http.Handler
	now    time.Time
}

func newNode(t *testing.T, name clearbox.ServerName, seed byte) *node {
	t.Helper()
	n := &node{name: name, memory: &memory{}, now: start}
	var err error
	n.self, err = federation.OpenSelf(t.Context(), name, identityOf(seed), n.memory, federation.SelfOptions{
		Endpoints: []federation.Endpoint{{URL: "https://chat." + string(name) + ":8443", H3: true}}, Now: func() time.Time { return n.now }, Random: fixed(uint64(seed)),
		Legal: federation.Legal{Controller: "Example " + string(name), Country: "AT", Contact: "privacy@" + string(name), Retention: "30 days", Jurisdictions: []string{"AT"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) knows(other *node) {
	doc := other.self.Document()
	n.memory.peer = federation.Peer{Server: other.name, State: federation.PeerActive, Pin: doc.Pin(), Document: doc.Signed(), Endpoints: []string{doc.Endpoints[0].URL}}
	n.client = federation.NewClient(n.self, n.memory, nil, federation.ClientOptions{Now: func() time.Time { return n.now }, Random: fixed(9)})
	n.inbox = federation.NewInbox(n.self, n.client, n.memory, n.memory, federation.InboxOptions{Now: func() time.Time { return n.now }})
}

// two are a.test, which asks, and b.test, which answers.
func two(t *testing.T) (a, b *node) {
	a, b = newNode(t, "a.test", 1), newNode(t, "b.test", 2)
	a.knows(b)
	b.knows(a)
	return a, b
}

// serve hands a request to a handler as a listener would.
func serve(h http.Handler, req *http.Request) (*http.Response, error) {
	in := req.Clone(req.Context())
	in.RequestURI, in.Host = req.URL.RequestURI(), req.Host
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, in)
	return rec.Result(), nil
}

// greeting is a's greeting to b.
func (a *node) greeting(t *testing.T, b *node) []byte {
	t.Helper()
	own, theirs := a.self.Document().Hash(), b.self.Document().Hash()
	raw, err := federation.EncodeHello(&federation.Hello{Seq: a.self.Document().Seq, Hash: own[:], Seen: theirs[:], Clock: a.now.UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
