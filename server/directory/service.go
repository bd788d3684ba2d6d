package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"crypto/rand"

	"golang.org/x/sync/singleflight"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/storage"
)

// Options of New. The zero value works, without people of other servers.
type Options struct {
	Now    func() time.Time // time.Now if nil
	Random io.Reader        // crypto/rand if nil
	Log    *slog.Logger     // discards if nil
	Remote Remote           // nil: every other server is unreachable
	// SenderRoot is the key under which sender certificates are issued now; nil:
	// none are.
	SenderRoot func() (*curve.PrivateKey, error)
	// MayReach tells whether a peer shows what its people need to reach somebody
	// here: their delivery token, or the id of an open knock of theirs at that very
	// peer. nil: nobody does.
	MayReach func(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID, token []byte) (bool, error)
	// TokenOf is the delivery token of somebody here; clearbox.CodeConsentRequired
	// when there is none. nil: nobody has one.
	TokenOf func(ctx context.Context, uid clearbox.UID) (clearbox.DeliveryToken, error)

	RemoteFresh   time.Duration // a cached remote account is served unasked; 1 hour if 0
	RemoteStale   time.Duration // and when its server does not answer; 14 days if 0
	RemoteTimeout time.Duration // of one question; 15 seconds if 0

	LookupsPerMinute int // per person and per peer; 120 if 0, no limit if negative
	// One-time keys of one person that one claimer gets per hour; beyond them,
	// answers come without. federation.md 11.
	LocalKeysPerHour int // 20 if 0
	PeerKeysPerHour  int // 5 if 0
}

// Service answers for devices and keys. It is safe for concurrent use.
type Service struct {
	store  *storage.Store
	auth   *auth.Service
	server clearbox.ServerName
	o      Options

	lists   listCache
	flights singleflight.Group // one question at a time per remote person
	issuer  issuer             // of sender certificates
	open    openCache          // people elsewhere who may be written to by strangers
	low     func(deviceNo int64)

	lookups   *throttle.Buckets // nil: no limit
	uploads   *throttle.Buckets // per device: signatures cost time
	localKeys *throttle.Buckets // per person and target
	peerKeys  *throttle.Buckets // per peer and target
	peerRate  *throttle.Buckets // per peer
	reserve   *throttle.Buckets // per peer and target: one-time keys out of Reserve
	strangers *throttle.Buckets // per peer: claims for nobody that are remembered

	certificates *throttle.Buckets // per device
}

// New makes the directory of server. It starts nothing. accounts closes the
// sessions of removed devices.
func New(store *storage.Store, accounts *auth.Service, server clearbox.ServerName, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Remote == nil {
		o.Remote = nobodyElse{}
	}
	positive := func(v *time.Duration, standard time.Duration) {
		if *v <= 0 {
			*v = standard
		}
	}
	positive(&o.RemoteFresh, time.Hour)
	positive(&o.RemoteStale, 14*24*time.Hour)
	positive(&o.RemoteTimeout, 15*time.Second)
	if o.LocalKeysPerHour <= 0 {
		o.LocalKeysPerHour = 20
	}
	if o.PeerKeysPerHour <= 0 {
		o.PeerKeysPerHour = 5
	}
	if o.LookupsPerMinute == 0 {
		o.LookupsPerMinute = 120
	}
	s := &Service{
		store: store, auth: accounts, server: server, o: o, low: func(int64) {},
		lists:     listCache{all: make(map[[32]byte]*keys.DeviceList)},
		uploads:   throttle.New(10, 10*time.Second, 0),
		localKeys: throttle.New(o.LocalKeysPerHour, time.Hour/time.Duration(o.LocalKeysPerHour), 50_000),
		peerKeys:  throttle.New(o.PeerKeysPerHour, time.Hour/time.Duration(o.PeerKeysPerHour), 50_000),
		peerRate:  throttle.New(10, time.Second/10, 0),
		reserve:   throttle.New(1, 24*time.Hour, 50_000),
		strangers: throttle.New(60, time.Minute, 0),

		certificates: throttle.New(10, time.Minute, 50_000),
	}
	if n := o.LookupsPerMinute; n > 0 {
		s.lookups = throttle.New(n, time.Minute/time.Duration(n), 0)
	}
	return s
}

// nobodyElse is the Remote of a server without federation.
type nobodyElse struct{}

func (nobodyElse) Resolve(context.Context, clearbox.Address) (RemoteAccount, error) {
	return RemoteAccount{}, errNoRemote()
}
func (nobodyElse) Devices(context.Context, clearbox.UserID) (RemoteAccount, error) {
	return RemoteAccount{}, errNoRemote()
}
func (nobodyElse) Claim(context.Context, clearbox.UserID, string, []byte, []clearbox.DeviceID) ([]Bundle, error) {
	return nil, errNoRemote()
}

func errNoRemote() error {
	return clearbox.Errorf(clearbox.CodeNoRoutePolicy, "this server does not speak with other servers")
}

// OnLow registers fn to be called when a claim left a device with LowWater
// one-time keys or fewer. fn never blocks. It is meant for assembly.
func (s *Service) OnLow(fn func(deviceNo int64)) { s.low = fn }

// Run deletes answers to claims whose time is up and fetches keys ahead, until
// ctx ends, and returns its error.
func (s *Service) Run(ctx context.Context) error {
	hour := time.NewTicker(time.Hour)
	defer hour.Stop()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-minute.C:
			s.fetchAhead(ctx)
			continue
		case <-hour.C:
		}
		err := s.store.Update(ctx, func(tx *storage.Tx) error {
			if _, err := tx.ExpireClaims(tx.Now(), 10_000); err != nil {
				return err
			}
			_, err := tx.ExpireKeysAhead(tx.Now()-clearbox.Millis(aheadUse.Milliseconds()), 10_000)
			return err
		})
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error("old claims not deleted", "code", clearbox.CodeOf(err))
		}
	}
}

