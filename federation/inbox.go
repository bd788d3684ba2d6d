package federation

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"golang.org/x/time/rate"
)

// What a peer's request may take, bodyTime beside it. The listener's own limits
// are for strangers and shorter.
const (
	bodyBudget   = 15 * time.Second // to send the body
	answerBudget = 15 * time.Second // from then on: to be answered and to read the answer
)

// Handshake accepts the request of a server that is not a peer yet. It is
// implemented by whoever keeps the invitations.
type Handshake interface {
	// Peering checks the secret and makes doc's server an active peer, pinned to doc's identity. The
	// request was signed with a key of doc, and doc is checked except for a pin. The code of an error
	// is told to the stranger.
	Peering(ctx context.Context, doc *Document, secret []byte) error
}

// PeeringRequest is the body at PathPeering.
type PeeringRequest struct {
	Secret   []byte `cbor:"secret"`
	Document []byte `cbor:"document"` // the requester's signed document
}

// PeeringAnswer is the answer to it.
type PeeringAnswer struct {
	Document []byte `cbor:"document"` // the inviter's signed document
}

// InboxOptions configure an Inbox.
type InboxOptions struct {
	Authorities        []string // host names of this server in requests; default the hosts of the document's endpoints
	EnvelopesPerSecond int      // per peer; default 20,000, negative for no limit
	BytesPerSecond     int      // per peer; default 40 MiB, negative for no limit
	MaxNonces          int      // per peer; default DefaultMaxNonces
	Contact            func(clearbox.ServerName)
	// Ephemeral takes what came in time, from an active peer; nil refuses the class. Nothing of it may be stored, and
	// nothing is told to the peer.
	Ephemeral func(ctx context.Context, peer clearbox.ServerName, items []Fleeting)
	Groups    Groups    // nil: there are none
	Reports   Reports   // nil: none are taken
	Handshake Handshake // nil refuses PathPeering
	// Media gives attachments of people here; nil has none.
	Media               Media
	MediaBytesPerSecond int // per peer; default 20 MiB, negative for no limit
	Now                 func() time.Time
	Log                 *slog.Logger
}

// Inbox is the HTTP handler for everything below /fed/v1/ and the well-known
// document. It starts no goroutines and is safe for concurrent use.
type Inbox struct {
	self      *Self
	client    *Client
	peers     Peers
	acceptor  Acceptor
	directory Directory
	opts      InboxOptions
	verifier  *Verifier
	quotas    *quotas
	strangers *rate.Limiter
	parking   *parking
}

// NewInbox needs the same peers and self as client.
func NewInbox(self *Self, client *Client, acceptor Acceptor, directory Directory, opts InboxOptions) *Inbox {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Contact == nil {
		opts.Contact = func(clearbox.ServerName) {}
	}
	authorities := make([]string, 0, 4)
	for _, a := range opts.Authorities {
		authorities = append(authorities, normalAuthority(a))
	}
	if len(authorities) == 0 {
		for _, e := range self.Document().Endpoints {
			if u, err := ParseEndpoint(e.URL); err == nil {
				authorities = append(authorities, normalAuthority(u.Host))
			}
		}
	}
	return &Inbox{
		self: self, client: client, peers: client.peers, acceptor: acceptor, directory: directory, opts: opts,
		verifier:  &Verifier{Server: self.Server(), Authorities: authorities, Nonces: NewNonces(opts.MaxNonces)},
		quotas:    newQuotas(opts.EnvelopesPerSecond, opts.BytesPerSecond, opts.MediaBytesPerSecond),
		strangers: rate.NewLimiter(handshakesPerSecond, 5*handshakesPerSecond),
		parking:   newParking(),
	}
}

// endpoint is one signed POST.
type endpoint struct {
	limit  int64 // bytes of the request body
	handle func(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error)
	bucket func(*quota) *rate.Limiter // requests, or nil
	// contact marks what only those need who want to write to our people.
	contact bool
	media   bool // has places of its own
}

