package wire

import (
	"crypto/ed25519"
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// Registration is the body of POST /auth/register: the account, its first
// device (id 1) and that device's keys, in one transaction.
type Registration struct {
	UID        clearbox.UID `json:"uid"`              // drawn by the client, 128 random bits
	Handle     string       `json:"handle"`           //
	Password   string       `json:"password"`         //
	Invite     string       `json:"invite,omitempty"` // where registration is by invite
	DeviceName string       `json:"device_name"`      //
	DeviceList []byte       `json:"device_list"`      // signed, with exactly one device, id 1
	Keys       Keys         `json:"keys"`             // of device 1
	Notice     NoticeAck    `json:"notice"`           // of the privacy notice that was shown
	Consents   []string     `json:"consents,omitempty"`
}

// Check tells whether everything is there and in bounds; signatures and
// policies are checked by the server's rooms.
func (r *Registration) Check() error {
	var f faults
	_, err := clearbox.ParseUID(string(r.UID))
	f.addError("/uid", err)
	_, err = clearbox.ParseHandle(r.Handle)
	f.addError("/handle", err)
	f.text("/password", r.Password, MaxPassword)
	f.check(len(r.Invite) <= MaxToken, "/invite", "is too long")
	f.text("/device_name", r.DeviceName, MaxDeviceName)
	f.bytes("/device_list", r.DeviceList, MaxDeviceList)
	r.Keys.check(&f, "/keys")
	f.check(r.Keys.Signed != nil, "/keys/signed", "is required")
	f.check(r.Keys.KEM != nil, "/keys/kem", "is required")
	if r.Notice == (NoticeAck{}) {
		f.addError("/notice", clearbox.Errorf(clearbox.CodeNoticeRequired, "the privacy notice must be acknowledged"))
	} else {
		r.Notice.check(&f, "/notice")
	}
	f.check(len(r.Consents) <= 32, "/consents", "has at most 32 elements")
	for i, c := range r.Consents {
		f.text(at("/consents", i), c, 64)
	}
	return f.result()
}

// NoticeAck says which privacy notice the person saw.
type NoticeAck struct {
	Version  string `json:"version"`
	Hash     string `json:"hash"` // as GET /notice gave it
	Language string `json:"language,omitempty"`
}

// Check tells whether the notice is named; it is the body of PUT /me/notice too.
func (n *NoticeAck) Check() error {
	var f faults
	n.check(&f, "")
	return f.result()
}

func (n *NoticeAck) check(f *faults, pointer string) {
	f.text(pointer+"/version", n.Version, 64)
	f.text(pointer+"/hash", n.Hash, 128)
	f.check(len(n.Language) <= 35, pointer+"/language", bounded(35, "bytes"))
}

// Login is the body of POST /auth/login. Without a device the session can list
// and remove devices and change the password, nothing else.
type Login struct {
	Handle   string       `json:"handle"`
	Password string       `json:"password"`
	Device   *DeviceProof `json:"device,omitempty"`
}

// DeviceProof shows that the caller holds a device's key.
type DeviceProof struct {
	Device    clearbox.DeviceID `json:"device"`
	At        clearbox.Millis   `json:"at"`        // now; at most 5 minutes off
	Signature []byte            `json:"signature"` // Ed25519 over LoginProof
}

// Check tells whether everything is there. A name that cannot exist is not
// told apart from one that does not: the server answers bad_credentials.
func (l *Login) Check() error {
	var f faults
	f.text("/handle", l.Handle, clearbox.MaxHandle)
	f.text("/password", l.Password, MaxPassword)
	if l.Device != nil {
		l.Device.check(&f)
	}
	return f.result()
}

func (d *DeviceProof) check(f *faults) {
	f.check(d.Device >= 1 && d.Device <= 127, "/device/device", "must be a number from 1 to 127")
	f.check(d.At > 0, "/device/at", "is required")
	f.check(len(d.Signature) == ed25519.SignatureSize, "/device/signature", "has 64 bytes")
}

// LoginProof is what a device signs with its Ed25519 key to log in: it binds
// the server, the account, the device and the moment. Every part has its
// length before it, so that no two inputs give the same bytes.
func LoginProof(server clearbox.ServerName, uid clearbox.UID, device clearbox.DeviceID, at clearbox.Millis) []byte {
	out := []byte("ClearBox login proof v1\x00")
	out = append(out, byte(len(server)))
	out = append(out, server...)
	out = append(out, byte(len(uid)))
	out = append(out, uid...)
	out = append(out, byte(device))
	for shift := 56; shift >= 0; shift -= 8 {
		out = append(out, byte(at>>shift))
	}
	return out
}

// Tokens is the answer of register, login and refresh.
type Tokens struct {
	Access         string            `json:"access_token"` // 15 minutes
	AccessExpires  clearbox.Millis   `json:"access_expires"`
	Refresh        string            `json:"refresh_token"` // once; a second use revokes the session
	RefreshExpires clearbox.Millis   `json:"refresh_expires"`
	Session        string            `json:"session"`
	User           clearbox.UserID   `json:"user"`
	Address        string            `json:"address"`          // handle@server
	Device         clearbox.DeviceID `json:"device,omitempty"` // absent: a session without a device
	Role           string            `json:"role"`
}

// Refresh is the body of POST /auth/refresh.
type Refresh struct {
	Token string `json:"refresh_token"`
}

// Check tells whether a token is there.
func (r *Refresh) Check() error {
	var f faults
	f.text("/refresh_token", r.Token, MaxToken)
	return f.result()
}

// Ticket is the answer of POST /auth/ticket: a token for the URL of one socket.
type Ticket struct {
	Ticket  string          `json:"ticket"`
	Expires clearbox.Millis `json:"expires"` // 30 seconds from now
}

// PasswordChange is the body of POST /auth/password. All sessions end; the
// answer is Tokens of a new one.
type PasswordChange struct {
	Old string `json:"old_password"`
	New string `json:"new_password"`
}

// Check tells whether both are there.
func (p *PasswordChange) Check() error {
	var f faults
	f.text("/old_password", p.Old, MaxPassword)
	f.text("/new_password", p.New, MaxPassword)
	return f.result()
}

// PasswordReset is the body of POST /auth/reset, with the code that an admin
// handed over. All sessions end.
type PasswordReset struct {
	Code string `json:"code"`
	New  string `json:"new_password"`
}

// Check tells whether both are there.
func (p *PasswordReset) Check() error {
	var f faults
	f.text("/code", p.Code, MaxToken)
	f.text("/new_password", p.New, MaxPassword)
	return f.result()
}

// PrivacyNotice is the answer of GET /notice: what a person reads before
// registering (GDPR, Art. 13).
type PrivacyNotice struct {
	Version  string    `json:"version"`
	Hash     string    `json:"hash"`
	Language string    `json:"language"`
	Text     string    `json:"text"`
	Purposes []Purpose `json:"purposes,omitempty"` // that ask for consent, each opt-in
}

// Purpose is something done only with consent.
type Purpose struct {
	Name string `json:"name"`
	Text string `json:"text,omitempty"`
}

// Consents is the answer of GET /me/consents: the latest word per purpose.
type Consents struct {
	Consents []Consent `json:"consents"`
}

// Consent is the account's latest word on one purpose.
type Consent struct {
	Purpose       string          `json:"purpose"`
	Granted       bool            `json:"granted"`
	Stale         bool            `json:"stale,omitempty"` // granted under an older notice: counts as not granted
	NoticeVersion string          `json:"notice_version,omitempty"`
	Language      string          `json:"language,omitempty"`
	At            clearbox.Millis `json:"at,omitempty"`
}

// ConsentGrant is the body of PUT /me/consents/{purpose}: the notice that the
// person saw.
type ConsentGrant struct {
	Notice NoticeAck `json:"notice"`
}

// Check tells whether the notice is named.
func (g *ConsentGrant) Check() error {
	var f faults
	g.Notice.check(&f, "/notice")
	return f.result()
}

// Me is the answer of GET /me.
type Me struct {
	User    clearbox.UserID   `json:"user"`
	Address string            `json:"address"`
	Role    string            `json:"role"`
	Device  clearbox.DeviceID `json:"device,omitempty"`
	Session string            `json:"session"`
	Created clearbox.Millis   `json:"created_at"`
	Notice  string            `json:"notice"` // version that was acknowledged last
	Stale   bool              `json:"notice_stale,omitempty"`
}

func bounded(n int, what string) string { return "has at most " + strconv.Itoa(n) + " " + what }
