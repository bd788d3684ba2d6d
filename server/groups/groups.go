// Package groups is responsible for who is in which group: it orders the
// operations of groups of which this server is the hub, follows those of other
// hubs, verifies each (crypto/chain, device lists, policy), keeps them with the
// roster that says who the members are, and tells devices and member servers.
//
// It is not responsible for messages: those go from the sender's server to every
// member server without the hub (server/delivery), which asks here who is in a
// group. It can read neither messages nor a group's title.
package groups

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// Hubs are the hubs at other servers; *federation.Client is one.
type Hubs interface {
	// SubmitOp hands an operation over: *clearbox.GroupChangedError, the hub's
	// code, or clearbox.CodeHubUnreachable.
	SubmitOp(ctx context.Context, hub clearbox.ServerName, g federation.GroupOp) (epoch uint64, head [32]byte, err error)
	// GroupHistory asks for the operations after an epoch.
	GroupHistory(ctx context.Context, hub clearbox.ServerName, group clearbox.GroupID, after uint64) (federation.GroupHistory, error)
}

// Options of New. Zero values mean the defaults named beside them.
type Options struct {
	Now    func() time.Time // time.Now
	Random io.Reader        // crypto/rand.Reader
	Log    *slog.Logger     // discards

	Hubs Hubs // nil: groups of this server alone
	// Route returns nil when a server may be told of groups; nil: none may.
	Route func(ctx context.Context, peer clearbox.ServerName) error
	// Country is where a server is, this one too, as two capital letters; empty
	// when it is not known.
	Country func(server clearbox.ServerName) string
	// Alert tells an operator what a hub did. It may block for a moment.
	Alert func(peer clearbox.ServerName, kind federation.Alert)
}

func (o *Options) fill() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Hubs == nil {
		o.Hubs = noHubs{}
	}
	if o.Route == nil {
		o.Route = func(context.Context, clearbox.ServerName) error { return errAlone() }
	}
	if o.Country == nil {
		o.Country = func(clearbox.ServerName) string { return "" }
	}
	if o.Alert == nil {
		o.Alert = func(clearbox.ServerName, federation.Alert) {}
	}
}

// noHubs are those of a server without federation.
type noHubs struct{}

func (noHubs) SubmitOp(context.Context, clearbox.ServerName, federation.GroupOp) (uint64, [32]byte, error) {
	return 0, [32]byte{}, errAlone()
}

func (noHubs) GroupHistory(context.Context, clearbox.ServerName, clearbox.GroupID, uint64) (federation.GroupHistory, error) {
	return federation.GroupHistory{}, errAlone()
}

func errAlone() error {
	return clearbox.Errorf(clearbox.CodePeerBlocked, "this server does not speak with other servers")
}

// Service keeps the groups of one server. It is safe for concurrent use.
type Service struct {
	store  *storage.Store
	dir    *directory.Service
	mail   *delivery.Router
	server clearbox.ServerName
	o      Options

	byUser  *throttle.Buckets // operations, by account
	byGroup *throttle.Buckets // operations that this server orders, by group

	mu      sync.Mutex // guards all
	all     map[clearbox.GroupID]*group
	arrived chan struct{} // capacity 1: what a hub told waits

	rest map[clearbox.ServerName]time.Time // follow's: until when slow hubs are left alone
}

// maxGroups is how many groups are kept in memory; reaching it forgets all that
// nobody is changing.
const maxGroups = 4096

// New makes the groups of server; Run makes it follow.
func New(store *storage.Store, dir *directory.Service, mail *delivery.Router, server clearbox.ServerName, o Options) *Service {
	o.fill()
	return &Service{
		store: store, dir: dir, mail: mail, server: server, o: o,
		byUser: throttle.New(120, time.Second, 50_000), byGroup: throttle.New(600, time.Second/5, 0),
		all: map[clearbox.GroupID]*group{}, arrived: make(chan struct{}, 1), rest: map[clearbox.ServerName]time.Time{},
	}
}

// Arrived says that there is something in storage.Tx.GroupArrivals. It never blocks.
func (s *Service) Arrived() {
	select {
	case s.arrived <- struct{}{}:
	default: // one is enough
	}
}

func (s *Service) now() clearbox.Millis { return clearbox.Millis(s.o.Now().UnixMilli()) }

// Result is where an operation stands in its group.
type Result struct {
	Group clearbox.GroupID
	Epoch uint64
	Head  [32]byte // of the operation
}