func (in *Inbox) endpoint(path string) (endpoint, bool) {
	switch path {
	case PathTxn:
		return endpoint{limit: MaxTransaction, handle: in.transaction}, true
	case PathHello:
		return endpoint{limit: MaxSmallBody, handle: in.greeting, bucket: questions}, true
	case PathResolve:
		return endpoint{limit: MaxSmallBody, handle: in.resolve, bucket: questions, contact: true}, true
	case PathDevices:
		return endpoint{limit: MaxSmallBody, handle: in.devices, bucket: questions}, true
	case PathEphemeral:
		return endpoint{limit: MaxEphemeral, handle: in.ephemeral, bucket: fleeting}, in.opts.Ephemeral != nil
	case PathMedia:
		return endpoint{limit: MaxSmallBody, handle: in.media, media: true}, in.opts.Media != nil
	case PathGroupOps:
		return endpoint{limit: MaxSmallBody, handle: in.groupOp, bucket: questions, contact: true}, in.opts.Groups != nil
	case PathGroupHistory:
		return endpoint{limit: MaxSmallBody, handle: in.groupHistory, bucket: questions}, in.opts.Groups != nil
	case PathReports:
		return endpoint{limit: MaxReport, handle: in.report, bucket: questions}, in.opts.Reports != nil
	case PathClaim:
		return endpoint{limit: MaxSmallBody, handle: in.claim, bucket: claims, contact: true}, true
	}
	return endpoint{}, false
}

func questions(q *quota) *rate.Limiter { return q.questions }
func claims(q *quota) *rate.Limiter    { return q.claims }
func fleeting(q *quota) *rate.Limiter  { return q.ephemeral }

// ServeHTTP answers one request.
func (in *Inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if in.self.Usable() != nil {
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeUnavailable}) // what is signed now, nobody believes
		return
	}
	switch r.URL.Path {
	case PathWellKnown:
		in.serveWellKnown(w, r)
		return
	case PathServer:
		in.serveDocument(w, r)
		return
	case PathPeering:
		in.servePeering(w, r)
		return
	}
	e, ok := in.endpoint(r.URL.Path)
	if !ok {
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeNotFound})
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeMethod})
		return
	}
	in.servePeer(w, r, e)
}

// servePeer runs the checks in their order: outer form, known origin,
// signature over the headers, clock, nonce, state of the peering, quotas, and
// only then the body. The nonce is remembered after the quotas: what is beyond
// them takes no room, and was not done, so that nothing is done twice.
func (in *Inbox) servePeer(w http.ResponseWriter, r *http.Request, e endpoint) {
	origin, err := in.verifier.Origin(r)
	if err != nil {
		in.refused(w, "", err)
		return
	}
	peer, err := in.peers.Peer(r.Context(), origin)
	switch {
	case clearbox.CodeOf(err) == clearbox.CodePeerBlocked:
		in.refuseUnsigned(w, &problem{Code: clearbox.CodePeerBlocked})
		return
	case err != nil:
		in.stranger(w, r, origin)
		return
	case peer.State != PeerActive && peer.State != PeerSuspended:
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeUnknownPeer})
		return
	}
	v, err := in.verifier.Check(r, origin, in.client.keysOf(&peer), in.opts.Now())
	if err != nil && v == nil {
		if clearbox.CodeOf(err) == clearbox.CodeUnknownKey {
			in.client.refetchLater(origin)
		}
		in.refused(w, origin, err)
		return
	}
	a := &answerer{in: in, w: w, peer: origin, request: v.Signature}
	ctx := r.Context()
	switch {
	case err != nil:
		a.refuse(err)
		return
	case peer.State != PeerActive:
		a.refuse(clearbox.Errorf(clearbox.CodePeerBlocked, "the peering is not active"))
		return
	}
	if peer.Direction == DirectionOut && e.contact {
		a.refuse(clearbox.Errorf(clearbox.CodePeerBlocked, "messages go to this peer only"))
		return
	}
	if err := in.client.spoken(&peer, v.Version); err != nil {
		a.refuse(err)
		return
	}
	q := in.quotas.of(&peer, in.opts.Now())
	if !in.quotas.enter(q, e.media) {
		a.slowDown(time.Second)
		return
	}
	defer in.quotas.leave(q, e.media)
	if wait := in.admit(q, e, r.ContentLength); wait > 0 {
		a.slowDown(wait)
		return
	}
	if err := in.verifier.Take(v, in.opts.Now()); err != nil {
		a.refuse(err)
		return
	}
	allow(w, r.ContentLength, e.limit)
	body, err := ReadBody(r, e.limit)
	if err != nil {
		a.refuse(err)
		return
	}
	if r.Header.Get(headerType) != TypeCBOR {
		a.refuse(clearbox.Errorf(clearbox.CodeUnsupportedMedia, "bodies are CBOR"))
		return
	}
	in.client.Contact(origin)
	in.opts.Contact(origin)
	answer, err := e.handle(ctx, origin, body)
	if ctx.Err() != nil {
		err = &clearbox.Error{Code: clearbox.CodeUnavailable, Cause: ctx.Err()} // nobody is there to read it
	}
	if err != nil {
		a.refuse(err)
		return
	}
	a.send(http.StatusOK, TypeCBOR, answer)
}

