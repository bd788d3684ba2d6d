package certificate_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

var expires = time.UnixMilli(1_800_000_000_123).UTC()

// office is a homeserver's root and server certificate.
type office struct {
	random    io.Reader
	root, key *curve.PrivateKey
	server    *certificate.Server
}

func newKey(t testing.TB, random io.Reader) *curve.PrivateKey {
	t.Helper()
	k, err := curve.GeneratePrivateKey(random)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func open(t testing.TB, seed byte) *office {
	t.Helper()
	o := &office{random: rand.NewChaCha8([32]byte{seed})}
	o.root, o.key = newKey(t, o.random), newKey(t, o.random)
	var err error
	if o.server, err = certificate.IssueServer(o.random, o.root, 7, o.key.Public()); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) subject(t testing.TB) certificate.Subject {
	return certificate.Subject{
		Account:  keys.AccountServiceID("alice@a.test"),
		Device:   3,
		Identity: newKey(t, o.random).Public(),
		Expires:  expires,
	}
}

func (o *office) issue(t testing.TB) *certificate.Sender {
	t.Helper()
	c, err := o.server.Issue(o.random, o.key, o.subject(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIssueAndValidate(t *testing.T) {
	a, c := open(t, 1), open(t, 2)
	made := a.issue(t)
	read, err := certificate.ParseSender(made.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if read.Subject() != made.Subject() || read.Server().ID() != 7 || read.Server().Key() != a.key.Public() {
		t.Fatalf("%+v became %+v", made.Subject(), read.Subject())
	}
	rootA, rootC := a.root.Public(), c.root.Public()
	for name, v := range map[string]struct {
		at    time.Time
		roots []curve.PublicKey
		want  error
	}{
		"valid":                      {expires.Add(-time.Hour), []curve.PublicKey{rootA}, nil},
		"in its last millisecond":    {expires.Add(999 * time.Microsecond), []curve.PublicKey{rootA}, nil},
		"a millisecond later":        {expires.Add(time.Millisecond), []curve.PublicKey{rootA}, certificate.ErrExpired},
		"29 days later":              {expires.Add(29 * 24 * time.Hour), []curve.PublicKey{rootA}, certificate.ErrExpired},
		"two roots, the second":      {expires, []curve.PublicKey{rootC, rootA}, nil},
		"the root of another server": {expires, []curve.PublicKey{rootC}, certificate.ErrUntrusted},
		"no root":                    {expires, nil, certificate.ErrUntrusted},
		"the server's key as root":   {expires, []curve.PublicKey{a.key.Public()}, certificate.ErrUntrusted},
	} {
		for _, s := range []*certificate.Sender{made, read} {
			if err := s.Validate(v.at, v.roots...); !errors.Is(err, v.want) {
				t.Errorf("%s: %v, want %v", name, err, v.want)
			}
		}
	}
}

// A certificate that server C issued for an account of A is not valid under the
// roots of A, which are the ones a client asks about for that account.
func TestCertificateOfAnotherServer(t *testing.T) {
	a, c := open(t, 1), open(t, 2)
	forged, err := c.server.Issue(c.random, c.key, a.subject(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := forged.Validate(expires, a.root.Public()); !errors.Is(err, certificate.ErrUntrusted) {
		t.Errorf("%v", err)
	}
	// Enclosing A's server certificate with C's signature does not help.
	inner := field.AppendUint(nil, 2, 3)
	inner = field.AppendFixed64(inner, 3, uint64(expires.UnixMilli()))
	inner = field.AppendData(inner, 4, c.key.Public().Bytes())
	inner = field.AppendData(inner, 5, a.server.Bytes())
	inner = field.AppendData(inner, 7, forged.Bytes()[:16])
	mixed, err := certificate.ParseSender(wrap(t, c.key, inner))
	if err != nil {
		t.Fatal(err)
	}
	if err := mixed.Validate(expires, a.root.Public()); !errors.Is(err, certificate.ErrSignature) {
		t.Errorf("%v", err)
	}
}

// wrap signs inner as a certificate.
func wrap(t testing.TB, key *curve.PrivateKey, inner []byte) []byte {
	t.Helper()
	signature, err := key.Sign(rand.NewChaCha8([32]byte{9}), inner)
	if err != nil {
		t.Fatal(err)
	}
	return field.AppendData(field.AppendData(nil, 1, inner), 2, signature)
}

// Every bit of a certificate is signed or is a signature.
func TestEveryBitCounts(t *testing.T) {
	o := open(t, 1)
	good := o.issue(t).Bytes()
	for i := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		c, err := certificate.ParseSender(bad)
		if err == nil {
			err = c.Validate(expires.Add(-time.Hour), o.root.Public())
		}
		if err == nil {
			t.Errorf("bit %d may be flipped", i)
		}
	}
	server := o.server.Bytes()
	for i := range 8 * len(server) {
		bad := bytes.Clone(server)
		bad[i/8] ^= 1 << (i % 8)
		c, err := certificate.ParseServer(bad)
		if err == nil {
			err = c.Verify(o.root.Public())
		}
		if err == nil {
			t.Errorf("bit %d of the server certificate may be flipped", i)
		}
	}
}

func TestIssueRefuses(t *testing.T) {
	o := open(t, 1)
	for name, change := range map[string]func(*certificate.Subject){
		"device 0":              func(s *certificate.Subject) { s.Device = 0 },
		"device 128":            func(s *certificate.Subject) { s.Device = 128 },
		"another kind of id":    func(s *certificate.Subject) { s.Account[0] = 1 },
		"an identity of zeros":  func(s *certificate.Subject) { s.Identity = curve.PublicKey{} },
		"no time":               func(s *certificate.Subject) { s.Expires = time.Time{} },
		"a time beyond numbers": func(s *certificate.Subject) { s.Expires = time.UnixMilli(1 << 53) },
	} {
		s := o.subject(t)
		change(&s)
		if _, err := o.server.Issue(o.random, o.key, s); !errors.Is(err, certificate.ErrSubject) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := o.server.Issue(o.random, o.root, o.subject(t)); !errors.Is(err, certificate.ErrSubject) {
		t.Errorf("another key than the certificate's: %v", err)
	}
	if _, err := certificate.IssueServer(o.random, o.root, 1, curve.PublicKey{1}); !errors.Is(err, certificate.ErrSubject) {
		t.Errorf("a server key of low order: %v", err)
	}
	if _, err := o.server.Issue(strings.NewReader("short"), o.key, o.subject(t)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("random source that ends: %v", err)
	}
	if _, err := certificate.IssueServer(strings.NewReader(""), o.root, 1, o.key.Public()); !errors.Is(err, io.EOF) {
		t.Errorf("random source that ends: %v", err)
	}
}

// innerParts gives the fields of a good sender certificate, by number.
func innerParts(t testing.TB, o *office) map[uint8][]byte {
	s := o.subject(t)
	return map[uint8][]byte{
		2: field.AppendUint(nil, 2, uint64(s.Device)),
		3: field.AppendFixed64(nil, 3, uint64(s.Expires.UnixMilli())),
		4: field.AppendData(nil, 4, s.Identity.Bytes()),
		5: field.AppendData(nil, 5, o.server.Bytes()),
		7: field.AppendData(nil, 7, s.Account[1:]),
	}
}

func join(parts map[uint8][]byte) []byte {
	var b []byte
	for n := uint8(1); n < 64; n++ {
		b = append(b, parts[n]...)
	}
	return b
}

func TestParseSender(t *testing.T) {
	o := open(t, 1)
	account := keys.AccountServiceID("alice@a.test")
	text := func(s string) []byte { return field.AppendData(nil, 6, []byte(s)) }
	for name, v := range map[string]struct {
		change func(map[uint8][]byte)
		want   error
	}{
		"bytes":                 {func(p map[uint8][]byte) {}, nil},
		"text":                  {func(p map[uint8][]byte) { p[6] = text(account.UUID()); delete(p, 7) }, nil},
		"with a phone number":   {func(p map[uint8][]byte) { p[1] = field.AppendData(nil, 1, []byte("+15550100")) }, nil},
		"with an unknown field": {func(p map[uint8][]byte) { p[9] = field.AppendUint(nil, 9, 1) }, nil},
		"text and bytes":        {func(p map[uint8][]byte) { p[6] = text(account.UUID()) }, certificate.ErrMalformed},
		"no account":            {func(p map[uint8][]byte) { delete(p, 7) }, certificate.ErrMalformed},
		"upper case":            {func(p map[uint8][]byte) { p[6] = text(strings.ToUpper(account.UUID())); delete(p, 7) }, certificate.ErrMalformed},
		"text without dashes": {func(p map[uint8][]byte) {
			p[6] = text(strings.ReplaceAll(account.UUID(), "-", "0"))
			delete(p, 7)
		}, certificate.ErrMalformed},
		"text too short":   {func(p map[uint8][]byte) { p[6] = text("alice"); delete(p, 7) }, certificate.ErrMalformed},
		"bytes too short":  {func(p map[uint8][]byte) { p[7] = field.AppendData(nil, 7, account[2:]) }, certificate.ErrMalformed},
		"no device":        {func(p map[uint8][]byte) { delete(p, 2) }, certificate.ErrMalformed},
		"device 0":         {func(p map[uint8][]byte) { p[2] = field.AppendUint(nil, 2, 0) }, certificate.ErrMalformed},
		"device 128":       {func(p map[uint8][]byte) { p[2] = field.AppendUint(nil, 2, 128) }, certificate.ErrMalformed},
		"device 257":       {func(p map[uint8][]byte) { p[2] = field.AppendUint(nil, 2, 257) }, certificate.ErrMalformed},
		"no time":          {func(p map[uint8][]byte) { delete(p, 3) }, certificate.ErrMalformed},
		"time as a varint": {func(p map[uint8][]byte) { p[3] = field.AppendUint(nil, 3, 1) }, certificate.ErrMalformed},
		"time too late":    {func(p map[uint8][]byte) { p[3] = field.AppendFixed64(nil, 3, 1<<53) }, certificate.ErrMalformed},
		"no identity":      {func(p map[uint8][]byte) { delete(p, 4) }, certificate.ErrMalformed},
		"identity of type 4": {func(p map[uint8][]byte) {
			p[4] = field.AppendData(nil, 4, append([]byte{4}, make([]byte, 32)...))
		}, certificate.ErrMalformed},
		"no server certificate":        {func(p map[uint8][]byte) { delete(p, 5) }, certificate.ErrMalformed},
		"a broken server certificate":  {func(p map[uint8][]byte) { p[5] = field.AppendData(nil, 5, []byte("?")) }, certificate.ErrMalformed},
		"a reference":                  {func(p map[uint8][]byte) { p[8] = field.AppendUint(nil, 8, 3); delete(p, 5) }, certificate.ErrReference},
		"a reference and a server":     {func(p map[uint8][]byte) { p[8] = field.AppendUint(nil, 8, 3) }, certificate.ErrMalformed},
		"the device twice":             {func(p map[uint8][]byte) { p[2] = slices.Concat(p[2], p[2]) }, certificate.ErrMalformed},
		"an inner message of nonsense": {func(p map[uint8][]byte) { p[63] = []byte{0xff} }, certificate.ErrMalformed},
	} {
		parts := innerParts(t, o)
		v.change(parts)
		c, err := certificate.ParseSender(wrap(t, o.key, join(parts)))
		if !errors.Is(err, v.want) {
			t.Errorf("%s: %v, want %v", name, err, v.want)
			continue
		}
		if err != nil {
			continue
		}
		if c.Subject().Account != account || c.Validate(expires, o.root.Public()) != nil {
			t.Errorf("%s: %+v", name, c.Subject())
		}
	}
	good := o.issue(t).Bytes()
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"no signature":    field.AppendData(nil, 1, join(innerParts(t, o))),
		"signature twice": field.AppendData(bytes.Clone(good), 2, make([]byte, 64)),
		"a long one":      field.AppendData(bytes.Clone(good), 9, make([]byte, certificate.MaxSender)),
	} {
		if _, err := certificate.ParseSender(b); !errors.Is(err, certificate.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A parsed certificate does not change with the buffer that it was read from.
func TestParseCopies(t *testing.T) {
	o := open(t, 1)
	b := o.issue(t).Bytes()
	c, err := certificate.ParseSender(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if err := c.Validate(expires, o.root.Public()); err != nil {
		t.Error(err)
	}
	clear(c.Bytes())
	if err := c.Validate(expires, o.root.Public()); err != nil {
		t.Error(err)
	}
}

func FuzzParseSender(f *testing.F) {
	o := open(f, 1)
	f.Add(o.issue(f).Bytes())
	f.Add(o.server.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := certificate.ParseSender(b)
		if err != nil {
			if !errors.Is(err, certificate.ErrMalformed) && !errors.Is(err, certificate.ErrReference) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		again, err := certificate.ParseSender(c.Bytes())
		if err != nil || again.Subject() != c.Subject() || !bytes.Equal(c.Bytes(), b) {
			t.Fatalf("%+v became %+v, %v", c.Subject(), again.Subject(), err)
		}
		// Only what was issued above is ever valid.
		if c.Validate(expires, o.root.Public()) == nil && c.Subject().Account != keys.AccountServiceID("alice@a.test") {
			t.Fatal("forged")
		}
	})
}

func FuzzParseServer(f *testing.F) {
	o := open(f, 1)
	f.Add(o.server.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := certificate.ParseServer(b)
		if err != nil {
			if !errors.Is(err, certificate.ErrMalformed) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		again, err := certificate.ParseServer(c.Bytes())
		if err != nil || again.ID() != c.ID() || again.Key() != c.Key() {
			t.Fatalf("%v", err)
		}
	})
}
