package federation

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
)

// KeyPurpose says what an operational key may sign.
type KeyPurpose string

// The purposes of version 1; others are carried and ignored.
const (
	PurposeFedSign    KeyPurpose = "fed-sign"    // requests and answers; Ed25519
	PurposeSenderCert KeyPurpose = "sender-cert" // root of sender certificates; Curve25519 with XEdDSA
	PurposeReceipt    KeyPurpose = "receipt"     // notes that must hold offline: custody, rights; Ed25519
	PurposeAudit      KeyPurpose = "audit"       // checkpoints of the audit log; Ed25519
)

// Names of curves in a JWK (RFC 8037, 2).
const (
	curveEd25519 = "Ed25519"
	curveX25519  = "X25519"
)

// keyRule is the life of the keys of one purpose (federation.md, 4). A successor
// is published warmUp before its first use, and takes over while the old one
// still has overlap to live. What an old key signed is looked at for shown after
// its end: mail may be read long after it was accepted.
type keyRule struct {
	purpose                      KeyPurpose
	curve, prefix                string
	life, overlap, warmUp, shown time.Duration
}

const day = 24 * time.Hour

// keyRules in the order in which a document lists the keys.
func keyRules() []keyRule {
	return []keyRule{
		{PurposeFedSign, curveEd25519, "fs-", 90 * day, 14 * day, day, 0},
		{PurposeSenderCert, curveX25519, "sc-", 90 * day, 14 * day, day, 45 * day},
		{PurposeReceipt, curveEd25519, "rc-", 90 * day, 14 * day, day, 0},
		{PurposeAudit, curveEd25519, "au-", 90 * day, 14 * day, day, 0},
	}
}

func ruleOf(p KeyPurpose) (keyRule, bool) {
	rules := keyRules()
	i := slices.IndexFunc(rules, func(r keyRule) bool { return r.purpose == p })
	if i < 0 {
		return keyRule{}, false
	}
	return rules[i], true
}

// selfKey is an operational key as Self stores it.
type selfKey struct {
	Purpose   KeyPurpose      `json:"purpose,omitempty"` // fed-sign if empty: all keys were, at first
	Seed      []byte          `json:"seed"`              // of Ed25519, or the Curve25519 scalar
	NotBefore clearbox.Millis `json:"nbf"`
	Expires   clearbox.Millis `json:"exp"`
}

func (k *selfKey) purpose() KeyPurpose {
	if k.Purpose == "" {
		return PurposeFedSign
	}
	return k.Purpose
}

// public is the key as the document lists it.
func (k *selfKey) public() (Key, error) {
	rule, ok := ruleOf(k.purpose())
	if !ok {
		return Key{}, fmt.Errorf("federation: an operational key has the unknown purpose %q", k.Purpose)
	}
	var pub []byte
	if rule.curve == curveX25519 {
		private, err := curve.NewPrivateKey(k.Seed)
		if err != nil {
			return Key{}, fmt.Errorf("federation: operational key: %w", err)
		}
		x := private.Public()
		pub = x[:]
	} else {
		pub = ed25519.NewKeyFromSeed(k.Seed).Public().(ed25519.PublicKey)
	}
	return Key{
		Kty: "OKP", Crv: rule.curve, KID: kidOf(rule.prefix, pub), X: b64.EncodeToString(pub),
		Purpose: rule.purpose, NotBefore: k.NotBefore, Expires: k.Expires,
	}, nil
}

// kidOf names a key by its hash, so that two keys never share a name.
func kidOf(prefix string, pub []byte) string {
	h := sha256.Sum256(pub)
	return prefix + b64.EncodeToString(h[:12])
}

// rotateKeys drops keys whose time is over and adds, for each purpose, a
// successor while the newest still has its overlap to live. It tells whether
// anything changed.
func rotateKeys(keys []selfKey, now time.Time, random io.Reader) ([]selfKey, bool, error) {
	var kept []selfKey
	changed := false
	for _, rule := range keyRules() {
		newest, any := clearbox.Millis(0), false
		for _, k := range keys {
			if k.purpose() != rule.purpose {
				continue
			}
			if int64(k.Expires)+rule.shown.Milliseconds() <= now.UnixMilli() {
				changed = true
				continue
			}
			kept = append(kept, k)
			newest = max(newest, k.Expires)
			any = any || int64(k.Expires) > now.UnixMilli()
		}
		if now.Add(rule.overlap+rule.warmUp).UnixMilli() < int64(newest) {
			continue
		}
		from := now
		if any {
			from = now.Add(rule.warmUp)
		}
		k, err := drawKey(rule, from, random)
		if err != nil {
			return nil, false, err
		}
		kept = append(kept, k)
		changed = true
	}
	return kept, changed, nil
}

