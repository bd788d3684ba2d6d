package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// signingKey signs access tokens from notBefore on, for Options.KeyLife.
type signingKey struct {
	id        string
	private   ed25519.PrivateKey
	notBefore time.Time
	expires   time.Time // published and accepted until then
}

func (k signingKey) public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// keyring is the set of keys at one moment; it never changes.
type keyring struct {
	keys []signingKey // by notBefore
	jwks []byte
	next time.Time // when a key is to be added
}

// signer is the newest key that may sign.
func (r *keyring) signer(now time.Time) signingKey {
	chosen := r.keys[0]
	for _, k := range r.keys {
		if !k.notBefore.After(now) {
			chosen = k
		}
	}
	return chosen
}

// find gives the public key that a token names.
func (r *keyring) find(now time.Time) func(kid string) (ed25519.PublicKey, bool) {
	return func(kid string) (ed25519.PublicKey, bool) {
		for _, k := range r.keys {
			if k.id == kid && now.Before(k.expires) {
				return k.public(), true
			}
		}
		return nil, false
	}
}

// keyring returns the keys in force, after adding one if it is time.
func (s *Service) keyring(ctx context.Context) (*keyring, error) {
	now := s.o.Now()
	if r := s.keys.Load(); r != nil && now.Before(r.next) {
		return r, nil
	}
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	if r := s.keys.Load(); r != nil && now.Before(r.next) {
		return r, nil
	}
	r, err := s.rotate(ctx, now)
	if err != nil {
		old := s.keys.Load()
		if old == nil {
			return nil, fmt.Errorf("load the token keys: %w", err)
		}
		// What is there still signs. Not every request shall try again.
		s.o.Log.Error("token keys not rotated", "code", clearbox.CodeOf(err))
		r = &keyring{keys: old.keys, jwks: old.jwks, next: now.Add(time.Minute)}
	}
	s.keys.Store(r)
	return r, nil
}

// rotate reads the keys from the store and adds the next one KeyOverlap before
// the newest stops signing, so that whoever caches the JWKS knows it in time.
func (s *Service) rotate(ctx context.Context, now time.Time) (*keyring, error) {
	id, err := clearbox.NewUID(s.o.Random)
	if err != nil {
		return nil, err
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(s.o.Random, seed); err != nil {
		return nil, fmt.Errorf("draw a token key: %w", err)
	}
	var keys []signingKey
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		stored, err := tx.SigningKeys()
		if err != nil {
			return err
		}
		if keys, err = readKeys(stored, now); err != nil {
			return err
		}
		begin := now
		if len(keys) > 0 {
			if begin = keys[len(keys)-1].notBefore.Add(s.o.KeyLife); now.Before(begin.Add(-s.o.KeyOverlap)) {
				return nil
			}
			if begin.Before(now) {
				begin = now // the server was off for long
			}
		}
		k := signingKey{id: string(id), private: ed25519.NewKeyFromSeed(seed), notBefore: begin.Truncate(time.Millisecond)}
		k.expires = k.notBefore.Add(s.o.KeyLife + s.o.KeyOverlap)
		keys = append(keys, k)
		return tx.PutSigningKey(storage.SigningKey{
			ID: k.id, Private: seed, Public: k.public(), NotBefore: millis(k.notBefore), Expires: millis(k.expires),
		})
	})
	if err != nil {
		return nil, err
	}
	r := &keyring{keys: keys, next: keys[len(keys)-1].notBefore.Add(s.o.KeyLife - s.o.KeyOverlap)}
	if r.jwks, err = writeJWKS(keys); err != nil {
		return nil, err
	}
	return r, nil
}

func readKeys(stored []storage.SigningKey, now time.Time) ([]signingKey, error) {
	var keys []signingKey
	for _, k := range stored {
		if len(k.Private) != ed25519.SeedSize {
			return nil, errors.New("auth: a stored token key is damaged")
		}
		expires := time.UnixMilli(int64(k.Expires))
		if !now.Before(expires) {
			continue
		}
		keys = append(keys, signingKey{
			id: k.ID, private: ed25519.NewKeyFromSeed(k.Private),
			notBefore: time.UnixMilli(int64(k.NotBefore)), expires: expires,
		})
	}
	slices.SortFunc(keys, func(a, b signingKey) int { return a.notBefore.Compare(b.notBefore) })
	return keys, nil
}

// writeJWKS makes the JWK set of the public halves (RFC 7517, 5; RFC 8037, 2).
func writeJWKS(keys []signingKey) ([]byte, error) {
	set := jwk.NewSet()
	for _, k := range keys {
		public, err := jwk.Import(k.public())
		if err != nil {
			return nil, fmt.Errorf("write a JWK: %w", err)
		}
		err = errors.Join(public.Set(jwk.KeyIDKey, k.id), public.Set(jwk.AlgorithmKey, jwa.EdDSA()),
			public.Set(jwk.KeyUsageKey, string(jwk.ForSignature)), set.AddKey(public))
		if err != nil {
			return nil, fmt.Errorf("write a JWK: %w", err)
		}
	}
	return json.Marshal(set)
}

// JWKS is the JSON Web Key Set of the keys that access tokens are signed with,
// those of the near future and past included. The caller must not change it.
func (s *Service) JWKS(ctx context.Context) ([]byte, error) {
	r, err := s.keyring(ctx)
	if err != nil {
		return nil, err
	}
	return r.jwks, nil
}
