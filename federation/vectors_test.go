package federation_test

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/federation"
)

// RFC 9421, B.1.4: the key test-key-ed25519.
func rfcKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	seed, err := base64.RawURLEncoding.DecodeString("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := base64.RawURLEncoding.DecodeString("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs")
	if err != nil {
		t.Fatal(err)
	}
	k := ed25519.NewKeyFromSeed(seed)
	if !k.Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(pub)) {
		t.Fatal("the two halves of the key differ")
	}
	return k
}

// RFC 9421, B.2.6: the signature base and the signature. The example's
// components are not the profile's, so the base is built by the same functions
// that build ours, line by line.
func TestRFC9421Ed25519Example(t *testing.T) {
	params := `("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`
	base := federation.BaseOf([][2]string{
		{`"date"`, "Tue, 20 Apr 2021 02:07:55 GMT"},
		{`"@method"`, "POST"},
		{`"@path"`, "/foo"},
		{`"@authority"`, "example.com"},
		{`"content-type"`, "application/json"},
		{`"content-length"`, "18"},
	}, params)
	sig, err := base64.StdEncoding.DecodeString("wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==")
	if err != nil {
		t.Fatal(err)
	}
	key := rfcKey(t)
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), base, sig) {
		t.Error("the example's signature does not verify")
	}
	if string(ed25519.Sign(key, base)) != string(sig) {
		t.Error("another signature than the example's")
	}
}

// RFC 9530, B.1 and RFC 9421, B.2: the digest of the example body, in the
// algorithm of the profile.
func TestDigestExample(t *testing.T) {
	body := `{"hello": "world"}`
	if got := federation.Digest([]byte(body)); got != "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:" {
		t.Error(got)
	}
	sum := sha512.Sum512([]byte(body)) // the example's own algorithm, to be sure of the body
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != "WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==" {
		t.Error(got)
	}
}

