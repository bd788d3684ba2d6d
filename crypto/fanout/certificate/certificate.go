// Package certificate is responsible for the certificates of sealed sender: with
// one, a sender proves to the recipient alone who wrote a message whose envelope
// does not say it. A homeserver issues them to its devices, clients validate
// them; both link this package, and nothing here can read a message.
//
// There are two levels. A trust root, whose public key clients pin for each
// homeserver, signs server certificates; the key of a server certificate, renewed
// more often, signs sender certificates, which carry the server certificate along.
//
// The formats are those of the Signal Protocol. Certificates are immutable once
// made; everything is safe for concurrent use. There is no I/O and no clock.
package certificate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// Life is how long a homeserver lets a sender certificate live. A certificate
// must be valid when the sender's server accepts the message, not when the
// message is read.
const Life = 24 * time.Hour

// Sizes in bytes above which an encoded certificate is refused unread.
const (
	MaxServer = 512
	MaxSender = 2048
)

// maxExpiry is the last millisecond that every implementation can represent.
const maxExpiry = 1<<53 - 1

// Errors of this package. None of them says whose certificate it is.
var (
	// ErrMalformed: not a certificate, or one with values out of range.
	ErrMalformed = errors.New("certificate: malformed")
	// ErrReference: the sender certificate names a server certificate by number
	// instead of carrying it. Only the operator of one central service can use
	// that form.
	ErrReference = errors.New("certificate: the server certificate is not enclosed")
	// ErrExpired: the certificate was no longer valid at the time asked about.
	ErrExpired = errors.New("certificate: expired")
	// ErrUntrusted: none of the trust roots signed the server certificate.
	ErrUntrusted = errors.New("certificate: not signed under a trusted root")
	// ErrSignature: the server's key did not sign the sender certificate.
	ErrSignature = errors.New("certificate: the signature does not verify")
	// ErrSubject: a certificate was to be issued for an account, device, key or
	// time that it cannot express, or with another key than the server's.
	ErrSubject = errors.New("certificate: cannot be issued")
)

// signed is a certificate as encoded: {1 inner, 2 signature over inner}.
type signed struct {
	encoded   []byte
	inner     []byte
	signature []byte
}

func sign(random io.Reader, key *curve.PrivateKey, inner []byte) (signed, error) {
	signature, err := key.Sign(random, inner)
	if err != nil {
		return signed{}, err
	}
	encoded := field.AppendData(nil, 1, inner)
	encoded = field.AppendData(encoded, 2, signature)
	return signed{encoded, inner, signature}, nil
}

