package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Time a call to a peer may take.
const (
	callBudget     = 15 * time.Second // one request with its answer, and bodyTime beside it
	documentBudget = 5 * time.Second  // fetching a server document
	refetchEvery   = time.Minute      // per peer, at most one refetch for an unknown key
)

// ClientOptions configure a Client.
type ClientOptions struct {
	Now    func() time.Time // default time.Now
	Random io.Reader        // safe for concurrent use; default crypto/rand
	Log    *slog.Logger     // default discards
	// Alert tells an operator, at most once an hour for each peer and kind. It may take as long as a
	// write to the store; nil tells nobody.
	Alert func(peer clearbox.ServerName, kind Alert)
	// Strangers makes peers of servers that nobody agreed with; nil makes none.
	Strangers Strangers
	Gossip    bool // compares with peers what servers that both know show them
	// Answered is called when a peer has answered what did not come out of a
	// queue, as a question, a greeting or the fetch of its document: it is there,
	// and queues that wait for it need not. It must not block; nil does nothing.
	Answered func(clearbox.ServerName)
}

// Client makes signed requests to peers and verifies their answers. It is safe
// for concurrent use.
type Client struct {
	self      *Self
	peers     Peers
	transport Transport
	opts      ClientOptions

	strangers *strangers
	fetch     chan clearbox.ServerName // documents to fetch in the background; capacity fetchQueue, what does not fit is asked for again by the next request

	mu    sync.Mutex // guards known and what it points to; never held across a call
	known map[clearbox.ServerName]*knownPeer
}

const (
	fetchQueue   = 64
	fetchWorkers = 4 // a peer that hangs holds one of them for documentBudget
)

// knownPeer is what the client remembers about one peer in memory.
type knownPeer struct {
	doc       *Document // parsed form of raw
	refetched time.Time // last refetch for an unknown key
	fetching  bool
	circuits  map[Circuit]*breaker
	ahead     time.Duration // of its clock, by the last greeting
	greeted   bool          // ahead is known

	seen    string              // the highest version that the document of ours offers which the peer holds; "" if it did not say
	alerted map[Alert]time.Time // when an operator was told last
	told    time.Time           // last gossip that it was answered
}

// NewClient starts nothing.
func NewClient(self *Self, peers Peers, transport Transport, opts ClientOptions) *Client {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Random == nil {
		opts.Random = rand.Reader
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{self: self, peers: peers, transport: transport, opts: opts,
		strangers: newStrangers(), fetch: make(chan clearbox.ServerName, fetchQueue), known: map[clearbox.ServerName]*knownPeer{}}
}

// Run fetches documents in the background. It blocks until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range fetchWorkers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case server := <-c.fetch:
					c.fetchNow(ctx, server)
				}
			}
		})
	}
	for range strangerWorkers {
		wg.Go(func() { c.meetStrangers(ctx) })
	}
	wg.Wait()
	return ctx.Err()
}

