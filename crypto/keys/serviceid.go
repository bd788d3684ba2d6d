package keys

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// serviceIDLabel separates the hash of AccountServiceID from every other use of
// SHA-256. It ends with a zero byte, which no account contains.
const serviceIDLabel = "clearbox account service id v1\x00"

// ServiceID is the name under which the Signal Protocol knows an account: a kind
// byte, always 0 (account), and a UUID. It enters the address field of first
// messages, so that a homeserver which delivers one to somebody else is caught.
type ServiceID [17]byte

// ErrServiceID is a service id that is not 17 bytes of the account kind with a
// UUID of version 8.
var ErrServiceID = errors.New("keys: malformed service id")

// AccountServiceID derives the service id of the account userID, which has the
// form uid@server and is never a handle: SHA-256 over a label and the id, cut to
// 16 bytes, with version 8 and variant 2 set (RFC 9562, 5.8). Anyone who is told
// the id can recompute it. 122 bits of the hash remain.
func AccountServiceID(userID string) ServiceID {
	h := sha256.Sum256(append([]byte(serviceIDLabel), userID...))
	var s ServiceID
	copy(s[1:], h[:16])
	s[7] = s[7]&0x0f | 0x80
	s[9] = s[9]&0x3f | 0x80
	return s
}

// ParseServiceID accepts the 17 bytes that AccountServiceID can give, else
// ErrServiceID.
func ParseServiceID(b []byte) (ServiceID, error) {
	var s ServiceID
	if len(b) != len(s) || b[0] != 0 || b[7]>>4 != 8 || b[9]>>6 != 2 {
		return s, ErrServiceID
	}
	copy(s[:], b)
	return s, nil
}

// UUID is the text form of the UUID in lower case, 36 characters.
func (s ServiceID) UUID() string {
	var t [36]byte
	hex.Encode(t[0:], s[1:5])
	hex.Encode(t[9:], s[5:7])
	hex.Encode(t[14:], s[7:9])
	hex.Encode(t[19:], s[9:11])
	hex.Encode(t[24:], s[11:17])
	t[8], t[13], t[18], t[23] = '-', '-', '-', '-'
	return string(t[:])
}
