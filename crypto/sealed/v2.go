package sealed

import (
	"crypto/subtle"
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed/internal/gcmsiv"
)

const (
	v2LabelEphemeral = "Sealed Sender v2: r (2023-08)"
	v2LabelKey       = "Sealed Sender v2: K"
	v2LabelDH        = "Sealed Sender v2: DH"
	v2LabelSender    = "Sealed Sender v2: DH-sender"

	v2MessageKeySize = 32
	v2TagSize        = 16
)

// Recipient is one account that a message of version 2 is sealed for: one
// identity, any number of devices.
type Recipient struct {
	Account  keys.ServiceID
	Identity curve.PublicKey
	Devices  []fanout.Device
}

// v2Ephemeral derives the ephemeral key from the message key M, so that whoever
// knows M can check that the key was made for this message alone.
func v2Ephemeral(m []byte) *curve.PrivateKey {
	seed := derive(nil, v2LabelEphemeral, curve.PrivateKeySize, m)
	defer clear(seed)
	k, err := curve.NewPrivateKey(seed)
	if err != nil {
		panic("sealed: 32 bytes are a private key")
	}
	return k
}

// v2Cipher encrypts under a zero nonce: the key serves one message.
func v2Cipher(m []byte) func(open bool, dst, b []byte) ([]byte, error) {
	key := derive(nil, v2LabelKey, gcmsiv.KeySize, m)
	defer clear(key)
	aead, err := gcmsiv.New(key)
	if err != nil {
		panic("sealed: 32 bytes are a GCM-SIV key")
	}
	nonce := make([]byte, gcmsiv.NonceSize)
	return func(open bool, dst, b []byte) ([]byte, error) {
		if open {
			return aead.Open(dst, nonce, b, nil)
		}
		return aead.Seal(dst, nonce, b, nil), nil
	}
}

// v2Mask returns what hides M from everyone but the recipient, given the
// agreement of the ephemeral key with the recipient's identity.
func v2Mask(secret []byte, ephemeral, recipient curve.PublicKey) []byte {
	return derive(nil, v2LabelDH, v2MessageKeySize, secret, ephemeral.Bytes(), recipient.Bytes())
}

// v2Tag returns what proves the sender to the recipient, given the agreement of
// their identities. It could have been made by the recipient as well.
func v2Tag(secret []byte, ephemeral curve.PublicKey, c []byte, sender, recipient curve.PublicKey) []byte {
	return derive(nil, v2LabelSender, v2TagSize, secret, ephemeral.Bytes(), c, sender.Bytes(), recipient.Bytes())
}

// SealV2 seals content for all devices of all recipients at once, in the form for
// many recipients that the sender's homeserver takes apart (package fanout).
// Everyone gets the same ciphertext; an account costs 48 bytes and two key
// agreements, a device 3 bytes. excluded names accounts that get nothing and that
// the homeserver is told were left out on purpose.
//
// It reads 32 bytes from random, whose error it returns. The others are
// ErrContent, and ErrRecipients if the result is not one that fanout.Parse
// accepts under its default limits or an identity is of low order.
func SealV2(random io.Reader, identity *curve.PrivateKey, content *Content, recipients []Recipient, excluded []keys.ServiceID) ([]byte, error) {
	if err := content.check(identity); err != nil {
		return nil, err
	}
	size := 64 + len(excluded)*18 + maxContent - MaxBody + len(content.Body)
	for _, r := range recipients {
		size += 17 + fanout.MaterialSize + 3*len(r.Devices)
		if len(r.Devices) == 0 {
			return nil, fmt.Errorf("%w: a recipient without devices", ErrRecipients)
		}
	}
	m := make([]byte, v2MessageKeySize)
	defer clear(m)
	if _, err := io.ReadFull(random, m); err != nil {
		return nil, fmt.Errorf("sealed: random source: %w", err)
	}
	ephemeral := v2Ephemeral(m)

	b := fanout.AppendHead(make([]byte, 0, size), len(recipients)+len(excluded))
	for _, r := range recipients {
		b = fanout.AppendDevices(b, r.Account, r.Devices)
		var err error
		if b, err = appendMaterial(b, m, ephemeral, identity, r.Identity); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRecipients, err)
		}
	}
	for _, account := range excluded {
		b = fanout.AppendDevices(b, account, nil)
	}
	public := ephemeral.Public()
	b = append(b, public[:]...)
	start := len(b)
	b = content.append(b)
	sealed, err := v2Cipher(m)(false, b[start:start], b[start:])
	if err != nil {
		return nil, err
	}
	b = append(b[:start], sealed...) // moves nothing when there was room
	if _, err := fanout.Parse(b, fanout.Limits{}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecipients, err)
	}
	return b, nil
}

// appendMaterial appends C and AT for one recipient.
func appendMaterial(b, m []byte, ephemeral, identity *curve.PrivateKey, to curve.PublicKey) ([]byte, error) {
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
	c := v2Mask(secret, ephemeral.Public(), to)
	subtle.XORBytes(c, c, m)
	b = append(b, c...)
	return append(b, v2Tag(between, ephemeral.Public(), c, identity.Public(), to)...), nil
}

// openV2 checks everything but the certificate's signatures and time.
func openV2(identity *curve.PrivateKey, b []byte) (*Content, error) {
	if len(b) < fanout.ReceivedOverhead+gcmsiv.Overhead {
		return nil, fmt.Errorf("%w: too short", ErrMalformed)
	}
	c, rest := b[1:1+v2MessageKeySize], b[1+v2MessageKeySize:]
	tag, rest := rest[:v2TagSize], rest[v2TagSize:]
	ephemeral, ciphertext := curve.PublicKey(rest[:fanout.EphemeralSize]), rest[fanout.EphemeralSize:]

	secret, err := identity.DH(ephemeral)
	if err != nil {
		return nil, ErrDecrypt
	}
	defer clear(secret)
	m := v2Mask(secret, ephemeral, identity.Public())
	defer clear(m)
	subtle.XORBytes(m, m, c)
	made := v2Ephemeral(m).Public()
	if subtle.ConstantTimeCompare(made[:], ephemeral[:]) != 1 {
		return nil, ErrDecrypt
	}
	plain, err := v2Cipher(m)(true, nil, ciphertext)
	if err != nil {
		return nil, ErrDecrypt
	}
	content, err := parseContent(plain)
	if err != nil {
		return nil, err
	}
	// M is known to all recipients, so each of them could have encrypted this
	// content. Only the tag proves that the sender did.
	sender := content.Sender.Subject().Identity
	between, err := identity.DH(sender)
	if err != nil {
		return nil, ErrSender
	}
	defer clear(between)
	want := v2Tag(between, ephemeral, c, sender, identity.Public())
	if subtle.ConstantTimeCompare(want, tag) != 1 {
		return nil, ErrSender
	}
	return content, nil
}
