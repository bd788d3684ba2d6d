package federation

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Rules for documents (federation.md, 4).
const (
	MaxDocumentLife = 7 * 24 * time.Hour // from issued to expires
	documentSlack   = time.Hour          // clocks of both sides, far beyond what signatures allow
	documentContext = "clearbox server document v1\x00"
)

// Endpoint is a base URL at which a server answers.
type Endpoint struct {
	URL string `json:"url"` // https, host and port only
	H3  bool   `json:"h3,omitempty"`
}

// Key is an operational public key, an Ed25519 or X25519 JWK (RFC 8037, 2) with
// its purpose and validity.
type Key struct {
	Kty       string          `json:"kty"` // "OKP"
	Crv       string          `json:"crv"` // "Ed25519" or "X25519", by purpose
	KID       string          `json:"kid"`
	X         string          `json:"x"` // base64url, 32 bytes
	Purpose   KeyPurpose      `json:"purpose"`
	NotBefore clearbox.Millis `json:"nbf"` // milliseconds, unlike a JWT's
	Expires   clearbox.Millis `json:"exp"`
}

// Protocol is the range of versions a server speaks and its features.
type Protocol struct {
	Min      string   `json:"min"`
	Max      string   `json:"max"`
	Features []string `json:"features,omitempty"`
}

// Legal says who is responsible for a server.
type Legal struct {
	Controller    string   `json:"controller,omitempty"`
	Country       string   `json:"country,omitempty"` // ISO 3166-1 alpha-2
	Contact       string   `json:"contact,omitempty"` // data protection contact
	Retention     string   `json:"retention,omitempty"`
	Jurisdictions []string `json:"jurisdictions,omitempty"`
}

// Document is a server's signed statement about itself.
type Document struct {
	Server    clearbox.ServerName `json:"server"`
	Identity  string              `json:"identity"` // base64url, Ed25519
	Seq       int64               `json:"seq"`
	Issued    clearbox.Millis     `json:"issued"`
	Expires   clearbox.Millis     `json:"expires"`
	Endpoints []Endpoint          `json:"endpoints"`
	Keys      []Key               `json:"keys"`
	Protocol  Protocol            `json:"protocol"`
	Legal     Legal               `json:"legal"`
	Prev      string              `json:"prev,omitempty"` // base64url SHA-256 of the previous payload

	raw     []byte              // the signed form as it travels
	hash    [32]byte            // of the payload
	signers []ed25519.PublicKey // keys whose signature verified, the identity among them
}

// signedDocument is the travelling form. The payload is the exact bytes that
// were signed, so nothing is ever serialised again to check a signature.
type signedDocument struct {
	Payload    string              `json:"payload"` // base64url
	Signatures []documentSignature `json:"signatures"`
}

type documentSignature struct {
	Alg string `json:"alg"` // "ed25519"; others are ignored: room for a second, post-quantum one
	Key string `json:"key"` // base64url
	Sig string `json:"sig"` // base64url
}

// Signed is the document as it travels. The caller must not change it.
func (d *Document) Signed() []byte { return d.raw }

// Hash is the SHA-256 of the signed payload, what hello messages compare.
func (d *Document) Hash() [32]byte { return d.hash }

// Pin is the SHA-256 of the identity key, the long-lived name of a server's
// operator (federation.md, 4).
func (d *Document) Pin() [32]byte { return sha256.Sum256(d.IdentityKey()) }

// IdentityKey is the identity's public key.
func (d *Document) IdentityKey() ed25519.PublicKey {
	k, _ := decode64(d.Identity)
	return k
}

var b64 = base64.RawURLEncoding.Strict()

// decode64 reads base64url without padding. The library ignores line ends, which
// would give one value many spellings.
func decode64(s string) ([]byte, error) {
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		return nil, base64.CorruptInputError(i)
	}
	return b64.DecodeString(s)
}

