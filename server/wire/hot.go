package wire

import (
	"bytes"
	"encoding/base32"
	"encoding/binary"
	"math"

	"github.com/clearbox-im/clearbox"
)

// The frames that every message needs (send_message, ack, sent, receive_message
// with an envelope) are written and read in CBOR by hand, which costs a third
// of the time. The general codec stays the truth: what is written here is byte
// for byte what it writes, and what is read here is only what it writes;
// anything else, however valid, is left to it. Tests and fuzzing compare both.

// The heads of CBOR items (RFC 8949, 3).
const (
	majorUint  = 0 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorArray = 4 << 5
)

// The constant parts, each a run of map heads, keys and known values in the
// deterministic order: shorter keys first, then by their bytes.
const (
	hotReceive1 = "\xa3\x63seq"
	hotReceive2 = "\x64type\x6freceive_message\x68envelope"
	hotOpen     = "\xa8\x62id" // an envelope that names its sender
	hotSealed   = "\xa7\x62id" // and one that does not
	hotType     = "\x64type"
	hotDevice   = "\x66device"
	hotSender   = "\x66sender"
	hotOrigin   = "\x66origin"
	hotContent  = "\x67content"
	hotTo       = "\x69recipient"
	hotAccepted = "\x6baccepted_at"
	hotSenderNo = "\x6dsender_device"

	hotSent1  = "\xa3\x63ref"
	hotSent2  = "\x64type\x64sent\x67receipt\xa3\x62id"
	hotStatus = "\x66status"

	hotSend1    = "\xa3\x63ref"
	hotSend2    = "\x64type\x6csend_message\x6asubmission"
	hotPlain    = "\xa2\x62id" // a submission to people
	hotGrouped  = "\xa3\x62id" // one to members of a group
	hotMany     = "\xa4\x62id" // and one to all of them
	hotGroup    = "\x65group\xa2\x62id"
	hotEpoch    = "\x65epoch"
	hotMulti    = "\x65multi"
	hotSendTo   = "\x62to"
	hotUser     = "\xa2\x64user" // a recipient without a token
	hotUserTok  = "\xa3\x64user" // and one with it
	hotToken    = "\x65token"
	hotEnvelope = "\x69envelopes"
	hotOut      = "\xa4\x64type"
	hotReg      = "\x6cregistration"

	hotAck1 = "\xa2\x63seq"
	hotAck2 = "\x64type\x63ack"
)

// idText is the alphabet of clearbox's ids.
var idText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const (
	idLen      = 26 // characters of 128 bits in base32
	groupIDLen = 52 // and of 256
)

func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// appendInt writes a signed number (RFC 8949, 3.1: minus one minus n).
func appendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendHead(b, 1<<5, uint64(-(n + 1)))
	}
	return appendHead(b, majorUint, uint64(n))
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

func appendID(b []byte, id clearbox.MessageID) []byte {
	return idText.AppendEncode(appendHead(b, majorText, idLen), id[:])
}

func appendUser(b []byte, u clearbox.UserID) []byte {
	if u.IsZero() {
		return appendText(b, "")
	}
	b = appendHead(b, majorText, uint64(len(u.UID)+1+len(u.Server)))
	b = append(b, u.UID...)
	b = append(b, '@')
	return append(b, u.Server...)
}

func appendBytes(b, content []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(content))), content...)
}

