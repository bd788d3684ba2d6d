// Package server is responsible for putting a homeserver together from its
// rooms, for starting them in order and for stopping them in reverse.
//
// It is not responsible for anything that a room does. Network, time and
// randomness are handed in, so that a test can run several homeservers in one
// process, on wires of its own and with a clock of its own.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/afar"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/archive"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/server/identity"
	"github.com/clearbox-im/clearbox/server/linking"
	"github.com/clearbox-im/clearbox/server/logging"
	"github.com/clearbox-im/clearbox/server/media"
	"github.com/clearbox-im/clearbox/server/peering"
	"github.com/clearbox-im/clearbox/server/presence"
	"github.com/clearbox-im/clearbox/server/reports"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/blob"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

// Options of New. Zero values mean the real network, clock and randomness.
type Options struct {
	Now    func() time.Time
	Random io.Reader     // safe for concurrent use
	Logs   *logging.Logs // discards if nil

	Listen func(network, address string) (net.Listener, error) // net.Listen
	// ListenPacket opens the UDP sockets of HTTP/3, for peers that come and for those that are gone to:
	// net.ListenPacket, or none when Listen or Dial are given.
	ListenPacket func(network, address string) (net.PacketConn, error)
	Dial         func(ctx context.Context, network, addr string) (net.Conn, error) // to peers
	Resolve      func(ctx context.Context, host string) ([]netip.Addr, error)      // of peers' hosts

	// SweepEvery is how often late and expired mail is looked for, as in delivery.Options; tests let it rest for days.
	SweepEvery time.Duration

	Version wire.Version
	// Started is called once when every listener is open.
	Started func()
	// Incoming is shown the head of each request of a peer, for tests of what peers tell; nil shows nobody.
	Incoming func(*http.Request)
	// Reload is what POST /admin/reload calls; nil refuses.
	Reload func(context.Context) (wire.AdminReload, error)
}

// Server is a homeserver. New builds it, Run runs it once.
type Server struct {
	o     Options
	log   *slog.Logger
	conf  running
	certs certificate

	keys     *keystore.Keystore
	store    *storage.Store
	blobs    *blob.Store
	resetKey *[32]byte // of QUIC connections

	auth      *auth.Service
	directory *directory.Service
	delivery  *delivery.Router
	media     *media.Service
	groups    *groups.Service
	reports   *reports.Service
	presence  *presence.Hub
	afar      *afar.Service
	ephemera  *federation.Ephemera
	api       *api.API
	table     *peering.Table
	peering   *peering.Service
	transport *transport.Courier
	identity  identity.State
	self      *federation.Self
	client    *federation.Client
	sender    *federation.Sender
	inbox     *federation.Inbox
	disk      disk
	visits    visits
	started   clearbox.Millis
}

// New opens the stores and builds every room. It starts nothing but the
// store's writer; Run or Close ends that. The configuration is complete
// (config.Load) and not changed afterwards.
func New(ctx context.Context, c *config.Config, o Options) (_ *Server, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Listen == nil && o.Dial == nil && o.ListenPacket == nil {
		o.ListenPacket = net.ListenPacket
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	if o.Version.Go == "" {
		o.Version.Go = runtime.Version()
	}
	s := &Server{o: o, log: slog.New(slog.DiscardHandler), started: clearbox.Millis(o.Now().UnixMilli())}
	if o.Logs != nil {
		s.log = o.Logs.Log()
	}
	s.conf.set(c)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.certs.load(c.TLS); err != nil {
		return nil, err
	}
	if err := s.openStores(ctx, c); err != nil {
		return nil, err
	}
	if err := s.buildRooms(ctx, c); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) openStores(ctx context.Context, c *config.Config) error {
	root, err := config.ReadKey(c.Keys.RootKeyFile)
	if err != nil {
		return fmt.Errorf("keys.root_key_file: %w", err)
	}
	if s.resetKey, err = resetKey(root[:]); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Server.DataDir, 0o700); err != nil {
		return fmt.Errorf("server.data_dir: %w", err)
	}
	if s.keys, err = keystore.Open(ctx, c.KeystorePath(), root[:], keystore.Options{Now: s.o.Now, Random: s.o.Random}); err != nil {
		return fmt.Errorf("open the key store: %w", err)
	}
	if s.blobs, err = blob.Open(c.MediaPath(), blob.Options{}); err != nil {
		return fmt.Errorf("server.data_dir: %w", err)
	}
	s.store, err = storage.Open(ctx, storage.Options{
		Path: c.DatabasePath(), Sealer: s.keys, Index: s.keys.Index, Now: s.o.Now, Random: s.o.Random, Log: s.log,
		MailFloor: storage.MailFloor(s.o.Now()), MailboxMails: orUnlimited(int64(c.Limits.MailboxEnvelopes)), MailboxBytes: orUnlimited(int64(c.Limits.MailboxSize)),
	})
	return err
}

