// Package ratchettest provides an in-memory ratchet.Store for tests. It keeps
// nothing beyond the process and is not for products.
package ratchettest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"sync"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// Store is a ratchet.Store in memory, safe for concurrent use. The zero value
// is empty and ready.
type Store struct {
	// Fail, if set, is asked before Apply does anything; its error is returned.
	Fail func(*ratchet.Change) error

	mu       sync.Mutex // guards everything below
	sessions map[ratchet.Address][]byte
	pins     map[string]curve.PublicKey
	oneTime  map[uint32]*curve.PrivateKey
	signed   map[uint32]*curve.PrivateKey
	kem      map[uint32]*ratchet.KEMSecret
	used     map[ratchet.KEMUse]bool
	applied  int
}

// Clone returns an independent copy, as of a vault restored from a snapshot.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{
		sessions: maps.Clone(s.sessions),
		pins:     maps.Clone(s.pins),
		oneTime:  maps.Clone(s.oneTime),
		signed:   maps.Clone(s.signed),
		kem:      maps.Clone(s.kem),
		used:     maps.Clone(s.used),
	}
}

// Session is part of ratchet.Store.
func (s *Store) Session(peer ratchet.Address) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[peer], nil
}

// SetSession replaces a record, as losing or restoring one does; nil removes it.
func (s *Store) SetSession(peer ratchet.Address, record []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.sessions, peer, bytes.Clone(record))
}

// Pin is part of ratchet.Store.
func (s *Store) Pin(peer ratchet.Address) (*curve.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.pins[peer.Name]; ok {
		return &k, nil
	}
	return nil, nil
}

// SetPin accepts an identity for all devices of a name.
func (s *Store) SetPin(name string, identity curve.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.pins, name, identity)
}

// OneTimePreKey is part of ratchet.Store.
func (s *Store) OneTimePreKey(id uint32) (*curve.PrivateKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oneTime[id], nil
}

// SignedPreKey is part of ratchet.Store.
func (s *Store) SignedPreKey(id uint32) (*curve.PrivateKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed[id], nil
}

// KEMPreKey is part of ratchet.Store.
func (s *Store) KEMPreKey(id uint32) (*ratchet.KEMSecret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kem[id], nil
}

// KEMUsed is part of ratchet.Store.
func (s *Store) KEMUsed(use ratchet.KEMUse) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used[use], nil
}

// Apply is part of ratchet.Store.
func (s *Store) Apply(c *ratchet.Change) error {
	if s.Fail != nil {
		if err := s.Fail(c); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	generation, err := ratchet.Generation(s.sessions[c.Peer])
	if err != nil {
		return err
	}
	if generation != c.Before {
		return fmt.Errorf("generation %d, not %d: %w", generation, c.Before, ratchet.ErrStale)
	}
	set(&s.sessions, c.Peer, c.Record)
	if c.Pin != nil {
		set(&s.pins, c.Peer.Name, *c.Pin)
	}
	if c.UsedOneTime != nil {
		delete(s.oneTime, *c.UsedOneTime)
	}
	if c.UsedKEM != nil {
		if c.LastResort {
			set(&s.used, *c.UsedKEM, true)
		} else {
			delete(s.kem, c.UsedKEM.KEM)
		}
	}
	s.applied++
	return nil
}

// Applied returns the number of changes applied so far.
func (s *Store) Applied() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied
}

// AddOneTimePreKey, AddSignedPreKey and AddKEMPreKey keep own prekeys.
func (s *Store) AddOneTimePreKey(id uint32, k *curve.PrivateKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.oneTime, id, k)
}

// AddSignedPreKey keeps an own signed prekey.
func (s *Store) AddSignedPreKey(id uint32, k *curve.PrivateKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.signed, id, k)
}

// AddKEMPreKey keeps an own Kyber prekey.
func (s *Store) AddKEMPreKey(id uint32, k *ratchet.KEMSecret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.kem, id, k)
}

// Publish makes prekeys with the given id for a device, keeps the private parts
// and returns the bundle.
func (s *Store) Publish(random io.Reader, d *ratchet.Device, id uint32, withOneTime, lastResort bool) (*keys.Bundle, error) {
	b := &keys.Bundle{Registration: d.Registration, Device: d.Address.Device, Identity: d.Identity.Public()}
	signed, private, err := ratchet.NewSignedPreKey(random, d.Identity, id)
	if err != nil {
		return nil, err
	}
	b.Signed = signed
	s.AddSignedPreKey(id, private)
	kem, secret, err := ratchet.NewKEMPreKey(random, d.Identity, id, lastResort)
	if err != nil {
		return nil, err
	}
	b.KEM = kem
	s.AddKEMPreKey(id, secret)
	if withOneTime {
		one, private, err := ratchet.NewOneTimePreKey(random, id)
		if err != nil {
			return nil, err
		}
		b.OneTime = &one
		s.AddOneTimePreKey(id, private)
	}
	return b, nil
}

func set[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}
