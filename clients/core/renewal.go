package core

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// A new identity takes the place of the account's in this order, each step of which
// may be repeated: it is drawn, and in the vault; own other devices are told, and
// the archive; the list that names it is signed and given to the server, with
// prekeys of all devices that it signed. Devices that are away read then what is
// written to them under it as soon as they come back: what tells them is in their
// mail before.

// keyRenewal holds identities that are to be the account's.
const keyRenewal = "renewal"

// renewal is an identity that is to take the place of the present one.
type renewal struct {
	Identity []byte          `cbor:"1,keyasint"` // private
	At       clearbox.Millis `cbor:"2,keyasint"`
	// Of one that this device has drawn and is to publish: the devices that it told
	// so last, and where that stands in the queue.
	Mine bool      `cbor:"3,keyasint,omitempty"`
	Told []givenTo `cbor:"4,keyasint,omitempty"`
	Item string    `cbor:"5,keyasint,omitempty"`
}

type renewals struct {
	All []renewal `cbor:"1,keyasint"`
}

// renewalsKept bounds those that own other devices told of.
const renewalsKept = 8

// formerIdentity is a private key that the account's identity had before: what was
// written to it is still on its way.
type formerIdentity struct {
	Identity []byte          `cbor:"1,keyasint"`
	Until    clearbox.Millis `cbor:"2,keyasint"`
}

func loadRenewals(r Reader) (*renewals, error) {
	all, err := load[renewals](r, keyRenewal)
	if all == nil && err == nil {
		all = new(renewals)
	}
	return all, err
}

func (all *renewals) save(tx Tx) error {
	if len(all.All) == 0 {
		return tx.Delete(keyRenewal)
	}
	return save(tx, keyRenewal, all)
}

// mine gives the one that this device is to publish, or nil.
func (all *renewals) mine() *renewal {
	for i := range all.All {
		if all.All[i].Mine {
			return &all.All[i]
		}
	}
	return nil
}

// of gives the one whose public key is identity, or nil.
func (all *renewals) of(identity curve.PublicKey) *renewal {
	for i := range all.All {
		if k, err := curve.NewPrivateKey(all.All[i].Identity); err == nil && k.Public() == identity {
			return &all.All[i]
		}
	}
	return nil
}

// ErrMissedRenewal: another device gave the account a new identity, and this one was
// not told.
var ErrMissedRenewal = clearbox.Errorf(clearbox.CodeUnavailable,
	"another device of yours renewed the account's keys, and this one waits to be told")

// RenewIdentity gives the account a new identity key, signed by its root. It is done
// when Renewing says so: at once where there is no other device, else once Run has
// told those. What was begun before and interrupted goes on. ErrMissedRenewal where
// this device does not have the present identity and another one has it.
func (b *Brain) RenewIdentity(ctx context.Context) error {
	if _, err := b.Devices(ctx); err != nil {
		return err
	}
	s, err := b.me()
	if err != nil {
		return err
	}
	if s.Missed && len(s.others()) > 0 {
		return ErrMissedRenewal
	}
	identity, err := curve.GeneratePrivateKey(b.opts.Random)
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		all, err := loadRenewals(tx)
		if err != nil || all.mine() != nil {
			return err
		}
		all.All = append(all.All, renewal{Identity: identity.Bytes(), At: b.now(), Mine: true})
		return all.save(tx)
	})
	if err != nil {
		return err
	}
	return b.tendRenewal(ctx)
}

