package ratchet

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/internal/cbc"
	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/spqr"
)

const (
	messageVersion = 4
	header         = messageVersion<<4 | messageVersion
	macSize        = 8
	cipherBlock    = cbc.BlockSize
	addressSize    = 2 * (serviceIDSize + 1)
)

// signalMessage is a message of an established chain: header byte, protobuf
// fields, 8 bytes of MAC.
type signalMessage struct {
	ratchet    curve.PublicKey // 1
	counter    uint32          // 2
	previous   uint32          // 3: length of the sender's previous chain, for information
	ciphertext []byte          // 4
	pq         []byte          // 5
	addresses  []byte          // 6: only inside first messages

	authentic []byte // all but the MAC
	mac       []byte
}

// append appends header and fields; the MAC follows from seal.
func (m *signalMessage) append(b []byte) []byte {
	b = append(b, header)
	b = appendData(b, 1, m.ratchet.Bytes())
	b = appendUint(b, 2, uint64(m.counter))
	b = appendUint(b, 3, uint64(m.previous))
	b = appendData(b, 4, m.ciphertext)
	b = appendData(b, 5, m.pq)
	if m.addresses != nil {
		b = appendData(b, 6, m.addresses)
	}
	return b
}

// checkVersion looks at the header byte: the message's version in the high
// half, the sender's own in the low half.
func checkVersion(b []byte) error {
	if len(b) == 0 || len(b) > MaxMessage {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	if v := b[0] >> 4; v != messageVersion {
		return &VersionError{v}
	}
	return nil
}

// parseSignalMessage reads a message. The result shares memory with b.
func parseSignalMessage(b []byte) (*signalMessage, error) {
	if err := checkVersion(b); err != nil {
		return nil, err
	}
	if len(b) < 1+macSize {
		return nil, fmt.Errorf("%w: too short", ErrMalformed)
	}
	m := &signalMessage{authentic: b[:len(b)-macSize], mac: b[len(b)-macSize:]}
	var seen uint64
	err := readFields(m.authentic[1:], 6, func(f field) error {
		seen |= 1 << f.number
		switch f.number {
		case 1:
			return f.publicKey(&m.ratchet)
		case 2:
			return f.uint32(&m.counter)
		case 3:
			return f.uint32(&m.previous)
		case 4:
			return f.data(&m.ciphertext, cipherBlock, MaxMessage)
		case 5:
			return f.data(&m.pq, 0, spqr.MaxMessageSize)
		default:
			return f.data(&m.addresses, addressSize, addressSize)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := complete(seen, 1<<1|1<<2|1<<4); err != nil {
		return nil, err
	}
	if len(m.ciphertext)%cipherBlock != 0 {
		return nil, fmt.Errorf("%w: ciphertext of %d bytes", ErrMalformed, len(m.ciphertext))
	}
	return m, nil
}

// messageMAC authenticates header and fields together with the identities of
// both ends.
func messageMAC(key []byte, sender, recipient curve.PublicKey, authentic []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte{curve.TypeX25519})
	h.Write(sender[:])
	h.Write([]byte{curve.TypeX25519})
	h.Write(recipient[:])
	h.Write(authentic)
	return h.Sum(nil)[:macSize]
}

// preKeyMessage carries the key agreement and the first signalMessage: header
// byte and protobuf fields. The agreement itself is authenticated by the MAC
// inside.
type preKeyMessage struct {
	oneTime      *uint32         // 1
	base         curve.PublicKey // 2
	identity     curve.PublicKey // 3
	inner        []byte          // 4
	registration uint32          // 5
	signed       uint32          // 6
	kem          uint32          // 7
	kemCipher    []byte          // 8
}

func (m *preKeyMessage) append(b []byte) []byte {
	b = append(b, header)
	if m.oneTime != nil {
		b = appendUint(b, 1, uint64(*m.oneTime))
	}
	b = appendData(b, 2, m.base.Bytes())
	b = appendData(b, 3, m.identity.Bytes())
	b = appendData(b, 4, m.inner)
	b = appendUint(b, 5, uint64(m.registration))
	b = appendUint(b, 6, uint64(m.signed))
	b = appendUint(b, 7, uint64(m.kem))
	return appendData(b, 8, m.kemCipher)
}

const kemCiphertextSize = 1569

// parsePreKeyMessage reads a first message. The result shares memory with b.
func parsePreKeyMessage(b []byte) (*preKeyMessage, error) {
	if err := checkVersion(b); err != nil {
		return nil, err
	}
	m := new(preKeyMessage)
	var seen uint64
	err := readFields(b[1:], 8, func(f field) error {
		seen |= 1 << f.number
		switch f.number {
		case 1:
			m.oneTime = new(uint32)
			return f.uint32(m.oneTime)
		case 2:
			return f.publicKey(&m.base)
		case 3:
			return f.publicKey(&m.identity)
		case 4:
			return f.data(&m.inner, 1+macSize, MaxMessage)
		case 5:
			if err := f.uint32(&m.registration); err != nil || m.registration > maxRegistration {
				return f.wrong()
			}
			return nil
		case 6:
			return f.uint32(&m.signed)
		case 7:
			return f.uint32(&m.kem)
		default:
			return f.data(&m.kemCipher, kemCiphertextSize, kemCiphertextSize)
		}
	})
	if err != nil {
		return nil, err
	}
	return m, complete(seen, 1<<2|1<<3|1<<4|1<<6|1<<7|1<<8)
}

const maxRegistration = 1<<14 - 1
