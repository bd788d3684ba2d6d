package delivery_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

// world is one server with a real store and people in it.
type world struct {
	t      testing.TB
	store  *storage.Store
	keys   *keystore.Keystore
	router *delivery.Router
	routes routes
	nudged chan clearbox.ServerName
	dirs   *directory.Service
	remote remote
	stop   func()
}

// remote is the other server's directory.
type remote map[clearbox.UserID]directory.RemoteAccount

func (r remote) Resolve(context.Context, clearbox.Address) (directory.RemoteAccount, error) {
	return directory.RemoteAccount{}, clearbox.Errorf(clearbox.CodeNotFound, "not found")
}

func (r remote) Devices(_ context.Context, u clearbox.UserID) (directory.RemoteAccount, error) {
	return r[u], nil
}

func (r remote) Claim(context.Context, clearbox.UserID, string, []byte, []clearbox.DeviceID) ([]directory.Bundle, error) {
	return nil, clearbox.Errorf(clearbox.CodeNotFound, "not found")
}

const home, away = clearbox.ServerName("a.test"), clearbox.ServerName("b.test")

// routes says which peers may be written to.
type routes map[clearbox.ServerName]error

func (r routes) Route(_ context.Context, peer clearbox.ServerName) error {
	err, ok := r[peer]
	if !ok {
		return clearbox.Errorf(clearbox.CodePeerBlocked, "no peering")
	}
	return err
}

type worldOptions struct {
	delivery.Options
	mails  int64
	faults *storage.Faults
	keys   *trouble // the keystore as delivery sees it; nil: always well
	flips  *flips   // the keystore as the store sees it; nil: always well
}

// trouble is a keystore whose disk may fail.
type trouble struct {
	*keystore.Keystore
	now    atomic.Bool
	ending atomic.Int32 // how often opening still fails, while sealing works again
}

var errDisk = errors.New("read a person's key: input/output error")

func (k *trouble) Seal(id storage.KeyID, purpose string, ad, plain []byte) ([]byte, error) {
	if k.now.Load() {
		return nil, errDisk
	}
	return k.Keystore.Seal(id, purpose, ad, plain)
}

func (k *trouble) Open(id storage.KeyID, purpose string, ad, sealed []byte) ([]byte, error) {
	if k.now.Load() || k.ending.Add(-1) >= 0 {
		return nil, errDisk
	}
	return k.Keystore.Open(id, purpose, ad, sealed)
}

// flips is a keystore whose next sealed value is stored with a wrong bit.
type flips struct {
	*keystore.Keystore
	next atomic.Bool
}

func (k *flips) Seal(id storage.KeyID, purpose string, ad, plain []byte) ([]byte, error) {
	sealed, err := k.Keystore.Seal(id, purpose, ad, plain)
	if err == nil && k.next.Swap(false) {
		sealed[len(sealed)-1] ^= 1
	}
	return sealed, err
}

func newWorld(t testing.TB, o worldOptions) *world {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	root := make([]byte, 32)
	storagetest.Files(t, filepath.Join(dir, "clearbox.db"), filepath.Join(dir, "keys.db"), root)
	ks, err := keystore.Open(ctx, filepath.Join(dir, "keys.db"), root, keystore.Options{})
	must(t, err)
	var stored storage.Sealer = ks
	if o.flips != nil {
		o.flips.Keystore = ks
		stored = o.flips
	}
	store, err := storage.Open(ctx, storage.Options{
		Path: filepath.Join(dir, "clearbox.db"), Sealer: stored, Index: ks.Index, MailboxMails: o.mails, Faults: o.faults,
	})
	must(t, err)
	w := &world{t: t, store: store, keys: ks, routes: routes{away: nil}, nudged: make(chan clearbox.ServerName, 64)}
	accounts := auth.New(store, ks, home, auth.Options{})
	w.remote = remote{}
	w.dirs = directory.New(store, accounts, home, directory.Options{Remote: w.remote})
	o.Options.Nudge = func(p clearbox.ServerName) {
		select {
		case w.nudged <- p:
		default:
		}
	}
	o.Options.Log = slog.New(slog.DiscardHandler)
	var sealer delivery.Keys = ks
	if o.keys != nil {
		o.keys.Keystore = ks
		sealer = o.keys
	}
	w.router = delivery.New(store, sealer, w.dirs, w.routes, home, o.Options)
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.router.Run(run) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		must(t, <-ended)
		must(t, store.Close())
		must(t, ks.Close())
	}
	t.Cleanup(w.stop)
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// person is a local account with the given devices, as principals.
type person struct {
	user    clearbox.UserID
	devices []auth.Principal
}

// person makes one whose delivery token is given.
func (w *world) person(handle string, devices ...clearbox.DeviceID) person {
	w.t.Helper()
	p := w.shut(handle, devices...)
	must(w.t, w.store.Update(context.Background(), func(tx *storage.Tx) error {
		u, err := tx.UserByUID(p.user.UID)
		if err != nil {
			return err
		}
		return tx.SetToken(u.No, given, 0)
	}))
	return p
}

