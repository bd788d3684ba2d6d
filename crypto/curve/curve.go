// Package curve holds Curve25519 as the Signal Protocol uses it: X25519 key
// agreement, XEdDSA signatures made with the same key pair, and the encodings
// of both. It knows no names, sessions or formats above a single key.
//
// The package is pure: randomness is handed in, there is no clock and no I/O.
// Everything here is safe for concurrent use; keys never change after they
// were made.
//
// Secrets: scalars are handled in constant time by the field arithmetic of
// github.com/cloudflare/circl and of filippo.io/edwards25519; crypto/ecdh would bring
// a browser the tables of P-256 with it. Go cannot promise that a
// secret is erased from memory, so private keys are to be kept shortly.
package curve

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
	"github.com/cloudflare/circl/dh/x25519"
)

// Sizes of the encodings in bytes.
const (
	PublicKeySize    = 33 // the type byte and the Montgomery u-coordinate
	PrivateKeySize   = 32 // a clamped scalar
	SharedSecretSize = 32
	SignatureSize    = 64
)

// TypeX25519 is the first byte of every serialized public key of this curve.
const TypeX25519 = 0x05

// Errors of this package. None of them carries key material.
var (
	// ErrPublicKeyEncoding: not 33 bytes that start with TypeX25519.
	ErrPublicKeyEncoding = errors.New("curve: malformed public key")
	// ErrPrivateKeyEncoding: not 32 bytes.
	ErrPrivateKeyEncoding = errors.New("curve: malformed private key")
	// ErrLowOrder: the key agreement gave all zeros, so the peer's key lies in
	// the small subgroup and the result would be known to anyone.
	ErrLowOrder = errors.New("curve: public key of low order")
	// ErrNotCanonical: the u-coordinate has its top bit set or is not below p.
	ErrNotCanonical = errors.New("curve: public key is not canonical")
	// ErrNotOnCurve: the u-coordinate belongs to the twist.
	ErrNotOnCurve = errors.New("curve: public key is not on the curve")
	// ErrTorsion: the point has a component in the small subgroup.
	ErrTorsion = errors.New("curve: public key has a torsion component")
)

// PublicKey is the little-endian Montgomery u-coordinate (RFC 7748, 5) without
// the type byte. Two keys are equal when their bytes are, so it may be compared
// with == and used as a map key. The zero value is a low-order point, which
// every operation refuses.
type PublicKey [32]byte

// ParsePublicKey decodes the serialized form: 33 bytes, TypeX25519 first. Other
// lengths and types give ErrPublicKeyEncoding. As in RFC 7748, 5 any
// u-coordinate is accepted here; CheckBase is the strict test. b is copied.
func ParsePublicKey(b []byte) (PublicKey, error) {
	var k PublicKey
	if len(b) != PublicKeySize || b[0] != TypeX25519 {
		return k, ErrPublicKeyEncoding
	}
	copy(k[:], b[1:])
	return k, nil
}

// Bytes returns the serialized form, 33 bytes with TypeX25519 first, in a new
// slice.
func (k PublicKey) Bytes() []byte {
	b := make([]byte, 0, PublicKeySize)
	b = append(b, TypeX25519)
	return append(b, k[:]...)
}

// CheckBase reports whether k is a key that an honest peer can have made: a
// canonical encoding of a point on the curve (not its twist) in the subgroup of
// prime order. The errors are ErrNotCanonical, ErrNotOnCurve and ErrTorsion.
//
// A responder needs this for the base key of a first message: another encoding
// of the same point, or the point plus torsion, gives the same shared secrets
// and would pass by the record of base keys already used.
func (k PublicKey) CheckBase() error {
	if !k.canonical() {
		return ErrNotCanonical
	}
	p, err := k.edwards(0)
	if err != nil {
		return err
	}
	if !primeOrder(p) {
		return ErrTorsion
	}
	return nil
}

// canonical reports whether the encoding is the one that encoding the same
// field element gives: top bit clear and value below p = 2^255 - 19.
func (k PublicKey) canonical() bool {
	u, err := new(field.Element).SetBytes(k[:])
	return err == nil && bytes.Equal(u.Bytes(), k[:])
}

