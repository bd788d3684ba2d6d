package core

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// account is the person's keys and this device's own. Private keys are their
// 32-byte seeds.
type account struct {
	User         clearbox.UserID   `cbor:"1,keyasint"`
	Handle       clearbox.Handle   `cbor:"2,keyasint"`
	Device       clearbox.DeviceID `cbor:"3,keyasint"`
	DeviceName   string            `cbor:"4,keyasint"`
	Registration uint16            `cbor:"5,keyasint"`
	Identity     []byte            `cbor:"6,keyasint"` // X25519, of the account
	Root         []byte            `cbor:"7,keyasint"` // Ed25519, of the account; signs device lists
	DeviceKey    []byte            `cbor:"8,keyasint"` // Ed25519, of the device
	List         []byte            `cbor:"9,keyasint"` // newest signed device list that is known
	Registering  bool              `cbor:"10,keyasint,omitempty"`
	// Withdrawn devices were removed at the server before a list without them
	// was signed.
	Withdrawn []clearbox.DeviceID `cbor:"11,keyasint,omitempty"`
	Former    []formerIdentity    `cbor:"12,keyasint,omitempty"` // the newest last
	Missed    bool                `cbor:"13,keyasint,omitempty"` // the list has an identity that this device was not told
}

// others gives the own devices besides this one.
func (s *self) others() []keys.DeviceEntry {
	return slices.DeleteFunc(s.list.Active(), func(d keys.DeviceEntry) bool {
		id := clearbox.DeviceID(d.ID)
		return id == s.Device || slices.Contains(s.Withdrawn, id)
	})
}

func (a *account) address() clearbox.Address {
	return clearbox.Address{Handle: a.Handle, Server: a.User.Server}
}

// Registration is what a person decides when joining.
type Registration struct {
	Server     clearbox.ServerName
	Handle     clearbox.Handle
	Password   string
	Invite     string // code, where the server wants one
	DeviceName string
	Notice     wire.NoticeAck // the notice that the person acknowledged
	Consents   []string       // purposes, each opt-in
}

// Discover asks the server who it is; nothing is needed for it.
func (b *Brain) Discover(ctx context.Context) (*wire.WellKnown, error) {
	out := new(wire.WellKnown)
	return out, b.exchange(ctx, "GET", "/.well-known/clearbox", "", nil, out)
}

// Notice gives the server's privacy notice, to be shown before Register.
func (b *Brain) Notice(ctx context.Context) (*wire.PrivacyNotice, error) {
	out := new(wire.PrivacyNotice)
	return out, b.exchange(ctx, "GET", "/notice", "", nil, out)
}

// Register makes an account with its keys and registers it. The keys are in
// the vault before the server hears of them; after a crash or a lost answer
// the same call goes on where it was, with the same account. The server's
// refusals come back with their codes.
func (b *Brain) Register(ctx context.Context, r Registration) error {
	if err := b.register(ctx, r); err != nil {
		return err
	}
	_ = b.uploadToken(ctx) // so that who may write can do so at once; Run does it otherwise
	return nil
}