// orUnlimited reads the configuration's 0, "off", for rooms whose 0 means
// their default.
func orUnlimited(n int64) int64 {
	if n == 0 {
		return math.MaxInt64
	}
	return n
}

// orNone is the same for rooms in which a negative number means no limit.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func (s *Server) buildRooms(ctx context.Context, c *config.Config) error {
	name := c.Server.Name
	text, err := c.PrivacyNotice()
	if err != nil {
		return fmt.Errorf("notice: %w", err)
	}
	s.auth = auth.New(s.store, s.keys, name, auth.Options{
		Now: s.o.Now, Random: s.o.Random, Log: s.log, Registration: auth.Mode(c.Registration.Mode), InviteTTL: c.Registration.InviteTTL,
		Notice:    auth.NewNotice(c.Notice.Version, c.Notice.Language, text),
		AccessTTL: c.Tokens.Access, RefreshTTL: c.Tokens.Refresh, TicketTTL: c.Tokens.Ticket,
		Argon:     auth.Argon{MemoryKiB: uint32(c.Passwords.Memory / config.KiB), Iterations: uint32(c.Passwords.Iterations)},
		ArgonGate: c.Passwords.Concurrency, LoginsPerMinute: orNone(c.Limits.AddressLoginsPerMinute),
	})
	if s.identity, err = (identity.Files{Path: c.Keys.IdentityKeyFile}).Load(s.o.Now()); err != nil {
		return fmt.Errorf("keys.identity_key_file: %w", err)
	}
	if err := s.buildFederation(ctx, c); err != nil {
		return err
	}
	dirs := directory.Options{
		Now: s.o.Now, Random: s.o.Random, Log: s.log,
		// The router is built with the directory and asked for nothing before.
		MayReach: func(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID, token []byte) (bool, error) {
			return s.delivery.MayReach(ctx, peer, uid, token)
		},
		TokenOf: func(ctx context.Context, uid clearbox.UID) (clearbox.DeliveryToken, error) {
			return s.delivery.TokenOf(ctx, uid)
		},
	}
	if s.client != nil {
		dirs.Remote, dirs.SenderRoot = remote{s.client}, s.self.SenderRoot
	}
	s.directory = directory.New(s.store, s.auth, name, dirs)
	s.presence = presence.New()
	s.disk = disk{path: c.Server.DataDir, reserve: uint64(c.Limits.DiskReserve)}
	s.delivery = delivery.New(s.store, s.keys, s.directory, routes{s}, name, delivery.Options{
		Now: s.o.Now, Random: s.o.Random, Log: s.log, MailTTL: c.Retention.Undelivered, OutboxTTL: c.Retention.Outbox,
		SubmissionTTL: c.Retention.Idempotency, DelayedAfter: c.Federation.DelayedAfter,
		PeerQueueItems: orUnlimited(int64(c.Limits.PeerQueueItems)), PeerQueueBytes: orUnlimited(int64(c.Limits.PeerQueueSize)),
		SweepEvery: s.o.SweepEvery,
		Admit:      s.disk.admit, Nudge: s.nudge, NudgeControl: s.nudgeControl, Organisation: s.organisation,
		Rosters: rosters{s}, GroupsArrived: func() { s.groups.Arrived() },
		Open: func(tx *storage.Tx, userNo int64) (clearbox.Millis, error) {
			return s.auth.ConsentedSince(tx, userNo, auth.PurposeOpenReachability)
		},
	})
	s.media = media.New(s.store, s.blobs, name, media.Options{
		Log: s.log, MaxObject: orUnlimited(int64(c.Limits.AttachmentSize)), MaxAccount: orUnlimited(int64(c.Limits.AccountAttachmentsSize)),
		TTL: c.Retention.Attachments, Admit: s.disk.admit, Remote: s.remoteMedia(),
	})
	s.buildGroups(c)
	s.buildReports(c.Server.Name)
	if s.client != nil {
		s.buildExchange(c)
	}
	return s.buildDoors(c, text)
}

