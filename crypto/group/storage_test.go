package group_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/group"
)

// records returns stored forms that hold something of everything.
func records(t testing.TB) (sender, receiver []byte) {
	s := newTalker(t, 1)
	l := s.listener()
	s.Lose(3)
	l.read(s.say("ahead"), "ahead")
	l.process(newTalker(t, 2))
	return s.Append(nil), l.Append(nil)
}

func TestStorageRoundTrip(t *testing.T) {
	sender, receiver := records(t)
	s, err := group.ParseSender(sender)
	if err != nil || !bytes.Equal(s.Append(nil), sender) {
		t.Fatal(err)
	}
	r, err := group.ParseReceiver(receiver)
	if err != nil || !bytes.Equal(r.Append(nil), receiver) {
		t.Fatal(err)
	}
	m, err := s.Encrypt(source(9), []byte("goes on"))
	if err != nil {
		t.Fatal(err)
	}
	(&listener{t, r}).read(m, "goes on")
}

func TestStorageIsStrict(t *testing.T) {
	sender, receiver := records(t)
	for n := range sender {
		if _, err := group.ParseSender(sender[:n]); err != group.ErrRecord {
			t.Fatalf("a sender from %d bytes: %v", n, err)
		}
	}
	for n := range receiver {
		if _, err := group.ParseReceiver(receiver[:n]); err != group.ErrRecord {
			t.Fatalf("a receiver from %d bytes: %v", n, err)
		}
	}
	change := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	// The newest chain, 76 bytes without kept keys, begins at 18; the older one
	// has three kept keys of 36 bytes.
	const first, second = 18, 18 + 76
	for name, b := range map[string][]byte{
		"version":              change(receiver, 0, 2),
		"six chains":           change(receiver, 17, 6),
		"one chain":            change(receiver, 17, 1),
		"kept past the next":   change(receiver, second+76+3, 4),
		"kept in disorder":     change(receiver, second+76+36+3, 0),
		"kept not whole":       change(receiver, second+75, 107),
		"the same chain twice": append(append(bytes.Clone(receiver[:first]), receiver[second:]...), receiver[second:]...),
		"something behind":     append(bytes.Clone(receiver), 0),
	} {
		if _, err := group.ParseReceiver(b); err != group.ErrRecord {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"version":          change(sender, 0, 2),
		"something behind": append(bytes.Clone(sender), 0),
	} {
		if _, err := group.ParseSender(b); err != group.ErrRecord {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestModel sends, loses, repeats, reorders, rotates and restarts at random: each
// message that arrives is read once, as it was said, and never twice.
func TestModel(t *testing.T) {
	for seed := range byte(8) {
		random := rand.New(rand.NewChaCha8([32]byte{seed, 1}))
		s := newTalker(t, seed)
		l := s.listener()
		type letter struct {
			text string
			body []byte
		}
		var flying []letter
		read := map[string]bool{}
		for i := range 400 {
			switch random.IntN(10) {
			case 0: // restart of both
				stored := s.Append(nil)
				again, err := group.ParseSender(stored)
				if err != nil {
					t.Fatal(err)
				}
				s.Sender = again
				r, err := group.ParseReceiver(l.Append(nil))
				if err != nil {
					t.Fatal(err)
				}
				l.Receiver = r
			case 1:
				if i%4 == 0 { // few enough that no chain is dropped while its messages fly
					fresh, err := group.New(s.random, distribution)
					if err != nil {
						t.Fatal(err)
					}
					s.Sender = fresh
					l.process(s)
					flying = nil
				}
			case 2, 3, 4, 5:
				text := fmt.Sprint("message ", i)
				flying = append(flying, letter{text, s.say(text)})
			default:
				if len(flying) == 0 {
					continue
				}
				m := flying[random.IntN(len(flying))]
				got, err := l.Decrypt(m.body)
				switch {
				case read[m.text] && err != group.ErrDuplicate:
					t.Fatalf("seed %d: a repeat gives %v", seed, err)
				case !read[m.text] && (err != nil || string(got) != m.text):
					t.Fatalf("seed %d: %q, %v", seed, got, err)
				}
				read[m.text] = true
			}
		}
	}
}
