package auth

import (
	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/directory/prekeys"
)

// Mode says who may register.
type Mode string

// The modes. Setup codes, which name the person's handle, work in each.
const (
	ModeInvite Mode = "invite"
	ModeOpen   Mode = "open"
	ModeClosed Mode = "closed"
)

// Registration is everything that begins an account. The client chose UID and
// made the keys; the server never sees a private one.
type Registration struct {
	Handle     clearbox.Handle
	UID        clearbox.UID
	Password   string
	Invite     string         // an invite's or a setup code; may be empty in ModeOpen
	DeviceList []byte         // signed keys.DeviceList of uid@server with one device, id 1
	DeviceName string         // for the person's own device list; may be empty
	Keys       prekeys.Upload // of the device
	Notice     NoticeAck      // of the notice in force
	Language   string         // BCP 47, in which notice and consents were shown
	Consents   []Purpose      // what was chosen; everything else stays off
	Client     string         // see Login.Client
}

// PasswordChange replaces the own password.
type PasswordChange struct {
	Old, New string
}

// NewInvite is a permission to register that someone asks for.
type NewInvite struct {
	By   int64           // UserNo; 0 is the local admin
	Role Role            // of the account; empty is member
	For  clearbox.Handle // makes it a setup code for this name; empty: any name
	TTL  clearbox.Millis // milliseconds; 0 is the configured time
}

// Invite is a permission to register. Code is shown once and stored as a hash.
type Invite struct {
	ID      string
	Code    string
	Role    Role
	For     clearbox.Handle
	Expires clearbox.Millis
}
