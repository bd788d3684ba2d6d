package core

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// sessions is one vault transaction as the ratchet sees it, for calls about
// devices of one account.
type sessions struct {
	tx   Tx
	self *self
	user clearbox.UserID // whose devices the calls are about
	uuid string
	// as takes the place of the pin for one call. settled is for identities that
	// were replaced: a session that there is goes on, none begins.
	as      *curve.PublicKey
	settled bool
}

var _ ratchet.Store = (*sessions)(nil)

// uuidOfUser is the UUID of a person's service id, recomputed each time from
// uid@server: a session is bound to it.
func uuidOfUser(u clearbox.UserID) string { return keys.AccountServiceID(u.String()).UUID() }

func sessionsOf(tx Tx, s *self, user clearbox.UserID) *sessions {
	return &sessions{tx: tx, self: s, user: user, uuid: uuidOfUser(user)}
}

// peer is the ratchet's address of one of the account's devices.
func (s *sessions) peer(d clearbox.DeviceID) ratchet.Address {
	return ratchet.Address{Name: s.uuid, Device: uint8(d)}
}

func sessionKey(a ratchet.Address) string {
	return fmt.Sprintf("%s%s/%03d", prefixSession, a.Name, a.Device)
}

// peerOf is the inverse of sessionKey.
func peerOf(key string) (ratchet.Address, error) {
	name, device, _ := strings.Cut(key[len(prefixSession):], "/")
	n, err := strconv.ParseUint(device, 10, 7)
	if err != nil {
		return ratchet.Address{}, fmt.Errorf("read the key of a session: %w", err)
	}
	return ratchet.Address{Name: name, Device: uint8(n)}, nil
}

// optional turns ErrNoValue into nil.
func optional(b []byte, err error) ([]byte, error) {
	if errors.Is(err, ErrNoValue) {
		return nil, nil
	}
	return b, err
}

// Session implements ratchet.Store.
func (s *sessions) Session(peer ratchet.Address) ([]byte, error) {
	return optional(s.tx.Get(sessionKey(peer)))
}

// Pin implements ratchet.Store: own devices share the account's identity, other
// people's is in their contact.
func (s *sessions) Pin(peer ratchet.Address) (*curve.PublicKey, error) {
	if s.as != nil {
		return s.as, nil
	}
	if peer.Name == s.self.uuid {
		own := s.self.identity.Public()
		return &own, nil
	}
	c, err := load[contact](s.tx, contactKey(peer.Name))
	if err != nil || c == nil || c.Identity == nil {
		return nil, err
	}
	k, err := curve.ParsePublicKey(c.Identity)
	return &k, err
}

func (s *sessions) private(kind string, id uint32) (*privatePreKey, error) {
	return load[privatePreKey](s.tx, preKeyKey(kind, id))
}

// OneTimePreKey implements ratchet.Store.
func (s *sessions) OneTimePreKey(id uint32) (*curve.PrivateKey, error) {
	return privateKey(s.private("e", id))
}

// SignedPreKey implements ratchet.Store.
func (s *sessions) SignedPreKey(id uint32) (*curve.PrivateKey, error) {
	if s.settled {
		return nil, nil
	}
	return privateKey(s.private("s", id))
}

func privateKey(p *privatePreKey, err error) (*curve.PrivateKey, error) {
	if err != nil || p == nil {
		return nil, err
	}
	return curve.NewPrivateKey(p.Secret)
}

// KEMPreKey implements ratchet.Store.
func (s *sessions) KEMPreKey(id uint32) (*ratchet.KEMSecret, error) {
	p, err := s.private("k", id)
	if err != nil || p == nil {
		return nil, err
	}
	return &ratchet.KEMSecret{Secret: p.Secret, LastResort: p.LastResort}, nil
}

func usedKey(u ratchet.KEMUse) string {
	return fmt.Sprintf("prekey/used/%08x/%08x/%s", u.KEM, u.Signed, hex.EncodeToString(u.Base.Bytes()))
}

// KEMUsed implements ratchet.Store.
func (s *sessions) KEMUsed(use ratchet.KEMUse) (bool, error) {
	b, err := optional(s.tx.Get(usedKey(use)))
	return b != nil, err
}

// Apply implements ratchet.Store. The transaction makes it all or nothing.
func (s *sessions) Apply(c *ratchet.Change) error {
	stored, err := s.Session(c.Peer)
	if err != nil {
		return err
	}
	generation, err := ratchet.Generation(stored)
	if err != nil {
		return err
	}
	if generation != c.Before {
		return ratchet.ErrStale
	}
	if c.Pin != nil && c.Peer.Name != s.self.uuid {
		peer, err := s.contact()
		if err != nil {
			return err
		}
		peer.Identity = c.Pin.Bytes()
		if err := save(s.tx, contactKey(s.uuid), peer); err != nil {
			return err
		}
	}
	if c.UsedOneTime != nil {
		if err := s.tx.Delete(preKeyKey("e", *c.UsedOneTime)); err != nil {
			return err
		}
	}
	switch {
	case c.UsedKEM != nil && c.LastResort:
		err = s.tx.Put(usedKey(*c.UsedKEM), []byte{1})
	case c.UsedKEM != nil:
		err = s.tx.Delete(preKeyKey("k", c.UsedKEM.KEM))
	}
	if err != nil {
		return err
	}
	return s.tx.Put(sessionKey(c.Peer), c.Record)
}

// contact gives the account's record, a new one if it was never heard of.
func (s *sessions) contact() (*contact, error) {
	c, err := load[contact](s.tx, contactKey(s.uuid))
	if c == nil && err == nil {
		c = &contact{User: s.user, Trust: TrustUnverified}
	}
	return c, err
}
