package wire

import "github.com/clearbox-im/clearbox"

// Bounds of the identity's bodies.
const (
	minOfflineTTL    = 24 * 3600       // seconds
	maxOfflineTTL    = 365 * 24 * 3600 // seconds
	fingerprintWords = 8
	maxWord          = 32 // bytes
	pinDigits        = 64
)

// AdminIdentity is the answer of GET /admin/identity and of what changes it.
type AdminIdentity struct {
	Server  clearbox.ServerName `json:"server"`
	Words   []string            `json:"words"` // of the identity's fingerprint
	Pin     string              `json:"pin"`   // hexadecimal SHA-256 of the identity key
	Seq     int64               `json:"seq"`   // of the current document
	Issued  clearbox.Millis     `json:"issued"`
	Expires clearbox.Millis     `json:"expires"`

	Offline      bool            `json:"offline"`                 // the key is not on the machine
	OfflineUntil clearbox.Millis `json:"offline_until,omitempty"` // when the documents signed in advance end
	Ahead        int             `json:"ahead,omitempty"`         // how many of them are still to come
	Stale        bool            `json:"stale,omitempty"`         // they cannot say what the configuration says

	PreviousWords []string           `json:"previous_words,omitempty"` // of the identity that signs along after a rotation
	PreviousUntil clearbox.Millis    `json:"previous_until,omitempty"`
	Keys          []AdminIdentityKey `json:"keys"`
}

// AdminIdentityKey is an operational key as the current document lists it.
type AdminIdentityKey struct {
	ID        string          `json:"id"`
	Purpose   string          `json:"purpose"`
	NotBefore clearbox.Millis `json:"not_before"`
	Expires   clearbox.Millis `json:"expires"`
	InUse     bool            `json:"in_use"` // it signs now; others wait, or end
}

// AdminIdentityOffline is the body of POST /admin/identity/offline, answered by
// AdminIdentity. The caller has an export of the identity that opens.
type AdminIdentityOffline struct {
	TTL int64  `json:"ttl_seconds"`
	Pin string `json:"pin"` // of the exported identity
}

// Check bounds the fields.
func (b *AdminIdentityOffline) Check() error {
	var f faults
	f.check(b.TTL >= minOfflineTTL && b.TTL <= maxOfflineTTL, "/ttl_seconds", "is 1 to 365 days")
	f.check(len(b.Pin) == pinDigits, "/pin", "is 64 hexadecimal digits")
	return f.result()
}

// AdminPeerRepin is the body of POST /admin/peers/{server}/repin, answered by
// AdminPeer: the words that the peer's administrator reads out.
type AdminPeerRepin struct {
	Words []string `json:"words"`
}

// Check bounds the fields.
func (b *AdminPeerRepin) Check() error {
	var f faults
	ok := len(b.Words) == fingerprintWords
	for _, w := range b.Words {
		ok = ok && w != "" && len(w) <= maxWord
	}
	f.check(ok, "/words", "are eight words")
	return f.result()
}
