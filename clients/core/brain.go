package core

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// Options of New. Zero values are useful where nothing else is said.
type Options struct {
	// Now and Random are required: the clock, and a cryptographic source that is
	// safe for concurrent use.
	Now    func() time.Time
	Random io.Reader
	// Password is asked for when the session has ended and a new login could go
	// on by itself; nil means ErrLoginRequired then.
	Password func(ctx context.Context) (string, error)
	// ReceiptDelay is the shortest and the longest time for which delivered
	// receipts are collected; zero means 0.5 to 3 seconds. The spread keeps a
	// receipt from telling when a device came online.
	ReceiptDelay [2]time.Duration
	// SyncOnly never tries the WebSocket.
	SyncOnly bool
}

// limits are a product's but in tests.
type limits struct {
	chain  uint64 // items of an archive, before it begins anew
	sender uint32 // messages under one sender key
	late   int    // changes of a conversation whose messages are not here
}

// Brain is one device of one account. Safe for concurrent use.
type Brain struct {
	vault   Vault
	network Network
	opts    Options

	// mu guards everything below; it is never held over a vault transaction or
	// the network.
	mu       sync.Mutex
	self     *self // nil while there is no account
	watchers map[chan struct{}]struct{}
	running  bool
	online   bool
	lastErr  error           // why the last connection ended
	stopped  map[string]bool // conversations that wait until changed keys are accepted
	fleeting fleeting
	states   map[clearbox.GroupID]*chain.State // verified
	checked  map[string]time.Time              // when lists of devices were asked for, by key

	// tokenMu makes refreshing serial: a refresh token is good for one use.
	tokenMu sync.Mutex
	// archiveMu makes backing up serial: an item of the chain is made once.
	archiveMu sync.Mutex

	preKeys  int          // one-time prekeys of a kind at the server; preKeyTarget but in tests
	most     limits       // how far some things go
	keysUsed atomic.Int64 // own prekeys used since they were last counted
	keysLow  atomic.Bool  // the server said that it has few of them

	queueWake   chan struct{} // capacity 1: something may be ready to be sent
	receiptWake chan struct{} // capacity 1: a delivered receipt waits
	tasksWake   chan struct{} // capacity 1: keys to replenish, names to confirm, knocks, roots
	expiryWake  chan struct{} // capacity 1: something may disappear sooner, or is to be forgotten
}

// self is the account with its keys parsed; immutable.
type self struct {
	account
	id        keys.ServiceID
	uuid      string
	identity  *curve.PrivateKey
	deviceKey ed25519.PrivateKey
	root      ed25519.PrivateKey
	list      *keys.DeviceList
	device    ratchet.Device
}

// New gives the brain over a vault, which may be empty or hold an account. It
// starts nothing and does not use the network.
func New(ctx context.Context, vault Vault, network Network, opts Options) (*Brain, error) {
	if opts.ReceiptDelay == ([2]time.Duration{}) {
		opts.ReceiptDelay = [2]time.Duration{500 * time.Millisecond, 3 * time.Second}
	}
	b := &Brain{
		vault: vault, network: network, opts: opts,
		watchers:    map[chan struct{}]struct{}{},
		stopped:     map[string]bool{},
		states:      map[clearbox.GroupID]*chain.State{},
		checked:     map[string]time.Time{},
		fleeting:    newFleeting(),
		preKeys:     preKeyTarget,
		most:        limits{chain: chainMost, sender: senderMessages, late: lateMost},
		queueWake:   make(chan struct{}, 1),
		receiptWake: make(chan struct{}, 1),
		tasksWake:   make(chan struct{}, 1),
		expiryWake:  make(chan struct{}, 1),
	}
	b.vault = &journal{vault, b}
	err := vault.View(ctx, func(r Reader) error {
		a, err := load[account](r, keyAccount)
		if err != nil || a == nil {
			return err
		}
		b.self, err = b.parse(a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the brain: %w", err)
	}
	return b, nil
}

// parse makes the keys of an account record usable.
func (b *Brain) parse(a *account) (*self, error) {
	identity, err := curve.NewPrivateKey(a.Identity)
	if err != nil {
		return nil, err
	}
	if len(a.DeviceKey) != ed25519.SeedSize || len(a.Root) != ed25519.SeedSize {
		return nil, errors.New("the account record is malformed")
	}
	list, err := keys.ParseDeviceList(a.List)
	if err != nil {
		return nil, err
	}
	id := keys.AccountServiceID(a.User.String())
	return &self{
		account: *a, id: id, uuid: id.UUID(), identity: identity,
		deviceKey: ed25519.NewKeyFromSeed(a.DeviceKey), root: ed25519.NewKeyFromSeed(a.Root), list: list,
		device: ratchet.Device{
			Address:  ratchet.AddressOf(id, uint8(a.Device)),
			Identity: identity, Registration: a.Registration, Random: b.opts.Random,
		},
	}, nil
}

// me gives the account; ErrNoAccount if there is none that was registered.
func (b *Brain) me() (*self, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.self == nil || b.self.Registering {
		return nil, ErrNoAccount
	}
	return b.self, nil
}

// HasAccount tells whether the vault holds an account, registered or on the way to
// be.
func (b *Brain) HasAccount() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.self != nil
}

func (b *Brain) setSelf(s *self) {
	b.mu.Lock()
	b.self = s
	b.mu.Unlock()
}

// Profile is who this brain is.
type Profile struct {
	User    clearbox.UserID
	Address clearbox.Address
	Device  clearbox.DeviceID
	Name    string // of the device
}

// Profile gives the account; ErrNoAccount if there is none.
func (b *Brain) Profile() (Profile, error) {
	s, err := b.me()
	if err != nil {
		return Profile{}, err
	}
	return Profile{User: s.User, Address: s.address(), Device: s.Device, Name: s.DeviceName}, nil
}

// Watch gives a channel of capacity 1 that is filled whenever something that
// can be shown may have changed; what changed is read from the brain. stop
// ends it.
func (b *Brain) Watch() (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	b.mu.Lock()
	b.watchers[c] = struct{}{}
	b.mu.Unlock()
	return c, func() {
		b.mu.Lock()
		delete(b.watchers, c)
		b.mu.Unlock()
	}
}

// changed wakes the watchers.
func (b *Brain) changed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.watchers {
		wake(c)
	}
}

