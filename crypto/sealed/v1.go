package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
)

const (
	v1Salt    = "UnidentifiedDelivery"
	v1TagSize = 10
)

// The fields of version 1.
const (
	v1Ephemeral = 1
	v1Static    = 2
	v1Message   = 3
)

// v1Keys are the keys of one of the two layers.
type v1Keys struct{ chain, cipher, mac []byte }

func (k *v1Keys) clear() {
	clear(k.chain)
	clear(k.cipher)
	clear(k.mac)
}

// v1Outer derives the keys that hide the sender's identity key, from the
// agreement of the ephemeral key with the recipient's identity.
func v1Outer(secret []byte, recipient, ephemeral curve.PublicKey) *v1Keys {
	salt := append([]byte(v1Salt), recipient.Bytes()...)
	out := derive(append(salt, ephemeral.Bytes()...), "", 96, secret)
	return &v1Keys{out[:32], out[32:64], out[64:]}
}

// v1Inner derives the keys of the content, from the agreement of both identities
// and all that came before.
func v1Inner(secret, chain, static []byte) *v1Keys {
	salt := make([]byte, 0, len(chain)+len(static))
	salt = append(append(salt, chain...), static...)
	defer clear(salt)
	out := derive(salt, "", 96, secret)
	clear(out[:32])
	return &v1Keys{nil, out[32:64], out[64:]}
}

// xor applies AES-256-CTR from a zero counter. Every key is used once.
func (k *v1Keys) xor(b []byte) {
	block, err := aes.NewCipher(k.cipher)
	if err != nil {
		panic("sealed: 32 bytes are an AES key")
	}
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(b, b)
}

func (k *v1Keys) tag(ciphertext []byte) []byte {
	h := hmac.New(sha256.New, k.mac)
	h.Write(ciphertext)
	return h.Sum(nil)[:v1TagSize]
}

// seal encrypts b in place and appends the tag.
func (k *v1Keys) seal(b []byte) []byte {
	k.xor(b)
	return append(b, k.tag(b)...)
}

// open returns the plaintext in a new slice.
func (k *v1Keys) open(sealed []byte) ([]byte, error) {
	if len(sealed) < v1TagSize {
		return nil, ErrDecrypt
	}
	ciphertext, tag := sealed[:len(sealed)-v1TagSize], sealed[len(sealed)-v1TagSize:]
	if !hmac.Equal(k.tag(ciphertext), tag) {
		return nil, ErrDecrypt
	}
	b := append([]byte(nil), ciphertext...)
	k.xor(b)
	return b, nil
}

// SealV1 seals content for the devices of one account, whose identity key is to,
// with the sender's identity. It reads 32 bytes from random. The errors are
// ErrContent, curve.ErrLowOrder for a key that nobody can own, and that of
// random.
func SealV1(random io.Reader, identity *curve.PrivateKey, to curve.PublicKey, content *Content) ([]byte, error) {
	if err := content.check(identity); err != nil {
		return nil, err
	}
	ephemeral, err := curve.GeneratePrivateKey(random)
	if err != nil {
		return nil, fmt.Errorf("sealed: %w", err)
	}
	secret, err := ephemeral.DH(to)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	between, err := identity.DH(to)
	if err != nil {
		return nil, err
	}
	defer clear(between)
	return sealV1(ephemeral, identity, to, secret, between, content), nil
}

// sealV1 seals, given the agreements of the ephemeral key and of the identity
// with the recipient's.
func sealV1(ephemeral, identity *curve.PrivateKey, to curve.PublicKey, secret, between []byte, content *Content) []byte {
	outer := v1Outer(secret, to, ephemeral.Public())
	defer outer.clear()
	static := outer.seal(identity.Public().Bytes())
	inner := v1Inner(between, outer.chain, static)
	defer inner.clear()

	b := []byte{TypeV1}
	b = field.AppendData(b, v1Ephemeral, ephemeral.Public().Bytes())
	b = field.AppendData(b, v1Static, static)
	return field.AppendData(b, v1Message, inner.seal(content.append(nil)))
}

// openV1 checks everything but the certificate's signatures and time.
func openV1(identity *curve.PrivateKey, b []byte) (*Content, error) {
	var ephemeral curve.PublicKey
	var static, message []byte
	all := field.Set(v1Ephemeral, v1Static, v1Message)
	err := field.Read(b[1:], all, all, func(f field.Field) error {
		switch f.Number {
		case v1Ephemeral:
			return f.PublicKey(&ephemeral)
		case v1Static:
			return f.Data(&static, curve.PublicKeySize+v1TagSize, curve.PublicKeySize+v1TagSize)
		default:
			return f.Data(&message, v1TagSize, MaxMessage)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	secret, err := identity.DH(ephemeral)
	if err != nil {
		return nil, ErrDecrypt
	}
	defer clear(secret)
	outer := v1Outer(secret, identity.Public(), ephemeral)
	defer outer.clear()
	opened, err := outer.open(static)
	if err != nil {
		return nil, err
	}
	sender, err := curve.ParsePublicKey(opened)
	if err != nil {
		return nil, ErrDecrypt
	}
	between, err := identity.DH(sender)
	if err != nil {
		return nil, ErrDecrypt
	}
	defer clear(between)
	inner := v1Inner(between, outer.chain, static)
	defer inner.clear()
	plain, err := inner.open(message)
	if err != nil {
		return nil, err
	}
	content, err := parseContent(plain)
	if err != nil {
		return nil, err
	}
	// The static key is what proves the sender; the certificate only names it.
	if content.Sender.Subject().Identity != sender {
		return nil, ErrSender
	}
	return content, nil
}
