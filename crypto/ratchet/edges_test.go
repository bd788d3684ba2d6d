package ratchet_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"filippo.io/edwards25519"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

func altered(l letter, change func(b []byte) []byte) letter {
	c := *l.Ciphertext
	c.Body = change(bytes.Clone(c.Body))
	return letter{&c, l.text}
}

func TestTamperedMessagesLeaveStateUnchanged(t *testing.T) {
	flip := func(i int) func([]byte) []byte {
		return func(b []byte) []byte {
			if i < 0 {
				i += len(b)
			}
			b[i] ^= 1
			return b
		}
	}
	version := func(v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[0] = v<<4 | 4; return b }
	}
	a, b := established(t)
	whisper := a.send(b, "a text long enough to span several blocks of the cipher")
	c, d := newEnd(t, "carol", 1), newEnd(t, "dave", 1)
	c.initiate(d, d.bundle(1, true, false))
	first := c.send(d, "a first message")
	for _, x := range []struct {
		name     string
		from, to *end
		letter   letter
		bodyAt   int // an offset inside the ciphertext
	}{
		{"whisper", a, b, whisper, -80},
		{"prekey", c, d, first, 80},
	} {
		t.Run(x.name, func(t *testing.T) {
			before := x.to.store.Applied()
			refuse := func(what string, change func([]byte) []byte) error {
				_, err := x.to.open(x.from, altered(x.letter, change))
				if err == nil {
					t.Fatalf("%s: accepted", what)
				}
				return err
			}
			if x.name == "whisper" {
				if err := refuse("MAC", flip(-1)); !errors.Is(err, ratchet.ErrMAC) {
					t.Error(err)
				}
			}
			refuse("ciphertext", flip(x.bodyAt))
			var v *ratchet.VersionError
			for _, n := range []byte{2, 3, 5} {
				if err := refuse("version", version(n)); !errors.As(err, &v) || v.Version != n {
					t.Errorf("version %d: %v", n, err)
				}
			}
			for n := range len(x.letter.Body) {
				refuse("truncated", func(b []byte) []byte { return b[:n] })
			}
			if x.to.store.Applied() != before {
				t.Fatal("a refused message changed the store")
			}
			x.to.read(x.from, x.letter)
		})
	}
}

// An attacker who alters a chunk breaks the message MAC first: the erasure
// decoder is not poisoned.
func TestAlteredChunkFailsMAC(t *testing.T) {
	a, b := established(t)
	for range 200 {
		l := a.send(b, "chunk carrier")
		bad := altered(l, func(body []byte) []byte {
			body[len(body)-8-20] ^= 0x40 // inside the post-quantum field
			return body
		})
		if _, err := b.open(a, bad); err == nil {
			t.Fatal("accepted")
		}
		b.read(a, l)
		a.read(b, b.send(a, "back"))
	}
	if e := inspect(t, b, a).Epoch; e < 3 {
		t.Fatalf("epoch %d: the ratchet came to a stop", e)
	}
}

func TestPostQuantumFieldRefused(t *testing.T) {
	a, b := established(t)
	for name, alter := range map[string]func([]byte) []byte{
		"removed":       func([]byte) []byte { return nil },
		"version 0":     func(b []byte) []byte { b[0] = 0; return b },
		"version 2":     func(b []byte) []byte { b[0] = 2; return b },
		"epoch + 2":     func(b []byte) []byte { b[1] += 2; return b },
		"epoch 0":       func(b []byte) []byte { b[1] = 0; return b },
		"counter 0":     func(b []byte) []byte { b[2] = 0; return b },
		"kind 7":        func(b []byte) []byte { b[3] = 7; return b },
		"index > 65535": func(b []byte) []byte { return slices.Concat(b[:4], []byte{0x80, 0x80, 0x04}, b[5:]) },
		"short chunk":   func(b []byte) []byte { return b[:len(b)-1] },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := a.device.EncryptAltered(a.store, a.now, b.address(), []byte(name), alter)
			if err != nil {
				t.Fatal(err)
			}
			b.refuse(a, letter{c, name}, ratchet.ErrPostQuantum)
		})
	}
	b.read(a, a.send(b, "intact"))
}

func TestPreKeyMessageTwiceIsDuplicate(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	first := a.send(b, "first")
	b.read(a, first)
	b.refuse(a, first, ratchet.ErrDuplicate)
}

func TestPreKeyMessageWithTheIdentityOfAnother(t *testing.T) {
	a, b, mallory := newEnd(t, "alice", 1), newEnd(t, "bob", 1), newEnd(t, "mallory", 1)
	a.initiate(b, b.bundle(1, true, false))
	b.read(a, a.send(b, "first"))
	again := altered(a.send(b, "second"), func(body []byte) []byte {
		return bytes.Replace(body, a.device.Identity.Public().Bytes(), mallory.device.Identity.Public().Bytes(), 1)
	})
	b.store.SetPin(a.address().Name, mallory.device.Identity.Public())
	b.refuse(a, again, ratchet.ErrMalformed)
}

