package peering

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/fxamacker/cbor/v2"
)

// Token is what one operator gives to the other, once: whom to talk to, how to
// recognise it and a secret that proves the invitation.
type Token struct {
	Server    clearbox.ServerName `cbor:"d"`
	Endpoints []string            `cbor:"e"`
	Pin       []byte              `cbor:"f"` // SHA-256 of the inviter's identity key
	Secret    []byte              `cbor:"s"` // 16 bytes
	Expires   clearbox.Millis     `cbor:"x"`
}

const (
	tokenPrefix   = "cbpeer1-"
	tokenSecret   = 16
	tokenChecksum = 4
	maxToken      = 2048 // characters
)

var tokenEncoding = base64.RawURLEncoding.Strict()

// String is the text form: a prefix, then base64url of the fields and a
// checksum that finds a token that was cut or mistyped.
func (t *Token) String() string {
	raw, err := cbor.Marshal(t)
	if err != nil {
		panic("peering: a token cannot be encoded: " + err.Error())
	}
	sum := sha256.Sum256(raw)
	return tokenPrefix + tokenEncoding.EncodeToString(append(raw, sum[:tokenChecksum]...))
}

// ParseToken reads the text form; space around it and line breaks within are
// what copying leaves behind and are dropped.
func ParseToken(s string) (*Token, error) {
	bad := clearbox.Errorf(clearbox.CodeBadRequest, "this is not a whole peering token; copy it again, it begins with %s", tokenPrefix)
	if len(s) > maxToken {
		return nil, bad
	}
	s = strings.NewReplacer(" ", "", "\n", "", "\r", "", "\t", "").Replace(s)
	text, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return nil, bad
	}
	raw, err := tokenEncoding.DecodeString(text)
	if err != nil || len(raw) <= tokenChecksum {
		return nil, bad
	}
	raw, check := raw[:len(raw)-tokenChecksum], raw[len(raw)-tokenChecksum:]
	if sum := sha256.Sum256(raw); string(sum[:tokenChecksum]) != string(check) {
		return nil, bad
	}
	var t Token
	if err := tokenDecoder().Unmarshal(raw, &t); err != nil {
		return nil, bad
	}
	if len(t.Pin) != sha256.Size || len(t.Secret) != tokenSecret || t.Expires <= 0 || len(t.Endpoints) == 0 || len(t.Endpoints) > 4 {
		return nil, bad
	}
	if _, err := clearbox.ParseServerName(string(t.Server)); err != nil {
		return nil, err
	}
	for _, e := range t.Endpoints {
		if _, err := federation.ParseEndpoint(e); err != nil {
			return nil, err
		}
	}
	return &t, nil
}

func tokenDecoder() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 16,
	}.DecMode()
	if err != nil {
		panic("peering: CBOR options: " + err.Error())
	}
	return m
}

// secretHash is what is kept of a token's secret.
func secretHash(secret []byte) []byte {
	h := sha256.New()
	h.Write([]byte("clearbox peer invite v1\x00"))
	h.Write(secret)
	return h.Sum(nil)
}
