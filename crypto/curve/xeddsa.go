package curve

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"io"

	"filippo.io/edwards25519"
)

// nonceBytes is how much randomness enters one signature.
const nonceBytes = 64

// Sign makes an XEdDSA signature of message, 64 bytes in a new slice. It reads
// 64 bytes from random, whose error is the only one. A weak random source does
// not expose the key, since the key and the message enter the nonce too.
//
// It follows the XEdDSA paper, 2.3 and 3 for edwards25519, but for one point in
// which the Signal Protocol differs: the paper negates the scalar so that the
// point has sign 0, here the scalar stays and the sign bit of A travels in the
// top bit of the last byte of the signature.
func (k *PrivateKey) Sign(random io.Reader, message []byte) ([]byte, error) {
	var noise [nonceBytes]byte
	if _, err := io.ReadFull(random, noise[:]); err != nil {
		return nil, fmt.Errorf("curve: random source: %w", err)
	}
	defer clear(noise[:])

	a, err := new(edwards25519.Scalar).SetBytesWithClamping(k.scalar[:])
	if err != nil {
		return nil, ErrPrivateKeyEncoding
	}
	public := new(edwards25519.Point).ScalarBaseMult(a).Bytes()

	// The first block, 0xFE and 31 times 0xFF, is not the encoding of a point,
	// so this hash and the challenge never have the same input.
	var first [32]byte
	for i := range first {
		first[i] = 0xff
	}
	first[0] = 0xfe
	h := sha512.New()
	h.Write(first[:])
	h.Write(k.scalar[:])
	h.Write(message)
	h.Write(noise[:])
	r := wideScalar(h.Sum(nil))

	nonce := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	s := new(edwards25519.Scalar).MultiplyAdd(challenge(nonce, public, message), a, r)

	signature := make([]byte, 0, SignatureSize)
	signature = append(signature, nonce...)
	signature = append(signature, s.Bytes()...)
	signature[63] |= public[31] & 0x80
	return signature, nil
}

// Verify reports whether signature is an XEdDSA signature of message by the
// owner of p. It refuses signatures of another length than 64, a scalar that is
// not below the group order (so a signature cannot be altered into another
// valid one), keys that are not canonical and keys of low order, under which
// any message could be made to verify.
//
// It runs in variable time: everything it sees is public.
func Verify(p PublicKey, message, signature []byte) bool {
	if len(signature) != SignatureSize || !p.canonical() {
		return false
	}
	var scalar [32]byte
	copy(scalar[:], signature[32:])
	sign := scalar[31] >> 7
	scalar[31] &= 0x7f
	s, err := new(edwards25519.Scalar).SetCanonicalBytes(scalar[:])
	if err != nil {
		return false
	}
	public, err := p.edwards(sign)
	if err != nil || lowOrder(public) {
		return false
	}
	h := challenge(signature[:32], public.Bytes(), message)
	// R = sB - hA, compared as bytes: an encoding of R that is not canonical
	// can then never match.
	minus := new(edwards25519.Point).Negate(public)
	nonce := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(h, minus, s)
	return bytes.Equal(nonce.Bytes(), signature[:32])
}

// challenge is SHA-512(R || A || message) mod L.
func challenge(nonce, public, message []byte) *edwards25519.Scalar {
	h := sha512.New()
	h.Write(nonce)
	h.Write(public)
	h.Write(message)
	return wideScalar(h.Sum(nil))
}

// wideScalar reduces 64 bytes modulo the group order.
func wideScalar(b []byte) *edwards25519.Scalar {
	s, err := new(edwards25519.Scalar).SetUniformBytes(b)
	if err != nil {
		panic("curve: a SHA-512 digest has 64 bytes")
	}
	return s
}
