package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/storage"
)

// Options of New. The zero value works; Notice should be set.
type Options struct {
	Now    func() time.Time // time.Now if nil
	Random io.Reader        // crypto/rand if nil
	Log    *slog.Logger     // discards if nil

	Registration Mode          // ModeInvite if empty
	InviteTTL    time.Duration // of invites and setup codes; 7 days if 0
	ResetTTL     time.Duration // of password reset codes; 24 hours if 0
	Notice       Notice        // to be acknowledged at registration

	AccessTTL  time.Duration // of access tokens; 15 minutes if 0
	RefreshTTL time.Duration // of a session that is not used; 30 days if 0
	TicketTTL  time.Duration // 30 seconds if 0
	KeyLife    time.Duration // how long a signing key signs; 30 days if 0
	KeyOverlap time.Duration // published before it signs and after; 2 days if 0

	Argon        Argon         // cost of a password check
	ArgonGate    int           // checks at a time; the number of processors, at most 4, if 0
	ArgonWaiting int           // checks that may wait; 64 if 0
	ArgonWait    time.Duration // longest wait; 10 seconds if 0

	// LoginsPerMinute limits attempts with a password per account and per
	// client, registrations per client and resets per client; 10 if 0, no limit
	// if negative. A burst of as many is allowed.
	LoginsPerMinute int
}

// PersonKeys makes and destroys the keys under which what belongs to a person is
// sealed; *keystore.Keystore is one. Both are durable when they return.
type PersonKeys interface {
	Create(ctx context.Context) (storage.KeyID, error)
	Destroy(ctx context.Context, k storage.KeyID) error
}

// Service keeps accounts and sessions. It is safe for concurrent use.
type Service struct {
	store  *storage.Store
	people PersonKeys
	server clearbox.ServerName
	o      Options
	rules  atomic.Pointer[rules]

	hasher    *hasher
	byAccount *throttle.Buckets // nil: no limit
	byClient  *throttle.Buckets // nil: no limit
	tickets   *ticketBox
	verified  *verifiedTokens
	proofs    proofs

	keyMu sync.Mutex // one rotation at a time
	keys  atomic.Pointer[keyring]

	onRevoke []func(sessions []string) // fixed before Run
}

// New makes the service of server. It starts nothing and reads nothing; Run
// keeps the signing keys fresh, but everything works before it as well.
func New(store *storage.Store, people PersonKeys, server clearbox.ServerName, o Options) *Service {
	o = o.orDefault(server)
	s := &Service{
		store: store, people: people, server: server, o: o,
		hasher:   newHasher(o.Argon, o.Random, o.ArgonGate, o.ArgonWaiting, o.ArgonWait),
		tickets:  newTicketBox(o.TicketTTL),
		verified: newVerifiedTokens(),
		proofs:   proofs{used: make(map[[32]byte]time.Time)},
	}
	s.rules.Store(&rules{mode: o.Registration, inviteTTL: o.InviteTTL, notice: o.Notice})
	if n := o.LoginsPerMinute; n > 0 {
		s.byAccount = throttle.New(n, time.Minute/time.Duration(n), 50_000)
		s.byClient = throttle.New(n, time.Minute/time.Duration(n), 50_000)
	}
	return s
}

func (o Options) orDefault(server clearbox.ServerName) Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registration == "" {
		o.Registration = ModeInvite
	}
	if o.Notice.Version == "" {
		o.Notice = NewNotice("none", "en", "The organisation behind "+string(server)+" has not published a privacy notice yet.")
	}
	duration := func(d *time.Duration, standard time.Duration) {
		if *d <= 0 {
			*d = standard
		}
	}
	duration(&o.InviteTTL, 7*24*time.Hour)
	duration(&o.ResetTTL, 24*time.Hour)
	duration(&o.AccessTTL, 15*time.Minute)
	duration(&o.RefreshTTL, 30*24*time.Hour)
	duration(&o.TicketTTL, 30*time.Second)
	duration(&o.KeyLife, 30*24*time.Hour)
	duration(&o.KeyOverlap, 2*24*time.Hour)
	duration(&o.ArgonWait, 10*time.Second)
	if o.ArgonGate <= 0 {
		o.ArgonGate = min(runtime.GOMAXPROCS(0), 4)
	}
	if o.ArgonWaiting <= 0 {
		o.ArgonWaiting = 64
	}
	if o.LoginsPerMinute == 0 {
		o.LoginsPerMinute = 10
	}
	return o
}

