package ratchet_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

func TestCrashBetweenDecryptAndStore(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	crash := errors.New("power is gone")
	for i := range 10 {
		l := a.send(b, "text")
		b.store.Fail = func(*ratchet.Change) error { return crash }
		b.refuse(a, l, crash)
		b.refuse(a, l, crash)
		b.store.Fail = nil
		b.read(a, l)
		if i%3 == 2 {
			a.read(b, b.send(a, "back"))
		}
	}
}

func TestCrashWhileEncryptingNeverReusesAKey(t *testing.T) {
	a, b := established(t)
	crash := errors.New("power is gone")
	a.store.Fail = func(*ratchet.Change) error { return crash }
	if c, err := a.device.Encrypt(a.store, a.now, b.address(), []byte("x")); !errors.Is(err, crash) || c != nil {
		t.Fatalf("%v, %v: a ciphertext left although its state was not stored", c, err)
	}
	a.store.Fail = nil
	b.read(a, a.send(b, "y"))
}

// second writes through the same records as another window of the same client,
// which loaded its record before the first one stored.
type second struct {
	ratchet.Store
	stale []byte
}

func (s second) Session(ratchet.Address) ([]byte, error) { return s.stale, nil }

func TestSecondWriterIsBlocked(t *testing.T) {
	a, b := established(t)
	stale, err := a.store.Session(b.address())
	if err != nil {
		t.Fatal(err)
	}
	a.send(b, "the first window sends")
	c, err := a.device.Encrypt(second{a.store, stale}, a.now, b.address(), []byte("the second one as well"))
	if !errors.Is(err, ratchet.ErrStale) || c != nil {
		t.Fatalf("%v, %v", c, err)
	}
}

// Every call's change names what it did, in one piece.
func TestChangeCarriesEverything(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	var changes []ratchet.Change
	b.store.Fail = func(c *ratchet.Change) error { changes = append(changes, *c); return nil }
	bundle := b.bundle(3, true, true)
	a.initiate(b, bundle)
	b.read(a, a.send(b, "first"))
	b.read(a, a.send(b, "second"))
	if len(changes) != 2 {
		t.Fatalf("%d changes", len(changes))
	}
	first, next := changes[0], changes[1]
	if first.Before != 0 || first.Pin == nil || *first.Pin != a.device.Identity.Public() ||
		first.UsedOneTime == nil || *first.UsedOneTime != 3 ||
		first.UsedKEM == nil || first.UsedKEM.KEM != 3 || first.UsedKEM.Signed != 3 || !first.LastResort {
		t.Errorf("first change: %+v", first)
	}
	if next.Before != 1 || next.Pin != nil || next.UsedOneTime != nil || next.UsedKEM != nil {
		t.Errorf("second change: %+v", next)
	}
}

func TestDamagedRecordIsAnError(t *testing.T) {
	a, b := established(t)
	a.initiate(b, b.bundle(2, true, false))
	record, err := a.store.Session(b.address())
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, damaged []byte) {
		a.store.SetSession(b.address(), damaged)
		if _, err := a.device.Encrypt(a.store, a.now, b.address(), nil); err == nil {
			t.Fatalf("%s: used", what)
		} else if !errors.Is(err, ratchet.ErrRecord) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for n := 1; n < len(record); n++ {
		try("truncated", record[:n])
	}
	newer := bytes.Clone(record)
	newer[0]++
	try("newer version", newer)
	try("longer", append(bytes.Clone(record), 0))
}

func TestDecryptionErrorRoundTrip(t *testing.T) {
	a, b := established(t)
	l := a.send(b, "unreadable")
	e, err := ratchet.NewDecryptionError(l.Type, l.Body, 1_800_000_000_123, 4)
	if err != nil {
		t.Fatal(err)
	}
	if *e.RatchetKey != inspect(t, a, b).RatchetKey {
		t.Error("not the sender's current ratchet key")
	}
	content := e.PlaintextContent()
	got, err := ratchet.ParsePlaintextContent(content)
	if err != nil {
		t.Fatal(err)
	}
	if *got.RatchetKey != *e.RatchetKey || got.Timestamp != e.Timestamp || got.Device != 4 {
		t.Errorf("%+v, want %+v", got, e)
	}
	if content[0] != 0xC0 || content[len(content)-1] != 0x80 {
		t.Errorf("%x", content)
	}
	for n := range content {
		if _, err := ratchet.ParsePlaintextContent(content[:n]); !errors.Is(err, ratchet.ErrMalformed) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
	first := newEnd(t, "carol", 1)
	first.initiate(b, b.bundle(8, true, false))
	l = first.send(b, "x")
	if e, err := ratchet.NewDecryptionError(l.Type, l.Body, 1, 1); err != nil || *e.RatchetKey != inspect(t, first, b).RatchetKey {
		t.Errorf("of a first message: %v, %v", e, err)
	}
	if _, err := ratchet.NewDecryptionError(ratchet.TypePlaintext, content, 1, 1); err == nil {
		t.Error("an error about an error")
	}
	e, err = ratchet.NewDecryptionError(ratchet.TypeSenderKey, []byte("of a group"), 7, 3)
	if err != nil || e.RatchetKey != nil || e.Timestamp != 7 || e.Device != 3 {
		t.Errorf("of a message for a group: %+v, %v", e, err)
	}
	if e, err = ratchet.ParsePlaintextContent(e.PlaintextContent()); err != nil || e.RatchetKey != nil || e.Device != 3 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestRandomFailureChangesNothing(t *testing.T) {
	a, b := established(t)
	device := *b.device
	device.Random = bytes.NewReader(nil)
	broken := &end{t, &device, b.store, b.now}
	l := a.send(b, "turns the ratchet")
	before := b.store.Applied()
	if _, err := broken.open(a, l); err == nil {
		t.Fatal("a failing random source went unnoticed")
	}
	if b.store.Applied() != before {
		t.Fatal("stored")
	}
	b.read(a, l)
}
