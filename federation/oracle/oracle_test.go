package oracle_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/federation"
	"github.com/yaronf/httpsign"
)

const label = "cbfed"

var bodyFields = []string{
	"@method", "@authority", "@path", "@query", "content-type", "content-digest", "clearbox-origin", "clearbox-destination", "clearbox-version",
}

func key() federation.SigningKey {
	return federation.SigningKey{KID: "fs-1", Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))}
}

type chaotic struct{ r *rand.Rand }

func (c chaotic) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c.r.Uint32())
	}
	return len(b), nil
}

// request is one in the profile, signed by us.
func request(t *testing.T, rng *rand.Rand, method, url string, body []byte) (*http.Request, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", federation.TypeCBOR)
	}
	sig, err := federation.SignRequest(r, body, "a.test", "b.test", key(), time.Now(), chaotic{rng})
	if err != nil {
		t.Fatal(err)
	}
	return r, sig
}

// arrived is the request as the receiver's HTTP server shows it.
func arrived(r *http.Request, body []byte) *http.Request {
	in := httptest.NewRequest(r.Method, r.URL.RequestURI(), bytes.NewReader(body))
	in.Host, in.Header = r.URL.Host, r.Header.Clone()
	return in
}

func oracle(t *testing.T, fields ...string) httpsign.Verifier {
	t.Helper()
	return verifier(t, httpsign.Headers(fields...))
}

func verifier(t *testing.T, fields httpsign.Fields) httpsign.Verifier {
	t.Helper()
	cfg := httpsign.NewVerifyConfig().SetKeyID(key().KID).SetAllowedTags([]string{"clearbox-fed-1"}).SetRejectExpired(true)
	v, err := httpsign.NewEd25519Verifier(key().Private.Public().(ed25519.PublicKey), cfg, fields)
	if err != nil {
		t.Fatal(err)
	}
	return *v
}

func ours(r *http.Request) error {
	v := &federation.Verifier{Server: "b.test", Authorities: []string{"b.test", "chat.b.test:8443"}, Nonces: federation.NewNonces(0)}
	pub := key().Private.Public().(ed25519.PublicKey)
	if _, err := v.Verify(r, "a.test", func(kid string) (ed25519.PublicKey, bool) { return pub, kid == "fs-1" }, time.Now()); err != nil {
		return err
	}
	_, err := federation.ReadBody(r, 1<<20)
	return err
}

// The oracle accepts what we sign, for both forms of request and many targets.
func TestOracleVerifiesOurRequests(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	paths := []string{"/fed/v1/txn", "/fed/v1/txn?", "/fed/v1/hello?a=1&b=2", "/fed/v1/%7Etilde", "/fed/v1/a%2Fb", "/", "/fed/v1/x?q=%20y"}
	hosts := []string{"https://b.test", "https://chat.b.test:8443", "https://b.test:443"}
	n := 0
	for _, host := range hosts {
		for _, path := range paths {
			for _, method := range []string{http.MethodPost, http.MethodGet} {
				body := chaos(rng, 200)
				fields := bodyFields
				if method == http.MethodGet {
					body = nil
					fields = append(append([]string{}, bodyFields[:4]...), bodyFields[5:]...)
				}
				r, _ := request(t, rng, method, host+path, body)
				theirs := arrived(r, body)
				theirs.Host = strings.TrimSuffix(theirs.Host, ":443") // RFC 9421, 2.2.3, which the oracle leaves to its caller
				if err := httpsign.VerifyRequest(label, oracle(t, fields...), theirs); err != nil {
					t.Errorf("%s %s%s: %v", method, host, path, err)
				}
				if err := ours(arrived(r, body)); err != nil {
					t.Errorf("ours: %s %s%s: %v", method, host, path, err)
				}
				n++
			}
		}
	}
	t.Logf("%d requests", n)
}

func chaos(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	_, _ = chaotic{rng}.Read(b)
	return b
}

// What the oracle refuses, we refuse. (We refuse more: the profile is closed.)
func TestWeAcceptNothingThatTheOracleRefuses(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	body := chaos(rng, 100)
	refused := 0
	for i := range 2000 {
		r, _ := request(t, rng, http.MethodPost, "https://b.test/fed/v1/txn", body)
		in := arrived(r, body)
		what := mutate(rng, in)
		theirs := httpsign.VerifyRequest(label, oracle(t, bodyFields...), in.Clone(t.Context()))
		if err := ours(in); err == nil && theirs != nil {
			t.Errorf("case %d (%s): we accept, the oracle says %v", i, what, theirs)
		} else if err != nil {
			refused++
		}
	}
	if refused < 1900 {
		t.Errorf("only %d of 2000 altered requests were refused", refused)
	}
}

