package ratchet_test

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// seeds returns a first message and a later one.
func seeds(f *testing.F) (first, whisper letter) {
	a, b := newEnd(f, "alice", 1), newEnd(f, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	first = a.send(b, "first")
	b.read(a, first)
	return first, b.send(a, "answer")
}

func FuzzParseSignalMessage(f *testing.F) {
	_, whisper := seeds(f)
	f.Add(whisper.Body)
	f.Add([]byte{0x44})
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := ratchet.ReencodeSignal(b)
		if err != nil {
			return
		}
		twice, err := ratchet.ReencodeSignal(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("encoding is not stable: %v", err)
		}
	})
}

func FuzzParsePreKeySignalMessage(f *testing.F) {
	first, _ := seeds(f)
	f.Add(first.Body)
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := ratchet.ReencodePreKey(b)
		if err != nil {
			return
		}
		twice, err := ratchet.ReencodePreKey(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("encoding is not stable: %v", err)
		}
	})
}

func FuzzParsePlaintextContent(f *testing.F) {
	_, whisper := seeds(f)
	e, err := ratchet.NewDecryptionError(whisper.Type, whisper.Body, 1, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.PlaintextContent())
	f.Add([]byte{0xC0, 0x42, 0x00, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ratchet.ParsePlaintextContent(b)
		if err != nil {
			return
		}
		again, err := ratchet.ParsePlaintextContent(e.PlaintextContent())
		if err != nil || again.Timestamp != e.Timestamp || again.Device != e.Device || (again.RatchetKey == nil) != (e.RatchetKey == nil) {
			t.Fatalf("encoding is not stable: %v", err)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	a, b := established(f)
	a.initiate(b, b.bundle(2, true, false))
	a.send(b, "skipped")
	for _, e := range []*end{a, b} {
		other := a
		if e == a {
			other = b
		}
		record, err := e.store.Session(other.address())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := ratchet.ReencodeRecord(b)
		if err != nil {
			return
		}
		if len(b) > 0 && !bytes.Equal(again, b) {
			t.Fatal("a record is not encoded as it was")
		}
	})
}

// FuzzDecrypt mutates real messages. Whatever comes, only the intact message is
// read, nothing panics, and a refused one leaves no trace.
func FuzzDecrypt(f *testing.F) {
	a, b := newEnd(f, "alice", 1), newEnd(f, "bob", 1)
	a.initiate(b, b.bundle(1, true, true))
	first := a.send(b, "first")
	fresh := b.store.Clone()
	b.read(a, first)
	a.read(b, b.send(a, "answer"))
	later := a.send(b, "later")
	advanced := b.store.Clone()
	for _, at := range []uint16{0, 1, 5, 40, 60, 100} {
		f.Add(true, at, []byte{1})
		f.Add(false, at, []byte{0x80, 0xff})
	}
	f.Fuzz(func(t *testing.T, prekey bool, at uint16, patch []byte) {
		l, store := later, advanced
		if prekey {
			l, store = first, fresh
		}
		body := bytes.Clone(l.Body)
		for i, p := range patch {
			body[(int(at)+i)%len(body)] ^= p
		}
		if len(patch) > 8 { // longer patches also cut the message
			body = body[:len(body)-len(patch)%len(body)]
		}
		b.store = store.Clone()
		o, err := b.device.Decrypt(b.store, a.address(), l.Type, body)
		switch {
		case err != nil && b.store.Applied() != 0:
			t.Fatal("a refused message changed the store")
		case err == nil && string(o.Plaintext) != l.text:
			t.Fatalf("wrong plaintext %q", o.Plaintext)
		case err == nil && !prekey && !bytes.Equal(body, l.Body):
			t.Fatal("an altered message was accepted")
		}
	})
}
