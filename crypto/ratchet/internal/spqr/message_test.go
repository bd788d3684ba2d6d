package spqr_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/spqr"
)

func TestMessageWireForm(t *testing.T) {
	m := &spqr.Message{Epoch: 300, Counter: 5, Kind: spqr.KindVecAck, Index: 200}
	m.Chunk[0], m.Chunk[31] = 0xaa, 0xbb
	wire := m.Append(nil)
	want := slices.Concat([]byte{1, 0xac, 0x02, 5, 3, 0xc8, 0x01, 0xaa}, make([]byte, 30), []byte{0xbb})
	if !bytes.Equal(wire, want) {
		t.Fatalf("%x", wire)
	}
	for _, tail := range [][]byte{nil, {1, 2, 3}} { // trailing bytes are tolerated
		if got, err := spqr.ParseMessage(append(wire, tail...)); err != nil || *got != *m {
			t.Fatalf("%+v, %v", got, err)
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	chunk := make([]byte, 32)
	for name, b := range map[string][]byte{
		"empty, which is version 0": nil,
		"version 0":                 {0, 1, 1, 0},
		"version 2":                 {2, 1, 1, 0},
		"epoch 0":                   {1, 0, 1, 0},
		"counter 0":                 {1, 1, 0, 0},
		"kind 7":                    {1, 1, 1, 7},
		"no kind":                   {1, 1, 1},
		"index 65536":               slices.Concat([]byte{1, 1, 1, 1, 0x80, 0x80, 0x04}, chunk),
		"short chunk":               slices.Concat([]byte{1, 1, 1, 1, 0}, chunk[:31]),
		"no chunk":                  {1, 1, 1, 5},
		"overlong epoch":            {1, 0x81, 0x00, 1, 0},
		"endless epoch":             {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"counter of 33 bits":        {1, 1, 0x80, 0x80, 0x80, 0x80, 0x10, 0},
		"too long":                  slices.Concat([]byte{1, 1, 1, 0}, make([]byte, spqr.MaxMessageSize)),
	} {
		if _, err := spqr.ParseMessage(b); !errors.Is(err, spqr.ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add((&spqr.Message{Epoch: 1, Counter: 1}).Append(nil))
	f.Add((&spqr.Message{Epoch: 1 << 40, Counter: 1<<32 - 1, Kind: spqr.KindPart2, Index: 65535}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := spqr.ParseMessage(b)
		if err != nil {
			return
		}
		wire := m.Append(nil)
		if !bytes.HasPrefix(b, wire) {
			t.Fatalf("%x is encoded as %x", b, wire)
		}
	})
}

// states returns the storage forms of both sides in every phase.
func states(t testing.TB) [][]byte {
	random := rand.NewChaCha8([32]byte{9})
	key := make([]byte, 32)
	a, b := spqr.New(key, true), spqr.New(key, false)
	seen := map[spqr.Phase]bool{}
	var out [][]byte
	choose := rand.New(rand.NewPCG(8, 8))
	for range 3_000 {
		from, to := a, b
		if choose.IntN(2) == 0 {
			from, to = b, a
		}
		wire, _, err := from.Send(random, nil)
		if err != nil {
			t.Fatal(err)
		}
		if choose.IntN(3) > 0 {
			m, err := spqr.ParseMessage(wire)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := to.Open(m, limits); err != nil {
				t.Fatal(err)
			}
			if err := to.Receive(m); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range []*spqr.State{a, b} {
			if !seen[s.Phase()] {
				seen[s.Phase()] = true
				out = append(out, s.Append(nil))
			}
		}
	}
	if len(out) != 11 {
		t.Fatalf("%d phases", len(out))
	}
	return out
}

func TestStorageIsStrict(t *testing.T) {
	for _, stored := range states(t) {
		s, err := spqr.Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.Append(nil), stored) {
			t.Errorf("%v: not encoded as it was", s.Phase())
		}
		for n := range stored {
			if _, err := spqr.Parse(stored[:n]); err == nil {
				t.Fatalf("%v: %d of %d bytes accepted", s.Phase(), n, len(stored))
			}
		}
		if _, err := spqr.Parse(append(bytes.Clone(stored), 0)); err == nil {
			t.Errorf("%v: an extra byte accepted", s.Phase())
		}
		newer := bytes.Clone(stored)
		newer[0]++
		if _, err := spqr.Parse(newer); err == nil {
			t.Errorf("%v: a newer version accepted", s.Phase())
		}
	}
}

func FuzzParseState(f *testing.F) {
	for _, s := range states(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := spqr.Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Append(nil), b) {
			t.Fatal("not encoded as it was")
		}
	})
}

// FuzzReceive gives any message to any phase: an authentic but malicious peer
// must not cause a panic or an unreadable state.
func FuzzReceive(f *testing.F) {
	all := states(f)
	for i := range all {
		f.Add(i, uint64(0), byte(i%7), uint16(i), []byte("chunk"))
		f.Add(i, uint64(1), byte(0), uint16(0), []byte{})
	}
	f.Fuzz(func(t *testing.T, which int, ahead uint64, kind byte, index uint16, chunk []byte) {
		s, err := spqr.Parse(all[uint(which)%uint(len(all))])
		if err != nil {
			t.Fatal(err)
		}
		m := &spqr.Message{Epoch: s.Epoch() + ahead%3, Counter: 1, Kind: spqr.Kind(kind % 7), Index: index}
		for i := range 40 { // enough to complete every object
			copy(m.Chunk[:], chunk)
			m.Chunk[31] = byte(i)
			m.Index = index + uint16(i)
			if err := s.Receive(m); err != nil {
				return
			}
		}
		if _, err := spqr.Parse(s.Append(nil)); err != nil {
			t.Fatalf("phase %v: %v", s.Phase(), err)
		}
	})
}

func TestChainLimits(t *testing.T) {
	for _, c := range []struct {
		lost int
		want error
	}{{24_999, nil}, {25_000, spqr.ErrJump}} {
		t.Run(fmt.Sprint(c.lost), func(t *testing.T) {
			random := rand.NewChaCha8([32]byte{1})
			a, b := spqr.New(make([]byte, 32), true), spqr.New(make([]byte, 32), false)
			a.Jump(c.lost)
			wire, want, err := a.Send(random, nil)
			if err != nil {
				t.Fatal(err)
			}
			m, _ := spqr.ParseMessage(wire)
			got, err := b.Open(m, limits)
			if !errors.Is(err, c.want) || err == nil && got != want {
				t.Fatalf("%v", err)
			}
			if c.want != nil {
				return
			}
			// 2,000 passed-over keys are kept, and serve once.
			for counter, want := range map[uint32]error{22_999: spqr.ErrDuplicate, 23_000: nil, 24_999: nil} {
				m.Counter = counter
				if _, err := b.Open(m, limits); !errors.Is(err, want) {
					t.Errorf("counter %d: %v, want %v", counter, err, want)
				}
				if _, err := b.Open(m, limits); !errors.Is(err, spqr.ErrDuplicate) {
					t.Errorf("counter %d again: %v", counter, err)
				}
			}
		})
	}
}

func TestKeptKeysAddUp(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	a, b := spqr.New(make([]byte, 32), true), spqr.New(make([]byte, 32), false)
	var m *spqr.Message
	for range 3 {
		a.Jump(1_500)
		wire, _, err := a.Send(random, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, _ = spqr.ParseMessage(wire)
		if _, err := b.Open(m, limits); err != nil {
			t.Fatal(err)
		}
	}
	// 4,500 were passed over; of the middle 1,500 only the newest 500 are kept.
	for counter, want := range map[uint32]error{2_501: spqr.ErrDuplicate, 2_502: nil, 3_003: nil} {
		m.Counter = counter
		if _, err := b.Open(m, limits); !errors.Is(err, want) {
			t.Errorf("counter %d: %v, want %v", counter, err, want)
		}
	}
}

// What a peer streams is bound to the key agreement: each altered object is
// found out when it is complete.
func TestForgedObjectsAreRefused(t *testing.T) {
	for kind, want := range map[spqr.Kind]error{
		spqr.KindHeader: spqr.ErrHeaderMAC,
		spqr.KindVector: spqr.ErrVector,
		spqr.KindPart1:  spqr.ErrCiphertextMAC,
		spqr.KindPart2:  spqr.ErrCiphertextMAC,
	} {
		a, b := pair(t, byte(kind))
		forged := false
		err := func() error {
			for range 400 {
				for _, d := range [][2]*side{{a, b}, {b, a}} {
					m := d[0].send()
					parsed, err := spqr.ParseMessage(m.wire)
					if err != nil {
						return err
					}
					if parsed.Kind == kind && !forged {
						forged = true
						parsed.Chunk[3] ^= 0x10
						m.wire = parsed.Append(nil)
					}
					if err := d[1].receive(m); err != nil {
						return err
					}
				}
			}
			return nil
		}()
		if !forged || !errors.Is(err, want) {
			t.Errorf("kind %d: %v, want %v", kind, err, want)
		}
	}
}

// After the last index the chunks begin again and stay usable.
func TestChunkIndexWrapsAround(t *testing.T) {
	a, b := pair(t, 5)
	for range 3 {
		if err := b.receive(a.send()); err != nil {
			t.Fatal(err)
		}
		if err := a.receive(b.send()); err != nil {
			t.Fatal(err)
		}
	}
	state := a.load()
	state.SetNextChunk(65_530)
	a.stored = state.Append(nil)
	for range 400 {
		if err := b.receive(a.send()); err != nil {
			t.Fatal(err)
		}
		if err := a.receive(b.send()); err != nil {
			t.Fatal(err)
		}
	}
	if e := a.load().Epoch(); e < 5 {
		t.Fatalf("epoch %d", e)
	}
}

func TestMessagesOfOldAndComingEpochs(t *testing.T) {
	a, b := pair(t, 6)
	early := a.send()
	for a.load().Epoch() < 4 || b.load().Epoch() < 4 {
		if err := b.receive(a.send()); err != nil {
			t.Fatal(err)
		}
		if err := a.receive(b.send()); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.receive(early); !errors.Is(err, spqr.ErrEpochDropped) {
		t.Fatalf("a message three epochs old: %v", err)
	}
	m := a.send()
	parsed, _ := spqr.ParseMessage(m.wire)
	parsed.Epoch += 2
	if err := b.receive(sent{parsed.Append(nil), m.key}); !errors.Is(err, spqr.ErrEpoch) {
		t.Fatalf("a message two epochs ahead: %v", err)
	}
	if err := b.receive(m); err != nil {
		t.Fatal(err)
	}
}