// mutate changes one thing that the signature covers, or the signature.
func mutate(rng *rand.Rand, r *http.Request) string {
	headers := []string{"Content-Type", "Content-Digest", "Clearbox-Origin", "Clearbox-Destination", "Clearbox-Version", "Signature", "Signature-Input"}
	switch k := rng.IntN(len(headers) + 4); {
	case k < len(headers):
		v := []byte(r.Header.Get(headers[k]))
		i := rng.IntN(len(v))
		v[i] = byte(' ' + rng.IntN(94))
		if string(v) == r.Header.Get(headers[k]) {
			v = append(v, 'x')
		}
		r.Header.Set(headers[k], string(v))
		return headers[k]
	case k == len(headers):
		r.Method = http.MethodGet
		return "method"
	case k == len(headers)+1:
		r.Host = "chat.b.test:8443"
		return "host"
	case k == len(headers)+2:
		r.RequestURI += "x"
		r.URL.Path += "x"
		return "path"
	default:
		r.RequestURI += "?x"
		r.URL.RawQuery = "x"
		return "query"
	}
}

// The oracle accepts our answers as bound to the request, and refuses them for
// another request.
func TestOracleVerifiesOurAnswers(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	fields := httpsign.Headers("@status", "content-type", "content-digest")
	fields.AddHeaderExt("signature", false, false, true, false)
	for i := range 50 {
		body := chaos(rng, 300)
		req, sig := request(t, rng, http.MethodPost, "https://b.test/fed/v1/txn", body)
		other, _ := request(t, rng, http.MethodPost, "https://b.test/fed/v1/txn", body)
		status := []int{200, 401, 409, 429}[i%4]
		h := http.Header{"Content-Type": {federation.TypeCBOR}}
		answer := chaos(rng, 100)
		federation.SignAnswer(h, status, answer, sig, key(), time.Now())
		resp := &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(bytes.NewReader(answer)), Request: req}
		if err := httpsign.VerifyResponse(label, verifier(t, fields), resp, req); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		if err := httpsign.VerifyResponse(label, verifier(t, fields), resp, other); err == nil {
			t.Error("the oracle accepts an answer for another request")
		}
		pub := key().Private.Public().(ed25519.PublicKey)
		keys := func(string) (ed25519.PublicKey, bool) { return pub, true }
		if err := federation.VerifyAnswer(status, h, answer, sig, keys); err != nil {
			t.Error(err)
		}
		if err := federation.VerifyAnswer(status, h, answer, other.Header.Get("Signature"), keys); err == nil {
			t.Error("we accept an answer for another request")
		}
	}
}

// The oracle writes tag before keyid and cannot be told otherwise, so nothing
// that it signs is in the profile: the closed form refuses even a good
// signature over the right components.
func TestTheOraclesOrderIsNotTheProfiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	body := chaos(rng, 50)
	r, _ := request(t, rng, http.MethodPost, "https://b.test/fed/v1/txn", body)
	for _, alg := range []bool{false, true} {
		cfg := httpsign.NewSignConfig().SignAlg(alg).SetExpiresAfter(120).SetNonce("AAAAAAAAAAAAAAAAAAAAAA").SetKeyID("fs-1").SetTag("clearbox-fed-1")
		s, err := httpsign.NewEd25519Signer(key().Private, cfg, httpsign.Headers(bodyFields...))
		if err != nil {
			t.Fatal(err)
		}
		in := arrived(r, body)
		input, sig, err := httpsign.SignRequest(label, *s, in)
		if err != nil {
			t.Fatal(err)
		}
		in.Header.Set("Signature-Input", input)
		in.Header.Set("Signature", sig)
		if err := httpsign.VerifyRequest(label, oracle(t, bodyFields...), in.Clone(t.Context())); err != nil {
			t.Fatalf("the oracle refuses its own: %v", err)
		}
		var p *federation.ProfileError
		if err := ours(in); !errors.As(err, &p) || p.Fault != federation.FaultComponents {
			t.Errorf("alg %v: %v", alg, err)
		}
		// It differs from ours in that order only, and in alg where it was asked for.
		if want := `;tag="clearbox-fed-1";keyid="fs-1"`; !strings.HasSuffix(input, want) {
			t.Errorf("the oracle's order changed (%s): look whether it can be verified now", input)
		}
	}
}
