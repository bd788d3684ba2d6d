package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
)

var (
	accepted = time.UnixMilli(1_800_000_000_000)
	expires  = accepted.Add(time.Hour)
)

// world is a homeserver that issues certificates, and some people.
type world struct {
	Root   curve.PublicKey // what clients pin
	key    *curve.PrivateKey
	server *certificate.Server
	random io.Reader
}

func newWorld(t testing.TB, seed byte) *world {
	t.Helper()
	w := &world{random: rand.NewChaCha8([32]byte{seed})}
	root, err := curve.GeneratePrivateKey(w.random)
	if err != nil {
		t.Fatal(err)
	}
	w.Root = root.Public()
	if w.key, err = curve.GeneratePrivateKey(w.random); err != nil {
		t.Fatal(err)
	}
	if w.server, err = certificate.IssueServer(w.random, root, 1, w.key.Public()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) person(t testing.TB, name string) *sealed.Receiver {
	t.Helper()
	k, err := curve.GeneratePrivateKey(w.random)
	if err != nil {
		t.Fatal(err)
	}
	return &sealed.Receiver{Account: keys.AccountServiceID(name), Device: 1, Identity: k}
}

// content is a message by a person, certified.
func (w *world) content(t testing.TB, from *sealed.Receiver) *sealed.Content {
	t.Helper()
	c, err := w.server.Issue(w.random, w.key, certificate.Subject{
		Account: from.Account, Device: from.Device, Identity: from.Identity.Public(), Expires: expires,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &sealed.Content{Type: sealed.TypeWhisper, Sender: c, Body: []byte("already encrypted")}
}

func (w *world) sealV1(t testing.TB, from, to *sealed.Receiver, c *sealed.Content) []byte {
	t.Helper()
	b, err := sealed.SealV1(w.random, from.Identity, to.Identity.Public(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sealV2 seals for one account and returns what its devices get.
func (w *world) sealV2(t testing.TB, from, to *sealed.Receiver, c *sealed.Content) []byte {
	t.Helper()
	return w.sealMany(t, from, c, to)[0]
}

// sealMany seals for several accounts and lets a homeserver take it apart.
func (w *world) sealMany(t testing.TB, from *sealed.Receiver, c *sealed.Content, to ...*sealed.Receiver) [][]byte {
	t.Helper()
	var recipients []sealed.Recipient
	for _, r := range to {
		recipients = append(recipients, recipient(r))
	}
	b, err := sealed.SealV2(w.random, from.Identity, c, recipients, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := fanout.Parse(b, fanout.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for i := range to {
		b, err := m.AppendReceived(nil, i)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func recipient(r *sealed.Receiver) sealed.Recipient {
	return sealed.Recipient{Account: r.Account, Identity: r.Identity.Public(), Devices: []fanout.Device{{ID: r.Device, Registration: 77}}}
}

func same(a, b *sealed.Content) bool {
	return a.Type == b.Type && bytes.Equal(a.Body, b.Body) && a.Hint == b.Hint && bytes.Equal(a.Group, b.Group) &&
		a.Sender.Subject() == b.Sender.Subject() && bytes.Equal(a.Sender.Bytes(), b.Sender.Bytes())
}

// versions are the two ways to seal for one account.
func (w *world) versions(t testing.TB) map[string]func(from, to *sealed.Receiver, c *sealed.Content) []byte {
	return map[string]func(from, to *sealed.Receiver, c *sealed.Content) []byte{
		"v1": func(from, to *sealed.Receiver, c *sealed.Content) []byte { return w.sealV1(t, from, to, c) },
		"v2": func(from, to *sealed.Receiver, c *sealed.Content) []byte { return w.sealV2(t, from, to, c) },
	}
}

func TestSealAndOpen(t *testing.T) {
	w := newWorld(t, 1)
	alice, bob := w.person(t, "alice@a.test"), w.person(t, "bob@b.test")
	for version, seal := range w.versions(t) {
		for name, change := range map[string]func(*sealed.Content){
			"plain":       func(c *sealed.Content) {},
			"first":       func(c *sealed.Content) { c.Type = sealed.TypePreKey },
			"group":       func(c *sealed.Content) { c.Type, c.Group = sealed.TypeSenderKey, []byte("a group") },
			"error":       func(c *sealed.Content) { c.Type, c.Hint = sealed.TypePlaintext, sealed.HintImplicit },
			"resendable":  func(c *sealed.Content) { c.Hint = sealed.HintResendable },
			"later hint":  func(c *sealed.Content) { c.Hint = 9 },
			"largest":     func(c *sealed.Content) { c.Body, c.Group = make([]byte, sealed.MaxBody), make([]byte, sealed.MaxGroup) },
			"empty group": func(c *sealed.Content) { c.Group = []byte{} },
		} {
			c := w.content(t, alice)
			change(c)
			b := seal(alice, bob, c)
			if len(b) > sealed.MaxMessage {
				t.Fatalf("%s, %s: %d bytes", version, name, len(b))
			}
			before := bytes.Clone(b)
			got, err := bob.Open(b, accepted, w.Root)
			if err != nil {
				t.Errorf("%s, %s: %v", version, name, err)
				continue
			}
			if !same(got, c) || !bytes.Equal(b, before) {
				t.Errorf("%s, %s: %+v", version, name, got)
			}
			if bytes.Contains(b, alice.Account[1:]) || bytes.Contains(b, []byte(alice.Account.UUID())) || bytes.Contains(b, alice.Identity.Public().Bytes()[1:]) {
				t.Errorf("%s, %s: the envelope names its sender", version, name)
			}
		}
	}
}

// The certificate is judged at the time at which the sender's server accepted
// the message, whenever it is read.
func TestOpenRefusesCertificates(t *testing.T) {
	w, other := newWorld(t, 1), newWorld(t, 2)
	alice, bob := w.person(t, "alice@a.test"), w.person(t, "bob@b.test")
	for version, seal := range w.versions(t) {
		own, foreign := w.content(t, alice), other.content(t, alice)
		for name, v := range map[string]struct {
			c     *sealed.Content
			at    time.Time
			roots []curve.PublicKey
			want  error
		}{
			"valid, read whenever":              {own, accepted, []curve.PublicKey{w.Root}, nil},
			"valid at the last moment":          {own, expires, []curve.PublicKey{w.Root}, nil},
			"an old and a new root":             {own, accepted, []curve.PublicKey{other.Root, w.Root}, nil},
			"accepted after it had expired":     {own, expires.Add(time.Millisecond), []curve.PublicKey{w.Root}, certificate.ErrExpired},
			"judged by the time of reading":     {own, accepted.Add(29 * 24 * time.Hour), []curve.PublicKey{w.Root}, certificate.ErrExpired},
			"of another server for this person": {foreign, accepted, []curve.PublicKey{w.Root}, certificate.ErrUntrusted},
			"no root":                           {own, accepted, nil, certificate.ErrUntrusted},
		} {
			c, err := bob.Open(seal(alice, bob, v.c), v.at, v.roots...)
			if !errors.Is(err, v.want) || (err == nil) != (c != nil) {
				t.Errorf("%s, %s: %v, want %v", version, name, err, v.want)
			}
		}
	}
}

func TestOpenRefusesOwn(t *testing.T) {
	w := newWorld(t, 1)
	alice := w.person(t, "alice@a.test")
	laptop := &sealed.Receiver{Account: alice.Account, Device: 2, Identity: alice.Identity}
	for version, seal := range w.versions(t) {
		b := seal(alice, alice, w.content(t, alice))
		if _, err := alice.Open(b, accepted, w.Root); !errors.Is(err, sealed.ErrOwn) {
			t.Errorf("%s: %v", version, err)
		}
		if _, err := laptop.Open(b, accepted, w.Root); err != nil {
			t.Errorf("%s: on another device of the account: %v", version, err)
		}
	}
}

func TestOpenRefusesOthers(t *testing.T) {
	w := newWorld(t, 1)
	alice, bob, carol := w.person(t, "alice@a.test"), w.person(t, "bob@b.test"), w.person(t, "carol@b.test")
	for version, seal := range w.versions(t) {
		b := seal(alice, bob, w.content(t, alice))
		if _, err := carol.Open(b, accepted, w.Root); !errors.Is(err, sealed.ErrDecrypt) {
			t.Errorf("%s: opened by another person: %v", version, err)
		}
	}
}

// No bit of a sealed message can be changed.
func TestEveryBitCounts(t *testing.T) {
	w := newWorld(t, 1)
	alice, bob := w.person(t, "alice@a.test"), w.person(t, "bob@b.test")
	for version, seal := range w.versions(t) {
		b := seal(alice, bob, w.content(t, alice))
		if _, err := bob.Open(b, accepted, w.Root); err != nil {
			t.Fatal(err)
		}
		for i := range 8 * len(b) {
			bad := bytes.Clone(b)
			bad[i/8] ^= 1 << (i % 8)
			c, err := bob.Open(bad, accepted, w.Root)
			if err == nil || c != nil {
				t.Errorf("%s: bit %d may be flipped", version, i)
			}
			// The top bit of a public key does not count in X25519, but it is
			// in the bytes that keys are derived from.
			if !errors.Is(err, sealed.ErrDecrypt) && !errors.Is(err, sealed.ErrMalformed) && !errors.Is(err, sealed.ErrVersion) && !errors.Is(err, sealed.ErrSender) {
				t.Errorf("%s: bit %d: %v", version, i, err)
			}
		}
		for n := range b {
			if _, err := bob.Open(b[:n], accepted, w.Root); err == nil {
				t.Errorf("%s: the first %d bytes are enough", version, n)
			}
		}
		if _, err := bob.Open(append(bytes.Clone(b), 0), accepted, w.Root); err == nil {
			t.Errorf("%s: a byte more does not matter", version)
		}
		if _, err := bob.Open(append(bytes.Clone(b), make([]byte, sealed.MaxMessage)...), accepted, w.Root); !errors.Is(err, sealed.ErrMalformed) {
			t.Errorf("%s: too long: %v", version, err)
		}
	}
}

func TestVersions(t *testing.T) {
	w := newWorld(t, 1)
	alice, bob := w.person(t, "alice@a.test"), w.person(t, "bob@b.test")
	for version, seal := range w.versions(t) {
		b := seal(alice, bob, w.content(t, alice))
		for first := range 256 {
			if first == sealed.TypeV1 || first == fanout.TypeReceived {
				continue
			}
			b[0] = byte(first)
			if _, err := bob.Open(b, accepted, w.Root); !errors.Is(err, sealed.ErrVersion) {
				t.Errorf("%s as %#x: %v", version, first, err)
			}
		}
	}
}

// A certificate is public to everyone who got one message of its owner; who
// seals under it without the owner's key is found out.
func TestForgedSender(t *testing.T) {
	w := newWorld(t, 1)
	alice, bob, mallory := w.person(t, "alice@a.test"), w.person(t, "bob@b.test"), w.person(t, "mallory@c.test")
	stolen := w.content(t, alice)
	stolen.Body = []byte("not by Alice")

	b := sealed.SealForeignV1(w.random, mallory.Identity, bob.Identity.Public(), stolen)
	if _, err := bob.Open(b, accepted, w.Root); !errors.Is(err, sealed.ErrSender) {
		t.Errorf("v1: %v", err)
	}
	// In version 2 every recipient knows the key of the content. Mallory, one of
	// two recipients, exchanges it under Alice's name, with her tag for Bob or
	// with one of his own.
	forBoth := w.sealMany(t, alice, w.content(t, alice), bob, mallory)
	ciphertext := sealed.Substitute(mallory, forBoth[1], bob.Identity.Public(), stolen)
	if _, err := bob.Open(ciphertext, accepted, w.Root); !errors.Is(err, sealed.ErrSender) {
		t.Errorf("v2, his own tag: %v", err)
	}
	// The tag does not cover the content: a recipient who exchanges it under the
	// sender's head is not found out here, but by the message inside, which he
	// cannot make. This is the protocol's, and the reason why a content carries
	// an authenticated message and never a bare text.
	exchanged := append(bytes.Clone(forBoth[0][:81]), ciphertext[81:]...)
	if c, err := bob.Open(exchanged, accepted, w.Root); err != nil || string(c.Body) != "not by Alice" {
		t.Errorf("v2, the sender's tag: %v", err)
	}
}

func TestSealRefuses(t *testing.T) {
	w := newWorld(t, 1)
	alice, bob := w.person(t, "alice@a.test"), w.person(t, "bob@b.test")
	to := []sealed.Recipient{recipient(bob)}
	for name, change := range map[string]func(*sealed.Content){
		"no certificate":      func(c *sealed.Content) { c.Sender = nil },
		"another certificate": func(c *sealed.Content) { c.Sender = w.content(t, bob).Sender },
		"no type":             func(c *sealed.Content) { c.Type = 0 },
		"an outer type":       func(c *sealed.Content) { c.Type = 3 },
		"no body":             func(c *sealed.Content) { c.Body = nil },
		"a long body":         func(c *sealed.Content) { c.Body = make([]byte, sealed.MaxBody+1) },
		"a long group id":     func(c *sealed.Content) { c.Group = make([]byte, sealed.MaxGroup+1) },
	} {
		c := w.content(t, alice)
		change(c)
		if _, err := sealed.SealV1(w.random, alice.Identity, bob.Identity.Public(), c); !errors.Is(err, sealed.ErrContent) {
			t.Errorf("v1, %s: %v", name, err)
		}
		if _, err := sealed.SealV2(w.random, alice.Identity, c, to, nil); !errors.Is(err, sealed.ErrContent) {
			t.Errorf("v2, %s: %v", name, err)
		}
	}
	c := w.content(t, alice)
	if _, err := sealed.SealV1(strings.NewReader("few"), alice.Identity, bob.Identity.Public(), c); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("v1, random source that ends: %v", err)
	}
	if _, err := sealed.SealV2(strings.NewReader("few"), alice.Identity, c, to, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("v2, random source that ends: %v", err)
	}
	if _, err := sealed.SealV1(w.random, alice.Identity, curve.PublicKey{}, c); !errors.Is(err, curve.ErrLowOrder) {
		t.Errorf("v1, low order: %v", err)
	}
	with := func(change func(*sealed.Recipient)) sealed.Recipient {
		r := recipient(bob)
		change(&r)
		return r
	}
	crowd := make([]sealed.Recipient, 0, fanout.DefaultRecipients+1)
	for i := range cap(crowd) {
		crowd = append(crowd, with(func(r *sealed.Recipient) { r.Account = keys.AccountServiceID(fmt.Sprint(i)) }))
	}
	for name, v := range map[string]struct {
		to       []sealed.Recipient
		excluded []keys.ServiceID
		because  error
	}{
		"nobody":                  {nil, nil, fanout.ErrMalformed},
		"only excluded":           {nil, []keys.ServiceID{bob.Account}, fanout.ErrMalformed},
		"no devices":              {[]sealed.Recipient{with(func(r *sealed.Recipient) { r.Devices = nil })}, nil, nil},
		"device 0":                {[]sealed.Recipient{with(func(r *sealed.Recipient) { r.Devices[0].ID = 0 })}, nil, fanout.ErrMalformed},
		"device 128":              {[]sealed.Recipient{with(func(r *sealed.Recipient) { r.Devices[0].ID = 128 })}, nil, fanout.ErrMalformed},
		"registration 0":          {[]sealed.Recipient{with(func(r *sealed.Recipient) { r.Devices[0].Registration = 0 })}, nil, fanout.ErrMalformed},
		"registration of 15 bits": {[]sealed.Recipient{with(func(r *sealed.Recipient) { r.Devices[0].Registration = 1 << 14 })}, nil, fanout.ErrMalformed},
		"one twice":               {[]sealed.Recipient{to[0], to[0]}, nil, fanout.ErrDuplicate},
		"one excluded too":        {to, []keys.ServiceID{bob.Account}, fanout.ErrDuplicate},
		"another kind":            {[]sealed.Recipient{with(func(r *sealed.Recipient) { r.Account[0] = 1 })}, nil, fanout.ErrMalformed},
		"low order":               {[]sealed.Recipient{with(func(r *sealed.Recipient) { r.Identity = curve.PublicKey{1} })}, nil, curve.ErrLowOrder},
		"too many":                {crowd, nil, fanout.ErrLimit},
	} {
		_, err := sealed.SealV2(w.random, alice.Identity, c, v.to, v.excluded)
		if !errors.Is(err, sealed.ErrRecipients) || v.because != nil && !errors.Is(err, v.because) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Three servers, several recipients with several devices each, one left out: each
// server's part holds for each of its people what the whole message held.
func TestThreeServers(t *testing.T) {
	w := newWorld(t, 1)
	alice := w.person(t, "alice@a.test")
	c := w.content(t, alice)
	people, servers := map[keys.ServiceID]*sealed.Receiver{}, map[keys.ServiceID]string{}
	var to []sealed.Recipient
	for i := range 12 {
		server := []string{"a.test", "b.test", "c.test"}[i%3]
		p := w.person(t, fmt.Sprintf("user%d@%s", i, server))
		people[p.Account], servers[p.Account] = p, server
		r := recipient(p)
		for d := range i % 4 {
			r.Devices = append(r.Devices, fanout.Device{ID: uint8(d + 2), Registration: uint16(1000 + d)})
		}
		to = append(to, r)
	}
	left := keys.AccountServiceID("left@c.test")
	b, err := sealed.SealV2(w.random, alice.Identity, c, to, []keys.ServiceID{left})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := fanout.Parse(b, fanout.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if place, ok := whole.Find(left); !ok || !whole.Recipients()[place].Excluded() || len(whole.Recipients()) != 13 {
		t.Fatal("the excluded recipient is not in the message")
	}
	read := 0
	for _, part := range fanout.Split(whole, func(id keys.ServiceID) (string, bool) { s, ok := servers[id]; return s, ok }) {
		m, err := fanout.Parse(part.Bytes, fanout.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range m.Recipients() {
			if servers[r.ID] != part.Peer {
				t.Fatalf("%s learns of an account of %s", part.Peer, servers[r.ID])
			}
			received, err := m.AppendReceived(nil, i)
			if err != nil {
				t.Fatal(err)
			}
			got, err := people[r.ID].Open(received, accepted, w.Root)
			if err != nil || !same(got, c) {
				t.Fatalf("%v, %v", got, err)
			}
			read++
		}
	}
	if read != 12 {
		t.Errorf("%d read it", read)
	}
}

func TestOuterTypes(t *testing.T) {
	for outer := range 256 {
		want := map[int]sealed.Type{2: sealed.TypeWhisper, 3: sealed.TypePreKey, 7: sealed.TypeSenderKey, 8: sealed.TypePlaintext}[outer]
		got, ok := sealed.TypeOfOuter(uint8(outer))
		if got != want || ok != (want != 0) || ok && got.Outer() != uint8(outer) {
			t.Errorf("outer %d: %d, %v", outer, got, ok)
		}
	}
	if sealed.Type(1).Outer() != 3 || sealed.Type(3).Outer() != 0 {
		t.Error("inner types")
	}
}

func TestParseContent(t *testing.T) {
	w := newWorld(t, 1)
	c := w.content(t, w.person(t, "alice@a.test"))
	sender, body := c.Sender.Bytes(), []byte("body")
	fields := func(kind uint64, more ...[]byte) []byte {
		b := field.AppendUint(nil, 1, kind)
		b = field.AppendData(field.AppendData(b, 2, sender), 3, body)
		return append(b, bytes.Join(more, nil)...)
	}
	for kind := range uint64(300) {
		_, err := sealed.ParseContent(fields(kind))
		if known := kind == 1 || kind == 2 || kind == 7 || kind == 8; known != (err == nil) || err != nil && !errors.Is(err, sealed.ErrMalformed) {
			t.Errorf("type %d: %v", kind, err)
		}
	}
	if c, err := sealed.ParseContent(fields(1, field.AppendData(nil, 5, nil), field.AppendUint(nil, 6, 1))); err != nil || c.Group != nil {
		t.Errorf("an empty group id and an unknown field: %v", err)
	}
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"no certificate":     field.AppendData(field.AppendUint(nil, 1, 1), 3, body),
		"no body":            field.AppendData(field.AppendUint(nil, 1, 1), 2, sender),
		"an empty body":      field.AppendData(field.AppendData(field.AppendUint(nil, 1, 1), 2, sender), 3, nil),
		"no type":            field.AppendData(field.AppendData(nil, 2, sender), 3, body),
		"a bad certificate":  field.AppendData(field.AppendData(field.AppendUint(nil, 1, 1), 2, sender[1:]), 3, body),
		"the type twice":     fields(1, field.AppendUint(nil, 1, 1)),
		"the body twice":     fields(1, field.AppendData(nil, 3, body)),
		"a hint of 33 bits":  fields(1, field.AppendUint(nil, 4, 1<<32)),
		"a hint in bytes":    fields(1, field.AppendData(nil, 4, []byte{1})),
		"a long group id":    fields(1, field.AppendData(nil, 5, make([]byte, sealed.MaxGroup+1))),
		"a long body":        field.AppendData(field.AppendData(field.AppendUint(nil, 1, 1), 2, sender), 3, make([]byte, sealed.MaxBody+1)),
		"padding at the end": fields(1, []byte{0}),
		"too long":           fields(1, field.AppendData(nil, 9, make([]byte, 200<<10))),
	} {
		if _, err := sealed.ParseContent(b); !errors.Is(err, sealed.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseContent(f *testing.F) {
	w := newWorld(f, 1)
	c := w.content(f, w.person(f, "alice@a.test"))
	f.Add(c.Encode())
	c.Hint, c.Group = sealed.HintImplicit, []byte("g")
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := sealed.ParseContent(b)
		if err != nil {
			if !errors.Is(err, sealed.ErrMalformed) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		again, err := sealed.ParseContent(c.Encode())
		if err != nil || !same(again, c) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}

// Nothing but what was sealed is ever opened.
func FuzzOpen(f *testing.F) {
	w := newWorld(f, 1)
	alice, bob := w.person(f, "alice@a.test"), w.person(f, "bob@b.test")
	c := w.content(f, alice)
	for _, seal := range w.versions(f) {
		f.Add(seal(alice, bob, c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := bob.Open(b, accepted, w.Root)
		if err == nil && !same(got, c) {
			t.Fatalf("opened %+v", got)
		}
	})
}
