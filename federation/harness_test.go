package federation_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// world is some homeservers in one bubble, joined by a wire that can be cut.
type world struct {
	t     *testing.T
	nodes map[clearbox.ServerName]*node
	rng   *rand.Rand // guarded by mu

	mu   sync.Mutex
	wire wire
	link chan struct{} // capacity 1: held while a piece of a request is on a wire with a rate
}

// wire says what happens to each request.
type wire struct {
	cut        bool
	hole       bool // requests vanish instead of failing at once
	latency    time.Duration
	jitter     time.Duration
	rate       int // bytes a second that all requests share, 0 = no limit
	dropAsk    float64
	dropAnswer float64
	duplicate  float64
	attempts   int
	dark       map[clearbox.ServerName]bool                              // what comes from or goes to them fails at once
	tar        map[clearbox.ServerName]bool                              // what goes to them gets no answer
	answer     func(req *http.Request, body []byte, resp *http.Response) // may change an answer
	ask        func(req *http.Request, body []byte) []byte               // may change a request
}

// node is one homeserver; what it keeps on disk survives restart.
type node struct {
	w        *world
	name     clearbox.ServerName
	identity ed25519.PrivateKey
	selfBlob *blob
	peers    *peerTable
	outbox   *outbox
	acceptor *acceptor
	dir      *phonebook
	offset   time.Duration // of this node's clock
	window   int
	wakes    bool          // what the peer answers wakes the queue
	delay    time.Duration // of batches, at most
	rate     int
	opened   int
	protocol federation.Protocol // zero for the standard one
	mute     bool                // no gossip
	previous ed25519.PrivateKey
	alerts   alertLog
	many     outboxes     // instead of outbox; one for each peer
	control  *outbox      // beside outbox, for the class of that name; nil without it
	diary    *slog.Logger // of the sender; nil discards

	self   *federation.Self
	client *federation.Client
	sender *federation.Sender
	brief  *federation.Ephemera
	heard  heard
	inbox  atomic.Pointer[federation.Inbox] // the peer's requests meet a restart
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (n *node) now() time.Time { return time.Now().Add(n.offset) }

type seeded struct{ r *rand.Rand }

func (s seeded) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s.r.Uint32())
	}
	return len(b), nil
}

func newWorld(t *testing.T, names ...clearbox.ServerName) *world {
	w := &world{t: t, nodes: map[clearbox.ServerName]*node{}, rng: rand.New(rand.NewPCG(1, 2)), link: make(chan struct{}, 1)}
	for i, name := range names {
		seed := bytes.Repeat([]byte{byte(i + 1)}, 32)
		n := &node{
			w: w, name: name, identity: ed25519.NewKeyFromSeed(seed), selfBlob: &blob{},
			peers: newPeerTable(), outbox: newOutbox(uint64(i)), acceptor: newAcceptor(), dir: &phonebook{},
		}
		w.nodes[name] = n
	}
	return w
}

// start brings all nodes up, each pinned to the others.
func (w *world) start() {
	for _, n := range w.nodes {
		for _, o := range w.nodes {
			if o != n {
				n.peers.put(federation.Peer{
					Server: o.name, State: federation.PeerActive, Endpoints: []string{"https://" + string(o.name)},
					Pin: pinOf(o.identity),
				})
			}
		}
		n.open()
	}
	for _, n := range w.nodes {
		n.run()
	}
}

func (w *world) stop() {
	for _, n := range w.nodes {
		n.stop()
	}
}

func (n *node) open() {
	t := n.w.t
	t.Helper()
	n.opened++
	var err error
	n.self, err = federation.OpenSelf(t.Context(), n.name, n.identity, n.selfBlob, federation.SelfOptions{
		Features: []string{federation.FeatureGossip}, Protocol: n.protocol, Previous: n.previous,
		Endpoints: []federation.Endpoint{{URL: "https://" + string(n.name)}}, Now: n.now, Random: seeded{rand.New(rand.NewPCG(uint64(n.opened), uint64(n.name[0])))},
	})
	if err != nil {
		t.Fatal(err)
	}
	random := &lockedRandom{r: seeded{rand.New(rand.NewPCG(9, uint64(n.name[0])+uint64(time.Now().UnixNano())))}}
	n.client = federation.NewClient(n.self, n.peers, n, federation.ClientOptions{Now: n.now, Random: random, Alert: n.alerts.add, Gossip: !n.mute, Answered: func(peer clearbox.ServerName) {
		if n.wakes {
			n.sender.Wake(peer)
		}
	}})
	var queue federation.Outbox = n.outbox
	if n.many != nil {
		queue = n.many
	}
	var classes []federation.Class
	if n.control != nil {
		queue, classes = twoClasses{n.outbox, n.control}, []federation.Class{federation.ClassMessage, federation.ClassControl}
	}
	n.sender = federation.NewSender(n.client, queue, federation.SenderOptions{Class: classes, Now: n.now, Random: random, Window: n.window, BatchDelay: n.delay, Log: n.diary})
	n.self.OnDocument(n.sender.Greet)
	n.inbox.Store(federation.NewInbox(n.self, n.client, n.acceptor, n.dir, federation.InboxOptions{
		Now: n.now, Contact: n.sender.Wake, EnvelopesPerSecond: n.rate, Ephemeral: n.heard.add,
	}))
	n.brief = federation.NewEphemera(n.client, federation.EphemeraOptions{Now: n.now})
}

