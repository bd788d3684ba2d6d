// Package auth is responsible for who may speak: accounts and their passwords,
// registration with its notice and consents, sessions with their access and
// refresh tokens, tickets for the socket, and for closing all of these at once
// when a person is banned, logs out, changes the password or loses a device.
//
// It is not responsible for what a caller may do (the role table is in
// server/api), for the keys of devices after registration (server/directory),
// nor for audit rows (server/admin writes them in the transaction of the deed).
package auth

import (
	"context"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// Role is what a person may do beyond messaging.
type Role string

// The roles. What each may do stands in one table in server/api.
const (
	RoleAdmin     Role = "admin"
	RoleModerator Role = "moderator"
	RoleRights    Role = "rights" // works on requests of data subjects
	RoleDPO       Role = "dpo"    // data protection officer: reads, never changes
	RoleMember    Role = "member"
)

// ParseRole accepts the five roles.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case RoleAdmin, RoleModerator, RoleRights, RoleDPO, RoleMember:
		return r, nil
	}
	return "", clearbox.Errorf(clearbox.CodeBadRequest, "a role is one of admin, moderator, rights, dpo, member")
}

// Principal is who speaks, as the handshake or the token established it. It is
// never read from a body or a frame.
type Principal struct {
	User     clearbox.UserID
	UserNo   int64
	Device   clearbox.DeviceID // 0: a session without a device
	DeviceNo int64             // 0: a session without a device
	Role     Role
	Session  string
	Key      storage.KeyID // the person's key in the keystore, for sealing
}

// HasDevice tells whether the session proved a device. One that did not may list
// and remove devices and change the password, nothing else.
func (p Principal) HasDevice() bool { return p.Device != 0 }

type principalKey struct{}

// With returns a context that carries p.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// From returns the principal that With put into ctx.
func From(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}

// Tokens is what a client gets when a session begins or goes on. Access and
// Refresh are secrets and never logged.
type Tokens struct {
	User           clearbox.UserID
	Handle         clearbox.Handle
	Role           Role
	Device         clearbox.DeviceID // 0: a session without a device
	Session        string
	Access         string // JWT
	AccessExpires  clearbox.Millis
	Refresh        string // opaque, for one use
	RefreshExpires clearbox.Millis
}

// Login asks for a session. With Device and Proof it is that device's only
// session: an older one of the same device ends. Without, it is a session
// without a device.
type Login struct {
	Name     string // handle, handle@server or uid@server
	Password string
	Device   clearbox.DeviceID
	Proof    *DeviceProof
	Client   string // opaque key of the caller for rate limits, such as a keyed hash of its address; never stored
}

// DeviceProof shows that the caller holds the device's Ed25519 key.
type DeviceProof struct {
	At        clearbox.Millis // within ProofWindow of the server's clock
	Signature []byte          // Ed25519 by the device key over LoginProof
}

// ProofWindow is how far a proof's time may be from the server's clock. A proof
// is accepted once within it.
const ProofWindow = 5 * time.Minute

// NoticeAck says which privacy notice a person has read: exactly this version
// with exactly this text.
type NoticeAck struct {
	Version string
	Hash    string // lower-case hex of the SHA-256 of the text
}

// Account is what a person sees of the own account.
type Account struct {
	User        clearbox.UserID
	Handle      clearbox.Handle
	Role        Role
	Device      clearbox.DeviceID // of this session; 0 without a device
	Session     string
	Created     clearbox.Millis
	Notice      string // version of the notice that was acknowledged last
	NoticeStale bool   // a newer notice waits for acknowledgement
}
