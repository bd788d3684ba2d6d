package wire

import (
	"slices"
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// FrameType names a frame.
type FrameType string

// Frames of a client.
const (
	FrameSend  FrameType = "send_message" // ref, submission; answered by sent or error with the same ref
	FrameAck   FrameType = "ack"          // seq: everything up to it is stored by the device; no answer, but an error when nothing with it was ever delivered
	FrameWatch FrameType = "watch"        // users, and tokens of those elsewhere: replaces the set whose user_online the client wants; ref is optional
	// FrameSignal is for what has no worth a moment later, such as typing. Of a
	// client: to. Of a server: signal. It reaches open sockets or nobody, is never
	// stored and never answered, and is dropped where there is too much of it.
	FrameSignal FrameType = "signal"
)

// Frames of a server.
const (
	FrameWelcome FrameType = "welcome"         // first: session, device, max_frame, acked, server_time
	FrameSent    FrameType = "sent"            // ref, receipt: durable at this server
	FrameError   FrameType = "error"           // problem, and ref if it answers a frame
	FrameReceive FrameType = "receive_message" // seq, and envelope, notice, knock or group
	FrameStatus  FrameType = "message_status"  // id, state; best effort, POST /messages/status is the truth
	FrameOnline  FrameType = "user_online"     // user, online, and presence of users elsewhere; only of users who consented to it
	FrameDrain   FrameType = "draining"        // retry_after: reconnect after that many milliseconds
	FrameKeysLow FrameType = "keys_low"        // the device has few one-time keys left here: it should upload more now
)

// ClientFrame is every frame that a client sends: Type says which of the other
// members must be there; the rest must not be.
//
// Order: the messages of one socket are accepted in the order of their frames.
// At most WindowSends may be unanswered.
type ClientFrame struct {
	Type       FrameType         `json:"type"`
	Ref        uint64            `json:"ref,omitempty"` // chosen by the client, echoed; not 0 in send_message
	Submission *Submission       `json:"submission,omitempty"`
	Seq        int64             `json:"seq,omitempty"`
	Users      []clearbox.UserID `json:"users,omitempty"`
	Tokens     []WatchToken      `json:"tokens,omitempty"` // watch
	To         *Recipient        `json:"to,omitempty"`     // signal; envelopes of at most MaxSignal bytes
}

// WatchToken is the delivery token of a watched user of another server.
type WatchToken struct {
	User  clearbox.UserID `json:"user"`
	Token []byte          `json:"token"` // 16 bytes
}

// Presence is how a user of another server is seen: never more exactly than
// that, and at most once a minute.
type Presence string

// The values.
const (
	PresenceActive Presence = "active" // online
	PresenceRecent Presence = "recent" // was online today or yesterday, by UTC
	PresenceAway   Presence = "away"   // neither, or it is not known
)

// Check tells whether the frame has what its type asks for and nothing else.
func (c *ClientFrame) Check() error {
	var f faults
	only := func(members ...string) {
		for _, m := range [...]struct {
			name  string
			there bool
		}{
			{"/ref", c.Ref != 0}, {"/submission", c.Submission != nil}, {"/seq", c.Seq != 0},
			{"/users", c.Users != nil}, {"/tokens", c.Tokens != nil}, {"/to", c.To != nil},
		} {
			f.check(!m.there || slices.Contains(members, m.name), m.name, "does not belong to this frame")
		}
	}
	switch c.Type {
	case FrameSend:
		f.check(c.Ref != 0, "/ref", "is required")
		only("/ref", "/submission")
		if c.Submission == nil {
			f.add("/submission", "is required")
			break
		}
		c.Submission.check(&f, "/submission")
	case FrameAck:
		f.check(c.Seq > 0, "/seq", "is required and positive")
		only("/seq")
	case FrameWatch:
		only("/ref", "/users", "/tokens")
		c.checkWatch(&f)
	case FrameSignal:
		only("/to")
		if c.To == nil {
			f.add("/to", "is required")
			break
		}
		c.To.checkSignal(&f, "/to")
	default:
		f.add("/type", "is not a known frame")
	}
	return f.result()
}

func (c *ClientFrame) checkWatch(f *faults) {
	f.check(len(c.Users) <= MaxWatch, "/users", "has at most "+strconv.Itoa(MaxWatch)+" elements")
	for i, u := range c.Users {
		f.check(!u.IsZero(), at("/users", i), "is required")
	}
	f.check(len(c.Tokens) <= MaxWatch, "/tokens", "has at most "+strconv.Itoa(MaxWatch)+" elements")
	for i := range c.Tokens {
		f.check(!c.Tokens[i].User.IsZero(), at("/tokens", i)+"/user", "is required")
		f.check(len(c.Tokens[i].Token) == tokenBytes, at("/tokens", i)+"/token", "has 16 bytes")
	}
}

// ServerFrame is every frame that a server sends, and the event of GET /sync:
// Type says which of the other members are there. A number that is absent is 0.
// Clients skip frame types and members that they do not know.
type ServerFrame struct {
	Type FrameType `json:"type"`

	Ref     uint64   `json:"ref,omitempty"`     // sent, error
	Receipt *Receipt `json:"receipt,omitempty"` // sent
	Problem *Problem `json:"problem,omitempty"` // error

	// Seq rises by at least 1 from message to message of one device. After a
	// reconnect everything after the last acknowledged one comes again.
	Seq      int64       `json:"seq,omitempty"`      // receive_message
	Envelope *Envelope   `json:"envelope,omitempty"` // receive_message
	Notice   *Notice     `json:"notice,omitempty"`   // receive_message
	Knock    *Knock      `json:"knock,omitempty"`    // receive_message
	Group    *GroupEvent `json:"group,omitempty"`    // receive_message

	ID    clearbox.MessageID `json:"id,omitzero"`     // message_status
	State MessageState       `json:"state,omitempty"` // message_status

	User     clearbox.UserID `json:"user,omitzero"`      // user_online
	Online   *bool           `json:"online,omitempty"`   // user_online
	Presence Presence        `json:"presence,omitempty"` // user_online, of users elsewhere

	Signal *Envelope `json:"signal,omitempty"` // signal; without an id

	Session    string            `json:"session,omitempty"`     // welcome
	Device     clearbox.DeviceID `json:"device,omitempty"`      // welcome
	MaxFrame   int               `json:"max_frame,omitempty"`   // welcome; bytes, both directions
	Acked      int64             `json:"acked,omitempty"`       // welcome; the highest acknowledged seq
	ServerTime clearbox.Millis   `json:"server_time,omitempty"` // welcome

	RetryAfter int64 `json:"retry_after,omitempty"` // draining; milliseconds
}

// Check tells whether the frame has what its type asks for and whether what is
// there is whole, so that a client need not look again.
func (s *ServerFrame) Check() error {
	var f faults
	switch s.Type {
	case "":
		f.add("/type", "is required")
	case FrameSent:
		f.check(s.Receipt != nil, "/receipt", "is required")
	case FrameError:
		f.check(s.Problem != nil, "/problem", "is required")
	case FrameReceive:
		f.check(s.Seq > 0, "/seq", "is required and positive")
		n := 0
		for _, there := range []bool{s.Envelope != nil, s.Notice != nil, s.Knock != nil, s.Group != nil} {
			if there {
				n++
			}
		}
		f.check(n == 1, "/envelope", "or a notice, a knock or a group is required")
	case FrameStatus:
		f.check(s.ID != clearbox.MessageID{} && s.State != "", "/id", "is required with a state")
	case FrameSignal:
		f.check(s.Signal != nil, "/signal", "is required")
	case FrameOnline:
		f.check(!s.User.IsZero() && s.Online != nil, "/user", "is required with online")
	}
	s.Envelope.check(&f, "/envelope")
	s.Signal.check(&f, "/signal")
	if n := s.Notice; n != nil {
		f.check(!n.Recipient.IsZero(), "/notice/recipient", "is required")
	}
	if k := s.Knock; k != nil {
		f.check(!k.From.IsZero(), "/knock/from", "is required")
	}
	if g := s.Group; g != nil {
		f.check(!g.Group.IsZero() && (len(g.Op) != 0) != g.Ended, "/group/group", "is required with an operation or an end")
	}
	if s.Problem != nil && s.Problem.Stale != nil {
		f.check(!s.Problem.Stale.User.IsZero(), "/problem/stale_devices/user", "is required")
	}
	return f.result()
}

// ParseClientFrame reads one frame of a client strictly and checks it. The
// error is an *InvalidError. The frame does not alias data.
func ParseClientFrame(f Format, data []byte) (*ClientFrame, error) {
	if len(data) > MaxFrame {
		return nil, tooLarge("", "a frame has at most "+strconv.Itoa(MaxFrame)+" bytes")
	}
	if f == CBOR {
		if c, ok := readHotClient(data); ok {
			if err := c.Check(); err != nil {
				return nil, err
			}
			return c, nil
		}
	}
	var c ClientFrame
	if err := Decode(f, data, &c); err != nil {
		return nil, err
	}
	return &c, nil
}

// ParseServerFrame reads one frame of a server. The frame does not alias data.
func ParseServerFrame(f Format, data []byte) (*ServerFrame, error) {
	if len(data) > MaxFrame {
		return nil, tooLarge("", "a frame has at most "+strconv.Itoa(MaxFrame)+" bytes")
	}
	if f == CBOR {
		if s, ok := readHotServer(data); ok {
			if err := s.Check(); err != nil {
				return nil, err
			}
			return s, nil
		}
	}
	var s ServerFrame
	if err := DecodeAnswer(f, data, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// AppendClientFrame writes c after dst and returns the longer slice.
func AppendClientFrame(dst []byte, f Format, c *ClientFrame) ([]byte, error) {
	if f == CBOR {
		if out, ok := appendHotClient(dst, c); ok {
			return out, nil
		}
	}
	return Append(f, dst, c)
}

// AppendServerFrame writes s after dst and returns the longer slice.
func AppendServerFrame(dst []byte, f Format, s *ServerFrame) ([]byte, error) {
	if f == CBOR {
		if out, ok := appendHotServer(dst, s); ok {
			return out, nil
		}
	}
	return Append(f, dst, s)
}

func tooLarge(pointer, detail string) *InvalidError {
	e := invalid(pointer, detail)
	e.cause = clearbox.Errorf(clearbox.CodeTooLarge, "%s", detail)
	return e
}
