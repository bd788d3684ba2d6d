package federation

import (
	"crypto/ed25519"
	"crypto/sha256"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
)

// SigningKey is an operational key with its id in the server document.
type SigningKey struct {
	KID     string
	Private ed25519.PrivateKey
}

// SignRequest adds the profile's headers to a request whose URL, method and
// Content-Type are final, and returns the value of its Signature header, which
// the answer will be bound to. With method POST body is what will be sent;
// with GET it is empty. A Clearbox-Version that is set already stays; otherwise
// it is Version. created is the destination's time as far as it is
// known; 16 bytes are drawn from random.
func SignRequest(r *http.Request, body []byte, origin, destination clearbox.ServerName, key SigningKey, created time.Time, random io.Reader) (string, error) {
	components, withBody, err := requestComponents(r.Method)
	if err != nil {
		return "", err
	}
	var nonce [16]byte
	if _, err := io.ReadFull(random, nonce[:]); err != nil {
		return "", clearbox.Wrap(clearbox.CodeInternal, "no randomness", err)
	}
	r.Header.Set(headerDigest, digestHeader(sha256.Sum256(body)))
	r.Header.Set(headerOrigin, string(origin))
	r.Header.Set(headerDestination, string(destination))
	if r.Header.Get(headerVersion) == "" {
		r.Header.Set(headerVersion, Version)
	}
	t, err := requestTarget(r, normalAuthority(r.URL.Host))
	if err != nil {
		return "", err
	}
	p := params{created: created.Unix(), expires: created.Add(signatureLife).Unix(), nonce: b64.EncodeToString(nonce[:]), keyid: key.KID}
	signed := p.serialise(components)
	sig := signatureValue(ed25519.Sign(key.Private, requestBase(t, r.Header, withBody, signed)))
	r.Header.Set(headerInput, signatureLabel+"="+signed)
	r.Header.Set(headerSignature, sig)
	return sig, nil
}

func requestComponents(method string) (string, bool, error) {
	switch method {
	case http.MethodPost:
		return componentsBody, true, nil
	case http.MethodGet:
		return componentsNoBody, false, nil
	}
	return "", false, fault(FaultMethod)
}

// SignAnswer adds the profile's headers to an answer with that status and
// body; its Content-Type must be set. requestSignature is the Signature header
// of the request it answers.
func SignAnswer(h http.Header, status int, body []byte, requestSignature string, key SigningKey, created time.Time) {
	h.Set(headerDigest, digestHeader(sha256.Sum256(body)))
	p := params{created: created.Unix(), keyid: key.KID}
	signed := p.serialise(componentsAnswer)
	h.Set(headerInput, signatureLabel+"="+signed)
	h.Set(headerSignature, signatureValue(ed25519.Sign(key.Private, answerBase(status, h, requestSignature, signed))))
}

// KeyFor finds the public key of an id; ok is false when there is none.
type KeyFor func(kid string) (key ed25519.PublicKey, ok bool)

// VerifyAnswer checks that an answer is signed by one of the keys and belongs
// to the request with that Signature header. body must be the whole body; it
// is compared with the signed digest. No clock is asked: the answer is bound
// to a request that was fresh.
func VerifyAnswer(status int, h http.Header, body []byte, requestSignature string, keys KeyFor) error {
	if len(h[headerInput]) == 0 && len(h[headerSignature]) == 0 {
		return fault(FaultUnsigned)
	}
	if len(h["Content-Encoding"]) != 0 {
		return fault(FaultEncoding)
	}
	for _, name := range []string{headerType, headerDigest} {
		if _, err := once(h, name); err != nil {
			return err
		}
	}
	p, signed, sig, err := parseSignature(h, componentsAnswer)
	if err != nil {
		return err
	}
	key, ok := keys(p.keyid)
	if !ok {
		return fault(FaultKey)
	}
	if !ed25519.Verify(key, answerBase(status, h, requestSignature, signed), sig) {
		return fault(FaultSignature)
	}
	if h.Get(headerDigest) != digestHeader(sha256.Sum256(body)) {
		return fault(FaultDigest)
	}
	return nil
}

// Verified is what a request's signature vouches for. Its body has not been
// read yet: ReadBody does that and nothing may be parsed before.
type Verified struct {
	Origin    clearbox.ServerName
	Version   string
	KID       string
	Created   time.Time
	Signature string // the Signature header; answers are bound to it

	nonce []byte
	until time.Time // the clock alone refuses the request from then on
}

// Verifier checks requests against the profile. It is safe for concurrent use.
type Verifier struct {
	Server      clearbox.ServerName
	Authorities []string // the host names under which this server is addressed, normalised
	Nonces      *Nonces
}

