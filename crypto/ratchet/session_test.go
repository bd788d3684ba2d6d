package ratchet_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
	"github.com/clearbox-im/clearbox/crypto/ratchet/ratchettest"
)

// tester is what a test, a benchmark, a fuzz target and a rapid check share.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// end is one device with its store and clock.
type end struct {
	t      tester
	device *ratchet.Device
	store  *ratchettest.Store
	now    time.Time
}

// newEnd makes a device. All randomness comes from the seed: tests repeat
// exactly.
func newEnd(t tester, user string, id uint8) *end {
	t.Helper()
	var seed [32]byte
	copy(seed[:], fmt.Sprint(user, id))
	random := rand.NewChaCha8(seed)
	identity, err := curve.GeneratePrivateKey(random)
	if err != nil {
		t.Fatal(err)
	}
	return &end{
		t: t,
		device: &ratchet.Device{
			Address:      ratchet.AddressOf(keys.AccountServiceID(user), id),
			Identity:     identity,
			Registration: 1000 + uint16(id),
			Random:       random,
		},
		store: new(ratchettest.Store),
		now:   time.UnixMilli(1_800_000_000_000),
	}
}

func (e *end) address() ratchet.Address { return e.device.Address }

// setLimits gives the device other limits, as experiments do.
func (e *end) setLimits(l ratchet.Limits) {
	d := *e.device
	d.Limits = l
	e.device = &d
}

func (e *end) bundle(id uint32, oneTime, lastResort bool) *keys.Bundle {
	e.t.Helper()
	b, err := e.store.Publish(e.device.Random, e.device, id, oneTime, lastResort)
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

func (e *end) initiate(to *end, b *keys.Bundle) {
	e.t.Helper()
	if err := e.device.Initiate(e.store, e.now, to.address(), b); err != nil {
		e.t.Fatal(err)
	}
}

type letter struct {
	*ratchet.Ciphertext
	text string
}

func (e *end) send(to *end, text string) letter {
	e.t.Helper()
	c, err := e.device.Encrypt(e.store, e.now, to.address(), []byte(text))
	if err != nil {
		e.t.Fatal(err)
	}
	return letter{c, text}
}

// lose sends n messages that never arrive.
func (e *end) lose(to *end, n int) {
	e.t.Helper()
	if err := e.device.Lose(e.store, to.address(), n); err != nil {
		e.t.Fatal(err)
	}
}

func (e *end) open(from *end, l letter) (*ratchet.Opened, error) {
	return e.device.Decrypt(e.store, from.address(), l.Type, l.Body)
}

func (e *end) read(from *end, l letter) *ratchet.Opened {
	e.t.Helper()
	o, err := e.open(from, l)
	if err != nil {
		e.t.Fatalf("reading %q: %v", l.text, err)
	}
	if string(o.Plaintext) != l.text {
		e.t.Fatalf("read %q, sent %q", o.Plaintext, l.text)
	}
	return o
}

// refuse expects an error and an untouched store.
func (e *end) refuse(from *end, l letter, want error) {
	e.t.Helper()
	before := e.store.Applied()
	if _, err := e.open(from, l); !errors.Is(err, want) {
		e.t.Fatalf("reading %q: %v, want %v", l.text, err, want)
	}
	if e.store.Applied() != before {
		e.t.Fatal("a refused message changed the store")
	}
}

// established returns two ends whose session is acknowledged: a read one
// message of b and b one of a.
func established(t tester) (a, b *end) {
	t.Helper()
	a, b = newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	b.read(a, a.send(b, "hello"))
	a.read(b, b.send(a, "hello back"))
	return a, b
}

func TestConversation(t *testing.T) {
	for _, oneTime := range []bool{true, false} {
		t.Run(fmt.Sprintf("oneTime=%v", oneTime), func(t *testing.T) {
			a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
			a.initiate(b, b.bundle(7, oneTime, false))
			first := a.send(b, "first")
			if first.Type != ratchet.TypePreKey || first.Registration != 1001 {
				t.Fatalf("type %d, registration %d", first.Type, first.Registration)
			}
			if o := b.read(a, first); !o.Began || o.Identity != a.device.Identity.Public() {
				t.Fatalf("%+v", o)
			}
			for i := range 400 {
				m := b.send(a, fmt.Sprint("b", i))
				if m.Type != ratchet.TypeWhisper {
					t.Fatalf("type %d", m.Type)
				}
				a.read(b, m)
				m = a.send(b, fmt.Sprint("a", i))
				if m.Type != ratchet.TypeWhisper {
					t.Fatalf("type %d", m.Type)
				}
				b.read(a, m)
			}
			info := inspect(t, a, b)
			if info.Epoch < 5 || !info.Usable || info.Unacknowledged || info.Archived != 0 {
				t.Fatalf("%+v", info)
			}
		})
	}
}

func inspect(t tester, e, peer *end) *ratchet.Info {
	t.Helper()
	stored, err := e.store.Session(peer.address())
	if err != nil {
		t.Fatal(err)
	}
	info, err := e.device.Inspect(stored, e.now)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