// appendHotServer writes s if it is one of the frequent frames.
func appendHotServer(b []byte, s *ServerFrame) ([]byte, bool) {
	switch {
	case s.Type == FrameReceive && s.Envelope != nil && *s == (ServerFrame{Type: FrameReceive, Seq: s.Seq, Envelope: s.Envelope}) && s.Seq != 0:
		e := s.Envelope
		open := !e.Sender.IsZero() && e.SenderDevice != 0 && e.Origin == ""
		if sealed := e.Sender.IsZero() && e.SenderDevice == 0 && e.Origin != ""; !open && !sealed || e.ID == (clearbox.MessageID{}) {
			return b, false
		}
		b = append(appendInt(append(b, hotReceive1...), s.Seq), hotReceive2...)
		if open {
			b = append(b, hotOpen...)
		} else {
			b = append(b, hotSealed...)
		}
		b = appendID(b, e.ID)
		b = appendHead(append(b, hotType...), majorUint, uint64(e.Type))
		b = appendHead(append(b, hotDevice...), majorUint, uint64(e.Device))
		if open {
			b = appendUser(append(b, hotSender...), e.Sender)
		} else {
			b = appendText(append(b, hotOrigin...), string(e.Origin))
		}
		b = appendBytes(append(b, hotContent...), e.Content)
		b = appendUser(append(b, hotTo...), e.Recipient)
		b = appendInt(append(b, hotAccepted...), int64(e.AcceptedAt))
		if open {
			b = appendHead(append(b, hotSenderNo...), majorUint, uint64(e.SenderDevice))
		}
		return b, true
	case s.Type == FrameSent && s.Receipt != nil && *s == (ServerFrame{Type: FrameSent, Ref: s.Ref, Receipt: s.Receipt}) && s.Ref != 0:
		b = appendHead(append(b, hotSent1...), majorUint, s.Ref)
		b = appendID(append(b, hotSent2...), s.Receipt.ID)
		b = appendText(append(b, hotStatus...), string(s.Receipt.Status))
		return appendInt(append(b, hotAccepted...), int64(s.Receipt.AcceptedAt)), true
	}
	return b, false
}

// appendHotClient writes c if it is one of the frequent frames.
func appendHotClient(b []byte, c *ClientFrame) ([]byte, bool) {
	switch {
	case c.Type == FrameAck && c.Seq != 0 && c.Ref == 0 && c.Submission == nil && len(c.Users) == 0 && len(c.Tokens) == 0 && c.To == nil:
		return append(appendInt(append(b, hotAck1...), c.Seq), hotAck2...), true
	case c.Type == FrameSend && c.Ref != 0 && c.Submission != nil && c.Seq == 0 && len(c.Users) == 0 && len(c.Tokens) == 0 && c.To == nil:
		b = appendHead(append(b, hotSend1...), majorUint, c.Ref)
		group, multi := c.Submission.Group, c.Submission.Multi
		switch b = append(b, hotSend2...); {
		case group == nil && len(multi) == 0:
			b = append(b, hotPlain...)
		case group == nil || group.Epoch == 0 || group.ID.IsZero():
			return b, false
		case len(multi) == 0:
			b = append(b, hotGrouped...)
		default:
			b = append(b, hotMany...)
		}
		b = appendID(b, c.Submission.ID)
		b = appendHead(append(b, hotSendTo...), majorArray, uint64(len(c.Submission.To)))
		for i := range c.Submission.To {
			to := &c.Submission.To[i]
			if len(to.Token) == 0 {
				b = appendUser(append(b, hotUser...), to.User)
			} else {
				b = appendUser(append(b, hotUserTok...), to.User)
				b = appendBytes(append(b, hotToken...), to.Token)
			}
			b = appendHead(append(b, hotEnvelope...), majorArray, uint64(len(to.Envelopes)))
			for j := range to.Envelopes {
				e := &to.Envelopes[j]
				b = appendHead(append(b, hotOut...), majorUint, uint64(e.Type))
				b = appendHead(append(b, hotDevice...), majorUint, uint64(e.Device))
				b = appendBytes(append(b, hotContent...), e.Content)
				b = appendHead(append(b, hotReg...), majorUint, uint64(e.Registration))
			}
		}
		if group != nil {
			b = idText.AppendEncode(appendHead(append(b, hotGroup...), majorText, groupIDLen), group.ID[:])
			b = appendHead(append(b, hotEpoch...), majorUint, group.Epoch)
		}
		if len(multi) > 0 {
			b = appendBytes(append(b, hotMulti...), multi)
		}
		return b, true
	}
	return b, false
}

// hotReader takes the parts of a frame off the front. After the first thing
// that is not as expected off is set and what it gives is meaningless.
type hotReader struct {
	b   []byte
	off bool
}

func (r *hotReader) lit(s string) {
	if len(r.b) < len(s) || string(r.b[:len(s)]) != s {
		r.off = true
		return
	}
	r.b = r.b[len(s):]
}