// rotationPeriod is how often Run looks after the signing keys.
const rotationPeriod = time.Hour

// Run keeps the signing keys fresh and deletes ended sessions until ctx ends. It returns ctx's error, or
// the first key's when there is none to begin with.
func (s *Service) Run(ctx context.Context) error {
	if _, err := s.keyring(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(rotationPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			s.keyring(ctx) // logs its own errors once there are keys
			s.sweep(ctx)
		}
	}
}

// sweep deletes what ended long ago. Ended sessions are kept for a week, so that
// late tokens get a true answer.
func (s *Service) sweep(ctx context.Context) {
	const week = 7 * 24 * 60 * 60 * 1000
	err := s.store.Update(ctx, func(tx *storage.Tx) error {
		if _, err := tx.DeleteSigningKeys(tx.Now()); err != nil {
			return err
		}
		_, err := tx.ExpireSessions(tx.Now()-week, 10_000)
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.o.Log.Error("ended sessions not deleted", "code", clearbox.CodeOf(err))
	}
	if err := s.expireDevices(ctx); err != nil && ctx.Err() == nil {
		s.o.Log.Error("unused devices not withdrawn", "code", clearbox.CodeOf(err))
	}
}

// DeviceLife is how long a device is kept that nobody uses.
const DeviceLife = 60 * 24 * time.Hour

// expireDevices cuts off devices that were not used for DeviceLife, as their owner
// can: senders leave them out from then on, and another device of the account
// signs a list without them. The one that an account used last stays.
func (s *Service) expireDevices(ctx context.Context) error {
	var ended Revoked
	n := 0
	err := s.store.Update(ctx, func(tx *storage.Tx) error {
		ended, n = Revoked{}, 0
		unused, err := tx.UnusedDevices(tx.Now()-clearbox.Millis(DeviceLife.Milliseconds()), 1000)
		if err != nil {
			return err
		}
		for _, d := range unused {
			sessions, err := tx.RemoveDevice(d.UserNo, d.ID)
			if err != nil {
				return err
			}
			ended.Sessions = append(ended.Sessions, sessions...)
			n++
		}
		return nil
	})
	s.Settle(ended, err)
	if err == nil && n > 0 {
		s.o.Log.Info("unused devices withdrawn", "devices", n)
	}
	return err
}

// OnRevoke registers fn to be told which sessions ended, right after that was
// stored, so that it can close their sockets. It is called at assembly, before
// anything else; fn must not block and must not keep the slice.
func (s *Service) OnRevoke(fn func(sessions []string)) { s.onRevoke = append(s.onRevoke, fn) }

// Revoked is what a transaction ended. It takes effect with Settle, which the
// caller owes after the update.
type Revoked struct {
	Sessions []string
	changed  bool // rights changed: principals are read anew
}

// Apply makes the end of r's sessions known: their access tokens and tickets are
// refused from now on and their sockets close.
func (s *Service) Apply(r Revoked) {
	if len(r.Sessions) == 0 && !r.changed {
		return
	}
	ended := make(map[string]bool, len(r.Sessions))
	for _, id := range r.Sessions {
		ended[id] = true
	}
	s.verified.revoke(ended, r.changed)
	if len(ended) == 0 {
		return
	}
	s.tickets.revoke(ended)
	for _, fn := range s.onRevoke {
		fn(r.Sessions)
	}
}

// Settle is Apply after an update that ended with err. When the store failed it
// is unknown whether the sessions ended, and what is in memory must not say that
// they stand; those that do are found again in the store.
func (s *Service) Settle(r Revoked, err error) {
	switch clearbox.CodeOf(err) {
	case "", clearbox.CodeInternal, clearbox.CodeUnavailable, clearbox.CodeStoreFull:
		s.Apply(r)
	}
}

// secret draws 256 bits as text with a prefix by which people and scanners know
// what they found.
func (s *Service) secret(prefix string) (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(s.o.Random, b[:]); err != nil {
		return "", fmt.Errorf("draw a secret: %w", err)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// hashed is the form in which secrets are stored: they have 128 bits or more of
// randomness, so a plain hash keeps them.
func hashed(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

func (s *Service) limit(b *throttle.Buckets, key string) error {
	if b == nil {
		return nil
	}
	return b.Take(s.o.Now(), key)
}

func millis(t time.Time) clearbox.Millis { return clearbox.Millis(t.UnixMilli()) }