func (c *Client) fetchNow(ctx context.Context, server clearbox.ServerName) {
	_, err := c.FetchDocument(ctx, server)
	c.noteAnswer(server, err)
	if err != nil && ctx.Err() == nil {
		c.opts.Log.Warn("server document not fetched", "peer", string(server), "code", string(clearbox.CodeOf(err)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entry(server).fetching = false
}

// fetchLater has the peer's document fetched in the background, unless that is
// under way.
func (c *Client) fetchLater(server clearbox.ServerName) {
	c.mu.Lock()
	k := c.entry(server)
	busy := k.fetching
	k.fetching = true
	c.mu.Unlock()
	if busy {
		return
	}
	select {
	case c.fetch <- server:
	default:
		c.mu.Lock()
		k.fetching = false
		c.mu.Unlock()
	}
}

// refetchLater is fetchLater for an unknown key, at most once a minute.
func (c *Client) refetchLater(server clearbox.ServerName) {
	if c.mayRefetch(server) {
		c.fetchLater(server)
	}
}

func (c *Client) entry(server clearbox.ServerName) *knownPeer {
	k := c.known[server]
	if k == nil {
		k = &knownPeer{}
		c.known[server] = k
	}
	return k
}

// document gives the peer's stored document in parsed form, nil when there is
// none, it does not parse or it has expired.
func (c *Client) document(p *Peer) *Document {
	if len(p.Document) == 0 {
		return nil
	}
	c.mu.Lock()
	doc := c.entry(p.Server).doc
	c.mu.Unlock()
	if doc == nil || !bytes.Equal(doc.raw, p.Document) {
		var err error
		if doc, err = ParseDocument(p.Document); err != nil {
			return nil
		}
		c.mu.Lock()
		c.entry(p.Server).doc = doc
		c.mu.Unlock()
	}
	if doc.Expired(c.opts.Now()) {
		return nil
	}
	return doc
}

// Document is the peer's stored and unexpired document, or nil.
func (c *Client) Document(ctx context.Context, server clearbox.ServerName) *Document {
	p, err := c.peers.Peer(ctx, server)
	if err != nil {
		return nil
	}
	return c.document(&p)
}

// keysOf looks keys up in the peer's stored document.
func (c *Client) keysOf(p *Peer) KeyFor {
	return func(kid string) (ed25519.PublicKey, bool) {
		doc := c.document(p)
		if doc == nil {
			return nil, false
		}
		return doc.FedSign(kid, c.opts.Now())
	}
}

// mayRefetch takes the peer's one refetch of this minute.
func (c *Client) mayRefetch(server clearbox.ServerName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, now := c.entry(server), c.opts.Now()
	if !k.refetched.IsZero() && now.Sub(k.refetched) < refetchEvery && !now.Before(k.refetched) {
		return false
	}
	k.refetched = now
	return true
}

// Refetch fetches the peer's document for an unknown key, at most once a
// minute and peer. It tells whether it fetched and stored one.
func (c *Client) Refetch(ctx context.Context, server clearbox.ServerName) bool {
	if !c.mayRefetch(server) {
		return false
	}
	_, err := c.FetchDocument(ctx, server)
	return err == nil
}

// FetchDocument fetches the peer's document, checks it against the pin, the
// clock and the stored sequence, and stores it.
func (c *Client) FetchDocument(ctx context.Context, server clearbox.ServerName) (*Document, error) {
	p, err := c.peers.Peer(ctx, server)
	if err != nil {
		return nil, err
	}
	if p.State != PeerActive && p.State != PeerSuspended {
		return nil, clearbox.Errorf(clearbox.CodePeerBlocked, "the peering is not active")
	}
	doc, err := c.GetDocument(ctx, p.Target())
	if err != nil {
		return nil, err
	}
	if err := c.CheckDocument(&p, doc); err != nil {
		c.opts.Log.Error("server document refused", "peer", string(server), "code", string(clearbox.CodeOf(err)), "error", err.Error())
		c.alertRefused(server, err)
		return nil, err
	}
	c.noteOffer(&p, doc)
	if err := c.peers.SaveDocument(ctx, server, doc); err != nil {
		return nil, err
	}
	return doc, nil
}

// CheckDocument checks a fetched document against what is stored of the peer.
func (c *Client) CheckDocument(p *Peer, doc *Document) error {
	if err := doc.Check(p.Server, p.Pin, c.opts.Now()); err != nil {
		return err
	}
	if len(p.Document) == 0 {
		return nil
	}
	prev, err := ParseDocument(p.Document)
	if err != nil {
		return nil // what is stored cannot be read by this build; the pin still holds
	}
	return doc.Follows(prev)
}

// GetDocument fetches and parses a document and checks nothing else. It takes
// at most 5 s.
func (c *Client) GetDocument(ctx context.Context, t Target) (*Document, error) {
	ctx, cancel := context.WithTimeout(ctx, documentBudget)
	defer cancel()
	base, err := c.transport.Endpoint(ctx, t)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+PathServer, nil)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the endpoint is not usable", err)
	}
	status, h, body, err := c.exchange(t, req, MaxDocument)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, refusal(status, h, body, false)
	}
	return ParseDocument(body)
}

