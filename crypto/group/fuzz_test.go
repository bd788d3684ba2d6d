package group_test

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/group"
)

func FuzzParseHead(f *testing.F) {
	s := newTalker(f, 1)
	f.Add(s.say("a message"))
	f.Add(s.Distribution())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := group.ParseHead(b); err != nil && h != (group.Head{}) {
			t.Fatal("a head beside an error")
		}
		group.ParseDistributionHead(b)
	})
}

// FuzzProcess brings distribution messages of any form to a receiver that knows a
// chain. What is refused changes nothing; what is taken is stored and read back.
func FuzzProcess(f *testing.F) {
	s := newTalker(f, 1)
	known := s.listener()
	f.Add(s.Distribution())
	f.Add(newTalker(f, 2).Distribution())
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &listener{t, known.Clone()}
		before := l.Append(nil)
		if err := l.Process(b); err != nil {
			if !bytes.Equal(l.Append(nil), before) {
				t.Fatal("a refused distribution message changed the receiver")
			}
			return
		}
		after := l.Append(nil)
		again, err := group.ParseReceiver(after)
		if err != nil || !bytes.Equal(again.Append(nil), after) {
			t.Fatalf("not stored as it was: %v", err)
		}
	})
}

// FuzzDecrypt mutates a message: only the intact one is read, and a refused one
// leaves no trace.
func FuzzDecrypt(f *testing.F) {
	s := newTalker(f, 1)
	known := s.listener()
	s.Lose(2)
	m := s.say("a message")
	for _, at := range []uint16{0, 1, 3, 20, 24, 60, 120} {
		f.Add(at, []byte{1})
		f.Add(at, []byte{0x80, 0xff})
	}
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		b := bytes.Clone(m)
		for i, p := range patch {
			b[(int(at)+i)%len(b)] ^= p
		}
		if len(patch) > 8 { // longer patches also cut the message
			b = b[:len(b)-len(patch)%len(b)]
		}
		l := &listener{t, known.Clone()}
		before := l.Append(nil)
		text, err := l.Decrypt(b)
		switch {
		case err == nil && (!bytes.Equal(b, m) || string(text) != "a message"):
			t.Fatalf("an altered message was read: %q", text)
		case err != nil && !bytes.Equal(l.Append(nil), before):
			t.Fatal("a refused message changed the receiver")
		}
	})
}

func FuzzParseReceiver(f *testing.F) {
	_, receiver := records(f)
	f.Add(receiver)
	f.Add(group.NewReceiver(distribution).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := group.ParseReceiver(b)
		if err == nil && !bytes.Equal(r.Append(nil), b) {
			t.Fatal("a record is not encoded as it was")
		}
	})
}

func FuzzParseSender(f *testing.F) {
	sender, _ := records(f)
	f.Add(sender)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := group.ParseSender(b)
		if err == nil && !bytes.Equal(s.Append(nil), b) {
			t.Fatal("a record is not encoded as it was")
		}
	})
}
