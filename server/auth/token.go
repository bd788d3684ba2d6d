package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/clearbox-im/clearbox"
)

// The ways an access token is refused. errors.Is finds them.
var (
	ErrTokenMalformed = errors.New("auth: malformed token")
	ErrTokenAlgorithm = errors.New("auth: token with another algorithm than EdDSA")
	ErrTokenForeign   = errors.New("auth: token of another issuer, audience or key")
	ErrTokenTampered  = errors.New("auth: token whose signature does not verify")
	ErrTokenExpired   = errors.New("auth: token expired")
	ErrTokenRevoked   = errors.New("auth: token of a session that ended")
)

const (
	maxAccessToken = 2048     // bytes
	tokenType      = "at+jwt" // RFC 9068, 2.1
	claimDevice    = "device"
	claimSession   = "sid"
)

// claims is what an access token says.
type claims struct {
	uid     clearbox.UID
	device  clearbox.DeviceID
	session string
	id      string
	expires time.Time
}

// signToken makes the JWT of c (RFC 9068, 2.2). Times have whole seconds.
func signToken(key signingKey, server clearbox.ServerName, c claims, now time.Time) (string, error) {
	t, err := jwt.NewBuilder().
		Issuer(string(server)).Audience([]string{string(server)}).Subject(string(c.uid)).
		IssuedAt(now).Expiration(c.expires).JwtID(c.id).
		Claim(claimDevice, int(c.device)).Claim(claimSession, c.session).Build()
	if err != nil {
		return "", fmt.Errorf("build an access token: %w", err)
	}
	head := jws.NewHeaders()
	if err := errors.Join(head.Set(jws.KeyIDKey, key.id), head.Set(jws.TypeKey, tokenType)); err != nil {
		return "", fmt.Errorf("build an access token: %w", err)
	}
	signed, err := jwt.Sign(t, jwt.WithKey(jwa.EdDSA(), key.private, jws.WithProtectedHeaders(head)))
	if err != nil {
		return "", fmt.Errorf("sign an access token: %w", err)
	}
	return string(signed), nil
}

// tokenHeader is the whole header that this server writes. Any other member
// refuses the token, "crit", "jwk" and "jku" with it.
type tokenHeader struct {
	algorithm, keyID, kind string
}

// parseTokenHeader looks at the header before anything is verified: what it
// says may choose among our keys, never an algorithm.
func parseTokenHeader(token string) (tokenHeader, error) {
	var h tokenHeader
	if len(token) > maxAccessToken || strings.Count(token, ".") != 2 {
		return h, ErrTokenMalformed
	}
	first, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return h, ErrTokenMalformed
	}
	var members map[string]string // another type than a string is refused with it
	if err := json.Unmarshal(raw, &members); err != nil {
		return h, ErrTokenMalformed
	}
	for name, value := range members {
		switch name {
		case "alg":
			h.algorithm = value
		case "kid":
			h.keyID = value
		case "typ":
			h.kind = value
		default:
			return h, ErrTokenMalformed
		}
	}
	switch {
	case h.algorithm != jwa.EdDSA().String():
		return h, ErrTokenAlgorithm
	case h.keyID == "" || h.kind != tokenType:
		return h, ErrTokenMalformed
	}
	return h, nil
}

// openToken verifies token with the key that find knows for its key id. The
// error wraps one of the ErrToken values in a *clearbox.Error.
func openToken(token string, server clearbox.ServerName, now time.Time, find func(kid string) (ed25519.PublicKey, bool)) (claims, error) {
	c, err := readToken(token, server, now, find)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, ErrTokenExpired):
		return claims{}, clearbox.Wrap(clearbox.CodeTokenExpired, "the access token has expired", err)
	}
	return claims{}, clearbox.Wrap(clearbox.CodeUnauthorized, "the access token is not valid", err)
}

func readToken(token string, server clearbox.ServerName, now time.Time, find func(kid string) (ed25519.PublicKey, bool)) (claims, error) {
	h, err := parseTokenHeader(token)
	if err != nil {
		return claims{}, err
	}
	public, ok := find(h.keyID)
	if !ok {
		return claims{}, ErrTokenForeign
	}
	t, err := jwt.Parse([]byte(token), jwt.WithKey(jwa.EdDSA(), public), jwt.WithValidate(false))
	if err != nil {
		if errors.Is(err, jws.VerificationError()) || errors.Is(err, jws.VerifyError()) {
			return claims{}, ErrTokenTampered
		}
		return claims{}, ErrTokenMalformed
	}
	err = jwt.Validate(t, jwt.WithIssuer(string(server)), jwt.WithAudience(string(server)),
		jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithClock(jwt.ClockFunc(func() time.Time { return now })))
	switch {
	case errors.Is(err, jwt.TokenExpiredError()):
		return claims{}, ErrTokenExpired
	case errors.Is(err, jwt.InvalidIssuerError()), errors.Is(err, jwt.InvalidAudienceError()):
		return claims{}, ErrTokenForeign
	case err != nil:
		return claims{}, ErrTokenMalformed
	}
	return readClaims(t)
}

func readClaims(t jwt.Token) (claims, error) {
	var c claims
	subject, _ := t.Subject()
	uid, err := clearbox.ParseUID(subject)
	if err != nil {
		return c, ErrTokenMalformed
	}
	var device float64
	if t.Get(claimDevice, &device) != nil || t.Get(claimSession, &c.session) != nil {
		return c, ErrTokenMalformed
	}
	if device != float64(clearbox.DeviceID(device)) || device > 127 || c.session == "" {
		return c, ErrTokenMalformed
	}
	c.uid, c.device = uid, clearbox.DeviceID(device)
	c.expires, _ = t.Expiration()
	c.id, _ = t.JwtID()
	return c, nil
}