// exchange sends the request and reads the answer up to limit bytes. A failure
// to reach the peer has clearbox.CodePeerUnreachable.
func (c *Client) exchange(t Target, req *http.Request, limit int64) (int, http.Header, []byte, error) {
	resp, err := c.transport.Do(req.Context(), t, req)
	if err != nil {
		c.transport.Forget(t)
		return 0, nil, nil, unreachable(err)
	}
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return 0, nil, nil, fault(FaultLength)
	}
	// What says how long it is gets its room at once.
	body := bytes.NewBuffer(make([]byte, 0, max(resp.ContentLength, 0)+bytes.MinRead))
	if _, err := body.ReadFrom(io.LimitReader(resp.Body, limit+1)); err != nil {
		return 0, nil, nil, unreachable(err)
	}
	if int64(body.Len()) > limit {
		return 0, nil, nil, fault(FaultLength)
	}
	return resp.StatusCode, resp.Header, body.Bytes(), nil
}

func unreachable(err error) error {
	var e *clearbox.Error
	if errors.As(err, &e) && e.Code != clearbox.CodeInternal {
		return err
	}
	return clearbox.Wrap(clearbox.CodePeerUnreachable, "the peer could not be reached", err)
}

// Call makes one signed POST to an active peer and returns the body of the
// signed answer, of at most limit bytes. Errors: *RefusedError for an answer
// that is no success, *ProfileError for one that is not properly signed, else
// clearbox.CodePeerUnreachable, CodeUnknownPeer or CodePeerBlocked. One wrong
// clock and one unknown key of the peer are corrected on the way.
func (c *Client) Call(ctx context.Context, server clearbox.ServerName, path string, body []byte, limit int64) ([]byte, error) {
	p, err := c.peer(ctx, server)
	if err != nil {
		return nil, err
	}
	if p.State != PeerActive {
		return nil, clearbox.Errorf(clearbox.CodePeerBlocked, "the peering is not active")
	}
	if c.document(&p) == nil {
		doc, err := c.FetchDocument(ctx, server)
		if err != nil {
			return nil, err
		}
		p.Document = doc.raw
	}
	answer, err := c.callOnce(ctx, &p, path, body, limit)
	if e := (*RefusedError)(nil); errors.As(err, &e) && e.Code == clearbox.CodeClockSkew && e.Signed {
		if err := c.correct(ctx, &p, e); err != nil {
			return nil, err
		}
		return c.callOnce(ctx, &p, path, body, limit)
	}
	return answer, err
}

// correct adopts the peer's clock for requests to that peer only. Beyond 15
// minutes it refuses and an operator must look.
func (c *Client) correct(ctx context.Context, p *Peer, e *RefusedError) error {
	offset := time.UnixMilli(int64(e.ServerTime)).Sub(c.opts.Now())
	if offset.Abs() >= maxOffset {
		c.opts.Log.Error("peer clock too far off", "peer", string(p.Server), "offset_ms", offset.Milliseconds())
		c.alert(p.Server, AlertClock)
		return e
	}
	c.opts.Log.Warn("peer clock differs", "peer", string(p.Server), "offset_ms", offset.Milliseconds())
	p.ClockOffset = offset
	return c.peers.SaveOffset(ctx, p.Server, offset)
}

func (c *Client) callOnce(ctx context.Context, p *Peer, path string, body []byte, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callBudget+bodyTime(len(body)))
	defer cancel()
	t := p.Target()
	base, err := c.transport.Endpoint(ctx, t)
	if err != nil {
		return nil, unreachable(err)
	}
	version, err := c.version(p)
	if err != nil {
		return nil, err
	}
	keys := func(kid string) (ed25519.PublicKey, bool) {
		if k, ok := c.keysOf(p)(kid); ok {
			return k, true
		}
		if !c.Refetch(ctx, p.Server) {
			return nil, false
		}
		fresh, err := c.peers.Peer(ctx, p.Server)
		if err != nil {
			return nil, false
		}
		return c.keysOf(&fresh)(kid)
	}
	return c.post(ctx, t, base+path, body, limit, c.opts.Now().Add(p.ClockOffset), version, keys)
}

