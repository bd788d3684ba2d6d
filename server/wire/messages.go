package wire

import (
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// Submission is a message on its way in: one ciphertext per device of each
// recipient, the sender's own other devices included as a recipient of their
// own. It is the body of POST /messages/send and part of send_message.
//
// The id is the idempotency key for 30 days: the same submission again gets
// the first answer, another body under the id is a conflict.
//
// A message to a group names the group, in the epoch that the device knows, and
// is one ciphertext for all members (multi). To holds then what goes to single
// members beside it, such as keys; it may be empty.
type Submission struct {
	ID    clearbox.MessageID `json:"id"`
	To    []Recipient        `json:"to"`
	Group *clearbox.GroupRef `json:"group,omitempty"`
	Multi []byte             `json:"multi,omitempty"` // crypto/fanout's form for many recipients; needs group
}

// Recipient is one account with all of its devices. To people of other servers
// everything is sealed and shows their delivery token, or the id of their knock.
type Recipient struct {
	User      clearbox.UserID `json:"user"`
	Token     []byte          `json:"token,omitempty"` // 16 bytes; for people of other servers
	Envelopes []Outgoing      `json:"envelopes"`
}

// Outgoing is one ciphertext for one device.
type Outgoing struct {
	Device       clearbox.DeviceID    `json:"device"`
	Registration uint16               `json:"registration"` // 14 bits
	Type         clearbox.ContentType `json:"type"`
	Content      []byte               `json:"content"` // 1 to clearbox.MaxContent bytes; sealed: of a size that clearbox.SealedSize gives
}

// Check applies the limits of clearbox and MaxSubmission.
func (s *Submission) Check() error {
	var f faults
	s.check(&f, "")
	return f.result()
}

func (s *Submission) check(f *faults, pointer string) {
	if s.ID == (clearbox.MessageID{}) {
		f.add(pointer+"/id", "is required")
	}
	if len(s.To) == 0 && len(s.Multi) == 0 {
		f.add(pointer+"/to", "is required")
	}
	if s.Group != nil {
		f.check(!s.Group.ID.IsZero(), pointer+"/group/id", "is required")
		f.check(s.Group.Epoch > 0 && s.Group.Epoch < 1<<53, pointer+"/group/epoch", "is a number from 1")
	}
	if s.Multi != nil {
		f.check(s.Group != nil, pointer+"/group", "is required with multi")
		f.check(len(s.Multi) > 0, pointer+"/multi", "is empty")
	}
	if len(s.Multi) > MaxMulti {
		f.addError(pointer+"/multi", clearbox.Errorf(clearbox.CodeTooLarge, "a message to a group has at most %d bytes", MaxMulti))
		return
	}
	envelopes, size := 0, 0
	for i := range s.To {
		to := &s.To[i]
		if problem := s.userFault(i); problem != "" {
			f.add(at(pointer+"/to", i)+"/user", problem)
		}
		f.check(to.Token == nil || len(to.Token) == tokenBytes, at(pointer+"/to", i)+"/token", "has 16 bytes")
		if envelopes += len(to.Envelopes); envelopes > clearbox.MaxEnvelopesPer {
			f.addError(at(pointer+"/to", i)+"/envelopes", clearbox.Errorf(clearbox.CodeTooLarge,
				"a submission has at most %d envelopes", clearbox.MaxEnvelopesPer))
			return
		}
		var seen [128]bool
		for j := range to.Envelopes {
			e := &to.Envelopes[j]
			size += len(e.Content)
			if problem := e.fault(&seen); problem != "" {
				e.report(f, at(at(pointer+"/to", i)+"/envelopes", j), problem)
			}
		}
	}
	if size > MaxSubmission {
		f.addError(pointer+"/to", clearbox.Errorf(clearbox.CodeTooLarge, "a submission has at most %d bytes of content", MaxSubmission))
	}
}

// checkSignal applies the limits of a signal.
func (r *Recipient) checkSignal(f *faults, pointer string) {
	f.check(!r.User.IsZero(), pointer+"/user", "is required")
	f.check(r.Token == nil || len(r.Token) == tokenBytes, pointer+"/token", "has 16 bytes")
	f.check(len(r.Envelopes) > 0 && len(r.Envelopes) <= clearbox.MaxDevices, pointer+"/envelopes", "has 1 to "+strconv.Itoa(clearbox.MaxDevices)+" elements")
	var seen [128]bool
	for i := range min(len(r.Envelopes), clearbox.MaxDevices) {
		e := &r.Envelopes[i]
		if problem := e.fault(&seen); problem != "" {
			e.report(f, at(pointer+"/envelopes", i), problem)
		}
		if len(e.Content) > MaxSignal {
			f.addError(at(pointer+"/envelopes", i)+"/content", clearbox.Errorf(clearbox.CodeTooLarge, "a signal has at most %d bytes of content", MaxSignal))
		}
	}
}

// userFault says what is wrong with the recipient at i, or nothing.
func (s *Submission) userFault(i int) string {
	u := s.To[i].User
	if u.IsZero() {
		return "is required"
	}
	for j := range i {
		if s.To[j].User == u {
			return "appears twice"
		}
	}
	return ""
}

// fault names the first member of e that is wrong; it allocates nothing, since
// every message passes here.
func (e *Outgoing) fault(seen *[128]bool) string {
	switch {
	case e.Device < 1 || e.Device > 127:
		return "/device"
	case seen[e.Device]:
		return "/device twice"
	case e.Registration > 0x3fff:
		return "/registration"
	case !e.Type.Valid():
		return "/type"
	case len(e.Content) == 0:
		return "/content"
	case len(e.Content) > clearbox.MaxContent:
		return "/content size"
	case e.Type == clearbox.ContentSealed && clearbox.SealedSize(len(e.Content)) != len(e.Content):
		return "/content bucket"
	}
	seen[e.Device] = true
	return ""
}

func (e *Outgoing) report(f *faults, pointer, problem string) {
	switch problem {
	case "/device":
		f.add(pointer+problem, "must be a number from 1 to 127")
	case "/device twice":
		f.add(pointer+"/device", "appears twice")
	case "/registration":
		f.add(pointer+problem, "must be a number of 14 bits")
	case "/type":
		f.add(pointer+problem, "must be 2, 3, 6 or 8")
	case "/content bucket":
		f.add(pointer+"/content", "must be padded to a size bucket")
	case "/content":
		f.add(pointer+problem, "is required")
	default:
		f.addError(pointer+"/content", clearbox.Errorf(clearbox.CodeTooLarge, "an envelope has at most %d bytes of content", clearbox.MaxContent))
	}
}

// MessageState says how far a message came, as its sender's server knows it.
// That it reached a device is said by the recipient, encrypted.
type MessageState string

// The states.
const (
	StateAccepted      MessageState = "accepted"      // durable at the sender's server
	StateDelayed       MessageState = "delayed"       // accepted, and the recipient's server is known to be away
	StateAtPeer        MessageState = "at_peer"       // durable at the recipient's server
	StateUndeliverable MessageState = "undeliverable" // given up; a notice with the reason is in the mailbox
	StateUnknown       MessageState = "unknown"       // never seen, or older than 30 days
)

// Receipt answers a submission: it is durable at this server, nothing more.
type Receipt struct {
	ID         clearbox.MessageID `json:"id"`
	Status     MessageState       `json:"status"` // accepted or delayed
	AcceptedAt clearbox.Millis    `json:"accepted_at"`
}

// Envelope is clearbox.Envelope as it is written: the same members in the same
// order, so that one converts into the other, pointers too.
type Envelope struct {
	ID           clearbox.MessageID   `json:"id,omitzero"`             // absent in signals
	Sender       clearbox.UserID      `json:"sender,omitzero"`         // absent when sealed
	SenderDevice clearbox.DeviceID    `json:"sender_device,omitempty"` // absent when sealed
	Origin       clearbox.ServerName  `json:"origin,omitempty"`        // when sealed: the server that sent it
	Recipient    clearbox.UserID      `json:"recipient"`
	Device       clearbox.DeviceID    `json:"device"`
	Type         clearbox.ContentType `json:"type"`
	AcceptedAt   clearbox.Millis      `json:"accepted_at"`
	Content      []byte               `json:"content"`
}

// The compiler holds Envelope to its promise.
var _ = (*Envelope)((*clearbox.Envelope)(nil))

// check tells whether e is whole, if it is there.
func (e *Envelope) check(f *faults, pointer string) {
	if e == nil {
		return
	}
	if e.Type == clearbox.ContentSealed {
		f.check(e.Origin != "", pointer+"/origin", "is required")
		f.check(e.Sender.IsZero(), pointer+"/sender", "does not belong to a sealed envelope")
	} else {
		f.check(!e.Sender.IsZero(), pointer+"/sender", "is required")
	}
	f.check(!e.Recipient.IsZero(), pointer+"/recipient", "is required")
}

// NoticeKind is what a notice reports.
type NoticeKind string

// The kinds of notice.
const (
	NoticeDelayed       NoticeKind = "delayed"       // not yet at the recipient's server; still being tried
	NoticeUndeliverable NoticeKind = "undeliverable" // given up
	NoticeRequeue       NoticeKind = "requeue"       // given up before, and worth another try: the device that wrote it submits the same id anew
)

// Notice is the server's own mail in a mailbox: the fate of a message the
// account sent.
type Notice struct {
	Kind      NoticeKind         `json:"kind"`
	ID        clearbox.MessageID `json:"id"`
	Recipient clearbox.UserID    `json:"recipient"`
	Code      clearbox.Code      `json:"code"`
	FirstTry  clearbox.Millis    `json:"first_try,omitempty"`
	LastTry   clearbox.Millis    `json:"last_try,omitempty"`
	Attempts  int                `json:"attempts,omitempty"`
}

// StatusQuery is the body of POST /messages/status.
type StatusQuery struct {
	IDs []clearbox.MessageID `json:"ids"`
}

// Check applies MaxStatusQuery.
func (q *StatusQuery) Check() error {
	var f faults
	f.check(len(q.IDs) > 0, "/ids", "is required")
	f.check(len(q.IDs) <= MaxStatusQuery, "/ids", "has at most "+strconv.Itoa(MaxStatusQuery)+" elements")
	return f.result()
}

// Statuses answers a StatusQuery in its order.
type Statuses struct {
	States []Status `json:"states"`
}

// Status is the state of one of the caller's messages.
type Status struct {
	ID    clearbox.MessageID `json:"id"`
	State MessageState       `json:"state"`
}

// Sync is the answer of GET /sync: the events that the socket would have sent.
// The next request acknowledges with ack=<highest seq stored>.
type Sync struct {
	Events []ServerFrame `json:"events"`
	Acked  int64         `json:"acked"`
	More   bool          `json:"more"` // ask again at once
}

// HistoryItem is one opaque, end-to-end encrypted piece of the account's own
// archive.
type HistoryItem struct {
	ID           string          `json:"id"`                   // chosen by the device: 1 to 64 of A-Z a-z 0-9 _ -
	Conversation []byte          `json:"conversation"`         // opaque to the server
	Body         []byte          `json:"body"`                 // ciphertext
	Seq          int64           `json:"seq,omitempty"`        // given by the server; not in an upload
	Created      clearbox.Millis `json:"created_at,omitempty"` // given by the server; not in an upload
}

// HistoryUpload is the body of POST /messages/history. An item whose id is
// already there is left as it is.
type HistoryUpload struct {
	Items []HistoryItem `json:"items"`
}

// Check applies the limits of the archive.
func (u *HistoryUpload) Check() error {
	var f faults
	f.check(len(u.Items) > 0, "/items", "is required")
	f.check(len(u.Items) <= MaxHistoryItems, "/items", "has at most "+strconv.Itoa(MaxHistoryItems)+" elements")
	seen := make(map[string]bool, len(u.Items))
	for i := range u.Items {
		it, p := &u.Items[i], at("/items", i)
		f.check(validItemID(it.ID), p+"/id", "must be 1 to 64 of A-Z a-z 0-9 _ -")
		f.check(!seen[it.ID], p+"/id", "appears twice")
		seen[it.ID] = true
		f.bytes(p+"/conversation", it.Conversation, MaxConversation)
		f.bytes(p+"/body", it.Body, MaxHistoryItem)
		f.check(it.Seq == 0, p+"/seq", "is given by the server")
		f.check(it.Created == 0, p+"/created_at", "is given by the server")
	}
	return f.result()
}

func validItemID(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// HistoryStored answers an upload.
type HistoryStored struct {
	Stored int   `json:"stored"` // new items
	Items  int64 `json:"items"`  // in the archive now
	Bytes  int64 `json:"bytes"`  // in the archive now
}

// HistoryPage is the answer of GET /messages/history?cursor=&limit=&direction=.
// Items stand in the order asked for: forward is oldest first.
type HistoryPage struct {
	Items []HistoryItem `json:"items"`
	Next  string        `json:"next,omitempty"`     // cursor onwards in this direction; absent at the end
	Prev  string        `json:"previous,omitempty"` // cursor for the other direction from the first item on
}

// HistoryDeleted answers DELETE /messages/history?id=…&id=… or ?all=true.
type HistoryDeleted struct {
	Deleted int `json:"deleted"`
}
