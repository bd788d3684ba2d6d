package federation

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
)

// PeerState is where a peering stands.
type PeerState string

// The states of a peer. Traffic flows in PeerActive only.
const (
	PeerInvited   PeerState = "invited"
	PeerPending   PeerState = "pending"
	PeerActive    PeerState = "active"
	PeerSuspended PeerState = "suspended"
	PeerRemoved   PeerState = "removed"
)

// Direction is who may write to whom in a peering, as this server sees it. It is
// about messages: whatever it is, news about messages go both ways.
type Direction string

// The directions.
const (
	DirectionBoth Direction = "both"
	DirectionIn   Direction = "in"  // the peer's people to ours
	DirectionOut  Direction = "out" // our people to the peer's
)

// Peer is what is known of another homeserver.
type Peer struct {
	Server       clearbox.ServerName
	State        PeerState
	Pin          [32]byte // SHA-256 of the identity key; zero before the first contact
	Document     []byte   // the newest signed document, or nil
	Endpoints    []string // base URLs; empty means discovery
	Fixed        bool     // the operator wrote the endpoints down: nothing is ever looked up
	AllowPrivate bool     // private addresses may be dialled
	ClockOffset  time.Duration

	FirstUse  bool      // it came by itself and nobody agreed with its operator: not told about third servers
	Direction Direction // "" is both
	Features  []string  // what is exchanged beyond messages; nothing unless it is named here
	Envelopes int       // a second that it may bring; 0 as all peers
	Bytes     int       // the same
}

// Allows tells whether what is named (presence, typing) is exchanged with p.
func (p *Peer) Allows(feature string) bool { return slices.Contains(p.Features, feature) }

// Target is p as transport needs it.
func (p *Peer) Target() Target {
	return Target{Server: p.Server, Endpoints: p.Endpoints, Discover: !p.Fixed && !p.AllowPrivate, AllowPrivate: p.AllowPrivate, Pinned: p.Pin != [32]byte{}}
}

// Status is the sender's view of one peer, for operators.
type Status struct {
	LastSeen  clearbox.Millis // last authenticated contact in either direction; 0 = leave as it is
	LastTry   clearbox.Millis
	Failures  int             // attempts in a row without an answer
	NextTry   clearbox.Millis // 0 = now
	LastError clearbox.Code   // "" after a success
	Kind      Trouble         // of the same attempt, "" after a success
	Since     clearbox.Millis // first failure after the last success, 0 after a success
}

// Peers is the table of peers. Peer is called for every request and must be
// cheap; a change by an operator must be visible in it within five seconds.
type Peers interface {
	// Peer returns an error with clearbox.CodeUnknownPeer for a server that is not in the table, and with
	// CodePeerBlocked for one with which nothing may be exchanged, in the table or not.
	Peer(ctx context.Context, server clearbox.ServerName) (Peer, error)
	// Active lists the peers in state active.
	Active(ctx context.Context) ([]clearbox.ServerName, error)
	// SaveDocument stores a verified document whose sequence is higher than that of the stored one;
	// otherwise it changes nothing and returns *RollbackError (unless the bytes are equal).
	SaveDocument(ctx context.Context, server clearbox.ServerName, doc *Document) error
	// SaveOffset keeps how far the peer's clock is ahead of ours.
	SaveOffset(ctx context.Context, server clearbox.ServerName, offset time.Duration) error
	// SaveStatus keeps the sender's view; losing the newest one at a crash is harmless.
	SaveStatus(ctx context.Context, server clearbox.ServerName, status Status) error
}

// Target tells a Transport whom to reach.
type Target struct {
	Server       clearbox.ServerName
	Endpoints    []string // base URLs to try first
	Discover     bool     // when none of them answers, discovery by well-known may help
	AllowPrivate bool
	Pinned       bool // the peer's identity is pinned: stale discovery may serve
}

// Transport carries requests to peers. It is safe for concurrent use.
type Transport interface {
	// Endpoint is the base URL (https, no path) at which the target answers; it may look it up.
	Endpoint(ctx context.Context, target Target) (string, error)
	// Do sends the request, whose URL begins with an endpoint of the target. It follows no redirects.
	// The caller closes the body; its size is the caller's to limit.
	Do(ctx context.Context, target Target, req *http.Request) (*http.Response, error)
	// Forget drops what is cached about the target's endpoint, after a failure.
	Forget(target Target)
}
