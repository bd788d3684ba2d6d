package prekeys_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/server/directory/prekeys"
)

// device makes keys as a client does.
type device struct {
	t        *testing.T
	random   *rand.ChaCha8
	identity *curve.PrivateKey
}

func newDevice(t *testing.T) *device {
	d := &device{t: t, random: rand.NewChaCha8([32]byte{7})}
	d.identity = d.key()
	return d
}

func (d *device) key() *curve.PrivateKey {
	d.t.Helper()
	k, err := curve.GeneratePrivateKey(d.random)
	if err != nil {
		d.t.Fatal(err)
	}
	return k
}

func (d *device) sign(id uint32, public []byte) prekeys.PreKey {
	d.t.Helper()
	sig, err := d.identity.Sign(d.random, public)
	if err != nil {
		d.t.Fatal(err)
	}
	return prekeys.PreKey{ID: id, Public: public, Signature: sig}
}

func (d *device) kem(id uint32) prekeys.PreKey {
	public := make([]byte, 1569)
	d.random.Read(public)
	public[0] = 8
	return d.sign(id, public)
}

func (d *device) upload() prekeys.Upload {
	signed, last := d.sign(1, d.key().Public().Bytes()), d.kem(1)
	return prekeys.Upload{
		Signed: &signed, LastResort: &last,
		OneTime: []prekeys.PreKey{{ID: 10, Public: d.key().Public().Bytes()}, {ID: 11, Public: d.key().Public().Bytes()}},
		KEM:     []prekeys.PreKey{d.kem(10), d.kem(11)},
	}
}

func TestUploadCheck(t *testing.T) {
	flip := func(k *prekeys.PreKey) {
		k.Signature = bytes.Clone(k.Signature)
		k.Signature[3] ^= 1
	}
	cases := []struct {
		name   string
		change func(d *device, u *prekeys.Upload)
		code   clearbox.Code
		field  string
	}{
		{"good", func(*device, *prekeys.Upload) {}, "", ""},
		{"signed prekey with a bad signature", func(d *device, u *prekeys.Upload) { flip(u.Signed) }, clearbox.CodeBadSignature, "/keys/signed"},
		{"last resort with a bad signature", func(d *device, u *prekeys.Upload) { flip(u.LastResort) }, clearbox.CodeBadSignature, "/keys/last_resort"},
		{"one-time KEM key with a bad signature", func(d *device, u *prekeys.Upload) { flip(&u.KEM[1]) }, clearbox.CodeBadSignature, "/keys/kem/1"},
		{"signed by somebody else", func(d *device, u *prekeys.Upload) {
			d.identity = d.key()
			*u = d.upload()
			d.identity = d.key()
		}, clearbox.CodeBadSignature, "/keys/signed"},
		{"no signature", func(d *device, u *prekeys.Upload) { u.Signed.Signature = nil }, clearbox.CodeBadSignature, "/keys/signed"},
		{"signed without last resort", func(d *device, u *prekeys.Upload) { u.LastResort = nil }, clearbox.CodeBadRequest, "/keys"},
		{"neither though needed", func(d *device, u *prekeys.Upload) { u.Signed, u.LastResort = nil, nil }, clearbox.CodeBadRequest, "/keys/signed"},
		{"signature on a one-time EC key", func(d *device, u *prekeys.Upload) { u.OneTime[0].Signature = make([]byte, 64) }, clearbox.CodeBadRequest, "/keys/one_time/0"},
		{"id 0", func(d *device, u *prekeys.Upload) { u.OneTime[0].ID = 0 }, clearbox.CodeBadRequest, "/keys/one_time/0"},
		{"id too large", func(d *device, u *prekeys.Upload) { u.KEM[0].ID = 1 << 24 }, clearbox.CodeBadRequest, "/keys/kem/0"},
		{"the same id twice", func(d *device, u *prekeys.Upload) { u.OneTime[1].ID = u.OneTime[0].ID }, clearbox.CodeBadRequest, "/keys/one_time/1"},
		{"the same KEM id twice", func(d *device, u *prekeys.Upload) { u.KEM[1].ID = u.KEM[0].ID }, clearbox.CodeBadRequest, "/keys/kem/1"},
		{"KEM id of the last resort", func(d *device, u *prekeys.Upload) { u.KEM[1].ID = u.LastResort.ID }, clearbox.CodeBadRequest, "/keys/kem/1"},
		{"EC key of 32 bytes", func(d *device, u *prekeys.Upload) { u.OneTime[0].Public = u.OneTime[0].Public[1:] }, clearbox.CodeBadRequest, "/keys/one_time/0"},
		{"EC key of low order", func(d *device, u *prekeys.Upload) { u.OneTime[0].Public = append([]byte{5}, make([]byte, 32)...) }, clearbox.CodeBadRequest, "/keys/one_time/0"},
		{"KEM key of another type", func(d *device, u *prekeys.Upload) { u.KEM[0].Public[0] = 7 }, clearbox.CodeBadRequest, "/keys/kem/0"},
		{"KEM key too short", func(d *device, u *prekeys.Upload) { u.KEM[0].Public = u.KEM[0].Public[:1568] }, clearbox.CodeBadRequest, "/keys/kem/0"},
		{"101 one-time keys", func(d *device, u *prekeys.Upload) { u.OneTime = make([]prekeys.PreKey, 101) }, clearbox.CodeQuota, "/keys/one_time"},
		{"101 KEM keys", func(d *device, u *prekeys.Upload) { u.KEM = make([]prekeys.PreKey, 101) }, clearbox.CodeQuota, "/keys/kem"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := newDevice(t)
			identity := d.identity.Public()
			u := d.upload()
			c.change(d, &u)
			err := u.Check(identity, true, "/keys")
			if got := clearbox.CodeOf(err); got != c.code {
				t.Fatalf("code %q (%v), want %q", got, err, c.code)
			}
			var e *clearbox.Error
			if c.code != "" && (!errors.As(err, &e) || e.Field != c.field) {
				t.Fatalf("field of %+v, want %s", e, c.field)
			}
		})
	}
	d := newDevice(t)
	empty := prekeys.Upload{OneTime: []prekeys.PreKey{{ID: 10, Public: d.key().Public().Bytes()}}}
	if err := empty.Check(d.identity.Public(), false, ""); err != nil {
		t.Fatalf("one-time keys alone: %v", err)
	}
}