// Lookup finds the account of uid@server or handle@server, here or elsewhere.
// Who does not exist, is banned or was erased is not_found alike. By handle,
// people elsewhere are found who agreed to be written to by strangers;
// everybody else, existing or not, is consent_required. A remote account is at
// most Options.RemoteFresh old, or Options.RemoteStale while its server does not
// answer; without a cached one that is the Remote's error.
func (s *Service) Lookup(ctx context.Context, p auth.Principal, id string) (Account, error) {
	if err := mustHaveDevice(p); err != nil {
		return Account{}, err
	}
	if s.lookups != nil {
		if err := s.lookups.Take(s.o.Now(), string(p.User.UID)); err != nil {
			return Account{}, err
		}
	}
	if user, err := clearbox.ParseUserID(id); err == nil {
		if user.Server != s.server {
			return s.remoteByID(ctx, user)
		}
		return s.local(ctx, func(tx *storage.Tx) (storage.User, error) { return tx.UserByUID(user.UID) })
	}
	address, err := clearbox.ParseAddress(id)
	if err != nil {
		return Account{}, err
	}
	if address.Server != s.server {
		return s.openRemote(ctx, address)
	}
	return s.local(ctx, func(tx *storage.Tx) (storage.User, error) { return tx.UserByHandle(address.Handle) })
}

// LookupAtLeast is Lookup by uid@server where the caller has reason to believe
// that there is a list of version: of people elsewhere an older one is asked for
// anew, at most every 30 seconds. It may still be older.
func (s *Service) LookupAtLeast(ctx context.Context, p auth.Principal, id string, version int64) (Account, error) {
	a, err := s.Lookup(ctx, p, id)
	if err != nil || a.Version >= version || a.User.Server == s.server || a.User.String() != id {
		return a, err
	}
	if err := s.refetch(ctx, a.User); err != nil {
		return Account{}, err
	}
	return s.remoteByID(ctx, a.User)
}

func mustHaveDevice(p auth.Principal) error {
	if p.HasDevice() {
		return nil
	}
	return clearbox.Errorf(clearbox.CodeForbidden, "log in with a device for this")
}

func errNobody() error { return clearbox.Errorf(clearbox.CodeNotFound, "there is no such account") }

// local reads an active account of this server.
func (s *Service) local(ctx context.Context, find func(*storage.Tx) (storage.User, error)) (Account, error) {
	var a Account
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		user, err := find(tx)
		if err == nil && user.State != storage.UserActive {
			err = storage.ErrNotFound
		}
		if err != nil {
			return err
		}
		a, err = s.account(tx, user)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return Account{}, errNobody()
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up an account: %w", err)
	}
	return a, nil
}

// account describes a local account and compares its list with the devices that
// are left.
func (s *Service) account(tx *storage.Tx, user storage.User) (Account, error) {
	a := Account{
		User: clearbox.UserID{UID: user.UID, Server: s.server}, Address: clearbox.Address{Handle: user.Handle, Server: s.server},
		DeviceList: user.DeviceList, Version: user.DevicesVersion,
	}
	list, err := s.lists.read(user.DeviceList, a.User)
	if err != nil {
		return Account{}, fmt.Errorf("a stored device list: %w", err)
	}
	r, err := tx.Recipient(user.UID)
	if err != nil {
		return Account{}, err
	}
	here := make(map[clearbox.DeviceID]uint16, len(r.Devices))
	for _, d := range r.Devices {
		here[d.ID] = d.Registration
	}
	for _, e := range list.Active() {
		if registration, ok := here[clearbox.DeviceID(e.ID)]; !ok || registration != e.Registration {
			a.Withdrawn = append(a.Withdrawn, clearbox.DeviceID(e.ID))
		}
	}
	return a, nil
}

// Recipient is an account as delivery sees it.
type Recipient struct {
	User    clearbox.UserID
	UserNo  int64         // 0: of another server
	Key     storage.KeyID // zero: of another server
	Version int64         // of the device list
	Devices []Device
}

// Device is an active device of a Recipient.
type Device struct {
	No           int64 // 0: of another server
	ID           clearbox.DeviceID
	Registration uint16
}

// ErrNotCached: a person of another server whom nobody here looked up yet. Lookup
// asks that server.
var ErrNotCached error = &clearbox.Error{Code: clearbox.CodeRecipientUnavailable, Text: "look this person up first"}

// Current gives the devices that mail for user goes to: exactly for people of
// this server, as far as known for others. recipient_unavailable: unknown,
// banned or erased; ErrNotCached.
func (s *Service) Current(tx *storage.Tx, user clearbox.UserID) (Recipient, error) {
	if user.Server != s.server {
		return s.currentRemote(tx, user)
	}
	r, err := tx.Recipient(user.UID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && r.State != storage.UserActive {
		return Recipient{}, clearbox.Errorf(clearbox.CodeRecipientUnavailable, "the recipient is not available")
	}
	if err != nil {
		return Recipient{}, fmt.Errorf("look up a recipient: %w", err)
	}
	out := Recipient{User: user, UserNo: r.No, Key: r.Key, Version: r.DevicesVersion, Devices: make([]Device, len(r.Devices))}
	for i, d := range r.Devices {
		out.Devices[i] = Device(d)
	}
	return out, nil
}
