package federation

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Strangers decides about servers that nobody here has agreed with. Where there
// is one (mode open), a server becomes a peer by the first contact.
type Strangers interface {
	// Adopt makes doc's server an active peer that is pinned to doc's identity. doc is checked, except for
	// a pin. An error keeps the server a stranger; clearbox.CodeNoRoutePolicy says that it may not become a
	// peer for what its document says.
	Adopt(ctx context.Context, doc *Document) error
}

// What strangers may cost, all of them together. There is no limit by address:
// whoever has one domain has a thousand.
const (
	strangerQueue   = 16                           // requests that wait until their sender's document is fetched
	strangerWorkers = 2                            // documents fetched for them at one time
	strangersAsked  = 4                            // documents fetched at one time because somebody here wants to write
	strangerAgain   = time.Minute                  // a stranger whose document was no good is not looked at again before
	strangersKept   = 1024                         // such strangers that are remembered
	strangerWait    = 3 * time.Second              // what the request of a stranger is told to wait
	maxStrangerWait = 5 * time.Second              // what a question of ours waits for the other side to know us
	strangerBudget  = documentBudget + time.Second // of one document with its storing
)

// strangers is what the client remembers about them.
type strangers struct {
	queue chan *stranger // capacity strangerQueue; what does not fit comes again
	asked chan struct{}  // capacity strangersAsked

	mu      sync.Mutex                        // guards refused and waiting
	refused map[clearbox.ServerName]refusedAt // at most strangersKept
	waiting map[clearbox.ServerName]bool      // what is in the queue or being looked at
}

type refusedAt struct {
	until  time.Time
	err    error
	forged *Document // of the server that was named, when nothing is wrong with it and the request was no good
}

// stranger is a request of a server that is no peer: its headers, which hold the
// signature.
type stranger struct {
	server   clearbox.ServerName
	request  *http.Request
	verifier *Verifier
}

func newStrangers() *strangers {
	return &strangers{
		queue: make(chan *stranger, strangerQueue), asked: make(chan struct{}, strangersAsked),
		refused: map[clearbox.ServerName]refusedAt{}, waiting: map[clearbox.ServerName]bool{},
	}
}

// lately is the last look at the stranger, if that is not long ago.
func (s *strangers) lately(server clearbox.ServerName, now time.Time) refusedAt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.refused[server]; now.Before(r.until) {
		return r
	}
	return refusedAt{}
}

// unfit is why the stranger could not become a peer, if that was found out not
// long ago. What somebody did in its name does not count.
func (s *strangers) unfit(server clearbox.ServerName, now time.Time) error {
	r := s.lately(server, now)
	if r.forged != nil {
		return nil
	}
	return r.err
}

func (s *strangers) refuse(server clearbox.ServerName, err error, forged *Document, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refused) >= strangersKept {
		clear(s.refused)
	}
	s.refused[server] = refusedAt{now.Add(strangerAgain), err, forged}
}

// meetLater has a stranger looked at beside the requests. It tells whether it
// makes sense to come again. Where somebody lately made a request in the
// stranger's name, it must be signed with a key of the document that was fetched
// then, so that the true server does not wait for what a false one did.
func (c *Client) meetLater(server clearbox.ServerName, r *http.Request, v *Verifier) bool {
	s, now := c.strangers, c.opts.Now()
	if c.opts.Strangers == nil || server == c.self.Server() {
		return false
	}
	headers := &http.Request{Method: r.Method, URL: r.URL, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header.Clone()}
	if last := s.lately(server, now); last.err != nil && (last.forged == nil || !signedBy(last.forged, headers, v, now)) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[server] {
		return true
	}
	select {
	case s.queue <- &stranger{server: server, request: headers, verifier: v}:
		s.waiting[server] = true
	default: // others were first
	}
	return true
}

// signedBy tells whether the request is signed with a key of the document. The
// clock and repeats are judged when it comes again.
func signedBy(doc *Document, r *http.Request, v *Verifier, now time.Time) bool {
	found, _ := v.Verify(r, doc.Server, func(kid string) (ed25519.PublicKey, bool) { return doc.FedSign(kid, now) }, now)
	return found != nil
}