func TestPreKeyMessageAfterLosingTheSession(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	first := a.send(b, "first")
	b.read(a, first)
	b.store.SetSession(a.address(), nil)
	_, err := b.open(a, first)
	var unknown *ratchet.UnknownPreKeyError
	if !errors.As(err, &unknown) || unknown.ID != 1 {
		t.Fatal(err)
	}
}

func TestUnknownPreKeyIDs(t *testing.T) {
	for _, kind := range []string{"signed", "kem", "one-time"} {
		t.Run(kind, func(t *testing.T) {
			a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
			bundle := b.bundle(1, true, false)
			switch kind {
			case "signed":
				bundle.Signed.ID = 99
			case "kem":
				bundle.KEM.ID = 99
			default:
				bundle.OneTime.ID = 99
			}
			a.initiate(b, bundle)
			_, err := b.open(a, a.send(b, "first"))
			var unknown *ratchet.UnknownPreKeyError
			if !errors.As(err, &unknown) || unknown.Kind != kind || unknown.ID != 99 {
				t.Fatal(err)
			}
		})
	}
}

func TestOneTimePreKeysAreDeletedWithTheFirstMessage(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(5, true, false))
	first := a.send(b, "first")
	bad := altered(first, func(body []byte) []byte { body[90] ^= 1; return body })
	if _, err := b.open(a, bad); err == nil {
		t.Fatal("accepted")
	}
	left := func() (one, kem bool) {
		o, _ := b.store.OneTimePreKey(5)
		k, _ := b.store.KEMPreKey(5)
		return o != nil, k != nil
	}
	if one, kem := left(); !one || !kem {
		t.Fatal("a message that failed used up a prekey")
	}
	b.read(a, first)
	if one, kem := left(); one || kem {
		t.Fatal("a used prekey was kept")
	}
}

func TestLastResortKEMRefusesRepeatedBaseKey(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	bundle := b.bundle(1, false, true)
	a.initiate(b, bundle)
	first := a.send(b, "first")
	b.read(a, first)
	if k, _ := b.store.KEMPreKey(1); k == nil {
		t.Fatal("the last-resort prekey was deleted")
	}
	b.store.SetSession(a.address(), nil)
	b.refuse(a, first, ratchet.ErrKEMReused)
	// Another base key may use the prekey again.
	a.initiate(b, bundle)
	b.read(a, a.send(b, "second session"))
}

func TestSimultaneousInitiationConverges(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	forA, forB := b.bundle(1, true, false), a.bundle(1, true, false)
	a.initiate(b, forA)
	b.initiate(a, forB)
	fromA, fromB := a.send(b, "from a"), b.send(a, "from b")
	b.read(a, fromA)
	a.read(b, fromB)
	// The answers cross as well.
	fromA, fromB = a.send(b, "second from a"), b.send(a, "second from b")
	b.read(a, fromA)
	a.read(b, fromB)
	// From now on both use the same session.
	for range 5 {
		l := a.send(b, "ping")
		if l.Type != ratchet.TypeWhisper {
			t.Fatal("still sending first messages")
		}
		b.read(a, l)
		a.read(b, b.send(a, "pong"))
	}
	if ia, ib := inspect(t, a, b), inspect(t, b, a); ia.Epoch != ib.Epoch && ia.Epoch+1 != ib.Epoch && ib.Epoch+1 != ia.Epoch {
		t.Fatal("the ends use different sessions")
	}
}

