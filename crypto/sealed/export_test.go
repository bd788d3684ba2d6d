package sealed

import (
	"crypto/subtle"
	"io"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
)

// ParseContent and Encode give tests the inner form.
func ParseContent(b []byte) (*Content, error) { return parseContent(b) }

// Encode returns the encoded content.
func (c *Content) Encode() []byte { return c.append(nil) }

// Unseal is Open without the certificate's signatures and time.
func (r *Receiver) Unseal(b []byte) (*Content, error) { return r.unseal(b) }

// Substitute is what a dishonest recipient of a message of version 2 can do: he
// knows the message key, so he can put another content under the same head and
// seal it for a third person, as far as his keys go.
func Substitute(r *Receiver, received []byte, to curve.PublicKey, other *Content) []byte {
	ephemeral := curve.PublicKey(received[49:81])
	secret, err := r.Identity.DH(ephemeral)
	if err != nil {
		panic(err)
	}
	m := v2Mask(secret, ephemeral, r.Identity.Public())
	subtle.XORBytes(m, m, received[1:33])
	b, err := appendMaterial([]byte{fanout.TypeReceived}, m, v2Ephemeral(m), r.Identity, to)
	if err != nil {
		panic(err)
	}
	ciphertext, err := v2Cipher(m)(false, nil, other.append(nil))
	if err != nil {
		panic(err)
	}
	return append(append(b, ephemeral[:]...), ciphertext...)
}

// SealForeignV1 is SealV1 without the check that the certificate is the sender's.
func SealForeignV1(random io.Reader, identity *curve.PrivateKey, to curve.PublicKey, content *Content) []byte {
	ephemeral, err := curve.GeneratePrivateKey(random)
	if err != nil {
		panic(err)
	}
	secret, err := ephemeral.DH(to)
	if err != nil {
		panic(err)
	}
	return sealV1(ephemeral, identity, to, secret, mustDH(identity, to), content)
}

func mustDH(k *curve.PrivateKey, p curve.PublicKey) []byte {
	b, err := k.DH(p)
	if err != nil {
		panic(err)
	}
	return b
}
