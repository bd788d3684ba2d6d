// Package clearbox holds the nouns that every room of the homeserver and its
// clients share: names, the envelope, limits and errors. It does no I/O and
// imports the standard library only.
//
// Strings and numbers from outside become these types through their Parse
// functions and in no other way.
package clearbox

import (
	"encoding/base32"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits that both ends of a wire rely on. They are part of the protocol:
// raising one is a protocol change.
const (
	MaxContent      = 96 << 10 // bytes of ciphertext in one envelope
	MaxDevices      = 8        // active devices of one account
	MaxServerName   = 253      // bytes, RFC 1035, 2.3.4
	MaxHandle       = 64       // bytes
	MaxEnvelopesPer = 64       // envelopes in one submission, own other devices included
	MaxGroup        = 1000     // members of one group
)

// countries are the codes of ISO 3166-1 alpha-2 that are assigned, and XK, which
// is in use for Kosovo. Each ends with a space.
const countries = "" +
	"AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY " +
	"BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK " +
	"FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR " +
	"IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK " +
	"ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM " +
	"PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF " +
	"TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW "

// ValidCountry tells whether the two capital letters are the code of a country.
func ValidCountry(code string) bool {
	return len(code) == 2 && code[1] != ' ' && strings.Contains(countries, code+" ")
}

// ServerName is an organisation's DNS domain in lower case, such as
// "clinic.example". It names the homeserver in every address; the host that
// answers for it may have another name.
type ServerName string

// ParseServerName accepts a domain of at least two labels (RFC 1035, 2.3.1, in
// lower case, letters, digits and inner hyphens). Ports, IP literals and a
// trailing dot are refused.
func ParseServerName(s string) (ServerName, error) {
	if len(s) == 0 || len(s) > MaxServerName {
		return "", Errorf(CodeBadRequest, "a server name has 1 to %d characters", MaxServerName)
	}
	labels := strings.Split(s, ".")
	if len(labels) < 2 {
		return "", Errorf(CodeBadRequest, "a server name is a domain such as clinic.example")
	}
	for _, l := range labels {
		if !validLabel(l) {
			return "", Errorf(CodeBadRequest, "a server name is a lower-case domain such as clinic.example")
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return "", Errorf(CodeBadRequest, "a server name is a domain, not an IP address")
	}
	return ServerName(s), nil
}

func validLabel(l string) bool {
	if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
		return false
	}
	for i := range len(l) {
		c := l[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

var base32lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// UID is an account's permanent opaque name at its server: 128 random bits as
// 26 characters of lower-case base32. It is never reused and carries no meaning.
type UID string

// NewUID draws a UID from random. It returns random's error.
func NewUID(random io.Reader) (UID, error) {
	s, err := randomID(random)
	return UID(s), err
}

// ParseUID accepts the 26-character form only, and only its canonical spelling.
func ParseUID(s string) (UID, error) {
	if _, ok := parseID(s); !ok {
		return "", Errorf(CodeBadRequest, "a uid is 26 characters of lower-case base32")
	}
	return UID(s), nil
}

// UserID names an account in the whole federation: uid@server.
type UserID struct {
	UID    UID
	Server ServerName
}

// ParseUserID accepts "uid@server".
func ParseUserID(s string) (UserID, error) {
	local, server, ok := strings.Cut(s, "@")
	if !ok {
		return UserID{}, Errorf(CodeBadRequest, "a user id has the form uid@server")
	}
	uid, err := ParseUID(local)
	if err != nil {
		return UserID{}, err
	}
	name, err := ParseServerName(server)
	if err != nil {
		return UserID{}, err
	}
	return UserID{UID: uid, Server: name}, nil
}

// String is the wire form, uid@server; the zero value is the empty string.
func (u UserID) String() string {
	if u == (UserID{}) {
		return ""
	}
	return string(u.UID) + "@" + string(u.Server)
}

// IsZero tells whether u names nobody.
func (u UserID) IsZero() bool { return u == UserID{} }

// MarshalText gives the wire form.
func (u UserID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is ParseUserID.
func (u *UserID) UnmarshalText(b []byte) error {
	v, err := ParseUserID(string(b))
	if err != nil {
		return err
	}
	*u = v
	return nil
}

// Handle is the human part of an address. It is an attribute of the account
// and may change; the UID does not.
type Handle string

// ParseHandle accepts [a-z0-9._-]{1,64} that begins and ends with a letter or
// a digit and has no two dots in a row. Names that mislead are refused.
func ParseHandle(s string) (Handle, error) {
	if len(s) == 0 || len(s) > MaxHandle {
		return "", Errorf(CodeBadHandle, "a name has 1 to %d characters", MaxHandle)
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && c != '.' && c != '_' && c != '-' {
			return "", Errorf(CodeBadHandle, "a name uses only a-z, 0-9, dot, underscore and hyphen")
		}
		if !alnum && (i == 0 || i == len(s)-1) {
			return "", Errorf(CodeBadHandle, "a name begins and ends with a letter or a digit")
		}
	}
	if strings.Contains(s, "..") {
		return "", Errorf(CodeBadHandle, "a name has no two dots in a row")
	}
	if reservedHandles[s] {
		return "", Errorf(CodeBadHandle, "this name is reserved")
	}
	return Handle(s), nil
}

// reservedHandles could pass for the organisation itself (RFC 2142 and the
// roles of this server).
var reservedHandles = map[string]bool{
	"abuse": true, "clearbox": true, "dpo": true, "everyone": true, "hostmaster": true, "moderator": true,
	"noreply": true, "postmaster": true, "privacy": true, "root": true, "security": true, "support": true,
	"system": true, "webmaster": true,
}

// Address is handle@server, what people exchange.
type Address struct {
	Handle Handle
	Server ServerName
}

// ParseAddress accepts "handle@server".
func ParseAddress(s string) (Address, error) {
	local, server, ok := strings.Cut(s, "@")
	if !ok {
		return Address{}, Errorf(CodeBadRequest, "an address has the form name@server")
	}
	h, err := ParseHandle(local)
	if err != nil {
		return Address{}, err
	}
	name, err := ParseServerName(server)
	if err != nil {
		return Address{}, err
	}
	return Address{Handle: h, Server: name}, nil
}

// String is handle@server.
func (a Address) String() string { return string(a.Handle) + "@" + string(a.Server) }

// DeviceID numbers an account's device, 1 to 127 as in the Signal Protocol.
type DeviceID uint8

// ParseDeviceID accepts 1 to 127.
func ParseDeviceID(n int64) (DeviceID, error) {
	if n < 1 || n > 127 {
		return 0, Errorf(CodeBadRequest, "a device id is a number from 1 to 127")
	}
	return DeviceID(n), nil
}

// Device names one device in the whole federation.
type Device struct {
	User UserID
	ID   DeviceID
}

// String is uid@server/7.
func (d Device) String() string { return d.User.String() + "/" + strconv.Itoa(int(d.ID)) }

// MessageID is chosen by the sending brain: 128 random bits. Together with the
// sender it names a message for ever; repeats are dropped by it at every hop.
type MessageID [16]byte

// NewMessageID draws an id from random. It returns random's error.
func NewMessageID(random io.Reader) (MessageID, error) {
	var id MessageID
	_, err := io.ReadFull(random, id[:])
	return id, err
}

// ParseMessageID accepts the 26-character base32 form.
func ParseMessageID(s string) (MessageID, error) {
	raw, ok := parseID(s)
	if !ok {
		return MessageID{}, Errorf(CodeBadRequest, "a message id is 26 characters of lower-case base32")
	}
	return raw, nil
}

// String is the 26-character base32 form.
func (m MessageID) String() string { return base32lower.EncodeToString(m[:]) }

// MarshalText gives the base32 form.
func (m MessageID) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMessageID.
func (m *MessageID) UnmarshalText(b []byte) error {
	v, err := ParseMessageID(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}

// GroupID names a group for ever: the SHA-256 of the signed operation that
// created it (crypto/chain).
type GroupID [32]byte

// ParseGroupID accepts the 52-character base32 form.
func ParseGroupID(s string) (GroupID, error) {
	var g GroupID
	raw, err := base32lower.DecodeString(s)
	if err != nil || len(raw) != len(g) || base32lower.EncodeToString(raw) != s {
		return g, Errorf(CodeBadRequest, "a group id is 52 characters of lower-case base32")
	}
	copy(g[:], raw)
	return g, nil
}

// String is the 52-character base32 form.
func (g GroupID) String() string { return base32lower.EncodeToString(g[:]) }

// IsZero tells whether g names no group.
func (g GroupID) IsZero() bool { return g == GroupID{} }

// MarshalText gives the base32 form.
func (g GroupID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText is ParseGroupID.
func (g *GroupID) UnmarshalText(b []byte) error {
	v, err := ParseGroupID(string(b))
	if err != nil {
		return err
	}
	*g = v
	return nil
}

// MemberID is a random name for one membership of one person in one group: the
// only name of a person that a group's chain holds.
type MemberID [16]byte

// NewMemberID draws an id from random. It returns random's error.
func NewMemberID(random io.Reader) (MemberID, error) {
	var id MemberID
	_, err := io.ReadFull(random, id[:])
	return id, err
}

// ParseMemberID accepts the 26-character base32 form.
func ParseMemberID(s string) (MemberID, error) {
	raw, ok := parseID(s)
	if !ok {
		return MemberID{}, Errorf(CodeBadRequest, "a member id is 26 characters of lower-case base32")
	}
	return raw, nil
}

// String is the 26-character base32 form.
func (m MemberID) String() string { return base32lower.EncodeToString(m[:]) }

// MarshalText gives the base32 form.
func (m MemberID) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMemberID.
func (m *MemberID) UnmarshalText(b []byte) error {
	v, err := ParseMemberID(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}

// ObjectID names an attachment at the server that keeps it: 128 random bits,
// chosen by who uploads it. It is known to those the attachment was sent to.
type ObjectID [16]byte

// NewObjectID draws an id from random. It returns random's error.
func NewObjectID(random io.Reader) (ObjectID, error) {
	var id ObjectID
	_, err := io.ReadFull(random, id[:])
	return id, err
}

// ParseObjectID accepts the 26-character base32 form.
func ParseObjectID(s string) (ObjectID, error) {
	raw, ok := parseID(s)
	if !ok {
		return ObjectID{}, Errorf(CodeBadRequest, "an object id is 26 characters of lower-case base32")
	}
	return raw, nil
}

// String is the 26-character base32 form.
func (o ObjectID) String() string { return base32lower.EncodeToString(o[:]) }

// MarshalText gives the base32 form.
func (o ObjectID) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText is ParseObjectID.
func (o *ObjectID) UnmarshalText(b []byte) error {
	v, err := ParseObjectID(string(b))
	if err != nil {
		return err
	}
	*o = v
	return nil
}

func randomID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("draw an id: %w", err)
	}
	return base32lower.EncodeToString(b[:]), nil
}

// parseID decodes 26 characters and demands the canonical spelling: the last
// character carries 3 bits, so its two low bits must be zero.
func parseID(s string) ([16]byte, bool) {
	var out [16]byte
	if len(s) != 26 {
		return out, false
	}
	raw, err := base32lower.DecodeString(s)
	if err != nil || len(raw) != 16 {
		return out, false
	}
	copy(out[:], raw)
	return out, base32lower.EncodeToString(raw) == s
}

// Millis is a moment in milliseconds since 1970 in UTC, the only form of time
// that is stored or sent.
type Millis int64

// ContentType says which Signal Protocol message an envelope carries
// (the outer types of the protocol).
type ContentType uint8

// The content types a homeserver forwards.
const (
	ContentWhisper   ContentType = 2 // SignalMessage
	ContentPreKey    ContentType = 3 // PreKeySignalMessage
	ContentSealed    ContentType = 6 // sealed sender: who sent it stands inside; between servers the only type
	ContentPlaintext ContentType = 8 // PlaintextContent: a decryption error message, nothing else
)

// Valid tells whether t is one of the types above.
func (t ContentType) Valid() bool {
	return t == ContentWhisper || t == ContentPreKey || t == ContentSealed || t == ContentPlaintext
}

// MinSealed is the smallest size of a sealed content in bytes.
const MinSealed = 256

// SealedSize is the size bucket of a sealed content of n bytes with its
// padding: a power of two from MinSealed, or MaxContent. It is 0 for what fits
// none. Who watches envelopes pass learns one of ten sizes.
func SealedSize(n int) int {
	for size := MinSealed; size < MaxContent; size *= 2 {
		if n <= size {
			return size
		}
	}
	if n <= MaxContent {
		return MaxContent
	}
	return 0
}

// DeliveryToken is what a message from another server shows to be delivered:
// its recipient gives it to those who may write, end to end encrypted, and the
// recipient's server checks it. The id of a knock serves as one for the answer.
type DeliveryToken [16]byte

// ParseDeliveryToken accepts 16 bytes that are not all zero.
func ParseDeliveryToken(b []byte) (DeliveryToken, error) {
	var t DeliveryToken
	if len(b) != len(t) || DeliveryToken(b) == t {
		return t, Errorf(CodeBadRequest, "a delivery token has %d bytes", len(t))
	}
	return DeliveryToken(b), nil
}

// Envelope is one ciphertext for one device: what a mailbox holds and a device
// receives. The server reads every field but Content, which it cannot read.
type Envelope struct {
	ID           MessageID
	Sender       UserID     // zero when sealed
	SenderDevice DeviceID   // 0 when sealed
	Origin       ServerName // of a sealed one: the server that sent it, to whose people the certificate inside must belong
	Recipient    UserID
	Device       DeviceID
	Type         ContentType
	AcceptedAt   Millis // stamped by the sender's homeserver
	Content      []byte // at most MaxContent bytes; owned by the envelope
}