func TestArchiveThenSendAndReceiveLate(t *testing.T) {
	a, b := established(t)
	late := b.send(a, "late")
	if err := a.device.Archive(a.store, b.address()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.device.Encrypt(a.store, a.now, b.address(), nil); !errors.Is(err, ratchet.ErrNoSession) {
		t.Fatal(err)
	}
	a.read(b, late)
	b.read(a, a.send(b, "the hit was promoted"))
}

func TestNoSession(t *testing.T) {
	a, b := established(t)
	l := a.send(b, "x")
	b.store.SetSession(a.address(), nil)
	b.refuse(a, l, ratchet.ErrNoSession)
	if _, err := b.device.Encrypt(b.store, b.now, a.address(), nil); !errors.Is(err, ratchet.ErrNoSession) {
		t.Fatal(err)
	}
}

func TestIdentityChanged(t *testing.T) {
	a, b := established(t)
	oldMessage := b.send(a, "from the old installation")
	newB := newEnd(t, "bob", 1)
	newB.device.Identity, _ = curve.NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	bundle := newB.bundle(2, true, false)
	var changed *ratchet.IdentityChangedError
	if err := a.device.Initiate(a.store, a.now, b.address(), bundle); !errors.As(err, &changed) || changed.Offered != bundle.Identity {
		t.Fatal(err)
	}
	newB.initiate(a, a.bundle(9, true, false))
	first := newB.send(a, "it is me")
	if _, err := a.open(newB, first); !errors.As(err, &changed) {
		t.Fatal(err)
	}
	a.store.SetPin(b.address().Name, bundle.Identity) // the user accepts
	a.read(newB, first)
	// Messages of sessions with the old identity are refused from now on.
	if _, err := a.open(b, oldMessage); !errors.As(err, &changed) {
		t.Fatal(err)
	}
	if err := a.device.Archive(a.store, b.address()); err != nil {
		t.Fatal(err)
	}
}

func TestEncryptRefusesChangedIdentity(t *testing.T) {
	a, b := established(t)
	other, _ := curve.NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	a.store.SetPin(b.address().Name, other.Public())
	var changed *ratchet.IdentityChangedError
	if _, err := a.device.Encrypt(a.store, a.now, b.address(), nil); !errors.As(err, &changed) {
		t.Fatal(err)
	}
}

// replaceBase puts another base key into a first message.
func replaceBase(l letter, base curve.PublicKey) letter {
	// header, one-time id (2 bytes), tag and length of field 2
	return altered(l, func(b []byte) []byte { copy(b[1+2+2:], base.Bytes()); return b })
}

func TestBaseKeyMustBeCanonicalAndTorsionFree(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	first := a.send(b, "first")
	var base curve.PublicKey
	copy(base[:], first.Body[6:38])

	top := base
	top[31] |= 0x80
	b.refuse(a, replaceBase(first, top), curve.ErrNotCanonical)

	aboveP := curve.PublicKey{0xf2} // p + 5, encoding u = 5 a second time
	for i := 1; i < 31; i++ {
		aboveP[i] = 0xff
	}
	aboveP[31] = 0x7f
	b.refuse(a, replaceBase(first, aboveP), curve.ErrNotCanonical)

	b.refuse(a, replaceBase(first, withTorsion(t, 5)), curve.ErrTorsion)
	b.refuse(a, replaceBase(first, curve.PublicKey{}), ratchet.ErrMalformed)
	b.read(a, first)
}

// withTorsion returns a multiple of the base point plus a point of order 8.
func withTorsion(t *testing.T, n byte) curve.PublicKey {
	t.Helper()
	raw, err := hex.DecodeString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
	if err != nil {
		t.Fatal(err)
	}
	torsion, err := new(edwards25519.Point).SetBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{n}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	p := new(edwards25519.Point).ScalarBaseMult(scalar)
	return curve.PublicKey(p.Add(p, torsion).BytesMontgomery())
}

func TestLowOrderRatchetKeyIsRefused(t *testing.T) {
	a, b := established(t)
	l := a.send(b, "x")
	// The ratchet key follows header, tag, length and type byte.
	zero := altered(l, func(body []byte) []byte { clear(body[4:36]); return body })
	b.refuse(a, zero, ratchet.ErrMalformed)
	b.read(a, l)
}

func TestNamesThatAreNoServiceIDs(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	device := *a.device
	device.Address.Name = "+15550100"
	a.device = &device
	a.initiate(b, b.bundle(1, true, false))
	first := a.send(b, "first")
	if field, err := ratchet.AddressesOf(first.Type, first.Body); err != nil || field != nil {
		t.Fatalf("%x, %v", field, err)
	}
	b.read(a, first)
	a.read(b, b.send(a, "answer"))
}

func TestAddressesAreBoundIntoFirstMessagesOnly(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	first := a.send(b, "first")
	field, err := ratchet.AddressesOf(first.Type, first.Body)
	if err != nil || len(field) != 36 {
		t.Fatalf("%x, %v", field, err)
	}
	alice, bob := keys.AccountServiceID("alice"), keys.AccountServiceID("bob")
	if want := slices.Concat(alice[:], []byte{1}, bob[:], []byte{1}); !bytes.Equal(field, want) {
		t.Fatalf("got %x, want %x", field, want)
	}
	b.read(a, first)
	a.read(b, b.send(a, "answer"))
	if field, err := ratchet.AddressesOf(ratchet.TypeWhisper, a.send(b, "later").Body); err != nil || field != nil {
		t.Fatalf("%x, %v", field, err)
	}
}

func TestFirstMessageUnderAnotherAddressIsRefused(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	first := a.send(b, "first")
	for _, wrong := range []*end{newEnd(t, "mallory", 1), newEnd(t, "alice", 2)} {
		b.refuse(wrong, first, ratchet.ErrAddress)
	}
	b.read(a, first)
}

func TestBadBundleIsRefusedFirst(t *testing.T) {
	for name, change := range map[string]func(*keys.Bundle){
		"signed signature": func(k *keys.Bundle) { k.Signed.Signature[0] ^= 1 },
		"kem signature":    func(k *keys.Bundle) { k.KEM.Signature[0] ^= 1 },
		"signed key":       func(k *keys.Bundle) { k.Signed.Key[0] ^= 1 },
		"identity":         func(k *keys.Bundle) { k.Identity[0] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
			bundle := b.bundle(1, true, false)
			change(bundle)
			var bad *keys.BundleError
			if err := a.device.Initiate(a.store, a.now, b.address(), bundle); !errors.As(err, &bad) {
				t.Fatal(err)
			}
			if a.store.Applied() != 0 {
				t.Fatal("refused but stored")
			}
		})
	}
}