func (b *Brain) register(ctx context.Context, r Registration) error {
	b.mu.Lock()
	self := b.self
	b.mu.Unlock()
	switch {
	case self != nil && !self.Registering:
		return clearbox.Errorf(clearbox.CodeConflict, "this profile has an account already")
	case self != nil && self.Handle == r.Handle && self.User.Server == r.Server:
		// An earlier attempt may have succeeded without our hearing of it. Where
		// the server knows other keys, or none, by that name, it did not.
		err := b.login(ctx, self, r.Password)
		switch clearbox.CodeOf(err) {
		case clearbox.CodeBadCredentials, clearbox.CodeUnauthorized, clearbox.CodeBadSignature:
		default:
			return err
		}
	default:
		var err error
		if self, err = b.newAccount(ctx, r); err != nil {
			return err
		}
	}
	upload, err := b.makePreKeys(ctx, self, b.preKeys, true)
	if err != nil {
		return err
	}
	body := wire.Registration{
		UID: self.User.UID, Handle: string(r.Handle), Password: r.Password, Invite: r.Invite,
		DeviceName: r.DeviceName, DeviceList: self.List, Keys: *upload, Notice: r.Notice, Consents: r.Consents,
	}
	var t wire.Tokens
	err = b.exchange(ctx, "POST", "/auth/register", "", body, &t)
	if clearbox.CodeOf(err) == clearbox.CodeHandleTaken || clearbox.CodeOf(err) == clearbox.CodeInviteInvalid {
		// Perhaps it was this very account that took it, a moment ago.
		if b.login(ctx, self, r.Password) == nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return b.registered(ctx, self, &t)
}

// newAccount draws all keys and stores them.
func (b *Brain) newAccount(ctx context.Context, r Registration) (*self, error) {
	uid, err := clearbox.NewUID(b.opts.Random)
	if err != nil {
		return nil, err
	}
	identity, err := curve.GeneratePrivateKey(b.opts.Random)
	if err != nil {
		return nil, err
	}
	root, err := keys.NewSigningKey(b.opts.Random)
	if err != nil {
		return nil, err
	}
	device, err := keys.NewSigningKey(b.opts.Random)
	if err != nil {
		return nil, err
	}
	registration, err := newRegistrationID(b.opts.Random)
	if err != nil {
		return nil, err
	}
	a := &account{
		User: clearbox.UserID{UID: uid, Server: r.Server}, Handle: r.Handle, Device: 1, DeviceName: r.DeviceName,
		Registration: registration, Identity: identity.Bytes(), Root: root.Seed(), DeviceKey: device.Seed(), Registering: true,
	}
	now := int64(b.now())
	list := keys.DeviceList{
		Account: a.User.String(), Version: 1, Identity: identity.Public(), Root: root.Public().(ed25519.PublicKey), Issued: now,
		Devices: []keys.DeviceEntry{{ID: 1, Registration: registration, Key: device.Public().(ed25519.PublicKey), Added: now}},
	}
	if a.List, err = list.Sign(root); err != nil {
		return nil, err
	}
	s, err := b.parse(a)
	if err != nil {
		return nil, err
	}
	if err := b.vault.Update(ctx, func(tx Tx) error { return save(tx, keyAccount, a) }); err != nil {
		return nil, err
	}
	b.setSelf(s)
	return s, nil
}

// newRegistrationID draws 1 to 16383.
func newRegistrationID(random io.Reader) (uint16, error) {
	for {
		var b [2]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("draw a registration id: %w", err)
		}
		if id := binary.BigEndian.Uint16(b[:]) & keys.MaxRegistration; id >= keys.MinRegistration {
			return id, nil
		}
	}
}

// registered stores the first tokens and marks the account as the server's.
func (b *Brain) registered(ctx context.Context, s *self, t *wire.Tokens) error {
	if t.User != s.User || t.Device != s.Device {
		return clearbox.Errorf(clearbox.CodeInternal, "the server answered for another account")
	}
	a := s.account
	a.Registering = false
	next, err := b.parse(&a)
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		if err := save(tx, keyAccount, &a); err != nil {
			return err
		}
		if s.Registering { // the server has the first signed prekeys
			st, err := loadPreKeyState(tx)
			if err != nil {
				return err
			}
			st.Rotated = b.now()
			if err := save(tx, keyPreKeys, st); err != nil {
				return err
			}
		}
		return save(tx, keyTokens, tokensOf(t))
	})
	if err == nil {
		b.setSelf(next)
		b.changed()
	}
	return err
}

// Login makes a new session of this device with the password and a proof that
// it holds its key.
func (b *Brain) Login(ctx context.Context, password string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	b.tokenMu.Lock()
	defer b.tokenMu.Unlock()
	return b.login(ctx, s, password)
}

func (b *Brain) login(ctx context.Context, s *self, password string) error {
	at := b.now()
	body := wire.Login{Handle: string(s.Handle), Password: password, Device: &wire.DeviceProof{
		Device: s.Device, At: at,
		Signature: ed25519.Sign(s.deviceKey, wire.LoginProof(s.User.Server, s.User.UID, s.Device, at)),
	}}
	var t wire.Tokens
	if err := b.exchange(ctx, "POST", "/auth/login", "", body, &t); err != nil {
		if clearbox.CodeOf(err) == clearbox.CodeNoDevice {
			return ErrRemoved
		}
		return err
	}
	return b.registered(ctx, s, &t)
}

// Logout ends the session at the server and forgets its tokens. The keys and
// messages stay. Where the server cannot be reached, the tokens are forgotten
// all the same and the error says so.
func (b *Brain) Logout(ctx context.Context) error {
	err := b.call(ctx, "POST", "/auth/logout", nil, nil)
	if errors.Is(err, ErrLoginRequired) {
		err = nil
	}
	b.tokenMu.Lock()
	defer b.tokenMu.Unlock()
	if forget := b.vault.Update(ctx, func(tx Tx) error { return tx.Delete(keyTokens) }); forget != nil {
		return forget
	}
	return err
}

