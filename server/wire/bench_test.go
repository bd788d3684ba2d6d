package wire_test

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

func benchSend() *wire.ClientFrame {
	return &wire.ClientFrame{Type: wire.FrameSend, Ref: 9, Submission: &wire.Submission{ID: msgID, To: []wire.Recipient{{User: bob, Envelopes: []wire.Outgoing{
		{Device: 1, Registration: 0x1234, Type: clearbox.ContentWhisper, Content: bytes.Repeat([]byte{7}, 1024)}}}}}}
}

func benchReceive() *wire.ServerFrame {
	return &wire.ServerFrame{Type: wire.FrameReceive, Seq: 78, Envelope: &wire.Envelope{ID: msgID, Sender: alice, SenderDevice: 1, Recipient: bob, Device: 2,
		Type: clearbox.ContentWhisper, AcceptedAt: 1790000000123, Content: bytes.Repeat([]byte{7}, 1024)}}
}

func BenchmarkReadClientFrame(b *testing.B) {
	for name, c := range map[string]*wire.ClientFrame{"send": benchSend(), "ack": {Type: wire.FrameAck, Seq: 70000}} {
		data, err := wire.AppendClientFrame(nil, wire.CBOR, c)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.ParseClientFrame(wire.CBOR, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadServerFrame(b *testing.B) {
	for name, s := range map[string]*wire.ServerFrame{"receive": benchReceive(), "sent": serverFrames()["sent"]} {
		data, err := wire.AppendServerFrame(nil, wire.CBOR, s)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.ParseServerFrame(wire.CBOR, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	var buf []byte
	var err error
	b.Run("send", func(b *testing.B) {
		b.ReportAllocs()
		f := benchSend()
		for b.Loop() {
			if buf, err = wire.AppendClientFrame(buf[:0], wire.CBOR, f); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, s := range map[string]*wire.ServerFrame{"receive": benchReceive(), "sent": serverFrames()["sent"]} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if buf, err = wire.AppendServerFrame(buf[:0], wire.CBOR, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
