// Package authtest makes people for tests: the keys, lists and prekeys that a
// client makes, and a store with the accounts of one server. It is for tests
// only.
package authtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/directory/prekeys"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

// Server is the server of a World.
const Server clearbox.ServerName = "a.test"

// Password is everybody's password.
const Password = "seven green kettles"

// Clock is a clock that a test moves. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is the time it shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Fly moves it on.
func (c *Clock) Fly(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// World is a server's accounts on real databases.
type World struct {
	T      testing.TB
	Dir    string
	Clock  *Clock
	Random *Random
	Faults *storage.Faults
	Store  *storage.Store
	People *keystore.Keystore
	Living *LivingKeys
	Auth   *auth.Service
}

// LivingKeys counts the keys of people that were made and not destroyed.
type LivingKeys struct {
	*keystore.Keystore
	mu sync.Mutex
	n  int
}

// Create counts.
func (l *LivingKeys) Create(ctx context.Context) (storage.KeyID, error) {
	k, err := l.Keystore.Create(ctx)
	if err == nil {
		l.add(1)
	}
	return k, err
}

// Destroy counts.
func (l *LivingKeys) Destroy(ctx context.Context, k storage.KeyID) error {
	err := l.Keystore.Destroy(ctx, k)
	if err == nil {
		l.add(-1)
	}
	return err
}

func (l *LivingKeys) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n += n
}

// Count is how many there are.
func (l *LivingKeys) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// Random is a repeatable source that is safe for concurrent use.
type Random struct {
	mu  sync.Mutex
	src *rand.ChaCha8
}

// Read fills p.
func (r *Random) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.src.Read(p)
}

// New makes a world in a temporary folder. Options get its clock and random, and
// a cheap password cost.
func New(t testing.TB, o auth.Options) *World {
	t.Helper()
	w := &World{
		T: t, Dir: t.TempDir(), Faults: new(storage.Faults),
		Clock:  &Clock{now: time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)},
		Random: &Random{src: rand.NewChaCha8([32]byte{1})},
	}
	storagetest.Files(t, filepath.Join(w.Dir, "a.db"), filepath.Join(w.Dir, "keys.db"), rootKey)
	var err error
	w.People, w.Store, err = open(w.Dir, w.Clock.Now, w.Faults)
	w.check(err)
	t.Cleanup(func() { w.People.Close() })
	t.Cleanup(func() { w.Store.Close() })
	w.Living = &LivingKeys{Keystore: w.People}
	w.Auth = w.Service(o)
	return w
}

var rootKey = bytes.Repeat([]byte{7}, 32)

func open(dir string, now func() time.Time, faults *storage.Faults) (*keystore.Keystore, *storage.Store, error) {
	ctx := context.Background()
	people, err := keystore.Open(ctx, filepath.Join(dir, "keys.db"), rootKey, keystore.Options{})
	if err != nil {
		return nil, nil, err
	}
	store, err := storage.Open(ctx, storage.Options{
		Path: filepath.Join(dir, "a.db"), Sealer: people, Index: people.Index, Now: now, Faults: faults,
	})
	if err != nil {
		people.Close()
	}
	return people, store, err
}

// Service is another process's view of the same accounts, as after a restart.
func (w *World) Service(o auth.Options) *auth.Service {
	o.Now, o.Random = w.Clock.Now, w.Random
	if o.Argon == (auth.Argon{}) {
		o.Argon = auth.Argon{MemoryKiB: 64, Iterations: 1, Lanes: 1}
	}
	return auth.New(w.Store, w.Living, Server, o)
}

// Update runs fn in a transaction.
func (w *World) Update(fn func(tx *storage.Tx) error) {
	w.T.Helper()
	if err := w.Store.Update(context.Background(), fn); err != nil {
		w.T.Fatal(err)
	}
}

// View reads in a transaction.
func (w *World) View(fn func(tx *storage.Tx) error) {
	w.T.Helper()
	if err := w.Store.View(context.Background(), fn); err != nil {
		w.T.Fatal(err)
	}
}

// Invite makes an invite.
func (w *World) Invite(n auth.NewInvite) auth.Invite {
	w.T.Helper()
	var i auth.Invite
	w.Update(func(tx *storage.Tx) (err error) {
		i, err = w.Auth.InviteTx(tx, n)
		return err
	})
	return i
}

// Join registers a new person by invite.
func (w *World) Join(h clearbox.Handle) (*Person, auth.Tokens) {
	w.T.Helper()
	p := w.Person(h)
	tokens, err := w.Auth.Register(w.T.Context(), p.Registration(w.Invite(auth.NewInvite{}).Code))
	if err != nil {
		w.T.Fatal(err)
	}
	return p, tokens
}

// Principal is who an access token speaks for.
func (w *World) Principal(access string) auth.Principal {
	w.T.Helper()
	p, err := w.Auth.Verify(w.T.Context(), access)
	if err != nil {
		w.T.Fatal(err)
	}
	return p
}

// Person is what a client knows about its own account.
type Person struct {
	w        *World
	User     clearbox.UserID
	Handle   clearbox.Handle
	Root     ed25519.PrivateKey
	Identity *curve.PrivateKey
	List     keys.DeviceList
	Devices  map[clearbox.DeviceID]ed25519.PrivateKey
}

// Person makes the keys of someone with one device, who has not registered.
func (w *World) Person(h clearbox.Handle) *Person { return w.PersonAt(h, Server) }