func TestBundleCheck(t *testing.T) {
	d := newDevice(t)
	u := d.upload()
	good := func() prekeys.Bundle {
		one := u.OneTime[0]
		return prekeys.Bundle{Device: 1, Registration: 77, Identity: d.identity.Public().Bytes(), Signed: *u.Signed, OneTime: &one, KEM: u.KEM[0]}
	}
	cases := []struct {
		name   string
		change func(b *prekeys.Bundle)
		code   clearbox.Code
	}{
		{"good", func(b *prekeys.Bundle) {}, ""},
		{"without one-time key", func(b *prekeys.Bundle) { b.OneTime = nil }, ""},
		{"another identity", func(b *prekeys.Bundle) { b.Identity = d.key().Public().Bytes() }, clearbox.CodeBadSignature},
		{"no identity", func(b *prekeys.Bundle) { b.Identity = nil }, clearbox.CodeBadSignature},
		{"registration 0", func(b *prekeys.Bundle) { b.Registration = 0 }, clearbox.CodeBadRequest},
		{"registration of 15 bits", func(b *prekeys.Bundle) { b.Registration = 1 << 14 }, clearbox.CodeBadRequest},
		{"KEM key signed by another", func(b *prekeys.Bundle) { b.KEM = newDevice(t).sign(3, u.KEM[1].Public); b.KEM.Signature[0] ^= 1 }, clearbox.CodeBadSignature},
		{"one-time key malformed", func(b *prekeys.Bundle) { b.OneTime.Public = nil }, clearbox.CodeBadRequest},
		{"signed key unsigned", func(b *prekeys.Bundle) { b.Signed.Signature = nil }, clearbox.CodeBadSignature},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := good()
			c.change(&b)
			if got := clearbox.CodeOf(b.Check(d.identity.Public())); got != c.code {
				t.Fatalf("code %q, want %q", got, c.code)
			}
		})
	}
}
