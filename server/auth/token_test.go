package auth_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signJWT writes a token by hand, so that these tests do not trust the library
// that they test.
func signJWT(key ed25519.PrivateKey, header, payload string) string {
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	return text + "." + b64(ed25519.Sign(key, []byte(text)))
}

func decodePart(t *testing.T, token string, i int) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAccessTokenSaysWhoAndForHowLong(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, tokens := w.Join("alice")
	head, body := decodePart(t, tokens.Access, 0), decodePart(t, tokens.Access, 1)
	if head["alg"] != "EdDSA" || head["typ"] != "at+jwt" || head["kid"] == "" || len(head) != 3 {
		t.Errorf("header %v", head)
	}
	now := float64(w.Clock.Now().Unix())
	if body["iss"] != "a.test" || fmt.Sprint(body["aud"]) != "[a.test]" || body["sub"] != string(alice.User.UID) || body["device"] != 1.0 ||
		body["sid"] != tokens.Session || body["jti"] == "" || body["iat"] != now || body["exp"] != now+900 {
		t.Errorf("claims %v", body)
	}
	if _, leak := body["handle"]; leak {
		t.Error("the token carries the handle")
	}

	// The published keys verify it, with nothing but the standard library.
	raw, err := w.Auth.JWKS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []struct{ Kty, Crv, Alg, Use, Kid, X, D string }
	}
	if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%s, %v", raw, err)
	}
	k := set.Keys[0]
	if k.Kty != "OKP" || k.Crv != "Ed25519" || k.Alg != "EdDSA" || k.Use != "sig" || k.Kid != head["kid"] || k.D != "" {
		t.Fatalf("published key %+v", k)
	}
	x, _ := base64.RawURLEncoding.DecodeString(k.X)
	dot := strings.LastIndexByte(tokens.Access, '.')
	sig, _ := base64.RawURLEncoding.DecodeString(tokens.Access[dot+1:])
	if !ed25519.Verify(x, []byte(tokens.Access[:dot]), sig) {
		t.Fatal("the token does not verify with the published key")
	}
}