// meetStrangers works on the queue until ctx ends.
func (c *Client) meetStrangers(ctx context.Context) {
	s := c.strangers
	for {
		select {
		case <-ctx.Done():
			return
		case k := <-s.queue:
			err := c.adopt(ctx, k.server, func(doc *Document) error {
				if signedBy(doc, k.request, k.verifier, c.opts.Now()) {
					return nil
				}
				return fault(FaultSignature)
			})
			s.mu.Lock()
			delete(s.waiting, k.server)
			s.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				c.opts.Log.Info("stranger refused", "peer", string(k.server), "code", string(clearbox.CodeOf(err)))
			}
		}
	}
}

// meet makes a peer of a server that somebody here wants to reach.
func (c *Client) meet(ctx context.Context, server clearbox.ServerName) error {
	s := c.strangers
	if server == c.self.Server() {
		return clearbox.Errorf(clearbox.CodeBadRequest, "this is the server itself")
	}
	select {
	case s.asked <- struct{}{}:
		defer func() { <-s.asked }()
	case <-ctx.Done():
		return clearbox.Wrap(clearbox.CodePeerUnreachable, "the other server does not answer at the moment", ctx.Err())
	}
	if _, err := c.peers.Peer(ctx, server); clearbox.CodeOf(err) != clearbox.CodeUnknownPeer {
		return err // somebody else was first
	}
	if err := s.unfit(server, c.opts.Now()); err != nil {
		return err
	}
	return c.adopt(ctx, server, func(*Document) error { return nil })
}

// adopt fetches a stranger's document over discovery, has proof look at it, and
// hands it on.
func (c *Client) adopt(ctx context.Context, server clearbox.ServerName, proof func(*Document) error) error {
	ctx, cancel := context.WithTimeout(ctx, strangerBudget)
	defer cancel()
	target := Target{Server: server, Discover: true}
	doc, err := c.GetDocument(ctx, target)
	if err == nil {
		err = doc.Check(server, [32]byte{}, c.opts.Now())
	}
	var forged *Document
	if err == nil {
		if err = proof(doc); err != nil {
			forged = doc
		}
	}
	if err == nil {
		err = c.opts.Strangers.Adopt(ctx, doc)
	}
	if err != nil {
		c.transport.Forget(target)
		err = unreachable(err)
		c.strangers.refuse(server, err, forged, c.opts.Now())
		return err
	}
	c.opts.Log.Info("peering made by the first contact", "peer", string(server))
	return nil
}

// peer is the peer to call; a stranger is met first where that is allowed.
func (c *Client) peer(ctx context.Context, server clearbox.ServerName) (Peer, error) {
	p, err := c.peers.Peer(ctx, server)
	if c.opts.Strangers == nil || clearbox.CodeOf(err) != clearbox.CodeUnknownPeer {
		return p, err
	}
	if err := c.meet(ctx, server); err != nil {
		return Peer{}, err
	}
	return c.peers.Peer(ctx, server)
}

// Barred is why a stranger cannot become a peer, as far as that was found out
// lately; nil when nothing speaks against trying.
func (c *Client) Barred(server clearbox.ServerName) error {
	if c.opts.Strangers == nil {
		return clearbox.Errorf(clearbox.CodeUnknownPeer, "there is no peering with this server")
	}
	if err := c.strangers.unfit(server, c.opts.Now()); clearbox.CodeOf(err) == clearbox.CodeNoRoutePolicy {
		return err
	}
	return nil
}

// stranger answers the request of a server that is no peer. Where it may become
// one it is told to come again.
func (in *Inbox) stranger(w http.ResponseWriter, r *http.Request, origin clearbox.ServerName) {
	p := &problem{Code: clearbox.CodeUnknownPeer}
	if in.client.opts.Strangers != nil {
		if wait := take(in.strangers, 1, in.opts.Now()); wait > 0 || in.client.meetLater(origin, r, in.verifier) {
			p.RetryAfterMS = (wait + strangerWait).Milliseconds()
		}
	}
	in.refuseUnsigned(w, p)
}