// heard keeps what came in the ephemeral class.
type heard struct {
	mu       sync.Mutex
	items    []federation.Fleeting
	requests int
}

func (h *heard) add(_ context.Context, _ clearbox.ServerName, items []federation.Fleeting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.items = append(h.items, items...)
	h.requests++
}

// take gives what came since the last time.
func (h *heard) take() []federation.Fleeting {
	h.mu.Lock()
	defer h.mu.Unlock()
	items := h.items
	h.items = nil
	return items
}

// alertLog keeps what operators are told.
type alertLog struct {
	mu   sync.Mutex
	told []string
}

func (l *alertLog) add(peer clearbox.ServerName, kind federation.Alert) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, string(kind)+" "+string(peer))
}

// take gives what was told since the last time.
func (l *alertLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.told
	l.told = nil
	return told
}

type lockedRandom struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedRandom) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	for _, run := range []func(context.Context) error{n.self.Run, n.client.Run, n.sender.Run, n.brief.Run} {
		n.done.Go(func() { _ = run(ctx) }) // ends with the context's error
	}
}

func (n *node) stop() {
	if n.cancel != nil {
		n.cancel()
		n.done.Wait()
		n.cancel = nil
	}
}

func (n *node) restart() {
	n.stop()
	n.open()
	n.run()
}

// send puts count messages into the outbox and nudges.
func (n *node) send(to clearbox.ServerName, count int) {
	for range count {
		n.outbox.add(n.name, to)
	}
	n.sender.Nudge(to)
}

// Endpoint, Do and Forget make the node its own transport.
func (n *node) Endpoint(_ context.Context, target federation.Target) (string, error) {
	return target.Endpoints[0], nil
}

func (n *node) Forget(federation.Target) {}

var errCut = errors.New("the wire is cut")

func (n *node) Do(_ context.Context, target federation.Target, req *http.Request) (*http.Response, error) {
	w, ctx := n.w, req.Context()
	w.mu.Lock()
	wire := w.wire
	w.wire.attempts++
	draw := [4]float64{w.rng.Float64(), w.rng.Float64(), w.rng.Float64(), w.rng.Float64()}
	w.mu.Unlock()
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
	}
	if wire.hole || wire.tar[target.Server] {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if wire.cut || wire.dark[n.name] || wire.dark[target.Server] || draw[0] < wire.dropAsk {
		return nil, errCut
	}
	delay := wire.latency + time.Duration(draw[3]*float64(wire.jitter))
	if !pass(ctx, delay/2) || !w.carry(ctx, len(body), wire.rate) {
		return nil, ctx.Err()
	}
	if wire.ask != nil {
		body = wire.ask(req, body)
	}
	peer := w.nodes[target.Server]
	resp := peer.receive(req, body)
	if draw[2] < wire.duplicate {
		resp = peer.receive(req, body) // refused as a replay; the sender sees that answer
	}
	if !pass(ctx, delay/2) {
		return nil, ctx.Err()
	}
	if draw[1] < wire.dropAnswer {
		return nil, errCut
	}
	if wire.answer != nil {
		wire.answer(req, body, resp)
	}
	return resp, nil
}

func pass(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// receive hands a request to the node's inbox as its listener would.
func (n *node) receive(req *http.Request, body []byte) *http.Response {
	in := req.Clone(req.Context())
	in.RequestURI, in.Host = req.URL.RequestURI(), req.URL.Host
	in.Body, in.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	rec := httptest.NewRecorder()
	n.inbox.Load().ServeHTTP(rec, in)
	return rec.Result()
}

func (w *world) set(change func(*wire)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.wire)
}

func (w *world) attempts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wire.attempts
}

// check holds the invariants between two nodes: everything was settled once,
// in order, and delivered exactly when it was not rejected.
func (w *world) check(from, to clearbox.ServerName) {
	w.t.Helper()
	out, in := w.nodes[from].outbox, w.nodes[to].acceptor
	out.mu.Lock()
	defer out.mu.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, e := range out.faults {
		w.t.Errorf("outbox: %s", e)
	}
	var want []clearbox.MessageID
	wrong := 0
	for _, r := range out.rows {
		switch {
		case r.settled != 1 && !r.void:
			if wrong++; wrong < 4 {
				w.t.Errorf("row %d settled %d times", r.row, r.settled)
			}
		case r.verdict == federation.VerdictOK || r.verdict == federation.VerdictDup:
			want = append(want, r.item.ID)
		}
	}
	got := slices.Clone(in.delivered)
	if !out.reordersAllowed && !slices.Equal(got, want) {
		w.t.Errorf("delivered %d in another order or number than %d settled as delivered", len(got), len(want))
	}
	seen := map[clearbox.MessageID]int{}
	for _, id := range got {
		seen[id]++
	}
	for _, id := range want {
		if seen[id] != 1 {
			w.t.Errorf("message delivered %d times", seen[id])
		}
	}
}