// PersonAt makes someone of another server.
func (w *World) PersonAt(h clearbox.Handle, server clearbox.ServerName) *Person {
	w.T.Helper()
	uid, err := clearbox.NewUID(w.Random)
	w.check(err)
	p := &Person{w: w, User: clearbox.UserID{UID: uid, Server: server}, Handle: h, Devices: make(map[clearbox.DeviceID]ed25519.PrivateKey)}
	p.Root, err = keys.NewSigningKey(w.Random)
	w.check(err)
	p.Identity, err = curve.GeneratePrivateKey(w.Random)
	w.check(err)
	p.List = keys.DeviceList{Account: p.User.String(), Identity: p.Identity.Public(), Root: p.Root.Public().(ed25519.PublicKey)}
	p.AddDevice(1)
	return p
}

func (w *World) check(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// AddDevice adds an entry to p.List and raises its version.
func (p *Person) AddDevice(id clearbox.DeviceID) {
	p.w.T.Helper()
	key, err := keys.NewSigningKey(p.w.Random)
	p.w.check(err)
	p.Devices[id] = key
	p.List.Devices = append(p.List.Devices, keys.DeviceEntry{
		ID: uint8(id), Registration: uint16(1000 + int(id)), Key: key.Public().(ed25519.PublicKey), Added: p.w.Clock.Now().UnixMilli(),
	})
	p.List.Version++
}

// DropDevice marks an entry of p.List as removed and raises its version.
func (p *Person) DropDevice(id clearbox.DeviceID) {
	for i := range p.List.Devices {
		if e := &p.List.Devices[i]; e.ID == uint8(id) && e.Removed == 0 {
			e.Removed = p.w.Clock.Now().UnixMilli()
		}
	}
	p.List.Version++
}

// Renew gives the account another identity and raises the version of p.List.
func (p *Person) Renew() {
	p.w.T.Helper()
	next, err := curve.GeneratePrivateKey(p.w.Random)
	p.w.check(err)
	p.w.check(p.List.Renew(p.w.Random, p.Identity, next.Public(), p.w.Clock.Now().UnixMilli()))
	p.Identity = next
	p.List.Version++
}

// Resign signs the keys that stand for longer with the present identity.
func (p *Person) Resign(u prekeys.Upload) prekeys.Upload {
	p.w.T.Helper()
	for _, k := range []*prekeys.PreKey{u.Signed, u.LastResort} {
		var err error
		k.Signature, err = p.Identity.Sign(p.w.Random, k.Public)
		p.w.check(err)
	}
	return u
}

// Signed is p.List, issued now.
func (p *Person) Signed() []byte {
	p.w.T.Helper()
	p.List.Issued = p.w.Clock.Now().UnixMilli()
	signed, err := p.List.Sign(p.Root)
	p.w.check(err)
	return signed
}

// PreKey signs an EC key with the identity; unsigned for one-time keys.
func (p *Person) PreKey(id uint32, signed bool) prekeys.PreKey {
	p.w.T.Helper()
	key, err := curve.GeneratePrivateKey(p.w.Random)
	p.w.check(err)
	k := prekeys.PreKey{ID: id, Public: key.Public().Bytes()}
	if signed {
		k.Signature, err = p.Identity.Sign(p.w.Random, k.Public)
		p.w.check(err)
	}
	return k
}

// KEM makes a signed KEM key; its bytes are random, which nobody but its owner
// could tell.
func (p *Person) KEM(id uint32) prekeys.PreKey {
	p.w.T.Helper()
	public := make([]byte, keys.KEMPublicKeySize)
	p.w.Random.Read(public)
	public[0] = keys.TypeKyber1024
	sig, err := p.Identity.Sign(p.w.Random, public)
	p.w.check(err)
	return prekeys.PreKey{ID: id, Public: public, Signature: sig}
}

// OneTime makes n one-time keys of each kind with ids from first on.
func (p *Person) OneTime(first uint32, n int) prekeys.Upload {
	p.w.T.Helper()
	var u prekeys.Upload
	for i := range uint32(n) {
		u.OneTime = append(u.OneTime, p.PreKey(first+i, false))
		u.KEM = append(u.KEM, p.KEM(first+i))
	}
	return u
}

// Keys makes what a new device publishes: signed and last-resort keys with the
// id 1 and n one-time keys of each kind with ids from 10 on.
func (p *Person) Keys(n int) prekeys.Upload {
	p.w.T.Helper()
	u := p.OneTime(10, n)
	signed, last := p.PreKey(1, true), p.KEM(1)
	u.Signed, u.LastResort = &signed, &last
	return u
}

// Registration asks for an account with no consents and two one-time keys.
func (p *Person) Registration(invite string) auth.Registration {
	p.w.T.Helper()
	n := p.w.Auth.Notice()
	return auth.Registration{
		Handle: p.Handle, UID: p.User.UID, Password: Password, Invite: invite, DeviceList: p.Signed(), DeviceName: "phone",
		Keys: p.Keys(2), Notice: auth.NoticeAck{Version: n.Version, Hash: n.Hash}, Language: "en",
	}
}

// Proof is a device's proof of this moment.
func (p *Person) Proof(id clearbox.DeviceID) *auth.DeviceProof {
	at := clearbox.Millis(p.w.Clock.Now().UnixMilli())
	return &auth.DeviceProof{At: at, Signature: ed25519.Sign(p.Devices[id], auth.LoginProof(p.User.Server, p.User.UID, id, at))}
}

// Login asks for a session of device id, or of none when it is 0.
func (p *Person) Login(id clearbox.DeviceID) auth.Login {
	l := auth.Login{Name: string(p.Handle), Password: Password, Device: id}
	if id != 0 {
		l.Proof = p.Proof(id)
	}
	return l
}
