package wire_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// The frames that are meant to be fast are.
func TestHotFramesAreFast(t *testing.T) {
	for name, c := range clientFrames() {
		b, err := wire.Append(wire.CBOR, nil, c)
		if err != nil {
			t.Fatal(err)
		}
		isHot := name == "ack" || name == "send_message" || name == "send_sealed" || name == "send_group" || name == "send_fellow"
		hot, ok := wire.AppendHotClient(nil, c)
		if ok != isHot || ok && !bytes.Equal(hot, b) {
			t.Errorf("%s is written as %x (%t), want %x", name, hot, ok, b)
		}
		if got, ok := wire.ReadHotClient(b); ok != isHot || ok && !reflect.DeepEqual(got, c) {
			t.Errorf("%s is read as %+v (%t)", name, got, ok)
		}
	}
	for name, s := range serverFrames() {
		b, err := wire.Append(wire.CBOR, nil, s)
		if err != nil {
			t.Fatal(err)
		}
		isHot := name == "sent" || name == "receive" || name == "sealed"
		hot, ok := wire.AppendHotServer(nil, s)
		if ok != isHot || ok && !bytes.Equal(hot, b) {
			t.Errorf("%s is written as %x (%t), want %x", name, hot, ok, b)
		}
		if got, ok := wire.ReadHotServer(b); ok != isHot || ok && !reflect.DeepEqual(got, s) {
			t.Errorf("%s is read as %+v (%t)", name, got, ok)
		}
	}
}

// A frame that has more than the fast form is not cut down to it.
func TestHotFramesWithMore(t *testing.T) {
	e := serverFrames()["receive"].Envelope
	for name, s := range map[string]*wire.ServerFrame{
		"with a ref":      {Type: wire.FrameReceive, Seq: 1, Ref: 5, Envelope: e},
		"with a notice":   {Type: wire.FrameReceive, Seq: 1, Envelope: e, Notice: serverFrames()["notice"].Notice},
		"without a seq":   {Type: wire.FrameReceive, Envelope: e},
		"sender, origin":  {Type: wire.FrameReceive, Seq: 1, Envelope: &wire.Envelope{ID: msgID, Sender: alice, SenderDevice: 1, Origin: "a.test", Recipient: bob}},
		"no id":           {Type: wire.FrameReceive, Seq: 1, Envelope: &wire.Envelope{Sender: alice, SenderDevice: 1, Recipient: bob}},
		"with a signal":   {Type: wire.FrameReceive, Seq: 1, Envelope: e, Signal: e},
		"with presence":   {Type: wire.FrameReceive, Seq: 1, Envelope: e, Presence: wire.PresenceAway},
		"no sender":       {Type: wire.FrameReceive, Seq: 1, Envelope: &wire.Envelope{ID: msgID}},
		"before 1970":     {Type: wire.FrameReceive, Seq: 1, Envelope: &wire.Envelope{AcceptedAt: -5, Sender: alice, Recipient: bob}},
		"negative seq":    {Type: wire.FrameReceive, Seq: -1, Envelope: e},
		"another status":  {Type: wire.FrameSent, Ref: 1, Receipt: &wire.Receipt{Status: "x"}},
		"sent and online": {Type: wire.FrameSent, Ref: 1, Receipt: &wire.Receipt{Status: "accepted"}, User: bob},
	} {
		want, err := wire.Append(wire.CBOR, nil, s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := wire.AppendServerFrame(nil, wire.CBOR, s); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: written as %x, want %x", name, got, want)
		}
	}
	for name, c := range map[string]*wire.ClientFrame{
		"ack with a signal":     {Type: wire.FrameAck, Seq: 1, To: clientFrames()["signal"].To},
		"ack with tokens":       {Type: wire.FrameAck, Seq: 1, Tokens: clientFrames()["watch_elsewhere"].Tokens},
		"ack with a ref":        {Type: wire.FrameAck, Ref: 1, Seq: 1},
		"send with a seq":       {Type: wire.FrameSend, Ref: 1, Seq: 1, Submission: submission()},
		"send to nobody":        {Type: wire.FrameSend, Ref: 1, Submission: &wire.Submission{To: []wire.Recipient{{}}}},
		"send without a ref":    {Type: wire.FrameSend, Submission: submission()},
		"group without an id":   {Type: wire.FrameSend, Ref: 1, Submission: &wire.Submission{ID: msgID, Group: &clearbox.GroupRef{Epoch: 1}, Multi: []byte{1}}},
		"group without epoch":   {Type: wire.FrameSend, Ref: 1, Submission: &wire.Submission{ID: msgID, Group: &clearbox.GroupRef{ID: clearbox.GroupID{1}}}},
		"multi without a group": {Type: wire.FrameSend, Ref: 1, Submission: &wire.Submission{ID: msgID, Multi: []byte{1}}},
		"ack of a negative seq": {Type: wire.FrameAck, Seq: -9},
	} {
		want, err := wire.Append(wire.CBOR, nil, c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := wire.AppendClientFrame(nil, wire.CBOR, c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: written as %x, want %x", name, got, want)
		}
	}
}

// What the hand-written reader accepts, the general one reads the same way,
// and both are written as the same bytes.
func FuzzHotFrames(f *testing.F) {
	for _, c := range clientFrames() {
		b, err := wire.Append(wire.CBOR, nil, c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range serverFrames() {
		b, err := wire.Append(wire.CBOR, nil, s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, ok := wire.ReadHotClient(data); ok {
			var want wire.ClientFrame
			decodeErr := wire.Decode(wire.CBOR, data, &want)
			if err := c.Check(); (err == nil) != (decodeErr == nil) {
				t.Fatalf("%v by hand, %v in general", err, decodeErr)
			}
			if decodeErr == nil && !reflect.DeepEqual(c, &want) {
				t.Fatalf("%+v by hand, %+v in general", c, want)
			}
			same(t, data, c)
		}
		if s, ok := wire.ReadHotServer(data); ok {
			var want wire.ServerFrame
			decodeErr := wire.DecodeAnswer(wire.CBOR, data, &want)
			if err := s.Check(); (err == nil) != (decodeErr == nil) {
				t.Fatalf("%v by hand, %v in general", err, decodeErr)
			}
			if decodeErr == nil && !reflect.DeepEqual(s, &want) {
				t.Fatalf("%+v by hand, %+v in general", s, want)
			}
		}
	})
}

// same demands that both writers give the bytes that were read.
func same(t *testing.T, data []byte, c *wire.ClientFrame) {
	t.Helper()
	general, err := wire.Append(wire.CBOR, nil, c)
	if err != nil {
		t.Fatal(err)
	}
	if hot, ok := wire.AppendHotClient(nil, c); ok && !bytes.Equal(hot, general) {
		t.Fatalf("%x by hand, %x in general", hot, general)
	}
	if c.Type == wire.FrameSend && c.Ref != 0 && !bytes.Equal(general, data) {
		t.Fatalf("read %x, wrote %x", data, general)
	}
}

func TestHotReadersAgreeOnIDs(t *testing.T) {
	good, err := wire.Append(wire.CBOR, nil, clientFrames()["send_message"])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(good, []byte(msgID.String())) + 25
	for c := range 256 {
		data := bytes.Clone(good)
		data[at] = byte(c)
		_, hot := wire.ReadHotClient(data)
		_, err := clearbox.ParseMessageID(string(data[at-25 : at+1]))
		if hot != (err == nil) {
			t.Errorf("the last character %q: %t by hand, %v in general", string(rune(c)), hot, err)
		}
	}
}