// Introduce makes a signed POST to a server that is not a peer yet, whose
// document has just been fetched. It serves the peering handshake.
func (c *Client) Introduce(ctx context.Context, t Target, doc *Document, path string, body []byte, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	base, err := c.transport.Endpoint(ctx, t)
	if err != nil {
		return nil, unreachable(err)
	}
	version, err := Common(c.self.Protocol(), doc.Protocol)
	if err != nil {
		return nil, err
	}
	keys := func(kid string) (ed25519.PublicKey, bool) { return doc.FedSign(kid, c.opts.Now()) }
	answer, err := c.post(ctx, t, base+path, body, limit, c.opts.Now(), version, keys)
	if e := (*RefusedError)(nil); errors.As(err, &e) && e.Code == clearbox.CodeClockSkew && e.Signed {
		at := time.UnixMilli(int64(e.ServerTime))
		if at.Sub(c.opts.Now()).Abs() < maxOffset {
			return c.post(ctx, t, base+path, body, limit, at, version, keys)
		}
	}
	return answer, err
}

func (c *Client) post(ctx context.Context, t Target, url string, body []byte, limit int64, created time.Time, version string, keys KeyFor) ([]byte, error) {
	if err := c.self.Usable(); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the endpoint is not usable", err)
	}
	req.Header.Set(headerType, TypeCBOR)
	req.Header.Set(headerVersion, version)
	key := c.self.SigningKey()
	sig, err := SignRequest(req, body, c.self.Server(), t.Server, key, created, c.opts.Random)
	if err != nil {
		return nil, err
	}
	status, h, answer, err := c.exchange(t, req, limit)
	if err != nil {
		return nil, err
	}
	err = VerifyAnswer(status, h, answer, sig, keys)
	if status != http.StatusOK {
		return nil, refusal(status, h, answer, err == nil)
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// Hello greets the peer, which wakes its queue towards us, and learns which
// document of ours it holds and, for the streams that are named, how far they
// were accepted.
func (c *Client) Hello(ctx context.Context, server clearbox.ServerName, own ...Position) (*Hello, error) {
	greeting := c.hello(ctx, server)
	greeting.Streams = own
	asked := c.askAround(ctx, server)
	greeting.Gossip = asked.request()
	body, err := EncodeHello(&greeting)
	if err != nil {
		return nil, err
	}
	raw, err := c.Call(ctx, server, PathHello, body, MaxSmallBody)
	if len(own) == 0 { // a queue that asks for its stream knows by itself
		c.noteAnswer(server, err)
	}
	if err != nil {
		return nil, err
	}
	h, err := DecodeHello(raw)
	if err != nil {
		return nil, err
	}
	c.compare(ctx, server, h)
	c.listen(ctx, server, asked, h.Gossip)
	return h, nil
}

// Greeting is the body of a greeting for the peer, without streams and gossip.
func (c *Client) Greeting(ctx context.Context, server clearbox.ServerName) ([]byte, error) {
	h := c.hello(ctx, server)
	return EncodeHello(&h)
}

// Send sends a request as it is, for whoever looks at a peer from outside the
// protocol. The caller closes the answer's body.
func (c *Client) Send(t Target, req *http.Request) (*http.Response, error) {
	return c.transport.Do(req.Context(), t, req)
}

func (c *Client) hello(ctx context.Context, server clearbox.ServerName) Hello {
	doc := c.self.Document()
	own := doc.Hash()
	h := Hello{Seq: doc.Seq, Hash: own[:], Clock: c.opts.Now().UnixMilli()}
	if theirs := c.Document(ctx, server); theirs != nil {
		seen := theirs.Hash()
		h.Seen = seen[:]
	}
	return h
}

// compare looks at what a peer said in a greeting: a newer document of its own
// is fetched; one sequence with two hashes, and a document in our name that is
// not ours, are split views.
func (c *Client) compare(ctx context.Context, server clearbox.ServerName, h *Hello) {
	c.noteClock(server, h.Clock)
	theirs := c.Document(ctx, server)
	switch {
	case theirs == nil || h.Seq > theirs.Seq:
		c.fetchLater(server)
	case h.Seq == theirs.Seq:
		if hash := theirs.Hash(); !bytes.Equal(hash[:], h.Hash) {
			c.opts.Log.Error("split view: the peer shows another document under the same sequence", "peer", string(server), "seq", h.Seq)
			c.alert(server, AlertSplitView)
		}
	}
	if len(h.Seen) == 0 {
		return
	}
	version, ours := c.self.holding(h.Seen)
	if !ours {
		c.opts.Log.Error("split view: the peer holds a document of this server that this server does not know; was it restored from a backup?", "peer", string(server))
		c.alert(server, AlertSplitView)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entry(server).seen = version
}