// ChangePassword ends every session of the account and gives this device a new one.
func (b *Brain) ChangePassword(ctx context.Context, old, new string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	var t wire.Tokens
	if err := b.call(ctx, "POST", "/auth/password", wire.PasswordChange{Old: old, New: new}, &t); err != nil {
		return err
	}
	b.tokenMu.Lock()
	defer b.tokenMu.Unlock()
	return b.registered(ctx, s, &t)
}

// ResetPassword sets a new password with a code that an administrator gave out,
// for one use, and begins a new session of this device; all others have ended.
// CodeBadCredentials where the code is not valid, or no longer.
func (b *Brain) ResetPassword(ctx context.Context, code, password string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	b.tokenMu.Lock()
	defer b.tokenMu.Unlock()
	refused := b.exchange(ctx, "POST", "/auth/reset", "", wire.PasswordReset{Code: code, New: password}, nil)
	if refused != nil && clearbox.CodeOf(refused) != clearbox.CodeBadCredentials {
		return refused
	}
	err = b.login(ctx, s, password)
	switch {
	case err == nil:
		return nil // also where the code was used up by a call whose answer was lost
	case refused != nil:
		return refused
	case clearbox.CodeOf(err) == clearbox.CodeBadCredentials:
		return clearbox.Wrap(clearbox.CodeBadCredentials, "the code was for another account, which has this password now; this one still has its own", err)
	}
	return clearbox.Wrap(clearbox.CodeOf(err), "the new password is set, but there is no session yet: "+err.Error(), err)
}

// Devices asks the server for the account's devices.
func (b *Brain) Devices(ctx context.Context) (*wire.Devices, error) {
	out := new(wire.Devices)
	if err := b.call(ctx, "GET", "/devices", nil, out); err != nil {
		return nil, err
	}
	listed := make([]clearbox.DeviceID, 0, len(out.Devices))
	for _, d := range out.Devices {
		listed = append(listed, d.Device)
	}
	return out, b.adoptOwnList(ctx, out.DeviceList, listed)
}

// adoptOwnList keeps a newer list of the own devices. It must be signed by the
// own root key: a server cannot add a device. Devices on the list that the
// server does not list were withdrawn.
func (b *Brain) adoptOwnList(ctx context.Context, signed []byte, listed []clearbox.DeviceID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	list, err := keys.ParseDeviceList(signed)
	if err != nil {
		return clearbox.Wrap(clearbox.CodeBadSignature, "the server's list of your devices does not verify", err)
	}
	a := s.account
	mine, switched := false, false
	switch err := list.Follows(s.list); {
	case errors.Is(err, keys.ErrVersionNotNewer):
		list = s.list
	case err != nil:
		return clearbox.Wrap(clearbox.CodeBadSignature, "the server's list of your devices does not follow from the one before", err)
	default:
		a.List = signed
	}
	if list.Identity != s.identity.Public() {
		if mine, err = b.renewed(ctx, &a, list); err != nil {
			return err
		}
		switched = !a.Missed
	}
	a.Withdrawn = nil
	for _, d := range list.Active() {
		if id := clearbox.DeviceID(d.ID); !slices.Contains(listed, id) && id != a.Device {
			a.Withdrawn = append(a.Withdrawn, id)
		}
	}
	if bytes.Equal(a.List, s.List) && slices.Equal(a.Withdrawn, s.Withdrawn) && a.Missed == s.Missed && !switched {
		return nil
	}
	next, err := b.parse(&a)
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		if err := save(tx, keyAccount, &a); err != nil || !switched {
			return err
		}
		return b.switched(tx, next, mine)
	})
	if err != nil {
		return err
	}
	b.setSelf(next)
	if switched {
		b.keysLow.Store(true)
		b.stir()
	}
	return nil
}

// RemoveDevice logs another device out at once and signs a list without it. What
// that device knew and can be replaced is; Run tells those whom it concerns.
func (b *Brain) RemoveDevice(ctx context.Context, id clearbox.DeviceID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if id == s.Device {
		return clearbox.Errorf(clearbox.CodeBadRequest, "this device cannot remove itself")
	}
	if err := b.call(ctx, "DELETE", "/devices/"+strconv.Itoa(int(id)), nil, nil); err != nil {
		return err
	}
	if _, err := b.Devices(ctx); err != nil { // the newest list is the one to follow
		return err
	}
	if s, err = b.me(); err != nil {
		return err
	}
	_, err = b.publish(ctx, func(l *keys.DeviceList, now int64) error {
		strike(l, now, append(slices.Clone(s.Withdrawn), id))
		return nil
	})
	return err
}

// userPath is the path of GET /users/{id}.
func userPath(id string) string { return "/users/" + url.PathEscape(id) }
