package group

import (
	"fmt"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
	"github.com/clearbox-im/clearbox/crypto/internal/cbc"
)

const (
	messageVersion = 3
	header         = messageVersion<<4 | messageVersion
	cipherBlock    = cbc.BlockSize
)

// checkHeader looks at the first byte: the message's version in the high half,
// the sender's own in the low half.
func checkHeader(b []byte) error {
	if len(b) == 0 || len(b) > MaxMessage {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	if v := b[0] >> 4; v != messageVersion {
		return &VersionError{v}
	}
	return nil
}

// Head is the readable part of a message or a distribution message. It is not
// authenticated: it says where to look for the key.
type Head struct {
	Distribution ID
	Chain        uint32
	Iteration    uint32 // number of the message; of a distribution message, the first one that can be read
}

// ParseHead reads the head of a message, ErrMalformed and *VersionError aside
// without any check.
func ParseHead(message []byte) (Head, error) {
	m, err := parseMessage(message)
	if err != nil {
		return Head{}, err
	}
	return m.Head, nil
}

// ParseDistributionHead reads the head of a distribution message, with the same
// errors.
func ParseDistributionHead(message []byte) (Head, error) {
	d, err := parseDistribution(message)
	if err != nil {
		return Head{}, err
	}
	return d.Head, nil
}

// message is a SenderKeyMessage: header byte, protobuf fields, 64 bytes of
// XEdDSA signature over all before it.
type message struct {
	Head              // 1, 2, 3
	ciphertext []byte // 4

	signed    []byte // all but the signature
	signature []byte
}

func (m *message) append(b []byte) []byte {
	b = m.Head.append(b)
	return field.AppendData(b, 4, m.ciphertext)
}

func (h Head) append(b []byte) []byte {
	b = append(b, header)
	b = field.AppendData(b, 1, h.Distribution[:])
	b = field.AppendUint(b, 2, uint64(h.Chain))
	return field.AppendUint(b, 3, uint64(h.Iteration))
}

// read takes fields 1 to 3.
func (h *Head) read(f field.Field) error {
	switch f.Number {
	case 1:
		var id []byte
		if err := f.Data(&id, len(h.Distribution), len(h.Distribution)); err != nil {
			return err
		}
		h.Distribution = ID(id)
		return nil
	case 2:
		return f.Uint32(&h.Chain)
	default:
		return f.Uint32(&h.Iteration)
	}
}

// parseMessage reads a message. The result shares memory with b.
func parseMessage(b []byte) (*message, error) {
	if err := checkHeader(b); err != nil {
		return nil, err
	}
	if len(b) < 1+curve.SignatureSize {
		return nil, fmt.Errorf("%w: too short", ErrMalformed)
	}
	at := len(b) - curve.SignatureSize
	m := &message{signed: b[:at], signature: b[at:]}
	all := field.Set(1, 2, 3, 4)
	err := field.Read(m.signed[1:], all, all, func(f field.Field) error {
		if f.Number == 4 {
			return f.Data(&m.ciphertext, cipherBlock, MaxMessage)
		}
		return m.Head.read(f)
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(m.ciphertext)%cipherBlock != 0 {
		return nil, fmt.Errorf("%w: ciphertext of %d bytes", ErrMalformed, len(m.ciphertext))
	}
	return m, nil
}

// distribution is a SenderKeyDistributionMessage: header byte and protobuf
// fields. It is secret and travels inside a session.
type distribution struct {
	Head                    // 1, 2, 3
	key     [32]byte        // 4
	signing curve.PublicKey // 5
}

func (d *distribution) append(b []byte) []byte {
	b = d.Head.append(b)
	b = field.AppendData(b, 4, d.key[:])
	return field.AppendData(b, 5, d.signing.Bytes())
}

func parseDistribution(b []byte) (*distribution, error) {
	if err := checkHeader(b); err != nil {
		return nil, err
	}
	d := new(distribution)
	all := field.Set(1, 2, 3, 4, 5)
	err := field.Read(b[1:], all, all, func(f field.Field) error {
		switch f.Number {
		case 4:
			var key []byte
			if err := f.Data(&key, len(d.key), len(d.key)); err != nil {
				return err
			}
			copy(d.key[:], key)
			return nil
		case 5:
			return f.PublicKey(&d.signing)
		default:
			return d.Head.read(f)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return d, nil
}

// encryptBody is AES-256-CBC; keys are IV and cipher key.
func encryptBody(keys, plaintext []byte) []byte {
	return cbc.Encrypt(keys[16:48], keys[:16], plaintext)
}

// decryptBody runs only on authentic messages.
func decryptBody(keys, ciphertext []byte) ([]byte, error) {
	b, err := cbc.Decrypt(keys[16:48], keys[:16], ciphertext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return b, nil
}