func pinOf(k ed25519.PrivateKey) [32]byte {
	d := &federation.Document{Server: "x.test"}
	if _, err := d.Sign(k); err != nil {
		panic(err)
	}
	return d.Pin()
}

type blob struct {
	mu sync.Mutex
	b  []byte
}

func (s *blob) LoadSelf(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b, nil
}

func (s *blob) SaveSelf(_ context.Context, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = b
	return nil
}

type peerTable struct {
	mu     sync.Mutex
	peers  map[clearbox.ServerName]federation.Peer
	status map[clearbox.ServerName]federation.Status
}

func newPeerTable() *peerTable {
	return &peerTable{peers: map[clearbox.ServerName]federation.Peer{}, status: map[clearbox.ServerName]federation.Status{}}
}

func (p *peerTable) put(peer federation.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers[peer.Server] = peer
}

func (p *peerTable) change(server clearbox.ServerName, fn func(*federation.Peer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer := p.peers[server]
	fn(&peer)
	p.peers[server] = peer
}

func (p *peerTable) Peer(_ context.Context, server clearbox.ServerName) (federation.Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer, ok := p.peers[server]
	if !ok {
		return peer, &clearbox.Error{Code: clearbox.CodeUnknownPeer}
	}
	return peer, nil
}

func (p *peerTable) Active(context.Context) ([]clearbox.ServerName, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []clearbox.ServerName
	for n, peer := range p.peers {
		if peer.State == federation.PeerActive {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (p *peerTable) SaveDocument(_ context.Context, server clearbox.ServerName, doc *federation.Document) error {
	p.change(server, func(peer *federation.Peer) { peer.Document, peer.Pin = doc.Signed(), doc.Pin() })
	return nil
}

func (p *peerTable) SaveOffset(_ context.Context, server clearbox.ServerName, d time.Duration) error {
	p.change(server, func(peer *federation.Peer) { peer.ClockOffset = d })
	return nil
}

func (p *peerTable) SaveStatus(_ context.Context, server clearbox.ServerName, s federation.Status) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status[server] = s
	return nil
}

// phonebook knows one user.
type phonebook struct {
	calls int
	shown []byte // by the last claim
}

const knownUID = clearbox.UID("aaaaaaaaaaaaaaaaaaaaaaaaaa")

func (p *phonebook) PeerResolve(_ context.Context, _ clearbox.ServerName, h clearbox.Handle) (federation.Account, error) {
	if h != "bob" {
		return federation.Account{}, clearbox.Errorf(clearbox.CodeNotFound, "nobody")
	}
	return federation.Account{User: clearbox.UserID{UID: knownUID, Server: "b.test"}, Handle: h, DeviceList: []byte("list"), Version: 7}, nil
}

func (p *phonebook) PeerDevices(_ context.Context, _ clearbox.ServerName, uid clearbox.UID) (federation.Account, error) {
	if uid != knownUID {
		return federation.Account{}, clearbox.Errorf(clearbox.CodeRecipientUnavailable, "nobody")
	}
	return federation.Account{User: clearbox.UserID{UID: uid, Server: "b.test"}, DeviceList: []byte("list"), Version: 7}, nil
}

func (p *phonebook) PeerClaim(_ context.Context, _ clearbox.ServerName, claimID string, _ clearbox.UID, token []byte, devices []clearbox.DeviceID) ([]federation.Bundle, error) {
	p.calls++
	p.shown = token
	var out []federation.Bundle
	for _, d := range devices {
		out = append(out, federation.Bundle{Device: d, Registration: 5, Identity: []byte(claimID), KEM: federation.PreKey{ID: 1}})
	}
	return out, nil
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	time.Sleep(d) // virtual
	synctest.Wait()
}

func messageID(n uint64) (id clearbox.MessageID) {
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func byPosition(a, b *row) int { return cmp.Compare(a.pos, b.pos) }

// openWith opens the node with another acceptor in front of its own.
func (n *node) openWith(a federation.Acceptor) {
	n.open()
	n.inbox.Store(federation.NewInbox(n.self, n.client, a, n.dir, federation.InboxOptions{Now: n.now, Contact: n.sender.Wake}))
}

// limited refuses transactions of more than max items as a whole.
type limited struct {
	*acceptor
	max int
}

func (l *limited) Accept(ctx context.Context, peer clearbox.ServerName, txn *federation.Transaction) (*federation.Answer, error) {
	if len(txn.Items) > l.max {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "too large")
	}
	return l.acceptor.Accept(ctx, peer, txn)
}

func rng(seed int64) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 5)) }

// liar changes what its acceptor answers.
type liar struct {
	*acceptor
	lie func(*federation.Answer)
}

func (l *liar) Accept(ctx context.Context, peer clearbox.ServerName, txn *federation.Transaction) (*federation.Answer, error) {
	a, err := l.acceptor.Accept(ctx, peer, txn)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := *a
	l.lie(&changed)
	return &changed, nil
}
