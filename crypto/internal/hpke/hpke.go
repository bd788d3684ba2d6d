// Package hpke is hybrid public key encryption (RFC 9180) in base mode with one
// suite: the KEM MLKEM768-X25519 (draft-ietf-hpke-pq, X-Wing), HKDF-SHA256 and
// ChaCha20-Poly1305. crypto/hpke of the standard library speaks the same and the
// tests hold it against this package; but whoever imports it links every suite of
// it with the curves of NIST, which is a tenth of what a browser loads.
//
// Randomness comes from the system, as crypto/mlkem takes it.
package hpke

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// Sizes of the encodings in bytes.
const (
	PublicSize       = mlkem.EncapsulationKeySize768 + pointSize
	EncapsulatedSize = mlkem.CiphertextSize768 + pointSize
	Overhead         = chacha20poly1305.Overhead // of a sealed message

	pointSize = 32
)

// Identifiers of the suite (RFC 9180, 7, and draft-ietf-hpke-pq) and labels.
const (
	kemID  = "\x64\x7a"
	kdfID  = "\x00\x01"
	aeadID = "\x00\x03"

	version   = "HPKE-v1"
	suite     = "HPKE" + kemID + kdfID + aeadID
	modeBase  = "\x00"
	wingLabel = `\.//^\` // draft-connolly-cfrg-xwing-kem, 5.3
)

var (
	errSize = errors.New("hpke: a key or an encapsulation of the wrong size")
	errOpen = errors.New("hpke: not sealed in this context")
)

// PrivateKey is a key of the KEM. It never changes and is safe for concurrent use.
type PrivateKey struct {
	lattice *mlkem.DecapsulationKey768
	curve   *curve.PrivateKey
}

// DeriveKey makes the key that belongs to material, which is secret and uniform,
// at least 32 bytes (RFC 9180, 7.1.3).
func DeriveKey(material []byte) (*PrivateKey, error) {
	h := sha3.NewSHAKE256()
	for _, part := range []string{string(material), version, "KEM" + kemID, "\x00\x0dDeriveKeyPair", "\x00\x20"} {
		h.Write([]byte(part))
	}
	var seed [32]byte
	h.Read(seed[:])
	wide := sha3.SumSHAKE256(seed[:], mlkem.SeedSize+pointSize)
	lattice, err := mlkem.NewDecapsulationKey768(wide[:mlkem.SeedSize])
	if err != nil {
		return nil, err
	}
	point, err := curve.NewPrivateKey(wide[mlkem.SeedSize:])
	if err != nil {
		return nil, err
	}
	return &PrivateKey{lattice: lattice, curve: point}, nil
}

// Public is the encoded public key, PublicSize bytes.
func (k *PrivateKey) Public() []byte {
	point := k.curve.Public()
	return append(k.lattice.EncapsulationKey().Bytes(), point[:]...)
}

// combine makes the KEM's secret of the two agreements.
func combine(lattice, agreed []byte, ephemeral, public curve.PublicKey) []byte {
	h := sha3.New256()
	for _, part := range [][]byte{lattice, agreed, ephemeral[:], public[:], []byte(wingLabel)} {
		h.Write(part)
	}
	return h.Sum(nil)
}

// NewSender begins a context for whoever has the private key to public; info is what
// both sides must agree about. An error means that public is no key.
func NewSender(public, info []byte) (encapsulated []byte, s *Sender, err error) {
	if len(public) != PublicSize {
		return nil, nil, errSize
	}
	lattice, err := mlkem.NewEncapsulationKey768(public[:mlkem.EncapsulationKeySize768])
	if err != nil {
		return nil, nil, err
	}
	ephemeral, err := curve.GeneratePrivateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	point, own := curve.PublicKey(public[mlkem.EncapsulationKeySize768:]), ephemeral.Public()
	agreed, err := ephemeral.DH(point)
	if err != nil {
		return nil, nil, err
	}
	secret, encapsulated := lattice.Encapsulate()
	c, err := newContext(combine(secret, agreed, own, point), info)
	if err != nil {
		return nil, nil, err
	}
	return append(encapsulated, own[:]...), &Sender{c}, nil
}

// NewRecipient takes up the context that a sender began. An encapsulation for
// another key gives a context that opens nothing, not an error.
func NewRecipient(k *PrivateKey, encapsulated, info []byte) (*Recipient, error) {
	if len(encapsulated) != EncapsulatedSize {
		return nil, errSize
	}
	secret, err := k.lattice.Decapsulate(encapsulated[:mlkem.CiphertextSize768])
	if err != nil {
		return nil, err
	}
	ephemeral := curve.PublicKey(encapsulated[mlkem.CiphertextSize768:])
	agreed, err := k.curve.DH(ephemeral)
	if err != nil {
		return nil, err
	}
	c, err := newContext(combine(secret, agreed, ephemeral, k.curve.Public()), info)
	if err != nil {
		return nil, err
	}
	return &Recipient{c}, nil
}

// context is the key schedule's outcome (RFC 9180, 5.1) and the number of the next
// message.
type context struct {
	aead     cipher.AEAD
	base     []byte // nonce of message 0
	exporter []byte
	next     uint64
}

func newContext(shared, info []byte) (*context, error) {
	none, err := extract(nil, "psk_id_hash", nil)
	if err != nil {
		return nil, err
	}
	about, err := extract(nil, "info_hash", info)
	if err != nil {
		return nil, err
	}
	schedule := modeBase + string(none) + string(about)
	secret, err := extract(shared, "secret", nil)
	if err != nil {
		return nil, err
	}
	key, err := expand(secret, "key", schedule, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	c := new(context)
	if c.aead, err = chacha20poly1305.New(key); err != nil {
		return nil, err
	}
	if c.base, err = expand(secret, "base_nonce", schedule, chacha20poly1305.NonceSize); err != nil {
		return nil, err
	}
	if c.exporter, err = expand(secret, "exp", schedule, sha256.Size); err != nil {
		return nil, err
	}
	return c, nil
}

// extract is LabeledExtract, expand LabeledExpand (RFC 9180, 4).
func extract(salt []byte, label string, material []byte) ([]byte, error) {
	return hkdf.Extract(sha256.New, append([]byte(version+suite+label), material...), salt)
}

func expand(key []byte, label, info string, n int) ([]byte, error) {
	size := binary.BigEndian.AppendUint16(nil, uint16(n))
	return hkdf.Expand(sha256.New, key, string(size)+version+suite+label+info, n)
}

// nonce is that of the next message: its number over the base nonce.
func (c *context) nonce() []byte {
	n := make([]byte, len(c.base))
	binary.BigEndian.PutUint64(n[len(n)-8:], c.next)
	for i := range n {
		n[i] ^= c.base[i]
	}
	return n
}

// Export derives a secret of n bytes, at most 8160, for another use (RFC 9180, 5.3).
func (c *context) Export(label string, n int) ([]byte, error) {
	return expand(c.exporter, "sec", label, n)
}

// Sender seals messages in order. It is not safe for concurrent use.
type Sender struct{ *context }

// Seal encrypts the next message, Overhead bytes more.
func (s *Sender) Seal(message []byte) []byte {
	b := s.aead.Seal(nil, s.nonce(), message, nil)
	s.next++
	return b
}

// Recipient opens messages in order. It is not safe for concurrent use.
type Recipient struct{ *context }

// Open decrypts the next message; after an error it is still the next.
func (r *Recipient) Open(sealed []byte) ([]byte, error) {
	b, err := r.aead.Open(nil, r.nonce(), sealed, nil)
	if err != nil {
		return nil, errOpen
	}
	r.next++
	return b, nil
}