// FinishRenewal waits until Run, which goes on meanwhile, has made an identity the
// account's that RenewIdentity drew, or until ctx ends.
func (b *Brain) FinishRenewal(ctx context.Context) error {
	changed, stop := b.Watch()
	defer stop()
	for {
		begun, _, err := b.Renewing(ctx)
		if err != nil || !begun {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Renewing tells whether a new identity that this device has drawn is not the
// account's yet, and whether the account has one that this device was not told.
func (b *Brain) Renewing(ctx context.Context) (begun, missed bool, err error) {
	s, err := b.me()
	if err != nil {
		return false, false, err
	}
	err = b.vault.View(ctx, func(r Reader) error {
		all, err := loadRenewals(r)
		begun = err == nil && all.mine() != nil
		return err
	})
	return begun, s.Missed, err
}

// tendRenewal does the next step of a renewal, and takes up one of another device.
func (b *Brain) tendRenewal(ctx context.Context) error {
	var all *renewals
	err := b.vault.View(ctx, func(r Reader) (err error) {
		all, err = loadRenewals(r)
		return err
	})
	s, selfErr := b.me()
	if err = errors.Join(err, selfErr); err != nil || len(all.All) == 0 {
		return err
	}
	if _, err := b.Devices(ctx); err != nil {
		return err
	}
	if s, err = b.me(); err != nil {
		return err
	}
	told := false
	var m *renewal
	err = b.vault.Update(ctx, func(tx Tx) error {
		told = false
		all, err := loadRenewals(tx)
		if err != nil {
			return err
		}
		if m = all.mine(); m == nil {
			return nil
		}
		told, err = b.tellRenewal(tx, s, m)
		return errors.Join(err, all.save(tx))
	})
	if err != nil || m == nil {
		return err
	}
	if !told {
		wake(b.queueWake)
		return nil
	}
	if err := b.archiveRenewal(ctx, s); err != nil {
		return err
	}
	return b.publishRenewal(ctx, s, m)
}

// tellRenewal sends own other devices the new identity, and tells whether the server
// has taken that for all of them. The caller saves m.
func (b *Brain) tellRenewal(tx Tx, s *self, m *renewal) (told bool, err error) {
	var now []givenTo
	for _, d := range s.others() {
		now = append(now, givenTo{s.uuid, clearbox.DeviceID(d.ID), d.Registration})
	}
	if slices.ContainsFunc(now, func(d givenTo) bool { return !slices.Contains(m.Told, d) }) {
		if m.Item, err = b.enqueueSync(tx, s, &Sync{Renewal: m.Identity}); err != nil {
			return false, err
		}
		m.Told = now
	}
	if m.Item == "" {
		return true, nil
	}
	waits, err := optional(tx.Get(m.Item))
	return waits == nil, err
}

// toldRenewal goes on where the item at key was what told own other devices.
func (b *Brain) toldRenewal(r Reader, key string) error {
	all, err := loadRenewals(r)
	if err != nil {
		return err
	}
	if m := all.mine(); m != nil && m.Item == key {
		wake(b.tasksWake)
	}
	return nil
}

// publishRenewal signs the list with the new identity and gives it to the server.
func (b *Brain) publishRenewal(ctx context.Context, s *self, m *renewal) error {
	a := s.account
	a.Identity = m.Identity
	next, err := b.parse(&a)
	if err != nil {
		return err
	}
	added, err := b.renewedKeys(ctx, s, next)
	if err != nil {
		return err
	}
	_, err = b.publish(ctx, func(l *keys.DeviceList, now int64) error {
		strike(l, now, s.Withdrawn)
		old := s.identity
		if s.Missed {
			old = nil // it is lost
		}
		return l.Renew(b.opts.Random, old, next.identity.Public(), now)
	}, added...)
	if clearbox.CodeOf(err) == clearbox.CodeConflict { // another device was faster: with the next look
		return clearbox.Wrap(clearbox.CodeUnavailable, "the list of your devices changed meanwhile", err)
	}
	return err
}

// renewedKeys gives prekeys of all devices, signed by the new identity: new ones of
// this device, and of the others those that the server has. Each of them makes its
// own when it comes back.
func (b *Brain) renewedKeys(ctx context.Context, s, next *self) ([]wire.AddedDevice, error) {
	var have wire.Devices
	if err := b.call(ctx, "GET", "/devices", nil, &have); err != nil {
		return nil, err
	}
	var standing wire.StandingKeys
	if err := b.call(ctx, "GET", "/keys/standing", nil, &standing); err != nil {
		return nil, err
	}
	upload, err := b.makePreKeys(ctx, next, min(linkPreKeys, b.preKeys), true)
	if err != nil {
		return nil, err
	}
	added := []wire.AddedDevice{{Device: s.Device, Name: s.DeviceName, Keys: *upload}}
	for _, d := range s.others() {
		one := wire.AddedDevice{Device: clearbox.DeviceID(d.ID), Name: "device"}
		for _, h := range have.Devices {
			if h.Device == one.Device && h.Name != "" {
				one.Name = h.Name
			}
		}
		for _, k := range standing.Devices {
			if k.Device != one.Device {
				continue
			}
			if err := b.resign(s, next, &k); err != nil {
				return nil, err
			}
			one.Keys = wire.Keys{Signed: &k.Signed, KEM: &k.KEM}
		}
		if one.Keys.Signed == nil {
			return nil, clearbox.Errorf(clearbox.CodeUnavailable, "the server does not show the keys of device %d", one.Device)
		}
		added = append(added, one)
	}
	return added, nil
}

// resign signs another device's prekeys with the new identity, if the old one did.
func (b *Brain) resign(s, next *self, k *wire.StandingKey) error {
	for _, p := range []*wire.PreKey{&k.Signed, &k.KEM} {
		if !curve.Verify(s.identity.Public(), p.Key, p.Signature) {
			return clearbox.Errorf(clearbox.CodeBadSignature, "the keys that the server shows of device %d do not verify", k.Device)
		}
		var err error
		if p.Signature, err = next.identity.Sign(b.opts.Random, p.Key); err != nil {
			return err
		}
	}
	return nil
}

// archiveRenewal has the archive know the new identity before it is the account's.
func (b *Brain) archiveRenewal(ctx context.Context, s *self) error {
	if err := b.BackUp(ctx); err != nil {
		return err
	}
	b.archiveMu.Lock()
	defer b.archiveMu.Unlock()
	k, st, err := b.beginBackup(ctx)
	if err != nil || k == nil {
		return err
	}
	return b.uploadAccount(ctx, s, k, st)
}

// takeRenewal keeps an identity that another own device has drawn.
func (b *Brain) takeRenewal(tx Tx, s *self, identity []byte, got *arrivals) error {
	k, err := curve.NewPrivateKey(identity)
	if err != nil || k.Public() == s.identity.Public() {
		return nil
	}
	all, err := loadRenewals(tx)
	if err != nil || all.of(k.Public()) != nil {
		return err
	}
	if _, known := s.list.Replaced(k.Public()); known {
		return nil
	}
	all.All = append(all.All, renewal{Identity: identity, At: b.now()})
	for len(all.All) > renewalsKept {
		i := slices.IndexFunc(all.All, func(r renewal) bool { return !r.Mine })
		all.All = slices.Delete(all.All, i, i+1)
	}
	got.tasks = true
	return all.save(tx)
}

// renewed makes a an account with the identity of list, if this device was told; it
// is Missed otherwise. mine tells that this device drew it.
func (b *Brain) renewed(ctx context.Context, a *account, list *keys.DeviceList) (mine bool, err error) {
	var m *renewal
	err = b.vault.View(ctx, func(r Reader) error {
		all, err := loadRenewals(r)
		if err == nil {
			m = all.of(list.Identity)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if a.Missed = m == nil; a.Missed {
		return false, nil
	}
	a.Former = slices.DeleteFunc(slices.Clone(a.Former), func(f formerIdentity) bool { return f.Until < b.soon(-preKeyGrace) })
	a.Former = append(a.Former, formerIdentity{a.Identity, b.now()})
	a.Identity = m.Identity
	return m.Mine, nil
}

// switched does what follows when the account has another identity: what was
// encrypted and not sent is encrypted anew, prekeys are replaced. The device that drew
// it writes to everybody, so that they see it.
func (b *Brain) switched(tx Tx, s *self, mine bool) error {
	all, err := loadRenewals(tx)
	if err != nil {
		return err
	}
	now := s.identity.Public()
	all.All = slices.DeleteFunc(all.All, func(r renewal) bool {
		k, err := curve.NewPrivateKey(r.Identity)
		return r.Mine || err != nil || k.Public() == now
	})
	st, err := loadPreKeyState(tx)
	if err != nil {
		return err
	}
	if st.Rotated = 0; mine {
		st.Rotated = b.now() // with the list
	}
	if err := errors.Join(all.save(tx), tx.Delete(keyCertificate), save(tx, keyPreKeys, st)); err != nil {
		return err
	}
	entries, err := tx.List(Range{Prefix: prefixOut})
	if err != nil {
		return err
	}
	for _, e := range entries {
		it, err := parse[outItem](e.Value)
		if err != nil {
			return err
		}
		if ofGroup(e.Key) || it.Sealed == nil {
			continue
		}
		it.Sealed, it.Wrapped = nil, nil
		if err := save(tx, e.Key, it); err != nil {
			return err
		}
	}
	if !mine {
		return nil
	}
	return b.greet(tx, s)
}

// greet writes to all contacts without saying anything: the sessions that it begins
// show them the new identity.
func (b *Brain) greet(tx Tx, s *self) error {
	return eachContact(tx, func(_ string, c *contact) error {
		if !c.Accepted || c.Blocked || c.Changed != nil || c.Provisional || c.List == nil || s.elsewhere(c.User) && c.Token == nil {
			return nil
		}
		return b.enqueueQuiet(tx, s, &Content{Kind: KindVoid, To: c.User})
	})
}

// identities gives the private keys that something for this device may have been
// written to, besides the present one: those that are to come, and former ones.
func (b *Brain) identities(r Reader, s *self) (out []*curve.PrivateKey, err error) {
	all, err := loadRenewals(r)
	if err != nil {
		return nil, err
	}
	add := func(seed []byte) {
		if k, err := curve.NewPrivateKey(seed); err == nil {
			out = append(out, k)
		}
	}
	for _, r := range all.All {
		add(r.Identity)
	}
	for _, f := range slices.Backward(s.Former) {
		if f.Until >= b.soon(-preKeyGrace) {
			add(f.Identity)
		}
	}
	return out, nil
}

// ours tells whether identity, 33 bytes, is, was or is to be the account's.
func (b *Brain) ours(r Reader, s *self, identity []byte) (bool, error) {
	if s.list.Vouches(identity) {
		return true, nil
	}
	all, err := b.identities(r, s)
	return slices.ContainsFunc(all, func(k *curve.PrivateKey) bool { return bytes.Equal(k.Public().Bytes(), identity) }), err
}