// RFC 9421, 2.2.3, 2.2.6 and 2.2.7: how derived components are normalised.
func TestDerivedComponents(t *testing.T) {
	key := federation.SigningKey{KID: "k", Private: rfcKey(t)}
	pub := key.Private.Public().(ed25519.PublicKey)
	for _, c := range []struct {
		url, host, uri string
		good           bool
	}{
		{"https://b.test/fed/v1/txn", "b.test", "/fed/v1/txn", true},
		{"https://b.test/fed/v1/txn", "B.Test", "/fed/v1/txn", true},
		{"https://b.test:443/fed/v1/txn", "b.test", "/fed/v1/txn", true},
		{"https://b.test/fed/v1/txn", "b.test:443", "/fed/v1/txn", true},
		{"https://b.test/fed/v1/txn", "b.test:444", "/fed/v1/txn", false},
		{"https://b.test/fed/v1/txn", "b.test", "/fed/v1/txn?", true}, // an empty query is "?"
		{"https://b.test/fed/v1/txn", "b.test", "/fed/v1/txn?a", false},
		{"https://b.test/fed/v1/txn?a=1&b=2", "b.test", "/fed/v1/txn?a=1&b=2", true},
		{"https://b.test/fed/v1/txn?a=1&b=2", "b.test", "/fed/v1/txn?b=2&a=1", false},
		{"https://b.test/fed/v1/txn", "b.test", "/fed/v1//txn", false},
		{"https://b.test/fed/v1/txn", "b.test", "/fed/v1/%74xn", false},
		{"https://b.test/fed/v1/txn", "b.test", "https://b.test/fed/v1/txn", false},
		{"https://b.test/fed/v1/txn", "b.test", "*", false},
	} {
		r, err := http.NewRequest(http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := federation.SignRequest(r, nil, "a.test", "b.test", key, base, seeded{rng(1)}); err != nil {
			t.Fatal(err)
		}
		r.Host, r.RequestURI = c.host, c.uri
		v := &federation.Verifier{Server: "b.test", Authorities: []string{"b.test"}, Nonces: federation.NewNonces(0)}
		_, err = v.Verify(r, "a.test", func(string) (ed25519.PublicKey, bool) { return pub, true }, base)
		if (err == nil) != c.good {
			t.Errorf("%s as %s %s: %v", c.url, c.host, c.uri, err)
		}
	}
}

// What is on the wire, byte for byte: a change here is a change of protocol.
func TestGoldenHeaders(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/fed/v1/txn", nil)
	r.URL.Host = "chat.b.test:8443"
	r.Header.Set("Content-Type", federation.TypeCBOR)
	sig, err := federation.SignRequest(r, []byte("body"), "a.test", "b.test", federation.SigningKey{KID: "fs-1", Private: rfcKey(t)}, base, zeros{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Content-Digest":       "sha-256=:Iw2DWNyOiJC0xY3utikS7i8gNXrpKlzIYbmOaP4xrLU=:",
		"Clearbox-Origin":      "a.test",
		"Clearbox-Destination": "b.test",
		"Clearbox-Version":     "1.1",
		"Signature-Input":      `cbfed=("@method" "@authority" "@path" "@query" "content-type" "content-digest" "clearbox-origin" "clearbox-destination" "clearbox-version");created=1793534400;expires=1793534520;nonce="AAAAAAAAAAAAAAAAAAAAAA";keyid="fs-1";tag="clearbox-fed-1"`,
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	h := http.Header{"Content-Type": {federation.TypeCBOR}}
	federation.SignAnswer(h, 200, []byte("answer"), sig, federation.SigningKey{KID: "fs-2", Private: rfcKey(t)}, base)
	if got, want := h.Get("Signature-Input"), `cbfed=("@status" "content-type" "content-digest" "signature";req);created=1793534400;keyid="fs-2";tag="clearbox-fed-1"`; got != want {
		t.Errorf("answer: %s", got)
	}
	if !strings.HasPrefix(h.Get("Signature"), "cbfed=:") {
		t.Error(h.Get("Signature"))
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func BenchmarkSignRequest(b *testing.B) {
	key := federation.SigningKey{KID: "fs-1", Private: rfcKey(b)}
	r := httptest.NewRequest(http.MethodPost, "/fed/v1/txn", nil)
	r.URL.Host = "b.test"
	r.Header.Set("Content-Type", federation.TypeCBOR)
	body := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := federation.SignRequest(r, body, "a.test", "b.test", key, base, zeros{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEd25519Verify is the floor of the next one, measured beside it.
func BenchmarkEd25519Verify(b *testing.B) {
	key := rfcKey(b)
	message := make([]byte, 700)
	sig, pub := ed25519.Sign(key, message), key.Public().(ed25519.PublicKey)
	for b.Loop() {
		ed25519.Verify(pub, message, sig)
	}
}

func BenchmarkVerifyRequest(b *testing.B) {
	key := federation.SigningKey{KID: "fs-1", Private: rfcKey(b)}
	pub := key.Private.Public().(ed25519.PublicKey)
	v := &federation.Verifier{Server: "b.test", Authorities: []string{"b.test"}, Nonces: federation.NewNonces(1 << 30)}
	keys := func(string) (ed25519.PublicKey, bool) { return pub, true }
	var requests []*http.Request
	random := seeded{rng(4)}
	for range 256 {
		r := httptest.NewRequest(http.MethodPost, "/fed/v1/txn", nil)
		r.Host, r.URL.Host = "b.test", "b.test"
		r.Header.Set("Content-Type", federation.TypeCBOR)
		if _, err := federation.SignRequest(r, nil, "a.test", "b.test", key, base, random); err != nil {
			b.Fatal(err)
		}
		requests = append(requests, r)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i%256 == 0 {
			b.StopTimer()
			v.Nonces = federation.NewNonces(1 << 30)
			b.StartTimer()
		}
		if _, err := v.Verify(requests[i%256], "a.test", keys, base.Add(time.Second)); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkTransaction(b *testing.B) {
	o := newOutbox(0)
	txn := &federation.Transaction{Stream: o.stream, Class: federation.ClassMessage, Fence: 3, FirstPos: 7}
	for range federation.MaxItems {
		it := o.add("a.test", "b.test").item
		it.Envelopes[0].Content = make([]byte, 1024)
		txn.Items = append(txn.Items, it)
	}
	b.ReportAllocs()
	for b.Loop() {
		raw, err := federation.EncodeTransaction(txn)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := federation.DecodeTransaction(raw); err != nil {
			b.Fatal(err)
		}
	}
}