// Sign signs the document with the identities and returns it as it travels.
// The first key is the document's identity; a second one is the previous
// identity during a rotation.
func (d *Document) Sign(identities ...ed25519.PrivateKey) ([]byte, error) {
	d.Identity = b64.EncodeToString(identities[0].Public().(ed25519.PublicKey))
	payload, err := json.Marshal(d)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the server document could not be encoded", err)
	}
	s := signedDocument{Payload: b64.EncodeToString(payload)}
	for _, id := range identities {
		s.Signatures = append(s.Signatures, documentSignature{
			Alg: "ed25519",
			Key: b64.EncodeToString(id.Public().(ed25519.PublicKey)),
			Sig: b64.EncodeToString(ed25519.Sign(id, append([]byte(documentContext), payload...))),
		})
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the server document could not be encoded", err)
	}
	d.raw, d.hash = raw, sha256.Sum256(payload)
	return raw, nil
}

func badDocument(text string) error { return clearbox.Errorf(clearbox.CodeBadRequest, "%s", text) }

// ParseDocument reads a travelling document, verifies that its own identity
// signed it and that every field is within its limits. It does not look at the
// clock or at pins: see Check. It copies what it keeps of raw.
func ParseDocument(raw []byte) (*Document, error) {
	if len(raw) > MaxDocument {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "a server document has at most %d bytes", MaxDocument)
	}
	var s signedDocument
	if err := strictJSON(raw, &s); err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the server document is not readable", err)
	}
	payload, err := decode64(s.Payload)
	if err != nil || len(s.Signatures) == 0 || len(s.Signatures) > 4 {
		return nil, badDocument("the server document is not readable")
	}
	d := &Document{}
	if err := strictJSON(payload, d); err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the server document is not readable", err)
	}
	if err := d.checkFields(); err != nil {
		return nil, err
	}
	d.raw, d.hash = bytes.Clone(raw), sha256.Sum256(payload)
	if err := d.verify(payload, s.Signatures); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Document) verify(payload []byte, signatures []documentSignature) error {
	signed := append([]byte(documentContext), payload...)
	own := false
	for _, s := range signatures {
		if s.Alg != "ed25519" {
			continue
		}
		key, err1 := decode64(s.Key)
		sig, err2 := decode64(s.Sig)
		if err1 != nil || err2 != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed, sig) {
			return clearbox.Errorf(clearbox.CodeBadSignature, "a signature of the server document is wrong")
		}
		d.signers = append(d.signers, key)
		own = own || s.Key == d.Identity
	}
	if !own {
		return clearbox.Errorf(clearbox.CodeBadSignature, "the server document is not signed by its identity")
	}
	return nil
}

// Check refuses a document that is about another server, signed by another
// identity than the pinned one, not yet or no longer valid. A zero pin accepts
// any identity. A document of a new identity is accepted when the pinned one
// signed it too.
func (d *Document) Check(server clearbox.ServerName, pin [32]byte, now time.Time) error {
	if d.Server != server {
		return clearbox.Errorf(clearbox.CodeBadSignature, "the server document is about another server")
	}
	if pin != [32]byte{} && !d.signedByPin(pin) {
		return &PinError{Server: server}
	}
	ms := clearbox.Millis(now.UnixMilli())
	if d.Issued > ms+clearbox.Millis(documentSlack.Milliseconds()) {
		return clearbox.Errorf(clearbox.CodeClockSkew, "the server document is issued in the future")
	}
	if d.Expired(now) {
		return clearbox.Errorf(clearbox.CodeExpired, "the server document has expired")
	}
	return nil
}

func (d *Document) signedByPin(pin [32]byte) bool {
	for _, k := range d.signers {
		if sha256.Sum256(k) == pin {
			return true
		}
	}
	return false
}

// Expired tells whether the document's time is over, with an hour's slack for clocks.
func (d *Document) Expired(now time.Time) bool {
	return clearbox.Millis(now.Add(-documentSlack).UnixMilli()) > d.Expires
}

// Follows refuses a document that is not newer than prev (rollback), unless it
// is the same.
func (d *Document) Follows(prev *Document) error {
	if prev == nil || d.Seq > prev.Seq || d.hash == prev.hash {
		return nil
	}
	return &RollbackError{Have: prev.Seq, Got: d.Seq}
}