func TestAccessTokenRefused(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	part := strings.Split(tokens.Access, ".")
	kid := decodePart(t, tokens.Access, 0)["kid"].(string)
	claims := func(change func(m map[string]any)) string {
		m := decodePart(t, tokens.Access, 1)
		change(m)
		raw, _ := json.Marshal(m)
		return string(raw)
	}
	same := claims(func(map[string]any) {})
	_, stranger, _ := ed25519.GenerateKey(nil)
	ours := w.Auth.SigningKey(t.Context())
	header := func(s string) string { return strings.ReplaceAll(s, "KID", kid) }
	good := header(`{"alg":"EdDSA","kid":"KID","typ":"at+jwt"}`)
	public := b64(stranger.Public().(ed25519.PublicKey))

	cases := []struct {
		name, token string
		why         error
	}{
		{"empty", "", auth.ErrTokenMalformed},
		{"one part", part[0], auth.ErrTokenMalformed},
		{"four parts", tokens.Access + ".", auth.ErrTokenMalformed},
		{"header that is no JSON", b64([]byte("x")) + "." + part[1] + "." + part[2], auth.ErrTokenMalformed},
		{"header that is no base64", "*." + part[1] + "." + part[2], auth.ErrTokenMalformed},
		{"very long", tokens.Access + strings.Repeat("A", 4096), auth.ErrTokenMalformed},
		{"alg none", b64([]byte(header(`{"alg":"none","kid":"KID","typ":"at+jwt"}`))) + "." + part[1] + ".", auth.ErrTokenAlgorithm},
		{"alg None", b64([]byte(header(`{"alg":"None","kid":"KID","typ":"at+jwt"}`))) + "." + part[1] + ".", auth.ErrTokenAlgorithm},
		{"alg none with the old signature", b64([]byte(header(`{"alg":"none","kid":"KID","typ":"at+jwt"}`))) + "." + part[1] + "." + part[2], auth.ErrTokenAlgorithm},
		{"alg HS256 with the public key as secret", b64([]byte(header(`{"alg":"HS256","kid":"KID","typ":"at+jwt"}`))) + "." + part[1] + "." + part[2], auth.ErrTokenAlgorithm},
		{"alg missing", signJWT(ours, header(`{"kid":"KID","typ":"at+jwt"}`), same), auth.ErrTokenAlgorithm},
		{"alg that is a number", signJWT(ours, header(`{"alg":1,"kid":"KID","typ":"at+jwt"}`), same), auth.ErrTokenMalformed},
		{"another type", signJWT(ours, header(`{"alg":"EdDSA","kid":"KID","typ":"JWT"}`), same), auth.ErrTokenMalformed},
		{"crit", signJWT(ours, header(`{"alg":"EdDSA","crit":"x","kid":"KID","typ":"at+jwt"}`), same), auth.ErrTokenMalformed},
		{"key inside the header", signJWT(stranger, header(`{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"`+public+`"},"kid":"KID","typ":"at+jwt"}`), same), auth.ErrTokenMalformed},
		{"foreign key", signJWT(stranger, `{"alg":"EdDSA","kid":"theirs","typ":"at+jwt"}`, same), auth.ErrTokenForeign},
		{"foreign key under our key id", signJWT(stranger, good, same), auth.ErrTokenTampered},
		{"other claims under the old signature", part[0] + "." + b64([]byte(claims(func(m map[string]any) { m["sub"] = strings.Repeat("a", 26) }))) + "." + part[2], auth.ErrTokenTampered},
		{"no signature", part[0] + "." + part[1] + ".", auth.ErrTokenTampered},
		{"cut signature", tokens.Access[:len(tokens.Access)-4], auth.ErrTokenTampered},
		{"another issuer", signJWT(ours, good, claims(func(m map[string]any) { m["iss"] = "b.test" })), auth.ErrTokenForeign},
		{"another audience", signJWT(ours, good, claims(func(m map[string]any) { m["aud"] = []string{"b.test"} })), auth.ErrTokenForeign},
		{"no audience", signJWT(ours, good, claims(func(m map[string]any) { delete(m, "aud") })), auth.ErrTokenForeign},
		{"no expiry", signJWT(ours, good, claims(func(m map[string]any) { delete(m, "exp") })), auth.ErrTokenMalformed},
		{"expired", signJWT(ours, good, claims(func(m map[string]any) { m["exp"] = w.Clock.Now().Unix() })), auth.ErrTokenExpired},
		{"no session", signJWT(ours, good, claims(func(m map[string]any) { delete(m, "sid") })), auth.ErrTokenMalformed},
		{"unknown session", signJWT(ours, good, claims(func(m map[string]any) { m["sid"] = "x" })), auth.ErrTokenRevoked},
		{"another device than the session's", signJWT(ours, good, claims(func(m map[string]any) { m["device"] = 2 })), auth.ErrTokenRevoked},
		{"half a device", signJWT(ours, good, claims(func(m map[string]any) { m["device"] = 1.5 })), auth.ErrTokenMalformed},
		{"negative device", signJWT(ours, good, claims(func(m map[string]any) { m["device"] = -255 })), auth.ErrTokenMalformed},
		{"another person than the session's", signJWT(ours, good, claims(func(m map[string]any) { m["sub"] = strings.Repeat("a", 26) })), auth.ErrTokenRevoked},
		{"claims that are a list", signJWT(ours, good, "[]"), auth.ErrTokenMalformed},
		{"refresh token", tokens.Refresh, auth.ErrTokenMalformed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := w.Auth.Verify(t.Context(), c.token)
			if !errors.Is(err, c.why) {
				t.Fatalf("%+v, %v, want %v", p, err, c.why)
			}
			want := clearbox.CodeUnauthorized
			if c.why == auth.ErrTokenExpired {
				want = clearbox.CodeTokenExpired
			}
			wantCode(t, err, want)
		})
	}
	if _, err := w.Auth.Verify(t.Context(), signJWT(ours, good, same)); err != nil {
		t.Fatalf("the hand-made token that nothing is wrong with: %v", err)
	}
}

func TestAccessTokenOfAnotherServerIsForeign(t *testing.T) {
	a := authtest.New(t, unlimited)
	b := authtest.New(t, unlimited)
	b.Clock.Fly(time.Second)
	b.Random.Read(make([]byte, 1000)) // other keys than a's
	_, tokens := a.Join("alice")
	_, err := b.Auth.Verify(t.Context(), tokens.Access)
	if !errors.Is(err, auth.ErrTokenForeign) {
		t.Fatal(err)
	}
}

