package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"io"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// Names of this package's inside for its tests.
var (
	CheckPassword = checkPassword
	ContextWords  = contextWords
)

type Hasher struct{ *hasher }

func NewHasher(cost Argon, random io.Reader, gate, waiting int, wait time.Duration) Hasher {
	return Hasher{newHasher(cost, random, gate, waiting, wait)}
}

func (h Hasher) Hash(ctx context.Context, password string) (string, error) {
	return h.hash(ctx, password)
}

func (h Hasher) Verify(ctx context.Context, phc, password string) (bool, bool, error) {
	return h.verify(ctx, phc, password)
}

func (h Hasher) Enter(ctx context.Context) (func(), error) { return h.enter(ctx) }

func ReprintPHC(s string) (string, error) {
	h, err := parsePHC(s)
	return h.String(), err
}

// SigningKey is the key that signs now.
func (s *Service) SigningKey(ctx context.Context) ed25519.PrivateKey {
	r, err := s.keyring(ctx)
	if err != nil {
		panic(err)
	}
	return r.signer(s.o.Now()).private
}

// OpenToken verifies with one key under any id.
func OpenToken(token string, server clearbox.ServerName, now time.Time, key ed25519.PublicKey) (clearbox.UID, error) {
	c, err := openToken(token, server, now, func(string) (ed25519.PublicKey, bool) { return key, true })
	return c.uid, err
}

// Tickets is how many are remembered.
func (s *Service) Tickets() int {
	s.tickets.mu.Lock()
	defer s.tickets.mu.Unlock()
	return len(s.tickets.tickets)
}

// Verified is how many tokens are remembered.
func (s *Service) Verified() int {
	s.verified.mu.Lock()
	defer s.verified.mu.Unlock()
	return len(s.verified.byHash)
}

// Remember puts a token among the verified ones.
func (s *Service) Remember(token string, p Principal, until time.Time) {
	s.RememberSince(s.Generation(), token, p, until)
}

// RememberSince is Remember with an older generation.
func (s *Service) RememberSince(generation uint64, token string, p Principal, until time.Time) {
	s.verified.put(generation, sha256.Sum256([]byte(token)), p, until)
}

// Generation counts revocations.
func (s *Service) Generation() uint64 {
	_, g, _ := s.verified.get(s.o.Now(), [32]byte{})
	return g
}

// Begin is the part of Login after the password was checked.
func (s *Service) Begin(ctx context.Context, user storage.User, device clearbox.DeviceID) (Tokens, error) {
	return s.begin(ctx, user, device, "")
}

// Sweep is what Run does each hour.
func (s *Service) Sweep(ctx context.Context) { s.sweep(ctx) }

// Sweep is what Run does each hour about unused devices.
func Sweep(s *Service, ctx context.Context) error { return s.expireDevices(ctx) }