// parseSigned copies b.
func parseSigned(b []byte, max int) (signed, error) {
	if len(b) > max {
		return signed{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	s := signed{encoded: bytes.Clone(b)}
	err := field.Read(s.encoded, field.Set(1, 2), field.Set(1, 2), func(f field.Field) error {
		if f.Number == 1 {
			return f.Data(&s.inner, 1, max)
		}
		return f.Data(&s.signature, curve.SignatureSize, curve.SignatureSize)
	})
	return s, err
}

// Server is a server certificate: a key that a trust root has allowed to sign
// sender certificates.
type Server struct {
	id  uint32
	key curve.PublicKey
	signed
}

// IssueServer signs key as the server certificate number id with the trust root.
// The error is that of random, or ErrSubject for a key that no device can have
// made.
func IssueServer(random io.Reader, root *curve.PrivateKey, id uint32, key curve.PublicKey) (*Server, error) {
	if key.CheckBase() != nil {
		return nil, ErrSubject
	}
	inner := field.AppendUint(nil, 1, uint64(id))
	inner = field.AppendData(inner, 2, key.Bytes())
	s, err := sign(random, root, inner)
	if err != nil {
		return nil, err
	}
	return &Server{id, key, s}, nil
}

// ParseServer reads an encoded server certificate, which is copied. It checks
// forms, not signatures; the error wraps ErrMalformed.
func ParseServer(b []byte) (*Server, error) {
	c := new(Server)
	var err error
	if c.signed, err = parseSigned(b, MaxServer); err == nil {
		err = field.Read(c.inner, field.Set(1, 2), field.Set(1, 2), func(f field.Field) error {
			if f.Number == 1 {
				return f.Uint32(&c.id)
			}
			return f.PublicKey(&c.key)
		})
	}
	if err != nil {
		return nil, malformed(err)
	}
	return c, nil
}

// malformed puts this package's error before that of package field.
func malformed(err error) error {
	if errors.Is(err, field.ErrMalformed) {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return err
}

// ID is the number that the root gave the certificate.
func (c *Server) ID() uint32 { return c.id }

// Key is the key that signs sender certificates.
func (c *Server) Key() curve.PublicKey { return c.key }

// Bytes is the encoded certificate in a new slice.
func (c *Server) Bytes() []byte { return bytes.Clone(c.encoded) }

// Verify returns nil if one of the roots signed the certificate, else
// ErrUntrusted.
func (c *Server) Verify(roots ...curve.PublicKey) error {
	for _, root := range roots {
		if curve.Verify(root, c.inner, c.signature) {
			return nil
		}
	}
	return ErrUntrusted
}

// Subject is what a sender certificate says.
type Subject struct {
	Account  keys.ServiceID  // of the account kind
	Device   uint8           // keys.MinDevice to keys.MaxDevice
	Identity curve.PublicKey // of the account
	Expires  time.Time       // in whole milliseconds; valid up to and at this time
}

// Sender is a sender certificate.
type Sender struct {
	subject Subject
	server  *Server
	signed
}

// Issue makes a sender certificate; key is the private key of this server
// certificate. The error is that of random, or ErrSubject. Whether the subject
// is true is the caller's to know.
func (c *Server) Issue(random io.Reader, key *curve.PrivateKey, s Subject) (*Sender, error) {
	expires := s.Expires.UnixMilli()
	if key.Public() != c.key || s.Account[0] != 0 || s.Device < keys.MinDevice || s.Device > keys.MaxDevice ||
		s.Identity.CheckBase() != nil || expires <= 0 || expires > maxExpiry {
		return nil, ErrSubject
	}
	inner := field.AppendUint(nil, 2, uint64(s.Device))
	inner = field.AppendFixed64(inner, 3, uint64(expires))
	inner = field.AppendData(inner, 4, s.Identity.Bytes())
	inner = field.AppendData(inner, 5, c.encoded)
	inner = field.AppendData(inner, 7, s.Account[1:])
	made, err := sign(random, key, inner)
	if err != nil {
		return nil, err
	}
	s.Expires = time.UnixMilli(expires).UTC()
	return &Sender{s, c, made}, nil
}

// The fields of a sender certificate. The phone number is never written and not
// looked at: accounts here have none.
const (
	fieldPhone     = 1
	fieldDevice    = 2
	fieldExpires   = 3
	fieldIdentity  = 4
	fieldServer    = 5
	fieldUUIDText  = 6
	fieldUUIDBytes = 7
	fieldReference = 8
)

// ParseSender reads an encoded sender certificate with its server certificate.
// b is copied. The account is a UUID, as text in lower case or as bytes, but not
// both; what Issue writes is bytes. It checks forms, not signatures and not the
// time; the error wraps ErrMalformed or is ErrReference.
func ParseSender(b []byte) (*Sender, error) {
	c := new(Sender)
	outer, err := parseSigned(b, MaxSender)
	if err != nil {
		return nil, malformed(err)
	}
	c.signed = outer
	var device uint32
	var expires uint64
	var phone, server, text, uuid []byte
	reference := false
	err = field.Read(c.inner,
		field.Set(fieldPhone, fieldDevice, fieldExpires, fieldIdentity, fieldServer, fieldUUIDText, fieldUUIDBytes, fieldReference),
		field.Set(fieldDevice, fieldExpires, fieldIdentity),
		func(f field.Field) error {
			switch f.Number {
			case fieldPhone:
				return f.Data(&phone, 0, 64)
			case fieldDevice:
				if err := f.Uint32(&device); err != nil || device < keys.MinDevice || device > keys.MaxDevice {
					return f.Wrong()
				}
				return nil
			case fieldExpires:
				if err := f.Fixed64(&expires); err != nil || expires > maxExpiry {
					return f.Wrong()
				}
				return nil
			case fieldIdentity:
				return f.PublicKey(&c.subject.Identity)
			case fieldServer:
				return f.Data(&server, 1, MaxServer)
			case fieldUUIDText:
				return f.Data(&text, 36, 36)
			case fieldUUIDBytes:
				return f.Data(&uuid, 16, 16)
			default:
				var id uint32
				reference = true
				return f.Uint32(&id)
			}
		})
	switch {
	case err != nil:
		return nil, malformed(err)
	case reference && server == nil:
		return nil, ErrReference
	case reference || server == nil:
		return nil, fmt.Errorf("%w: not one server certificate", ErrMalformed)
	case (text == nil) == (uuid == nil):
		return nil, fmt.Errorf("%w: not one account", ErrMalformed)
	}
	c.subject.Device = uint8(device)
	c.subject.Expires = time.UnixMilli(int64(expires)).UTC()
	copy(c.subject.Account[1:], uuid)
	if text != nil {
		if err := parseUUID(c.subject.Account[1:], text); err != nil {
			return nil, err
		}
	}
	if c.server, err = ParseServer(server); err != nil {
		return nil, err
	}
	return c, nil
}

// parseUUID reads the text form of RFC 9562, 4 in lower case into 16 bytes.
func parseUUID(dst, text []byte) error {
	n := 0
	for i := 0; i < len(text); i++ {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if text[i] != '-' {
				return fmt.Errorf("%w: account", ErrMalformed)
			}
			continue
		}
		var digit byte
		switch c := text[i]; {
		case c >= '0' && c <= '9':
			digit = c - '0'
		case c >= 'a' && c <= 'f':
			digit = c - 'a' + 10
		default:
			return fmt.Errorf("%w: account", ErrMalformed)
		}
		dst[n/2] = dst[n/2]<<4 | digit
		n++
	}
	return nil
}

// Subject is what the certificate says; nothing of it may be believed before
// Validate returned nil.
func (c *Sender) Subject() Subject { return c.subject }

// Server is the server certificate that came along.
func (c *Sender) Server() *Server { return c.server }

// Bytes is the encoded certificate in a new slice.
func (c *Sender) Bytes() []byte { return bytes.Clone(c.encoded) }

// Validate returns nil if one of the roots signed the server certificate, the
// server's key signed this one, and it had not expired at the time given, which
// for a message is when the sender's server accepted it. The errors are
// ErrExpired, ErrUntrusted and ErrSignature.
//
// The roots must be those pinned for the homeserver of the account that the
// certificate names: every homeserver can sign a certificate for any account,
// and only this choice keeps it to its own.
func (c *Sender) Validate(at time.Time, roots ...curve.PublicKey) error {
	if at.UnixMilli() > c.subject.Expires.UnixMilli() {
		return ErrExpired
	}
	if err := c.server.Verify(roots...); err != nil {
		return err
	}
	if !curve.Verify(c.server.key, c.inner, c.signature) {
		return ErrSignature
	}
	return nil
}