// FedSign is the operational key of that id if it may sign requests at now.
func (d *Document) FedSign(kid string, now time.Time) (ed25519.PublicKey, bool) {
	from := clearbox.Millis(now.Add(documentSlack).UnixMilli())
	until := clearbox.Millis(now.Add(-documentSlack).UnixMilli())
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.KID == kid && k.Purpose == PurposeFedSign && k.NotBefore <= from && k.Expires >= until {
			x, err := decode64(k.X)
			return x, err == nil
		}
	}
	return nil, false
}

var (
	kidPattern     = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	versionPattern = regexp.MustCompile(`^[1-9][0-9]{0,2}\.(0|[1-9][0-9]{0,2})$`)
	countryPattern = regexp.MustCompile(`^[A-Z]{2}$`)
)

func (d *Document) checkFields() error {
	if _, err := clearbox.ParseServerName(string(d.Server)); err != nil {
		return err
	}
	if k, err := decode64(d.Identity); err != nil || len(k) != ed25519.PublicKeySize {
		return badDocument("the identity key of the server document has 32 bytes")
	}
	if d.Seq < 1 || d.Issued < 1 || d.Expires <= d.Issued {
		return badDocument("sequence or times of the server document are out of range")
	}
	if d.Expires-d.Issued > clearbox.Millis(MaxDocumentLife.Milliseconds()) {
		return badDocument("a server document lives at most 7 days")
	}
	if len(d.Endpoints) == 0 || len(d.Endpoints) > 4 {
		return badDocument("a server document names 1 to 4 endpoints")
	}
	for _, e := range d.Endpoints {
		if _, err := ParseEndpoint(e.URL); err != nil {
			return err
		}
	}
	if len(d.Keys) == 0 || len(d.Keys) > 16 {
		return badDocument("a server document names 1 to 16 keys")
	}
	seen := map[string]bool{}
	for i := range d.Keys {
		k := &d.Keys[i]
		if !kidPattern.MatchString(k.KID) || seen[k.KID] || len(k.Purpose) > 32 || k.NotBefore < 1 || k.Expires <= k.NotBefore {
			return badDocument("a key of the server document is out of range")
		}
		seen[k.KID] = true
		rule, known := ruleOf(k.Purpose)
		if !known {
			continue
		}
		if x, err := decode64(k.X); k.Kty != "OKP" || k.Crv != rule.curve || err != nil || len(x) != 32 {
			return badDocument("a key of the server document does not fit its purpose")
		}
	}
	return d.checkWords()
}

func (d *Document) checkWords() error {
	p := &d.Protocol
	if !versionPattern.MatchString(p.Min) || !versionPattern.MatchString(p.Max) || len(p.Features) > 32 {
		return badDocument("the protocol versions of the server document are out of range")
	}
	l := &d.Legal
	if l.Country != "" && !countryPattern.MatchString(l.Country) {
		return badDocument("a country is two capital letters")
	}
	if len(l.Controller) > 256 || len(l.Contact) > 256 || len(l.Retention) > 1024 || len(l.Jurisdictions) > 32 || len(d.Prev) > 64 {
		return badDocument("a text of the server document is too long")
	}
	for _, list := range [][]string{p.Features, l.Jurisdictions} {
		for _, s := range list {
			if len(s) > 64 {
				return badDocument("a text of the server document is too long")
			}
		}
	}
	return nil
}

// ParseEndpoint accepts https://host[:port] and nothing else; the host is in
// lower case and the default port is left out (RFC 3986, 6.2.3).
func ParseEndpoint(s string) (*url.URL, error) {
	bad := clearbox.Errorf(clearbox.CodeBadRequest, "an endpoint has the form https://host or https://host:port")
	if len(s) > 300 {
		return nil, bad
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery ||
		u.Fragment != "" || u.Path != "" || u.Opaque != "" || strings.ToLower(u.Host) != u.Host || u.Port() == "443" ||
		u.String() != s {
		return nil, bad
	}
	return u, nil
}
