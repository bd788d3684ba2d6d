package wire

import "github.com/clearbox-im/clearbox"

// Limits of linking a device, in bytes.
const (
	MaxLinkNew  = 96 << 10  // a message of the new device
	MaxLinkOld  = 512 << 10 // a message of a device of the account
	MaxLinkBody = 1 << 20   // a message of either in JSON
)

// LinkOpen is the body of POST /devices/link: the new device opens a room.
type LinkOpen struct {
	ID   clearbox.MessageID `json:"id"`   // 128 random bits; who knows it may read what is in the room
	Body []byte             `json:"body"` // its first message
}

// Check tells whether everything is there.
func (l *LinkOpen) Check() error {
	var f faults
	f.check(l.ID != clearbox.MessageID{}, "/id", "is required")
	f.bytes("/body", l.Body, MaxLinkNew)
	return f.result()
}

// LinkOpened answers POST /devices/link.
type LinkOpened struct {
	Expires clearbox.Millis `json:"expires"` // when the room closes if no device of an account comes
}

// LinkMessage is the body of POST /devices/link/{id}/{side}, and a message of a
// room: opaque to the server.
type LinkMessage struct {
	N    int64  `json:"n"` // 1, 2, 3, … on each side
	Body []byte `json:"body"`
}

// Check tells whether everything is there.
func (m *LinkMessage) Check() error {
	var f faults
	f.check(m.N >= 1 && m.N < 1<<32, "/n", "must be a number from 1")
	f.bytes("/body", m.Body, MaxLinkOld)
	return f.result()
}

// LinkMessages is the answer of GET /devices/link/{id}/{side}?after=&timeout=.
type LinkMessages struct {
	Messages []LinkMessage `json:"messages"` // in their order; none when the time was over
}

// LinkSession is the body of POST /devices/link/{id}/session: the linked device
// begins its first session without the password.
type LinkSession struct {
	Device DeviceProof `json:"device"`
}

// Check tells whether everything is there.
func (l *LinkSession) Check() error {
	var f faults
	l.Device.check(&f)
	return f.result()
}