// wake fills a channel of capacity 1.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (b *Brain) now() clearbox.Millis { return clearbox.Millis(b.opts.Now().UnixMilli()) }

// spread draws a duration between low and high.
func (b *Brain) spread(low, high time.Duration) time.Duration {
	var r [2]byte
	if high <= low {
		return low
	}
	if _, err := io.ReadFull(b.opts.Random, r[:]); err != nil {
		return high
	}
	return low + (high-low)*time.Duration(int(r[0])<<8|int(r[1]))/(1<<16)
}

// Status says how the brain is doing.
type Status struct {
	Online  bool  // connected now
	Err     error // why the last connection ended, nil while online
	Queued  int   // messages and receipts not yet at the own homeserver
	Waiting int   // messages for people who have not accepted us yet
	Errands int   // knocks, answers to knocks and files to delete that the own homeserver was not told of yet
	Unshown int
	Events  int // changes to lines that were shown: see Events
	// Failed is how many own messages were given up without anybody having been
	// shown so yet: see Fates.
	Failed int
	Held   int // envelopes that wait for a changed identity to be accepted
	// Receipts tells that delivered receipts for accepted contacts are still
	// collected.
	Receipts bool
	Healing  Healing // what could not be read, and what became of it
	// Ignored counts changes that were asked for by somebody who may not make
	// them, such as an edit of another person's message.
	Ignored uint64
}

// Status gives the present state.
func (b *Brain) Status(ctx context.Context) (Status, error) {
	var st Status
	err := b.vault.View(ctx, func(r Reader) (err error) {
		for prefix, n := range map[string]*int{prefixOut: &st.Queued, prefixWait: &st.Waiting, prefixNew: &st.Unshown, prefixHeld: &st.Held, prefixEvent: &st.Events} {
			entries, err := r.List(Range{Prefix: prefix})
			if err != nil {
				return err
			}
			*n = len(entries)
		}
		if st.Ignored, err = count(r, keyIgnored); err != nil {
			return err
		}
		if st.Errands, err = errands(r, b.now()); err != nil {
			return err
		}
		if h, err := load[Healing](r, keyHealing); err != nil {
			return err
		} else if h != nil {
			st.Healing = *h
		}
		failed, err := r.List(Range{Prefix: prefixFate})
		if err != nil {
			return err
		}
		st.Failed = 0
		for _, e := range failed {
			m, err := load[Message](r, prefixMsg+string(e.Value)+"/"+e.Key[len(prefixFate):])
			if err != nil {
				return err
			}
			if m != nil && m.State == StateFailed {
				st.Failed++
			}
		}
		waiting, err := heads(r, prefixRcpt)
		for _, uuid := range waiting {
			c, err := load[contact](r, contactKey(uuid))
			if err != nil {
				return err
			}
			st.Receipts = st.Receipts || c != nil && c.Accepted && c.Changed == nil
		}
		return err
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	st.Online, st.Err = b.online, b.lastErr
	return st, err
}