// allow gives a peer's request its time. One that dribbles its body holds one of
// its own peer's places for that long.
func allow(w http.ResponseWriter, length, limit int64) {
	if length < 0 || length > limit {
		length = limit
	}
	most := bodyBudget + bodyTime(int(length))
	c := http.NewResponseController(w) // not every writer can; the listener has its own limits
	_ = c.SetReadDeadline(time.Now().Add(most))
	_ = c.SetWriteDeadline(time.Now().Add(most + answerBudget))
}

func (in *Inbox) admit(q *quota, e endpoint, length int64) time.Duration {
	now := in.opts.Now()
	if e.bucket != nil {
		if wait := take(e.bucket(q), 1, now); wait > 0 {
			return wait
		}
	}
	return take(q.bytes, int(min(max(length, 1), MaxTransaction)), now)
}

func faultOf(err error) string {
	var p *ProfileError
	if errors.As(err, &p) {
		return string(p.Fault)
	}
	return ""
}

// refused answers a request whose signature was not established; nothing is
// signed for it, and strangers do not fill the log.
func (in *Inbox) refused(w http.ResponseWriter, origin clearbox.ServerName, err error) {
	in.opts.Log.Debug("federation request refused", "peer", string(origin), "code", string(clearbox.CodeOf(err)), "fault", faultOf(err))
	in.refuseUnsigned(w, &problem{Code: clearbox.CodeOf(err)})
}

func (in *Inbox) refuseUnsigned(w http.ResponseWriter, p *problem) {
	b := p.encode()
	w.Header().Set(headerType, TypeProblem)
	p.retryAfter(w.Header())
	w.WriteHeader(p.Status)
	_, _ = w.Write(b) // a peer that went away learns nothing; nothing was changed
}

// answerer signs what goes back to a request whose signature was verified.
type answerer struct {
	in      *Inbox
	w       http.ResponseWriter
	peer    clearbox.ServerName
	request string // its Signature header
}

func (a *answerer) send(status int, contentType string, body []byte) {
	h := a.w.Header()
	h.Set(headerType, contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	SignAnswer(h, status, body, a.request, a.in.self.SigningKey(), a.in.opts.Now())
	a.w.WriteHeader(status)
	_, _ = a.w.Write(body) // a lost answer is asked for again
}

func (a *answerer) refuse(err error) {
	p := &problem{Code: clearbox.CodeOf(err)}
	if f := faultOf(err); f != "" {
		a.in.opts.Log.Info("federation request refused", "peer", string(a.peer), "code", string(p.Code), "fault", f)
	}
	var gap *GapError
	var fast *tooFast
	var changed *clearbox.GroupChangedError
	switch {
	case errors.As(err, &changed):
		p.Expected = int64(changed.Epoch)
	case errors.As(err, &gap):
		p.Expected = gap.Expected
	case errors.As(err, &fast):
		p.RetryAfterMS = max(fast.wait.Milliseconds(), 1)
	case p.Code == clearbox.CodeClockSkew:
		p.ServerTime = a.in.opts.Now().UnixMilli()
	case p.Code == clearbox.CodeUnavailable || p.Code == clearbox.CodeStoreFull:
		p.RetryAfterMS = 5000
	case p.Code == clearbox.CodeInternal:
		a.in.opts.Log.Error("federation request failed", "error", err.Error())
	}
	a.problem(p)
}

func (a *answerer) slowDown(wait time.Duration) {
	a.problem(&problem{Code: clearbox.CodeRateLimited, RetryAfterMS: max(wait.Milliseconds(), 1)})
}

func (a *answerer) problem(p *problem) {
	body := p.encode()
	p.retryAfter(a.w.Header())
	a.send(p.Status, TypeProblem, body)
}

func (in *Inbox) serveDocument(w http.ResponseWriter, r *http.Request) {
	in.serveOpen(w, r, "max-age=300", in.self.Document().Signed())
}

func (in *Inbox) serveWellKnown(w http.ResponseWriter, r *http.Request) {
	b, err := json.Marshal(WellKnown{Base: in.self.Document().Endpoints[0].URL})
	if err != nil {
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeInternal})
		return
	}
	in.serveOpen(w, r, "max-age=3600", b)
}

func (in *Inbox) serveOpen(w http.ResponseWriter, r *http.Request, cache string, body []byte) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeMethod})
		return
	}
	w.Header().Set("Cache-Control", cache)
	w.Header().Set(headerType, TypeJSON)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // nothing to do for a reader that left
}