// head reads a head of the major type in its shortest form.
func (r *hotReader) head(major byte, most uint64) uint64 {
	if r.off || len(r.b) == 0 || r.b[0]&0xe0 != major {
		r.off = true
		return 0
	}
	n, least, size := uint64(r.b[0]&0x1f), uint64(0), 0
	switch n {
	case 24:
		least, size = 24, 1
	case 25:
		least, size = math.MaxUint8+1, 2
	case 26:
		least, size = math.MaxUint16+1, 4
	case 27:
		least, size = math.MaxUint32+1, 8
	case 28, 29, 30, 31:
		r.off = true
		return 0
	}
	if len(r.b) < 1+size {
		r.off = true
		return 0
	}
	if size > 0 {
		n = 0
		for _, c := range r.b[1 : 1+size] {
			n = n<<8 | uint64(c)
		}
	}
	if n < least || n > most {
		r.off = true
		return 0
	}
	r.b = r.b[1+size:]
	return n
}

// take gives the next n bytes; they alias the frame.
func (r *hotReader) take(n uint64) []byte {
	if r.off || uint64(len(r.b)) < n {
		r.off = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// id reads a message id: the alphabet's 26 characters, of the last only 3 bits.
func (r *hotReader) id() (id clearbox.MessageID) {
	if r.head(majorText, idLen) != idLen {
		r.off = true
		return id
	}
	s := r.take(idLen)
	if !validUID(s) {
		r.off = true
		return id
	}
	if n, err := idText.Decode(id[:], s); err != nil || n != len(id) {
		r.off = true
	}
	return id
}

// validUID tells what clearbox.ParseUID tells, without memory.
func validUID(s []byte) bool {
	if len(s) != idLen {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= '2' && c <= '7') {
			return false
		}
	}
	last := s[idLen-1]
	if last >= 'a' {
		return (last-'a')&3 == 0
	}
	return (last-'2'+26)&3 == 0
}

// user reads uid@server.
func (r *hotReader) user() clearbox.UserID {
	s := r.take(r.head(majorText, idLen+1+clearbox.MaxServerName))
	if r.off || len(s) <= idLen || s[idLen] != '@' || !validUID(s[:idLen]) {
		r.off = true
		return clearbox.UserID{}
	}
	text := string(s)
	server, err := clearbox.ParseServerName(text[idLen+1:])
	if err != nil {
		r.off = true
	}
	return clearbox.UserID{UID: clearbox.UID(text[:idLen]), Server: server}
}

// token reads a delivery token; another length is left to the general codec.
func (r *hotReader) token() []byte {
	n := r.head(majorBytes, uint64(tokenBytes))
	r.off = r.off || n != uint64(tokenBytes)
	return bytes.Clone(r.take(n))
}

// origin reads a server name.
func (r *hotReader) origin() clearbox.ServerName {
	name, err := clearbox.ParseServerName(string(r.take(r.head(majorText, clearbox.MaxServerName))))
	r.off = r.off || err != nil
	return name
}

func (r *hotReader) content() []byte {
	return bytes.Clone(r.take(r.head(majorBytes, MaxFrame)))
}

func (r *hotReader) millis() clearbox.Millis {
	return clearbox.Millis(r.head(majorUint, math.MaxInt64))
}

// done tells whether all was as expected and nothing is left.
func (r *hotReader) done() bool { return !r.off && len(r.b) == 0 }

// readHotClient reads data if it is one of the frequent frames.
func readHotClient(data []byte) (*ClientFrame, bool) {
	r := hotReader{b: data}
	if bytes.HasPrefix(data, []byte(hotAck1)) {
		r.lit(hotAck1)
		seq := r.head(majorUint, math.MaxInt64)
		r.lit(hotAck2)
		return &ClientFrame{Type: FrameAck, Seq: int64(seq)}, r.done()
	}
	r.lit(hotSend1)
	c := &ClientFrame{Type: FrameSend, Ref: r.head(majorUint, math.MaxUint64)}
	r.lit(hotSend2)
	if r.off {
		return nil, false
	}
	grouped, many := bytes.HasPrefix(r.b, []byte(hotGrouped)), bytes.HasPrefix(r.b, []byte(hotMany))
	switch {
	case grouped:
		r.lit(hotGrouped)
	case many:
		r.lit(hotMany)
	default:
		r.lit(hotPlain)
	}
	s := &Submission{ID: r.id()}
	c.Submission = s
	r.lit(hotSendTo)
	s.To = make([]Recipient, r.head(majorArray, clearbox.MaxEnvelopesPer))
	for i := range s.To {
		if bytes.HasPrefix(r.b, []byte(hotUserTok)) {
			r.lit(hotUserTok)
			s.To[i].User = r.user()
			r.lit(hotToken)
			s.To[i].Token = r.token()
		} else {
			r.lit(hotUser)
			s.To[i].User = r.user()
		}
		r.lit(hotEnvelope)
		out := make([]Outgoing, r.head(majorArray, clearbox.MaxEnvelopesPer))
		s.To[i].Envelopes = out
		for j := range out {
			r.lit(hotOut)
			out[j].Type = clearbox.ContentType(r.head(majorUint, math.MaxUint8))
			r.lit(hotDevice)
			out[j].Device = clearbox.DeviceID(r.head(majorUint, math.MaxUint8))
			r.lit(hotContent)
			out[j].Content = r.content()
			r.lit(hotReg)
			out[j].Registration = uint16(r.head(majorUint, math.MaxUint16))
			if r.off {
				return nil, false
			}
		}
		if r.off {
			return nil, false
		}
	}
	if grouped || many {
		s.Group = r.group()
	}
	if many {
		r.lit(hotMulti)
		s.Multi = r.content()
	}
	return c, r.done()
}

// group reads in which state of which group something was sent.
func (r *hotReader) group() *clearbox.GroupRef {
	r.lit(hotGroup)
	id, err := clearbox.ParseGroupID(string(r.take(r.head(majorText, groupIDLen))))
	r.off = r.off || err != nil
	r.lit(hotEpoch)
	return &clearbox.GroupRef{ID: id, Epoch: r.head(majorUint, math.MaxInt64)}
}

// readHotServer reads data if it is one of the frequent frames.
func readHotServer(data []byte) (*ServerFrame, bool) {
	r := hotReader{b: data}
	if bytes.HasPrefix(data, []byte(hotReceive1)) {
		return r.receive()
	}
	r.lit(hotSent1)
	s := &ServerFrame{Type: FrameSent, Ref: r.head(majorUint, math.MaxUint64)}
	r.lit(hotSent2)
	if r.off {
		return nil, false
	}
	s.Receipt = &Receipt{ID: r.id()}
	r.lit(hotStatus)
	switch status := MessageState(r.take(r.head(majorText, 32))); status { // a known one costs no memory of its own
	case StateAccepted:
		s.Receipt.Status = StateAccepted
	case StateDelayed:
		s.Receipt.Status = StateDelayed
	default:
		return nil, false
	}
	r.lit(hotAccepted)
	s.Receipt.AcceptedAt = r.millis()
	return s, r.done()
}

func (r *hotReader) receive() (*ServerFrame, bool) {
	r.lit(hotReceive1)
	s := &ServerFrame{Type: FrameReceive, Seq: int64(r.head(majorUint, math.MaxInt64))}
	r.lit(hotReceive2)
	open := bytes.HasPrefix(r.b, []byte(hotOpen))
	if open {
		r.lit(hotOpen)
	} else {
		r.lit(hotSealed)
	}
	if r.off {
		return nil, false
	}
	e := &Envelope{ID: r.id()}
	s.Envelope, r.off = e, r.off || e.ID == (clearbox.MessageID{})
	r.lit(hotType)
	e.Type = clearbox.ContentType(r.head(majorUint, math.MaxUint8))
	r.lit(hotDevice)
	e.Device = clearbox.DeviceID(r.head(majorUint, math.MaxUint8))
	if open {
		r.lit(hotSender)
		e.Sender = r.user()
	} else {
		r.lit(hotOrigin)
		e.Origin = r.origin()
	}
	r.lit(hotContent)
	e.Content = r.content()
	r.lit(hotTo)
	e.Recipient = r.user()
	r.lit(hotAccepted)
	e.AcceptedAt = r.millis()
	if open {
		r.lit(hotSenderNo)
		e.SenderDevice = clearbox.DeviceID(r.head(majorUint, math.MaxUint8))
		r.off = r.off || e.SenderDevice == 0
	}
	return s, r.done()
}
