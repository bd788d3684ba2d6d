// Package delivery is responsible for the way of a message: from a submission
// into mailboxes and the outbox, from a peer's transaction into mailboxes, from
// a mailbox to a device, and for the notices that tell a sender what became of
// it. It implements federation's Outbox and Acceptor over storage.
//
// It is not responsible for sockets (server/api), for the wire between servers
// (federation), or for who may act (server/auth). It cannot read what it carries.
package delivery

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// Peers tells what delivery must know about other homeservers. server/peering
// implements it.
type Peers interface {
	// Route returns nil when messages to the server may be queued now, or an
	// error with the code for the sender (peer_blocked, no_route_policy).
	Route(ctx context.Context, peer clearbox.ServerName) error
}

// Keys seals what lies in queues and names recipients without naming them.
// The keystore implements it.
type Keys interface {
	storage.Sealer
	Index(label string, value []byte) []byte
}

// Options of New. Zero values mean the defaults named beside them.
type Options struct {
	Now    func() time.Time // time.Now
	Random io.Reader        // crypto/rand.Reader
	Log    *slog.Logger     // discards

	MailTTL       time.Duration // how long undelivered mail is kept, 30 days
	OutboxTTL     time.Duration // how long a message to a peer is tried, 14 days
	SubmissionTTL time.Duration // how long a message id is remembered, 30 days
	DelayedAfter  time.Duration // when the sender is told that a message is late, 4 hours
	SweepEvery    time.Duration // how often what is late or expired is looked for, 1 minute

	PeerQueueItems int64 // 500,000 per peer
	PeerQueueBytes int64 // 1 GiB per peer

	// Admit refuses new messages while there is no room for them; nil admits
	// all. It must be cheap.
	Admit func() error

	// Nudge is called after a message for a peer is durable, NudgeControl after a
	// knock is. They must not block.
	Nudge        func(peer clearbox.ServerName)
	NudgeControl func(peer clearbox.ServerName)

	// Open tells when somebody here agreed that strangers may write to them, 0 if
	// they do not want it. Of nobody it is asked too and must cost the same. nil: nobody wants it.
	Open func(tx *storage.Tx, userNo int64) (clearbox.Millis, error)

	// Rosters tells who is in which group; nil: there are no groups.
	Rosters Rosters

	// GroupsArrived is called after what a hub tells of a group is durable
	// (storage.Tx.GroupArrivals). It must not block.
	GroupsArrived func()

	// Organisation tells who runs a peer and in which country, for people who are
	// asked to accept somebody there; nil: nothing is known. It must be cheap.
	Organisation func(peer clearbox.ServerName) (controller, country string)
}

func (o *Options) fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Admit == nil {
		o.Admit = func() error { return nil }
	}
	if o.Nudge == nil {
		o.Nudge = func(clearbox.ServerName) {}
	}
	if o.NudgeControl == nil {
		o.NudgeControl = func(clearbox.ServerName) {}
	}
	if o.Open == nil {
		o.Open = func(*storage.Tx, int64) (clearbox.Millis, error) { return 0, nil }
	}
	if o.GroupsArrived == nil {
		o.GroupsArrived = func() {}
	}
	if o.Organisation == nil {
		o.Organisation = func(clearbox.ServerName) (string, string) { return "", "" }
	}
	if o.PeerQueueItems <= 0 {
		o.PeerQueueItems = 500_000
	}
	if o.PeerQueueBytes <= 0 {
		o.PeerQueueBytes = 1 << 30
	}
	def(&o.MailTTL, 30*24*time.Hour)
	def(&o.OutboxTTL, 14*24*time.Hour)
	def(&o.SubmissionTTL, 30*24*time.Hour)
	def(&o.DelayedAfter, 4*time.Hour)
	def(&o.SweepEvery, time.Minute)
}

// Router carries messages. It is safe for concurrent use.
type Router struct {
	store     *storage.Store
	keys      Keys
	directory *directory.Service
	peers     Peers
	server    clearbox.ServerName
	opts      Options

	writes    *committer
	mailboxes mailboxes
	watchers  watchers
	people    people
	turns     turns
	reaches   reaches
	rosters   rosters
	bodies    bodies
	refresh   chan refresh  // capacity 64: hints; a lost one is given again
	knocked   chan struct{} // capacity 1: a knock arrived

	refs        cipher.Block // see ref.go
	decoyOnce   sync.Once
	decoySealed []byte
}

// New builds a router; Run makes it work.
func New(store *storage.Store, keys Keys, dir *directory.Service, peers Peers, server clearbox.ServerName, o Options) *Router {
	o.fill()
	r := &Router{store: store, keys: keys, directory: dir, peers: peers, server: server, opts: o, refresh: make(chan refresh, 64), knocked: make(chan struct{}, 1)}
	block, err := refCipher(keys)
	if err != nil {
		panic("delivery: the keystore's index has no 32 bytes: " + err.Error())
	}
	r.refs = block
	r.writes = newCommitter(store)
	r.mailboxes.open = map[int64][]*Mailbox{}
	r.watchers.byUser = map[int64]map[*func(State)]struct{}{}
	r.people.local = map[clearbox.UID]storage.Recipient{}
	r.people.remote = map[clearbox.UserID]directory.Recipient{}
	r.rosters.byID = map[clearbox.GroupID]*roster{}
	r.bodies.byNo = map[int64][]byte{}
	r.reaches.byUID = map[clearbox.UID]*reach{}
	return r
}

// Run commits what is submitted and sweeps what is late or expired until ctx
// ends; what was submitted by then is answered.
func (r *Router) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { r.writes.run(ctx) })
	running.Go(func() { r.sweep(ctx) })
	running.Go(func() { r.refreshRemote(ctx) })
	running.Go(func() { r.announce(ctx) })
	running.Wait()
	return nil
}

func (r *Router) now() clearbox.Millis { return clearbox.Millis(r.opts.Now().UnixMilli()) }

func after(t clearbox.Millis, d time.Duration) clearbox.Millis {
	return t + clearbox.Millis(d.Milliseconds())
}
