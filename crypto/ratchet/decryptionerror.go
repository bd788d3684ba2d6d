package ratchet

import (
	"fmt"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// DecryptionError tells a sender that its message could not be read, so that it
// can begin a new session and send again. It travels unencrypted and is no
// secret; it is authenticated by whatever carries it.
type DecryptionError struct {
	RatchetKey *curve.PublicKey // the failed message's, nil if it was for a group
	Timestamp  uint64           // when the failed message was sent, milliseconds
	Device     uint32           // of the failed message's sender
}

// NewDecryptionError describes a message of type t that could not be read, with
// the time at which it was sent and the device that sent it. A message that cannot
// even be parsed gives ErrMalformed or a *VersionError: it deserves no answer. Of
// a message for a group (TypeSenderKey) nothing is looked at.
func NewDecryptionError(t Type, failed []byte, sentMillis uint64, device uint8) (*DecryptionError, error) {
	if t == TypePreKey {
		m, err := parsePreKeyMessage(failed)
		if err != nil {
			return nil, err
		}
		failed = m.inner
	} else if t == TypeSenderKey {
		return &DecryptionError{nil, sentMillis, uint32(device)}, nil
	} else if t != TypeWhisper {
		return nil, fmt.Errorf("%w: type %d", ErrMalformed, t)
	}
	m, err := parseSignalMessage(failed)
	if err != nil {
		return nil, err
	}
	return &DecryptionError{&m.ratchet, sentMillis, uint32(device)}, nil
}

// Markers around a decryption error in a PlaintextContent.
const (
	plaintextStart = 0xC0
	plaintextEnd   = 0x80
	contentError   = 8 // field number in the content
)

// maxPlaintextContent bounds what is parsed, in bytes.
const maxPlaintextContent = 1024

// PlaintextContent returns the form to be sent as TypePlaintext.
func (e *DecryptionError) PlaintextContent() []byte {
	var m []byte
	if e.RatchetKey != nil {
		m = appendData(m, 1, e.RatchetKey.Bytes())
	}
	m = appendUint(m, 2, e.Timestamp)
	m = appendUint(m, 3, uint64(e.Device))
	b := appendData([]byte{plaintextStart}, contentError, m)
	return append(b, plaintextEnd)
}

// ParsePlaintextContent reads a message of TypePlaintext, which may hold a
// decryption error and nothing else. Anything else gives ErrMalformed.
func ParsePlaintextContent(b []byte) (*DecryptionError, error) {
	n := len(b)
	if n < 2 || n > maxPlaintextContent || b[0] != plaintextStart {
		return nil, fmt.Errorf("%w: not plaintext content", ErrMalformed)
	}
	// The end marker may be followed by zeros (padding).
	for b[n-1] == 0 {
		n--
	}
	if n < 2 || b[n-1] != plaintextEnd {
		return nil, fmt.Errorf("%w: no end marker", ErrMalformed)
	}
	var inner []byte
	err := readFields(b[1:n-1], 31, func(f field) error {
		if f.number != contentError {
			return fmt.Errorf("%w: field %d in plaintext", ErrMalformed, f.number)
		}
		return f.data(&inner, 0, maxPlaintextContent)
	})
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return nil, fmt.Errorf("%w: empty plaintext content", ErrMalformed)
	}
	e := new(DecryptionError)
	var seen uint64
	err = readFields(inner, 3, func(f field) error {
		seen |= 1 << f.number
		switch f.number {
		case 1:
			e.RatchetKey = new(curve.PublicKey)
			return f.publicKey(e.RatchetKey)
		case 2:
			return f.uint64(&e.Timestamp)
		default:
			return f.uint32(&e.Device)
		}
	})
	if err != nil {
		return nil, err
	}
	return e, complete(seen, 1<<2)
}
