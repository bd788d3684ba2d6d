package wire

import (
	"strconv"

	"github.com/clearbox-im/clearbox"
)

const (
	tokenBytes = len(clearbox.DeliveryToken{})
	maxBlocks  = 1000
)

// KnockRequest is the body of POST /contacts/knocks: the caller asks somebody of
// another server to be accepted. Whether they exist is not told; who accepts
// writes. The same id again gets the first answer.
type KnockRequest struct {
	ID clearbox.MessageID `json:"id"` // 128 random bits, secret: it is the delivery token of the answer
	To string             `json:"to"` // name@server
}

// Check tells whether everything is there.
func (k *KnockRequest) Check() error {
	var f faults
	f.check(k.ID != clearbox.MessageID{}, "/id", "is required")
	_, err := clearbox.ParseAddress(k.To)
	f.addError("/to", err)
	return f.result()
}

// Knock is somebody's wish to be accepted, in a mailbox. It has no text of
// theirs: what it says is vouched for by their server.
type Knock struct {
	ID         clearbox.MessageID `json:"id"`                   // goes with the answer as its delivery token
	From       clearbox.UserID    `json:"from"`                 //
	Address    string             `json:"address"`              // name@server
	AcceptedAt clearbox.Millis    `json:"accepted_at"`          // by their server
	Controller string             `json:"controller,omitempty"` // who runs their server (GDPR, Art. 13 and 14)
	Country    string             `json:"country,omitempty"`    // in which country, ISO 3166-1
}

// KnockAnswer is the body of POST /contacts/knocks/{id}: what became of a knock,
// one's own or one that came. The other side learns nothing of it.
type KnockAnswer struct {
	Action KnockAction `json:"action"`
}

// KnockAction is what to do with a knock.
type KnockAction string

// The actions.
const (
	KnockClose KnockAction = "close" // it was answered or declined; its id delivers nothing any more
	KnockBlock KnockAction = "block" // and the one who knocked may not do so again
)

// Check tells whether the action is known.
func (k *KnockAnswer) Check() error {
	var f faults
	f.check(k.Action == KnockClose || k.Action == KnockBlock, "/action", "must be close or block")
	return f.result()
}

// TokenUpdate is the body of PUT /contacts/token: the caller's delivery token.
// The one before stays valid for 24 hours, so that contacts can learn the new one.
type TokenUpdate struct {
	Token []byte `json:"token"` // 16 random bytes
}

// Check tells whether it is a token.
func (t *TokenUpdate) Check() error {
	var f faults
	_, err := clearbox.ParseDeliveryToken(t.Token)
	f.addError("/token", err)
	return f.result()
}

// Blocks is the answer of GET /contacts/blocks and the body of PUT
// /contacts/blocks, which replaces the set: people whose knocks do not reach
// the caller.
type Blocks struct {
	Users []clearbox.UserID `json:"users"`
}

// Check tells whether everything is there.
func (b *Blocks) Check() error {
	var f faults
	f.check(len(b.Users) <= maxBlocks, "/users", "has at most "+strconv.Itoa(maxBlocks)+" elements")
	for i, u := range b.Users {
		f.check(!u.IsZero(), at("/users", i), "is required")
	}
	return f.result()
}

// SenderCertificate is the answer of GET /contacts/certificate: what the calling
// device encloses in sealed messages.
type SenderCertificate struct {
	Certificate []byte          `json:"certificate"` // of package certificate
	Expires     clearbox.Millis `json:"expires"`     // it must be valid when the message is accepted
}

// ServerInfo is the answer of GET /servers/{name}: what is known of an
// organisation, the own one included.
type ServerInfo struct {
	Server     clearbox.ServerName `json:"server"`
	State      ServerState         `json:"state"`
	Here       bool                `json:"here,omitempty"`  // suspended by this server's administrator, not by the other's
	Since      clearbox.Millis     `json:"since,omitempty"` // when that began, where it is known
	Controller string              `json:"controller,omitempty"`
	Country    string              `json:"country,omitempty"`
	Contact    string              `json:"contact,omitempty"` // for questions about privacy
	Roots      []SenderRoot        `json:"roots,omitempty"`   // under which its people's sender certificates stand
}

// ServerState is how far one can write to an organisation.
type ServerState string

// The states.
const (
	ServerOwn         ServerState = "own"
	ServerReachable   ServerState = "reachable"
	ServerUnreachable ServerState = "unreachable" // it does not answer; what is sent waits
	ServerSuspended   ServerState = "suspended"   // by an administrator: there, what is sent waits; here, it is refused and what was sent before waits
	ServerNotPeered   ServerState = "not_peered"  // nothing is exchanged with it
)

// SenderRoot is a key that signs an organisation's server certificates.
type SenderRoot struct {
	Key       []byte          `json:"key"` // X25519 with its type byte
	NotBefore clearbox.Millis `json:"not_before"`
	Expires   clearbox.Millis `json:"expires"`
}