// edwards maps the u-coordinate to the point of edwards25519 whose
// x-coordinate has the given sign, 0 or 1 (RFC 7748, 4.1: y = (u-1)/(u+1)).
// u = -1 has no image and, like points of the twist, gives ErrNotOnCurve.
func (k PublicKey) edwards(sign byte) (*edwards25519.Point, error) {
	u, err := new(field.Element).SetBytes(k[:])
	if err != nil {
		return nil, ErrPublicKeyEncoding
	}
	one := new(field.Element).One()
	below := new(field.Element).Add(u, one)
	if below.Equal(new(field.Element)) == 1 {
		return nil, ErrNotOnCurve
	}
	y := new(field.Element).Subtract(u, one)
	y.Multiply(y, below.Invert(below))
	b := y.Bytes()
	b[31] |= sign << 7
	p, err := new(edwards25519.Point).SetBytes(b)
	if err != nil {
		return nil, ErrNotOnCurve
	}
	return p, nil
}

// primeOrder reports whether p lies in the subgroup of prime order L and is not
// its neutral element: (L-1)p = -p. Variable time, for public points.
func primeOrder(p *edwards25519.Point) bool {
	if p.Equal(edwards25519.NewIdentityPoint()) == 1 {
		return false
	}
	minusOne := new(edwards25519.Scalar).Subtract(edwards25519.NewScalar(), scalarOne())
	q := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(minusOne, p, edwards25519.NewScalar())
	return q.Negate(q).Equal(p) == 1
}

// lowOrder reports whether p lies in the subgroup of order 8.
func lowOrder(p *edwards25519.Point) bool {
	q := new(edwards25519.Point).MultByCofactor(p)
	return q.Equal(edwards25519.NewIdentityPoint()) == 1
}

func scalarOne() *edwards25519.Scalar {
	b := [32]byte{1}
	one, err := new(edwards25519.Scalar).SetCanonicalBytes(b[:])
	if err != nil {
		panic("curve: one is a canonical scalar")
	}
	return one
}

// PrivateKey is a clamped scalar with its public key. It is immutable. Printing
// it in any way shows no key material.
type PrivateKey struct {
	scalar [PrivateKeySize]byte
	public PublicKey
}

// GeneratePrivateKey makes a key from exactly 32 bytes of random, which must be
// a cryptographic source. The error is that of random.
func GeneratePrivateKey(random io.Reader) (*PrivateKey, error) {
	var seed [PrivateKeySize]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, fmt.Errorf("curve: random source: %w", err)
	}
	defer clear(seed[:])
	return NewPrivateKey(seed[:])
}

// NewPrivateKey loads a key of 32 bytes and clamps it (RFC 7748, 5); any 32
// bytes are a key. Other lengths give ErrPrivateKeyEncoding. b is copied.
func NewPrivateKey(b []byte) (*PrivateKey, error) {
	if len(b) != PrivateKeySize {
		return nil, ErrPrivateKeyEncoding
	}
	k := new(PrivateKey)
	copy(k.scalar[:], b)
	k.scalar[0] &= 248
	k.scalar[31] &= 127
	k.scalar[31] |= 64
	x25519.KeyGen((*x25519.Key)(&k.public), (*x25519.Key)(&k.scalar))
	return k, nil
}

// Public returns the public key.
func (k *PrivateKey) Public() PublicKey { return k.public }

// Bytes returns the clamped scalar, 32 bytes, in a new slice. It is the secret
// itself: the caller stores it sealed and never shows it.
func (k *PrivateKey) Bytes() []byte { return bytes.Clone(k.scalar[:]) }

// DH returns the X25519 shared secret with p, 32 bytes in a new slice
// (RFC 7748, 6.1). A result of all zeros is refused with ErrLowOrder; nothing
// else can fail.
func (k *PrivateKey) DH(p PublicKey) ([]byte, error) {
	p[31] &= 127 // RFC 7748, 5: the top bit is ignored
	var secret, scalar = x25519.Key{}, x25519.Key(k.scalar)
	if !x25519.Shared(&secret, &scalar, (*x25519.Key)(&p)) || secret == (x25519.Key{}) {
		return nil, ErrLowOrder
	}
	return secret[:], nil
}

// Format keeps the scalar out of anything printed with package fmt, whatever
// the verb.
func (PrivateKey) Format(f fmt.State, _ rune) {
	io.WriteString(f, "curve.PrivateKey(secret)")
}