// drawKey makes a key that may be used from then on.
func drawKey(rule keyRule, from time.Time, random io.Reader) (selfKey, error) {
	seed := make([]byte, 32)
	if rule.curve == curveX25519 {
		private, err := curve.GeneratePrivateKey(random)
		if err != nil {
			return selfKey{}, fmt.Errorf("draw an operational key: %w", err)
		}
		seed = private.Bytes()
	} else if _, err := io.ReadFull(random, seed); err != nil {
		return selfKey{}, fmt.Errorf("draw an operational key: %w", err)
	}
	return selfKey{
		Purpose: rule.purpose, Seed: seed,
		NotBefore: clearbox.Millis(from.UnixMilli()), Expires: clearbox.Millis(from.Add(rule.life).UnixMilli()),
	}, nil
}

// current is the index of the newest key of a purpose that is past its warm-up.
// It needs mu.
func (s *Self) current(p KeyPurpose) int {
	now := clearbox.Millis(s.opts.Now().UnixMilli())
	best, first := -1, -1
	for i := range s.blob.Keys {
		k := &s.blob.Keys[i]
		if k.purpose() != p {
			continue
		}
		if first < 0 {
			first = i
		}
		if k.NotBefore <= now && now < k.Expires && (best < 0 || k.NotBefore > s.blob.Keys[best].NotBefore) {
			best = i
		}
	}
	if best < 0 { // the clock stepped back beyond the first key's start: the first key is still ours
		return first
	}
	return best
}

// Signer is the newest Ed25519 key of a purpose that is past its warm-up; it
// panics for PurposeSenderCert and for purposes unknown to version 1.
func (s *Self) Signer(p KeyPurpose) SigningKey {
	rule, ok := ruleOf(p)
	if !ok || rule.curve != curveEd25519 {
		panic("federation: no Ed25519 key has the purpose " + string(p))
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	private := s.keys[s.current(p)]
	return SigningKey{KID: kidOf(rule.prefix, private.Public().(ed25519.PublicKey)), Private: private}
}

// SigningKey is the key that signs requests and answers.
func (s *Self) SigningKey() SigningKey { return s.Signer(PurposeFedSign) }

// SenderRoot is the private key under which this server's sender certificates
// are issued now.
func (s *Self) SenderRoot() (*curve.PrivateKey, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return curve.NewPrivateKey(s.blob.Keys[s.current(PurposeSenderCert)].Seed)
}

// SenderRoot is a key under which a server's sender certificates stand.
type SenderRoot struct {
	Key                curve.PublicKey
	NotBefore, Expires clearbox.Millis
}

// Roots are all keys for sender certificates that the document shows, those to
// come and those whose time is over included.
func (d *Document) Roots() []SenderRoot {
	var roots []SenderRoot
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.Purpose != PurposeSenderCert {
			continue
		}
		if x, err := decode64(k.X); err == nil && len(x) == 32 {
			roots = append(roots, SenderRoot{Key: curve.PublicKey(x), NotBefore: k.NotBefore, Expires: k.Expires})
		}
	}
	return roots
}

// SenderRoots are the keys under which a sender certificate of this server may
// stand that was presented when a message was accepted, at the given moment.
// Judging by that moment keeps mail readable that waited longer than its
// certificate lived (federation.md, 13).
func (d *Document) SenderRoots(accepted clearbox.Millis) []curve.PublicKey {
	slack := clearbox.Millis(documentSlack.Milliseconds())
	var roots []curve.PublicKey
	for _, r := range d.Roots() {
		if r.NotBefore <= accepted+slack && accepted-slack <= r.Expires {
			roots = append(roots, r.Key)
		}
	}
	return roots
}
