// Package api is responsible for the doors of the homeserver that clients and
// admins use: the HTTP routes, the WebSocket and the admin socket; for who may
// use which (table.go), for the form of every answer and error (errors.go), and
// for limits on size, rate and time.
//
// It is not responsible for what an operation does: that is auth, directory,
// delivery, archive and admin. It holds no SQL and no keys, and takes the
// caller from the handshake or the token, never from a body or a frame.
package api

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/afar"
	"github.com/clearbox-im/clearbox/server/archive"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/server/linking"
	"github.com/clearbox-im/clearbox/server/media"
	"github.com/clearbox-im/clearbox/server/presence"
	"github.com/clearbox-im/clearbox/server/reports"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Router carries messages; *delivery.Router is one.
type Router interface {
	// SubmitAsync takes a submission over. The order of calls for one sender is
	// the order of acceptance. done is called once, from any goroutine.
	SubmitAsync(ctx context.Context, p auth.Principal, s delivery.Submission, done func(delivery.Receipt, error))
	Status(ctx context.Context, p auth.Principal, ids []clearbox.MessageID) ([]delivery.State, error)
	// Fellows refuses with clearbox.CodeNotAMember unless both are in the group or invited.
	Fellows(ctx context.Context, a, b clearbox.UserID, group clearbox.GroupID) error
}

// Contacts are what people here and elsewhere want of each other;
// *delivery.Router is one.
type Contacts interface {
	Knock(ctx context.Context, p auth.Principal, id clearbox.MessageID, to clearbox.Address) (delivery.Receipt, error)
	AnswerKnock(ctx context.Context, p auth.Principal, id clearbox.MessageID, block bool) error
	SetToken(ctx context.Context, p auth.Principal, t clearbox.DeliveryToken) error
	Blocks(ctx context.Context, p auth.Principal) ([]clearbox.UserID, error)
	SetBlocks(ctx context.Context, p auth.Principal, users []clearbox.UserID) error
	Consented(uid clearbox.UID) // that strangers may write to them, or no more
}

// Mailbox is one device's mail for one connection; *delivery.Mailbox is one.
type Mailbox interface {
	Read(ctx context.Context, after int64, limit, maxBytes int) ([]delivery.Delivery, error)
	Ack(ctx context.Context, upTo int64) error
	Acked(ctx context.Context) (int64, error)
	Wake() <-chan struct{}
	Close()
}

// A waker is a Mailbox that calls instead of filling its channel. It saves a
// goroutine per idle socket. fn never blocks.
type waker interface{ OnWake(fn func()) }

// Parts are the rooms behind the doors. All but StatusEvents and Afar are
// required.
type Parts struct {
	Auth      *auth.Service
	Directory *directory.Service
	Router    Router
	Contacts  Contacts
	Groups    *groups.Service
	Reports   *reports.Service
	Mailbox   func(p auth.Principal) Mailbox // opens the mail of p's device
	Archive   *archive.Service
	Linking   *linking.Service
	Media     *media.Service
	Presence  *presence.Hub
	Admin     *admin.Service
	Afar      *afar.Service // presence and signals across servers; nil without federation
	// Servers tells what is known of a server.
	Servers func(ctx context.Context, server clearbox.ServerName) (wire.ServerInfo, error)

	// StatusEvents tells live states of a person's messages, best effort. tell
	// never blocks. It is opened when a socket sends for the first time.
	StatusEvents func(userNo int64, tell func(delivery.State)) (stop func())
}

// Check is a dependency that /readyz names. Probe returns why it is not ready.
type Check struct {
	Name  string
	Probe func(ctx context.Context) error
	Until func() clearbox.Millis // when it will not be ready any more, if that is near; nil: never
}

// Options of an API. Zero values mean the defaults named beside them.
type Options struct {
	Now    func() time.Time // time.Now
	Random io.Reader        // crypto/rand.Reader; safe for concurrent use
	Log    *slog.Logger     // discards

	Version wire.Version
	// Registration is not used: /.well-known/clearbox says what Auth says.
	Registration auth.Mode

	// Origins are scheme and host of web pages on other hosts that may open the
	// socket, such as https://chat.example.org. The server's own always may.
	Origins []string
	// TrustedProxies may say where a request came from in X-Forwarded-For.
	TrustedProxies []netip.Prefix
	Checks         []Check
	Limits         Limits
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
}

// API answers clients and admins. It is safe for concurrent use.
type API struct {
	server clearbox.ServerName
	parts  Parts
	o      Options

	mux       *chi.Mux
	addresses addressKeys
	limits    atomic.Pointer[limits]
	watches   *throttle.Buckets // watch frames by account
	contacts  *throttle.Buckets // changes of who may write, by account
	signals   *throttle.Buckets // signals, by account
	uploads   *throttle.Buckets // parts of uploads, by account: each is synced
	sockets   *sockets
	workers   *workers
	draining  atomic.Bool
	panics    atomic.Int64
	polls     sync.WaitGroup // open long polls
	stopping  chan struct{}  // closed when long polls must answer
	stopOnce  sync.Once
}

// New makes an API; Run makes its sockets work. It registers with Auth for
// revoked sessions, so it is called before Auth runs.
func New(server clearbox.ServerName, parts Parts, o Options) *API {
	o.fill()
	a := &API{server: server, parts: parts, o: o, stopping: make(chan struct{})}
	a.SetLimits(o.Limits)
	a.watches = throttle.New(60, time.Second, 50_000)
	a.signals = throttle.New(20, time.Second/2, 50_000)
	a.uploads = throttle.New(60, 50*time.Millisecond, 50_000)
	a.contacts = throttle.New(60, 2*time.Second, 50_000)
	a.sockets = newSockets()
	a.workers = newWorkers()
	a.mux = a.routes()
	parts.Auth.OnRevoke(a.sockets.revoke)
	parts.Directory.OnLow(a.sockets.keysLow)
	return a
}

// Handler serves clients.
func (a *API) Handler() http.Handler { return a.outer(a.mux, false) }

// AdminHandler serves the Unix socket: whoever may open it is the local admin.
// It has the admin routes and the public ones, no accounts.
func (a *API) AdminHandler() http.Handler { return a.outer(a.mux, true) }

// Panics tells how many handlers panicked. Tests fail when it is not zero.
func (a *API) Panics() int64 { return a.panics.Load() }

// Run pings sockets and looks after them until ctx ends; then it closes them
// and returns when their goroutines have ended.
func (a *API) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for slot := 0; ; slot++ {
		select {
		case <-tick.C:
			a.tend(slot)
		case <-ctx.Done():
			a.stop()
			a.sockets.closeAll(wire.CloseDraining)
			a.sockets.wait()
			a.polls.Wait()
			a.workers.stop()
			return nil
		}
	}
}

// Drain refuses new work, asks every client to come back later, spread over
// the time until ctx's deadline (2 seconds without one), and returns when all
// sockets are closed or ctx ends. What was submitted is answered first.
func (a *API) Drain(ctx context.Context) {
	a.draining.Store(true)
	a.stop()
	a.sockets.drain(ctx, a)
}

func (a *API) stop() { a.stopOnce.Do(func() { close(a.stopping) }) }