func TestAccessTokenExpires(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	w.Clock.Fly(15*time.Minute - time.Millisecond)
	w.Principal(tokens.Access)
	w.Clock.Fly(time.Millisecond)
	_, err := w.Auth.Verify(t.Context(), tokens.Access) // it is in memory as verified
	if !errors.Is(err, auth.ErrTokenExpired) {
		t.Fatal(err)
	}
	_, err = w.Service(unlimited).Verify(t.Context(), tokens.Access) // and here it is not
	if !errors.Is(err, auth.ErrTokenExpired) {
		t.Fatal(err)
	}
}

func kids(t *testing.T, s *auth.Service) []string {
	t.Helper()
	raw, err := s.JWKS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, k := range set.Keys {
		ids = append(ids, k.Kid)
	}
	return ids
}

func TestSigningKeysRotateWithOverlap(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, tokens := w.Join("alice")
	first := kids(t, w.Auth)
	if len(first) != 1 {
		t.Fatalf("keys %v", first)
	}
	const day = 24 * time.Hour
	signedBy := func() string {
		t.Helper()
		again, err := w.Auth.Login(t.Context(), alice.Login(1))
		if err != nil {
			t.Fatal(err)
		}
		w.Principal(again.Access)
		tokens = again
		return decodePart(t, again.Access, 0)["kid"].(string)
	}
	w.Clock.Fly(27 * day)
	if got := kids(t, w.Auth); len(got) != 1 {
		t.Fatalf("after 27 days: %v", got)
	}
	w.Clock.Fly(day) // 28: the next is published, and does not sign yet
	both := kids(t, w.Auth)
	if len(both) != 2 || both[0] != first[0] || signedBy() != first[0] {
		t.Fatalf("after 28 days: %v", both)
	}
	if got := kids(t, w.Service(unlimited)); len(got) != 2 || got[1] != both[1] {
		t.Fatalf("after a restart: %v, want %v", got, both)
	}
	w.Clock.Fly(2*day - time.Minute) // just before the change
	last := signedBy()
	w.Clock.Fly(time.Minute) // 30: the next signs, tokens of the first are accepted
	if _, err := w.Auth.Verify(t.Context(), tokens.Access); err != nil || last != first[0] {
		t.Fatalf("signed by %s, %v", last, err)
	}
	if got := signedBy(); got != both[1] {
		t.Fatalf("signed by %s, want the second key", got)
	}
	w.Clock.Fly(90 * day) // off for long
	if got := kids(t, w.Service(unlimited)); len(got) != 1 || got[0] == both[0] || got[0] == both[1] {
		t.Fatalf("after a long pause: %v", got)
	}
}

func TestSigningKeysAreSealedAtRest(t *testing.T) {
	w := authtest.New(t, unlimited)
	w.Join("alice")
	seed := w.Auth.SigningKey(t.Context()).Seed()
	for _, name := range []string{"a.db", "a.db-wal"} {
		if contains(t, w.Dir+"/"+name, seed) {
			t.Errorf("%s contains the signing key", name)
		}
	}
}

func FuzzAccessToken(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	good := signJWT(key, `{"alg":"EdDSA","kid":"k","typ":"at+jwt"}`,
		`{"aud":["a.test"],"device":1,"exp":2000000000,"iat":1,"iss":"a.test","jti":"j","sid":"s","sub":"aaaaaaaaaaaaaaaaaaaaaaaaaa"}`)
	f.Add(good)
	f.Add(good[:20])
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Add("{}")
	now := time.Unix(1_900_000_000, 0)
	f.Fuzz(func(t *testing.T, token string) {
		uid, err := auth.OpenToken(token, "a.test", now, key.Public().(ed25519.PublicKey))
		if err == nil && (token != good || uid != "aaaaaaaaaaaaaaaaaaaaaaaaaa") {
			t.Fatalf("accepted %q as %s", token, uid)
		}
		if err != nil && token == good {
			t.Fatal(err)
		}
		if err != nil && clearbox.CodeOf(err) != clearbox.CodeUnauthorized && clearbox.CodeOf(err) != clearbox.CodeTokenExpired {
			t.Fatalf("code of %v", err)
		}
	})
}
