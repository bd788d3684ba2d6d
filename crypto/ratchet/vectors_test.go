package ratchet_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
	"github.com/clearbox-im/clearbox/crypto/ratchet/ratchettest"
)

// transcript is a recorded conversation with the official package, seen from
// the Go side.
type transcript struct {
	Seed      []byte
	Go        party
	Libsignal party
	Epochs    uint64
	Steps     []struct {
		Op        string
		Now       int64
		ID        uint32
		OneTime   bool
		Bundle    *recordedBundle
		Type      ratchet.Type
		Body      []byte
		Plaintext []byte
		Error     string
	}
}

type party struct {
	Name         string
	Device       uint8
	Registration uint16
	Identity     []byte
}

type recordedBundle struct {
	Registration    uint16
	Device          uint8
	Identity        []byte
	SignedID        uint32
	Signed          []byte
	SignedSignature []byte
	OneTimeID       *uint32
	OneTime         []byte
	KEMID           uint32
	KEM             []byte
	KEMSignature    []byte
}

func readVector(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func publicKey(t *testing.T, b []byte) curve.PublicKey {
	t.Helper()
	k, err := curve.ParsePublicKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (r *recordedBundle) bundle(t *testing.T) *keys.Bundle {
	b := &keys.Bundle{
		Registration: r.Registration,
		Device:       r.Device,
		Identity:     publicKey(t, r.Identity),
		Signed:       keys.SignedPreKey{ID: r.SignedID, Key: publicKey(t, r.Signed), Signature: r.SignedSignature},
		KEM:          keys.KEMPreKey{ID: r.KEMID, Key: r.KEM, Signature: r.KEMSignature},
	}
	if r.OneTimeID != nil {
		b.OneTime = &keys.OneTimePreKey{ID: *r.OneTimeID, Key: publicKey(t, r.OneTime)}
	}
	return b
}

// Conversations recorded with the official package replay byte by byte: its
// messages are read, and ours are the ones that it read.
func TestRecordedSessions(t *testing.T) {
	files, err := filepath.Glob("../testdata/vectors/session-*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var v transcript
			readVector(t, file, &v)
			replay(t, &v)
		})
	}
}

func replay(t *testing.T, v *transcript) {
	random := rand.NewChaCha8([32]byte(v.Seed))
	identity, err := curve.GeneratePrivateKey(random)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(identity.Public().Bytes(), v.Go.Identity) {
		t.Fatal("the seed gives another identity")
	}
	device := &ratchet.Device{
		Address:      ratchet.Address{Name: v.Go.Name, Device: v.Go.Device},
		Identity:     identity,
		Registration: v.Go.Registration,
		Random:       random,
	}
	store := new(ratchettest.Store)
	peer := ratchet.Address{Name: v.Libsignal.Name, Device: v.Libsignal.Device}
	now := time.UnixMilli(1_800_000_000_000)
	read := 0
	for i, s := range v.Steps {
		switch s.Op {
		case "bundle":
			b, err := store.Publish(random, device, s.ID, s.OneTime, false)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.KEM.Key, s.Bundle.KEM) || !bytes.Equal(b.Signed.Signature, s.Bundle.SignedSignature) {
				t.Fatal("the seed gives another bundle")
			}
		case "initiate":
			if err := device.Initiate(store, now, peer, s.Bundle.bundle(t)); err != nil {
				t.Fatal(err)
			}
		case "encrypt":
			c, err := device.Encrypt(store, now, peer, s.Plaintext)
			if err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			if c.Type != s.Type || !bytes.Equal(c.Body, s.Body) {
				t.Fatalf("step %d: another ciphertext than recorded", i)
			}
		case "decrypt":
			o, err := device.Decrypt(store, peer, s.Type, s.Body)
			switch {
			case s.Error == "duplicate" && errors.Is(err, ratchet.ErrDuplicate):
			case s.Error == "mac" && errors.Is(err, ratchet.ErrMAC):
			case s.Error != "":
				t.Fatalf("step %d: %v, want %s", i, err, s.Error)
			case err != nil:
				t.Fatalf("step %d: %v", i, err)
			case !bytes.Equal(o.Plaintext, s.Plaintext):
				t.Fatalf("step %d: read %q, want %q", i, o.Plaintext, s.Plaintext)
			default:
				read++
			}
		default:
			t.Fatalf("step %d: unknown operation %q", i, s.Op)
		}
	}
	stored, err := store.Session(peer)
	if err != nil {
		t.Fatal(err)
	}
	info, err := device.Inspect(stored, now)
	if err != nil {
		t.Fatal(err)
	}
	if info.Epoch != v.Epochs+1 || read < 100 || !bytes.Equal(info.Identity.Bytes(), v.Libsignal.Identity) {
		t.Fatalf("epoch %d, want %d; %d messages read", info.Epoch, v.Epochs+1, read)
	}
}

func TestRecordedPrimitives(t *testing.T) {
	var v struct {
		Signatures []struct{ Private, Public, Message, Signature []byte }
		Agreements []struct{ Private, Public, Secret []byte }
		KEM        []struct{ Public, Secret []byte }

		SafetyNumbers []struct {
			Iterations                                  int
			LocalID, Local, RemoteID, Remote, Scannable []byte
			Digits                                      string
		}
	}
	readVector(t, "../testdata/vectors/primitives.json", &v)
	if len(v.Signatures) == 0 || len(v.Agreements) == 0 || len(v.KEM) == 0 || len(v.SafetyNumbers) == 0 {
		t.Fatal("empty vectors")
	}
	for i, s := range v.Signatures {
		if !curve.Verify(publicKey(t, s.Public), s.Message, s.Signature) {
			t.Errorf("signature %d", i)
		}
		k, err := curve.NewPrivateKey(s.Private)
		if err != nil || k.Public() != publicKey(t, s.Public) {
			t.Errorf("key %d: %v", i, err)
		}
	}
	for i, a := range v.Agreements {
		k, err := curve.NewPrivateKey(a.Private)
		if err != nil {
			t.Fatal(err)
		}
		if secret, err := k.DH(publicKey(t, a.Public)); err != nil || !bytes.Equal(secret, a.Secret) {
			t.Errorf("agreement %d: %v", i, err)
		}
	}
	for i, k := range v.KEM {
		if public, err := ratchet.KEMPublicKey(&ratchet.KEMSecret{Secret: k.Secret}); err != nil || !bytes.Equal(public, k.Public) {
			t.Errorf("Kyber key %d: %v", i, err)
		}
	}
	for i, s := range v.SafetyNumbers {
		f, err := keys.SafetyNumber(s.Iterations, s.LocalID, publicKey(t, s.Local), s.RemoteID, publicKey(t, s.Remote))
		if err != nil || f.Digits() != s.Digits || !bytes.Equal(f.Scannable(), s.Scannable) {
			t.Errorf("safety number %d: %v", i, err)
		}
	}
}