// Origin reads the claimed origin and refuses a request that is not in the
// profile's outer form. It does no cryptography, so it is what a stranger may
// cost.
func (v *Verifier) Origin(r *http.Request) (clearbox.ServerName, error) {
	if _, _, err := requestComponents(r.Method); err != nil {
		return "", err
	}
	if len(r.Header["Content-Encoding"]) != 0 {
		return "", fault(FaultEncoding)
	}
	s, err := once(r.Header, headerOrigin)
	if err != nil {
		return "", err
	}
	origin, err := clearbox.ParseServerName(s)
	if err != nil {
		return "", fault(FaultForm)
	}
	return origin, nil
}

// Verify is Check and, when that finds nothing, Take.
func (v *Verifier) Verify(r *http.Request, origin clearbox.ServerName, keys KeyFor, now time.Time) (*Verified, error) {
	found, err := v.Check(r, origin, keys, now)
	if err == nil {
		err = v.Take(found, now)
	}
	return found, err
}

// Take remembers the nonce of a request that Check let pass. Nothing may be
// done for the request before: of two that are the same, one is refused here.
func (v *Verifier) Take(found *Verified, now time.Time) error {
	return v.Nonces.Use(found.Origin, found.KID, found.nonce, found.until, now)
}

// Check looks at everything about the request but its body: form, addressee,
// signature, clock, nonce, in this order. keys are the claimed origin's. When
// only the clock or the nonce is wrong the result is returned along with the
// error, since the signature was good. The nonce is not taken yet.
func (v *Verifier) Check(r *http.Request, origin clearbox.ServerName, keys KeyFor, now time.Time) (*Verified, error) {
	components, withBody, err := requestComponents(r.Method)
	if err != nil {
		return nil, err
	}
	if err := v.checkHeaders(r, origin, withBody); err != nil {
		return nil, err
	}
	p, signed, sig, err := parseSignature(r.Header, components)
	if err != nil {
		return nil, err
	}
	nonce, err := nonceBytes(p.nonce)
	if err != nil {
		return nil, err
	}
	if p.expires != p.created+int64(signatureLife/time.Second) {
		return nil, fault(FaultForm)
	}
	authority := normalAuthority(r.Host)
	if !v.ours(authority) {
		return nil, fault(FaultAuthority)
	}
	t, err := requestTarget(r, authority)
	if err != nil {
		return nil, err
	}
	key, ok := keys(p.keyid)
	if !ok {
		return nil, fault(FaultKey)
	}
	if !ed25519.Verify(key, requestBase(t, r.Header, withBody, signed), sig) {
		return nil, fault(FaultSignature)
	}
	created, expires := time.Unix(p.created, 0), time.Unix(p.expires, 0)
	ok2 := &Verified{
		Origin: origin, Version: r.Header.Get(headerVersion), KID: p.keyid,
		Created: created, Signature: r.Header.Get(headerSignature), nonce: nonce, until: expires.Add(clockSkew),
	}
	switch {
	case created.After(now.Add(clockSkew)):
		return ok2, fault(FaultEarly)
	case now.After(expires.Add(clockSkew)):
		return ok2, fault(FaultLate)
	}
	if v.Nonces.Used(origin, p.keyid, nonce) {
		return ok2, fault(FaultReplay)
	}
	return ok2, nil
}

func (v *Verifier) ours(authority string) bool {
	for _, a := range v.Authorities {
		if a == authority {
			return true
		}
	}
	return false
}

func (v *Verifier) checkHeaders(r *http.Request, origin clearbox.ServerName, withBody bool) error {
	for _, name := range []string{headerDigest, headerOrigin, headerDestination, headerVersion} {
		if _, err := once(r.Header, name); err != nil {
			return err
		}
	}
	if withBody {
		if _, err := once(r.Header, headerType); err != nil {
			return err
		}
	} else if len(r.Header[headerType]) != 0 {
		return fault(FaultForm)
	}
	if r.Header.Get(headerOrigin) != string(origin) {
		return fault(FaultOrigin)
	}
	if r.Header.Get(headerDestination) != string(v.Server) {
		return fault(FaultDestination)
	}
	return checkVersion(r.Header.Get(headerVersion))
}

// checkVersion accepts every minor of major 1 (federation.md, 14).
func checkVersion(s string) error {
	if !versionPattern.MatchString(s) || s[0] != '1' || s[1] != '.' {
		return fault(FaultVersion)
	}
	if _, err := strconv.Atoi(s[2:]); err != nil {
		return fault(FaultVersion)
	}
	return nil
}

// ReadBody reads a verified request's body through the hash and returns it
// when it is the one that was signed, of at most limit bytes.
func ReadBody(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, fault(FaultLength)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeUnavailable, "the body did not arrive", err) // says nothing about what it holds
	}
	if int64(len(body)) > limit {
		return nil, fault(FaultLength)
	}
	if r.Header.Get(headerDigest) != digestHeader(sha256.Sum256(body)) {
		return nil, fault(FaultDigest)
	}
	return body, nil
}
