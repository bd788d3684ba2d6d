package wire

import (
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// Bounds of the admin bodies.
const (
	MaxPeerToken   = 4096           // characters of a peering token
	MaxReason      = 200            // bytes of the reason an admin gives
	MaxAdminPage   = 500            // records in one page of an admin list
	MaxInviteTTL   = 90 * 24 * 3600 // seconds
	MaxPeerTTL     = 30 * 24 * 3600 // seconds
	maxAdminRole   = 16             // characters of a role's name
	maxAdminCursor = 128            // characters
	minInviteTTL   = 60             // seconds
)

// AdminUser is a person as admins and moderators see them.
type AdminUser struct {
	User    clearbox.UserID `json:"user"`
	Handle  clearbox.Handle `json:"handle"`
	Role    string          `json:"role"`
	State   string          `json:"state"` // active, banned or erased
	Devices int             `json:"devices"`
	Created clearbox.Millis `json:"created"`
}

// AdminUsers is the answer of GET /admin/users?after=&limit=.
type AdminUsers struct {
	Users []AdminUser `json:"users"`
	Next  string      `json:"next,omitempty"` // for after=; empty on the last page
}

// AdminUserCreate is the body of POST /admin/users: a personal invite that lets
// one person register under this name with this role. Answered by AdminInviteCreated.
type AdminUserCreate struct {
	Handle string `json:"handle"`
	Role   string `json:"role,omitempty"`        // member if empty
	TTL    int64  `json:"ttl_seconds,omitempty"` // the server's default if 0
}

// Check tells whether the name may be used and the bounds are kept.
func (b *AdminUserCreate) Check() error {
	var f faults
	_, err := clearbox.ParseHandle(b.Handle)
	f.addError("/handle", err)
	checkRole(&f, b.Role)
	checkTTL(&f, b.TTL, MaxInviteTTL)
	return f.result()
}

// AdminReason is the body of POST /admin/users/{handle}/ban and /unban. The
// reason goes into the audit log and nowhere else.
type AdminReason struct {
	Reason string `json:"reason,omitempty"`
}

// Check bounds the reason.
func (b *AdminReason) Check() error {
	var f faults
	if b.Reason != "" {
		f.text("/reason", b.Reason, MaxReason)
	}
	return f.result()
}

// AdminRole is the body of POST /admin/users/{handle}/role.
type AdminRole struct {
	Role string `json:"role"`
}

// Check demands a role.
func (b *AdminRole) Check() error {
	var f faults
	f.check(b.Role != "", "/role", "is required")
	checkRole(&f, b.Role)
	return f.result()
}

// AdminReset is the answer of POST /admin/users/{handle}/reset: a code that
// sets a new password once. It is shown once and not stored in the clear.
type AdminReset struct {
	Handle  clearbox.Handle `json:"handle"`
	Code    string          `json:"code"`
	Expires clearbox.Millis `json:"expires"`
}

// AdminInvite is an invite without its code.
type AdminInvite struct {
	ID      string          `json:"id"`
	State   string          `json:"state"` // open, used, revoked or expired
	Role    string          `json:"role"`
	For     clearbox.Handle `json:"for,omitempty"`
	Created clearbox.Millis `json:"created"`
	Expires clearbox.Millis `json:"expires"`
}

// AdminInvites is the answer of GET /admin/invites?after=&limit=.
type AdminInvites struct {
	Invites []AdminInvite `json:"invites"`
	Next    string        `json:"next,omitempty"`
}

// AdminInviteCreate is the body of POST /admin/invites.
type AdminInviteCreate struct {
	For  string `json:"for,omitempty"`         // the name that may register; anyone who has the invite if empty
	Role string `json:"role,omitempty"`        // member if empty
	TTL  int64  `json:"ttl_seconds,omitempty"` // the server's default if 0
}

// Check bounds the fields.
func (b *AdminInviteCreate) Check() error {
	var f faults
	if b.For != "" {
		_, err := clearbox.ParseHandle(b.For)
		f.addError("/for", err)
	}
	checkRole(&f, b.Role)
	checkTTL(&f, b.TTL, MaxInviteTTL)
	return f.result()
}

// AdminInviteCreated is a new invite. Code and Link are shown once.
type AdminInviteCreated struct {
	ID      string          `json:"id"`
	Code    string          `json:"code"`
	Link    string          `json:"link"`
	Role    string          `json:"role"`
	For     clearbox.Handle `json:"for,omitempty"`
	Expires clearbox.Millis `json:"expires"`
}

// AdminPeer is a peer as its operator sees it.
type AdminPeer struct {
	Server       clearbox.ServerName `json:"server"`
	State        string              `json:"state"` // invited, pending, active, suspended, leaving or removed
	Country      string              `json:"country,omitempty"`
	Words        []string            `json:"words,omitempty"` // of its identity key's fingerprint, to be read out
	Pin          string              `json:"pin,omitempty"`   // hexadecimal SHA-256 of its identity key
	Endpoints    []string            `json:"endpoints,omitempty"`
	AllowPrivate bool                `json:"allow_private,omitempty"`
	ClockOffset  int64               `json:"clock_offset_ms,omitempty"`
	LastSeen     clearbox.Millis     `json:"last_seen,omitempty"`
	LastTry      clearbox.Millis     `json:"last_try,omitempty"`
	NextTry      clearbox.Millis     `json:"next_try,omitempty"`
	Failures     int                 `json:"failures,omitempty"`
	LastError    clearbox.Code       `json:"last_error,omitempty"`
	Trouble      string              `json:"trouble,omitempty"` // kind of LastError, see AdminFedQueue
	Since        clearbox.Millis     `json:"since,omitempty"`   // no attempt has succeeded since

	Direction      string          `json:"direction,omitempty"`
	Features       []string        `json:"features,omitempty"`             // exchanged beyond messages
	Envelopes      int64           `json:"envelopes_per_second,omitempty"` // that it may bring; 0: as all peers
	Bytes          int64           `json:"bytes_per_second,omitempty"`     // the same
	FirstUse       bool            `json:"first_use,omitempty"`            // made by the first contact, in mode open
	ProbationUntil clearbox.Millis `json:"probation_until,omitempty"`      // its quotas are a twentieth until then
	Document       clearbox.Millis `json:"document_expires,omitempty"`     // the newest one that is held
	Blocked        string          `json:"blocked,omitempty"`              // why, if it is on the block list
	StateSince     clearbox.Millis `json:"state_since,omitempty"`          // when State began
	Steps          []AdminPeerStep `json:"steps,omitempty"`                // of the end of the peering
}

// AdminPeers is the answer of GET /admin/peers.
type AdminPeers struct {
	Peers  []AdminPeer `json:"peers"`
	Blocks int         `json:"blocks,omitempty"` // entries of the block list, of peers and others
}

// AdminPeerInvite is the body of POST /admin/peers/invite.
type AdminPeerInvite struct {
	Server       clearbox.ServerName `json:"server"`
	Country      string              `json:"country"` // where the peer is, two capital letters
	TTL          int64               `json:"ttl_seconds,omitempty"`
	AllowPrivate bool                `json:"allow_private,omitempty"` // for tests: the peer may have private addresses
}

// Check bounds the fields.
func (b *AdminPeerInvite) Check() error {
	var f faults
	_, err := clearbox.ParseServerName(string(b.Server))
	f.addError("/server", err)
	checkCountry(&f, b.Country)
	checkTTL(&f, b.TTL, MaxPeerTTL)
	return f.result()
}

// AdminPeerInvited is the answer: the token for the other admin. It is shown once.
type AdminPeerInvited struct {
	Server  clearbox.ServerName `json:"server"`
	Token   string              `json:"token"`
	Words   []string            `json:"words"` // of this server's own fingerprint
	Expires clearbox.Millis     `json:"expires"`
}

// AdminPeerAccept is the body of POST /admin/peers/accept, answered by AdminPeer.
type AdminPeerAccept struct {
	Token        string `json:"token"`
	Country      string `json:"country"`
	AllowPrivate bool   `json:"allow_private,omitempty"`
}

// Check bounds the fields.
func (b *AdminPeerAccept) Check() error {
	var f faults
	f.text("/token", b.Token, MaxPeerToken)
	checkCountry(&f, b.Country)
	return f.result()
}

// AdminPeerAccepted is the answer: both fingerprints as words, for reading out.
type AdminPeerAccepted struct {
	Peer AdminPeer `json:"peer"`
	Own  []string  `json:"own_words"`
}

// AdminPeerTest is the answer of POST /admin/peers/{server}/test.
type AdminPeerTest struct {
	Server clearbox.ServerName `json:"server"`
	OK     bool                `json:"ok"`
	Steps  []AdminStep         `json:"steps"`

	// Stopped is why nothing is exchanged with the peer at this server's wish:
	// suspended or blocked.
	Stopped string `json:"stopped,omitempty"`
}

// AdminStep is one step of a test, in the order in which it was done.
type AdminStep struct {
	Name   string        `json:"name"` // such as discovery, tls, identity, http3, signature, clock, round_trip
	OK     bool          `json:"ok"`
	Code   clearbox.Code `json:"code,omitempty"`   // why not
	Detail string        `json:"detail,omitempty"` // for the operator
	Took   int64         `json:"took_ms"`
}

// AdminFedStatus is the answer of GET /admin/fed/status.
type AdminFedStatus struct {
	Mode   string           `json:"mode"`
	Peers  []AdminFedQueue  `json:"peers"`
	Alerts []AdminPeerAlert `json:"alerts"` // what somebody must look at
}

// AdminFedQueue is what waits for one peer, and how it goes.
type AdminFedQueue struct {
	Server      clearbox.ServerName `json:"server"`
	State       string              `json:"state"`
	Queued      int64               `json:"queued"`           // items
	Bytes       int64               `json:"bytes"`            //
	Oldest      clearbox.Millis     `json:"oldest,omitempty"` // when the oldest was accepted
	Failures    int                 `json:"failures,omitempty"`
	NextTry     clearbox.Millis     `json:"next_try,omitempty"`
	LastSeen    clearbox.Millis     `json:"last_seen,omitempty"`
	LastError   clearbox.Code       `json:"last_error,omitempty"`
	Trouble     string              `json:"trouble,omitempty"` // kind of LastError: dns, address, refused, tcp, tls, timeout, http, busy, key, clock, refusal, too_large, identity, protocol
	Since       clearbox.Millis     `json:"since,omitempty"`   // no attempt has succeeded since
	ClockOffset int64               `json:"clock_offset_ms,omitempty"`
	Circuits    []AdminCircuit      `json:"circuits,omitempty"` // those that do not let everything through

	Protocol      string          `json:"protocol,omitempty"`        // h2 or h3: of the connection in use, empty without one
	H3BrokenUntil clearbox.Millis `json:"h3_broken_until,omitempty"` // HTTP/3 did not get through and is not tried before
}

// AdminCircuit is a kind of traffic to a peer that failed and waits, apart from
// the others: txn (the queue), claim (questions that a person waits for), media
// or rights.
type AdminCircuit struct {
	Circuit string          `json:"circuit"`
	Since   clearbox.Millis `json:"since"` // of its first failure in a row
	Until   clearbox.Millis `json:"until"` // when the next attempt may be made
}

// AdminFedRetry is the body of POST /admin/fed/retry, answered by AdminFedRetried.
type AdminFedRetry struct {
	Server clearbox.ServerName `json:"server,omitempty"` // every peer if empty
}

// Check demands a name that could be a server's, if there is one.
func (b *AdminFedRetry) Check() error {
	var f faults
	if b.Server != "" {
		_, err := clearbox.ParseServerName(string(b.Server))
		f.addError("/server", err)
	}
	return f.result()
}

// AdminFedRetried names the peers that are tried now.
type AdminFedRetried struct {
	Servers []clearbox.ServerName `json:"servers"`
}

// AdminAudit is the answer of GET /admin/audit?after=&before=&limit=, oldest
// first: what came after an entry from there on, what came before one up to
// there, or the newest.
type AdminAudit struct {
	Entries []AdminAuditEntry `json:"entries"`
	Next    string            `json:"next,omitempty"`   // there may be newer ones after it
	Before  string            `json:"before,omitempty"` // there may be older ones before it
}

// AdminAuditEntry is one deed. Actor "local" is whoever may open the admin socket.
type AdminAuditEntry struct {
	No     int64           `json:"no"`
	At     clearbox.Millis `json:"at"`
	Actor  string          `json:"actor"` // a handle, "local", or "former" when the account was erased
	Role   string          `json:"role"`
	Action string          `json:"action"`
	Object string          `json:"object,omitempty"` // a handle, an invite's id, a server
	Reason string          `json:"reason,omitempty"` // in the actor's words
	Detail string          `json:"detail,omitempty"`
}

// AdminStatus is the answer of GET /admin/status.
type AdminStatus struct {
	Server  clearbox.ServerName `json:"server"`
	Version Version             `json:"version"`
	Started clearbox.Millis     `json:"started"`
	Now     clearbox.Millis     `json:"now"`
	Users   int64               `json:"users"`
	Peers   int                 `json:"peers"`  // active ones
	Queued  int64               `json:"queued"` // items for peers
	Pin     string              `json:"pin"`    // of this server's identity key
	Words   []string            `json:"words"`  // of the same
	Ready   bool                `json:"ready"`
	Checks  []ReadyCheck        `json:"checks"`

	Goroutines int `json:"goroutines"` // of the process
	OpenFiles  int `json:"open_files"` // descriptors of the process; -1 where it cannot be told
}

// AdminReload is the answer of POST /admin/reload.
type AdminReload struct {
	Applied []string `json:"applied"` // keys that changed and are in force
	Restart []string `json:"restart"` // keys that changed and wait for a restart
}

// AdminPage reads after= and limit= of an admin list: limit is 100 unless told.
// The error is an *InvalidError.
func AdminPage(after, limit string) (cursor string, n int, err error) {
	var f faults
	f.check(len(after) <= maxAdminCursor, "/after", "is too long")
	n = 100
	if limit != "" {
		n, err = strconv.Atoi(limit)
		f.check(err == nil && n >= 1 && n <= MaxAdminPage, "/limit", bounded(MaxAdminPage, "records")+" and at least 1")
	}
	return after, n, f.result()
}

func checkRole(f *faults, role string) {
	for i := range len(role) {
		if role[i] < 'a' || role[i] > 'z' || i >= maxAdminRole {
			f.add("/role", "is not a role")
			return
		}
	}
}

func checkTTL(f *faults, seconds, most int64) {
	f.check(seconds == 0 || seconds >= minInviteTTL && seconds <= most, "/ttl_seconds",
		"is at least "+strconv.Itoa(minInviteTTL)+" and at most "+strconv.FormatInt(most, 10))
}

func checkCountry(f *faults, country string) {
	f.check(clearbox.ValidCountry(country), "/country", "is no country: two capital letters of ISO 3166-1, such as AT")
}
