package wire

import "github.com/clearbox-im/clearbox"

const maxAdminCode = 64 // characters of a code

// AdminDeadLetter is what is kept of a message that a peer did not get: nothing
// of the message, and no name. The sender is an account's number.
type AdminDeadLetter struct {
	No       int64               `json:"no"`
	Peer     clearbox.ServerName `json:"peer"`
	Class    string              `json:"class"`
	Code     clearbox.Code       `json:"code"` // why it was given up
	Message  clearbox.MessageID  `json:"message_id"`
	SenderNo int64               `json:"sender_no,omitempty"` // 0: a report of this server itself
	Known    bool                `json:"recipient_known"`     // whether the sender can be asked for it again
	Accepted clearbox.Millis     `json:"accepted,omitempty"`
	FirstTry clearbox.Millis     `json:"first_try,omitempty"` // 0: it was never tried
	LastTry  clearbox.Millis     `json:"last_try,omitempty"`
	Attempts int                 `json:"attempts"`
	Died     clearbox.Millis     `json:"died"`
	Until    clearbox.Millis     `json:"until"` // when this is forgotten
}

// AdminDeadCount is how many dead letters a peer has for one reason.
type AdminDeadCount struct {
	Peer  clearbox.ServerName `json:"peer"`
	Code  clearbox.Code       `json:"code"`
	Count int64               `json:"count"`
}

// AdminDeadLetters is the answer of GET /admin/fed/dead?peer=&code=&after=&limit=,
// in the order in which they were given up. Counts is of all, whatever was asked for.
type AdminDeadLetters struct {
	Counts  []AdminDeadCount  `json:"counts"`
	Letters []AdminDeadLetter `json:"letters"`
	Next    string            `json:"next,omitempty"`
}

// AdminDeadPick is the body of POST /admin/fed/dead/requeue, answered by
// AdminDeadRequeued, and of POST /admin/fed/dead/drop, answered by
// AdminDeadDropped: one letter, or a peer's, or a peer's with one code.
type AdminDeadPick struct {
	No   int64               `json:"no,omitempty"`
	Peer clearbox.ServerName `json:"peer,omitempty"`
	Code clearbox.Code       `json:"code,omitempty"`
}

// Check demands a letter or a peer, not both.
func (b *AdminDeadPick) Check() error {
	var f faults
	f.check(b.No >= 0, "/no", "is not a number of the list")
	f.check((b.No == 0) != (b.Peer == ""), "/peer", "or /no is needed, and not both")
	if b.Peer != "" {
		_, err := clearbox.ParseServerName(string(b.Peer))
		f.addError("/peer", err)
	}
	f.check(len(b.Code) <= maxAdminCode && (b.Code == "" || b.No == 0), "/code", "goes with a peer")
	return f.result()
}

// AdminDeadRequeued tells how many senders were asked, and how many letters are
// left because nobody can be asked for them.
type AdminDeadRequeued struct {
	Asked int `json:"asked"`
	Left  int `json:"left"`
}

// AdminDeadDropped tells how many were forgotten.
type AdminDeadDropped struct {
	Dropped int64 `json:"dropped"`
}