// given is the delivery token of everybody, here and there.
var given = clearbox.DeliveryToken{'g', 'i', 'v', 'e', 'n'}

// shut makes one who has no delivery token.
func (w *world) shut(handle string, devices ...clearbox.DeviceID) person {
	w.t.Helper()
	uid, err := clearbox.NewUID(rand.Reader)
	must(w.t, err)
	key, err := w.keys.Create(context.Background())
	must(w.t, err)
	p := person{user: clearbox.UserID{UID: uid, Server: home}}
	must(w.t, w.store.Update(context.Background(), func(tx *storage.Tx) error {
		p.devices = nil
		u := storage.User{UID: uid, Key: key, Handle: clearbox.Handle(handle), Role: storage.RoleMember, DevicesVersion: 1}
		if err := tx.CreateUser(&u); err != nil {
			return err
		}
		for _, id := range devices {
			d := storage.DeviceRecord{UserNo: u.No, ID: id, Registration: uint16(id) + 100, Key: make([]byte, 32)}
			if err := tx.AddDevice(&d); err != nil {
				return err
			}
			p.devices = append(p.devices, auth.Principal{User: p.user, UserNo: u.No, Device: id, DeviceNo: d.No, Role: auth.RoleMember, Key: key, Session: handle})
		}
		return nil
	}))
	return p
}

// stranger caches a person of the other server with one device.
func (w *world) stranger() clearbox.UserID {
	w.t.Helper()
	return w.strangerAt(away)
}

func (w *world) strangerAt(server clearbox.ServerName) clearbox.UserID {
	w.t.Helper()
	uid, err := clearbox.NewUID(rand.Reader)
	must(w.t, err)
	user := clearbox.UserID{UID: uid, Server: server}
	identity, err := curve.GeneratePrivateKey(rand.Reader)
	must(w.t, err)
	root, err := keys.NewSigningKey(rand.Reader)
	must(w.t, err)
	device, err := keys.NewSigningKey(rand.Reader)
	must(w.t, err)
	now := time.Now().UnixMilli()
	list := keys.DeviceList{
		Account: user.String(), Version: 1, Identity: identity.Public(), Root: root.Public().(ed25519.PublicKey), Issued: now,
		Devices: []keys.DeviceEntry{{ID: 1, Registration: 101, Key: device.Public().(ed25519.PublicKey), Added: now}},
	}
	signed, err := list.Sign(root)
	must(w.t, err)
	w.remote[user] = directory.RemoteAccount{User: user, Address: clearbox.Address{Handle: "stranger", Server: server}, DeviceList: signed, Version: 1}
	must(w.t, w.dirs.RefreshRemote(context.Background(), user, 1))
	return user
}

func newID(t testing.TB) clearbox.MessageID {
	t.Helper()
	id, err := clearbox.NewMessageID(rand.Reader)
	must(t, err)
	return id
}

// textOf is what a padded content begins with.
func textOf(content []byte) string { return strings.TrimRight(string(content), "\x00") }

// to addresses the given devices with the registration ids that person uses,
// sealed and with the token for people elsewhere.
func to(user clearbox.UserID, content string, devices ...clearbox.DeviceID) delivery.Recipient {
	r := delivery.Recipient{User: user}
	kind, body := clearbox.ContentWhisper, []byte(content)
	if user.Server != home {
		r.Token, kind = given[:], clearbox.ContentSealed
		body = append(body, make([]byte, max(0, clearbox.SealedSize(len(body))-len(body)))...)
	}
	for _, id := range devices {
		r.Envelopes = append(r.Envelopes, delivery.Outgoing{Device: id, Registration: uint16(id) + 100, Type: kind, Content: body})
	}
	return r
}

func (w *world) send(p auth.Principal, id clearbox.MessageID, to ...delivery.Recipient) (delivery.Receipt, error) {
	return w.router.Submit(context.Background(), p, delivery.Submission{ID: id, To: to})
}

// contents reads everything behind seq.
func (w *world) contents(p auth.Principal, after int64) []string {
	w.t.Helper()
	m := w.router.Mailbox(p)
	defer m.Close()
	return contents(w.t, m, after)
}

func contents(t testing.TB, m *delivery.Mailbox, after int64) []string {
	t.Helper()
	var out []string
	for {
		ds, err := m.Read(context.Background(), after, 10, 1<<20)
		must(t, err)
		if len(ds) == 0 {
			return out
		}
		for _, d := range ds {
			if d.Seq <= after {
				t.Fatalf("sequence %d after %d", d.Seq, after)
			}
			after = d.Seq
			if d.Notice != nil {
				out = append(out, string(d.Notice.Kind)+":"+string(d.Notice.Code))
			} else {
				out = append(out, string(d.Envelope.Content))
			}
		}
	}
}