// buildFederation makes this server's identity towards peers and its client
// side. In mode closed there is none of it.
func (s *Server) buildFederation(ctx context.Context, c *config.Config) error {
	if c.Federation.Mode == "closed" {
		return nil
	}
	roots, err := authorities(c.Federation.CAFile)
	if err != nil {
		return err
	}
	s.self, err = federation.OpenSelf(ctx, c.Server.Name, s.identity.Key, peering.SelfState{Store: s.store, Sealer: s.keys}, federation.SelfOptions{
		Endpoints: []federation.Endpoint{{URL: c.PublicURL(), H3: s.servesQUIC(c)}},
		Legal:     legal(c), Features: features(c),
		Previous: s.identity.Previous, PreviousUntil: s.identity.PreviousUntil,
		Now: s.o.Now, Random: s.o.Random, Log: s.log,
	})
	if err != nil {
		return err
	}
	if err := s.openPeers(ctx, c); err != nil {
		return err
	}
	s.transport = transport.New(transport.Options{
		RootCAs: roots, Dial: s.o.Dial, Resolve: s.o.Resolve, ListenPacket: s.o.ListenPacket, Now: s.o.Now,
		Mode: transport.Mode(c.Federation.Transport), HTTP3: s.speaksHTTP3,
	})
	s.client = federation.NewClient(s.self, s.table, s.transport, federation.ClientOptions{
		Now: s.o.Now, Random: s.o.Random, Log: s.log, Gossip: c.Federation.Gossip, Alert: s.alert, Strangers: s.strangers(c),
		Answered: func(peer clearbox.ServerName) {
			if s.sender != nil {
				s.sender.Wake(peer)
			}
		},
	})
	return nil
}

// buildExchange makes what carries messages to and from peers.
func (s *Server) buildExchange(c *config.Config) {
	s.sender = federation.NewSender(s.client, s.delivery, federation.SenderOptions{
		Class: []federation.Class{federation.ClassMessage, federation.ClassControl}, BatchDelay: c.Privacy.BatchDelay, Now: s.o.Now, Random: s.o.Random, Log: s.log,
	})
	s.peering = peering.New(s.table, s.self, s.client, peering.Options{Prober: s.transport, Queues: s.sender, Removed: s.delivery.GiveUp, Now: s.o.Now, Random: s.o.Random, Log: s.log})
	s.self.OnDocument(s.sender.Greet)
	s.buildAfar(c.Server.Name)
	s.inbox = federation.NewInbox(s.self, s.client, s.delivery, local{s.directory}, federation.InboxOptions{
		Authorities: c.Authorities(), EnvelopesPerSecond: orNone(c.Limits.PeerEnvelopesPerSecond), BytesPerSecond: orNone(int(c.Limits.PeerBytesPerSecond)),
		Handshake: s.peering, Groups: s.groups, Reports: s.reports, Ephemeral: s.afar.Ephemeral, Now: s.o.Now, Log: s.log,
		Media: s.media, MediaBytesPerSecond: orNone(int(c.Limits.PeerAttachmentsPerSecond)),
		Contact: func(peer clearbox.ServerName) {
			s.client.Contact(peer)
			s.sender.Wake(peer)
		},
	})
}

