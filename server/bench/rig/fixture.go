package rig

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/directory/prekeys"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

var random io.Reader = rand.Reader

// Account is a fixture: one account with one device and a session.
type Account struct {
	User         clearbox.UserID
	Handle       string
	Password     string
	Registration uint16
	Access       string // token; 15 minutes
	DeviceKey    ed25519.PrivateKey
	Identity     []byte                 // public key with its type byte
	Token        clearbox.DeliveryToken // what messages from other servers show; zero until Tokens
}

// Accounts stores n accounts in the server's database while the server does
// not run: real signed device lists, signed prekeys, sessions. The prekeys'
// KEM keys are random bytes of the right shape, which a server cannot tell.
//
// With cheap set, the passwords are hashed at next to no cost, because storing
// ten thousand accounts is not what is measured; such accounts should not be
// used to time a login.
func (s *Server) Accounts(ctx context.Context, prefix string, n int, cheap bool) ([]*Account, error) {
	cfg, err := s.Config()
	if err != nil {
		return nil, err
	}
	store, people, err := s.OpenStore(ctx)
	if err != nil {
		return nil, err
	}
	defer people.Close()
	defer store.Close()
	notice, err := cfg.PrivacyNotice()
	if err != nil {
		return nil, err
	}
	o := auth.Options{
		Registration: auth.ModeOpen, LoginsPerMinute: -1, AccessTTL: cfg.Tokens.Access, RefreshTTL: cfg.Tokens.Refresh,
		Notice: auth.NewNotice(cfg.Notice.Version, cfg.Notice.Language, notice), ArgonGate: 64,
		Argon: auth.Argon{MemoryKiB: uint32(cfg.Passwords.Memory / config.KiB), Iterations: uint32(cfg.Passwords.Iterations)},
	}
	if cheap {
		o.Argon = auth.Argon{MemoryKiB: 64, Iterations: 1, Lanes: 1}
	} else {
		o.ArgonGate = runtime.GOMAXPROCS(0)
	}
	service := auth.New(store, people, s.Name, o)
	out := make([]*Account, n)
	var (
		next   atomic.Int64
		failed atomic.Pointer[error]
		wg     sync.WaitGroup
	)
	for range min(n, 32) {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				a, err := register(ctx, service, s.Name, fmt.Sprintf("%s%d", prefix, i))
				if err != nil {
					failed.Store(&err)
					return
				}
				out[i] = a
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return nil, fmt.Errorf("store the accounts: %w", *err)
	}
	return out, nil
}

// Tokens gives accounts delivery tokens while the server does not run, so that
// people of other servers may write to them.
func (s *Server) Tokens(ctx context.Context, accounts []*Account) error {
	store, people, err := s.OpenStore(ctx)
	if err != nil {
		return err
	}
	defer people.Close()
	defer store.Close()
	for _, a := range accounts {
		if _, err := io.ReadFull(random, a.Token[:]); err != nil {
			return err
		}
	}
	return store.Update(ctx, func(tx *storage.Tx) error {
		for _, a := range accounts {
			u, err := tx.UserByUID(a.User.UID)
			if err != nil {
				return fmt.Errorf("give a delivery token: %w", err)
			}
			if err := tx.SetToken(u.No, a.Token, 0); err != nil {
				return fmt.Errorf("give a delivery token: %w", err)
			}
		}
		return nil
	})
}

// OpenStore opens the database and the keystore of a server that does not run.
func (s *Server) OpenStore(ctx context.Context) (*storage.Store, *keystore.Keystore, error) {
	cfg, err := s.Config()
	if err != nil {
		return nil, nil, err
	}
	root, err := config.ReadKey(cfg.Keys.RootKeyFile)
	if err != nil {
		return nil, nil, err
	}
	people, err := keystore.Open(ctx, cfg.KeystorePath(), root[:], keystore.Options{})
	if err != nil {
		return nil, nil, err
	}
	store, err := storage.Open(ctx, storage.Options{Path: cfg.DatabasePath(), Sealer: people, Index: people.Index})
	if err != nil {
		people.Close()
		return nil, nil, err
	}
	return store, people, nil
}

const fixturePassword = "a long enough fixture phrase 7"

func register(ctx context.Context, service *auth.Service, server clearbox.ServerName, handle string) (*Account, error) {
	uid, err := clearbox.NewUID(random)
	if err != nil {
		return nil, err
	}
	a := &Account{User: clearbox.UserID{UID: uid, Server: server}, Handle: handle, Password: fixturePassword}
	device, list, identity, err := newDeviceList(a)
	if err != nil {
		return nil, err
	}
	a.DeviceKey, a.Identity = device, identity.Public().Bytes()
	upload, err := newPreKeys(identity)
	if err != nil {
		return nil, err
	}
	notice := service.Notice()
	tokens, err := service.Register(ctx, auth.Registration{
		Handle: clearbox.Handle(handle), UID: uid, Password: a.Password, DeviceList: list, DeviceName: "fixture", Keys: upload,
		Notice: auth.NoticeAck{Version: notice.Version, Hash: notice.Hash}, Language: notice.Language, Client: handle,
	})
	if err != nil {
		return nil, err
	}
	a.Access = tokens.Access
	return a, nil
}

// newDeviceList signs the first list of an account and fixes its registration id.
func newDeviceList(a *Account) (ed25519.PrivateKey, []byte, *curve.PrivateKey, error) {
	identity, err := curve.GeneratePrivateKey(random)
	if err != nil {
		return nil, nil, nil, err
	}
	rootPublic, root, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, nil, nil, err
	}
	public, device, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, nil, nil, err
	}
	var b [2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, nil, nil, err
	}
	a.Registration = binary.BigEndian.Uint16(b[:])%keys.MaxRegistration + 1
	now := time.Now().UnixMilli()
	list := &keys.DeviceList{
		Account: a.User.String(), Version: 1, Identity: identity.Public(), Root: rootPublic, Issued: now,
		Devices: []keys.DeviceEntry{{ID: 1, Registration: a.Registration, Key: public, Added: now}},
	}
	signed, err := list.Sign(root)
	return device, signed, identity, err
}

func newPreKeys(identity *curve.PrivateKey) (prekeys.Upload, error) {
	var u prekeys.Upload
	ec, err := curve.GeneratePrivateKey(random)
	if err != nil {
		return u, err
	}
	kem := make([]byte, 1569)
	if _, err := io.ReadFull(random, kem); err != nil {
		return u, err
	}
	kem[0] = 0x08
	signed := prekeys.PreKey{ID: 1, Public: ec.Public().Bytes()}
	if signed.Signature, err = identity.Sign(random, signed.Public); err != nil {
		return u, err
	}
	last := prekeys.PreKey{ID: 2, Public: kem}
	if last.Signature, err = identity.Sign(random, last.Public); err != nil {
		return u, err
	}
	u.Signed, u.LastResort = &signed, &last
	return u, nil
}