func (s *Server) buildDoors(c *config.Config, notice string) error {
	deeds := admin.Options{
		Now: s.o.Now, Log: s.log, PublicURL: c.PublicURL(), Mode: c.Federation.Mode,
		Started: s.started, Version: s.o.Version, Ready: s.ready, Reload: s.o.Reload,
		Requeue: s.delivery.Requeue,
	}
	if s.peering != nil {
		deeds.Peers, deeds.Retry, deeds.Paths, deeds.Circuits = s.peering, s.peering.Retry, s.transport.Paths, s.client.Open
	}
	deeds.Identity, deeds.Groups = s.identity.Public, s.groups
	checks := []api.Check{{Name: "store", Probe: s.store.Ping}, {Name: "disk", Probe: func(context.Context) error { return s.disk.admit() }}}
	if s.self != nil {
		ids := identity.New(identity.Files{Path: c.Keys.IdentityKeyFile}, s.self, s.store, identity.Options{Now: s.o.Now, Random: s.o.Random, Log: s.log})
		deeds.Identities = ids
		checks = append(checks, api.Check{Name: "identity", Probe: func(context.Context) error { return s.self.Usable() }, Until: ids.Until})
	}
	var proxies []netip.Prefix
	for _, p := range c.Listen.TrustedProxies {
		prefix, err := parsePrefix(p)
		if err != nil {
			return fmt.Errorf("listen.trusted_proxies: %w", err)
		}
		proxies = append(proxies, prefix)
	}
	s.api = api.New(c.Server.Name, api.Parts{
		Auth: s.auth, Directory: s.directory, Router: s.delivery, Contacts: s.delivery, Groups: s.groups, Reports: s.reports, Media: s.media, Presence: s.presence, Afar: s.afar,
		Mailbox:      func(p auth.Principal) api.Mailbox { return s.delivery.Mailbox(p) },
		Archive:      archive.New(s.store, archive.Options{MaxItems: orUnlimited(int64(c.Limits.ArchiveItems)), MaxBytes: orUnlimited(int64(c.Limits.ArchiveSize))}),
		Linking:      linking.New(linking.Options{Now: s.o.Now}),
		Admin:        admin.New(s.store, s.auth, c.Server.Name, deeds),
		StatusEvents: s.delivery.OnState, Servers: s.known(c),
	}, api.Options{
		Now: s.o.Now, Random: s.o.Random, Log: s.log, Version: s.o.Version, Registration: auth.Mode(c.Registration.Mode), TrustedProxies: proxies,
		Checks: checks,
		Limits: api.Limits{
			SendsPerSecond: orNone(c.Limits.AccountMessagesPerSecond), RequestsPerSecond: orNone(c.Limits.AddressRequestsPerSecond),
			Sockets: orNone(c.Limits.Connections),
		},
	})
	return nil
}

// known tells clients about servers. Without federation there is the own one.
func (s *Server) known(c *config.Config) func(context.Context, clearbox.ServerName) (wire.ServerInfo, error) {
	if s.peering != nil {
		return s.peering.Known
	}
	own := wire.ServerInfo{
		Server: c.Server.Name, State: wire.ServerOwn,
		Controller: c.Organisation.Name, Country: c.Organisation.Country, Contact: c.Organisation.Contact,
	}
	return func(_ context.Context, server clearbox.ServerName) (wire.ServerInfo, error) {
		if server != own.Server {
			return wire.ServerInfo{Server: server, State: wire.ServerNotPeered}, nil
		}
		return own, nil
	}
}

// remoteMedia fetches attachments of peers; nil without federation.
func (s *Server) remoteMedia() media.Remote {
	if s.client == nil {
		return nil
	}
	return s.client
}

func (s *Server) nudge(peer clearbox.ServerName) {
	if s.sender != nil {
		s.sender.Nudge(peer, federation.ClassMessage)
	}
}

func (s *Server) nudgeControl(peer clearbox.ServerName) {
	if s.sender != nil {
		s.sender.Nudge(peer, federation.ClassControl)
	}
}

// organisation is who runs a peer and where, as its signed document says.
func (s *Server) organisation(peer clearbox.ServerName) (controller, country string) {
	if s.client == nil {
		return "", ""
	}
	d := s.client.Document(context.Background(), peer)
	if d == nil {
		return "", ""
	}
	return d.Legal.Controller, d.Legal.Country
}

// ready is what /readyz and the admin page show of each dependency.
func (s *Server) ready(ctx context.Context) []wire.ReadyCheck {
	checks := []wire.ReadyCheck{{Name: "store", OK: true}, {Name: "disk", OK: true}}
	errs := []error{s.store.Ping(ctx), s.disk.admit()}
	if s.self != nil {
		checks, errs = append(checks, wire.ReadyCheck{Name: "identity", OK: true}), append(errs, s.self.Usable())
	}
	for i, err := range errs {
		if err != nil {
			checks[i].OK, checks[i].Code = false, clearbox.CodeOf(err)
		}
	}
	return checks
}

// Panics tells how many handlers panicked and were caught.
func (s *Server) Panics() int64 { return s.api.Panics() }

// Close gives the stores back when the server was built and not run.
func (s *Server) Close() error {
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.keys != nil {
		errs = append(errs, s.keys.Close())
	}
	if s.transport != nil {
		s.transport.Close()
	}
	return errors.Join(errs...)
}
