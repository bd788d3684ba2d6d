package federation

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/dunglas/httpsfv"
)

// The closed signature profile (federation.md, 5): one label, one tag, one
// list of components in one order, one order of parameters, no alg.
const (
	signatureLabel = "cbfed"
	signatureTag   = "clearbox-fed-1"

	signatureLife = 120 * time.Second // expires - created, exactly
	clockSkew     = 60 * time.Second  // accepted each way
	maxOffset     = 15 * time.Minute  // of one destination's clock

	headerOrigin      = "Clearbox-Origin"
	headerDestination = "Clearbox-Destination"
	headerVersion     = "Clearbox-Version"
	headerDigest      = "Content-Digest"
	headerInput       = "Signature-Input"
	headerSignature   = "Signature"
	headerType        = "Content-Type"

	maxSignatureHeader = 1024 // bytes of either signature header
)

// The serialised component lists (RFC 9421, 2.3).
const (
	componentsBody   = `("@method" "@authority" "@path" "@query" "content-type" "content-digest" "clearbox-origin" "clearbox-destination" "clearbox-version")`
	componentsNoBody = `("@method" "@authority" "@path" "@query" "content-digest" "clearbox-origin" "clearbox-destination" "clearbox-version")`
	componentsAnswer = `("@status" "content-type" "content-digest" "signature";req)`
)

// Fault says which rule of the profile a message broke.
type Fault string

// The faults, for logs, operators and tests. What a stranger learns is the
// code of the error only.
const (
	FaultMethod      Fault = "method"      // not GET or POST
	FaultDuplicate   Fault = "duplicate"   // a header that must stand once is missing or repeated
	FaultForm        Fault = "form"        // a header's value is not in its one allowed form
	FaultComponents  Fault = "components"  // other components, label, parameters or orders than the profile's
	FaultAuthority   Fault = "authority"   // addressed to a host that is not ours
	FaultDestination Fault = "destination" // addressed to another server
	FaultOrigin      Fault = "origin"      // another origin than expected
	FaultVersion     Fault = "version"     // a protocol version that is not spoken here
	FaultKey         Fault = "key"         // the key id is not among the origin's keys
	FaultSignature   Fault = "signature"   // the signature does not verify
	FaultEarly       Fault = "early"       // created in the future
	FaultLate        Fault = "late"        // expired
	FaultReplay      Fault = "replay"      // the nonce was used before
	FaultNonceFull   Fault = "nonce_full"  // no room to remember another nonce
	FaultEncoding    Fault = "encoding"    // a content-encoding
	FaultLength      Fault = "length"      // more bytes than allowed
	FaultDigest      Fault = "digest"      // the body is not the one that was signed
	FaultUnsigned    Fault = "unsigned"    // an answer without a signature
)

// ProfileError is a message that breaks the signature profile.
type ProfileError struct {
	Fault Fault
	Code  clearbox.Code
}

// Error names the fault.
func (e *ProfileError) Error() string { return "signature profile: " + string(e.Fault) }

// Unwrap gives the error its code.
func (e *ProfileError) Unwrap() error { return &clearbox.Error{Code: e.Code} }

func fault(f Fault) *ProfileError {
	code := clearbox.CodeBadSignature
	switch f {
	case FaultMethod:
		code = clearbox.CodeMethod
	case FaultVersion:
		code = clearbox.CodeBadRequest
	case FaultKey:
		code = clearbox.CodeUnknownKey
	case FaultEarly, FaultLate:
		code = clearbox.CodeClockSkew
	case FaultReplay:
		code = clearbox.CodeReplay
	case FaultNonceFull:
		code = clearbox.CodeUnavailable
	case FaultEncoding:
		code = clearbox.CodeUnsupportedMedia
	case FaultLength:
		code = clearbox.CodeTooLarge
	}
	return &ProfileError{Fault: f, Code: code}
}

// ContentDigest is the value of Content-Digest for a body.
func ContentDigest(body []byte) string { return digestHeader(sha256.Sum256(body)) }

// digestHeader is the value of Content-Digest (RFC 9530, 2).
func digestHeader(sum [sha256.Size]byte) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// normalAuthority is @authority (RFC 9421, 2.2.3): lower case, default port
// left out.
func normalAuthority(host string) string {
	return strings.TrimSuffix(strings.ToLower(host), ":443")
}

// target is what the derived components of a request come from.
type target struct {
	method, authority, path, query string // query begins with "?"
}

// requestTarget reads the derived components as the request names them on the
// wire: a received request keeps its target line in RequestURI, a request to
// be sent has only its URL.
func requestTarget(r *http.Request, authority string) (target, error) {
	uri := r.RequestURI
	if uri == "" {
		uri = r.URL.RequestURI()
	}
	// RFC 9421, 2.2.6 and 2.2.7.
	path, query, _ := strings.Cut(uri, "?")
	if !strings.HasPrefix(path, "/") {
		return target{}, fault(FaultForm)
	}
	return target{method: r.Method, authority: authority, path: path, query: "?" + query}, nil
}

// requestBase is the signature base of a request (RFC 9421, 2.5).
func requestBase(t target, h http.Header, withBody bool, params string) []byte {
	b := make([]byte, 0, 768)
	b = line(b, `"@method"`, t.method)
	b = line(b, `"@authority"`, t.authority)
	b = line(b, `"@path"`, t.path)
	b = line(b, `"@query"`, t.query)
	if withBody {
		b = line(b, `"content-type"`, h.Get(headerType))
	}
	b = line(b, `"content-digest"`, h.Get(headerDigest))
	b = line(b, `"clearbox-origin"`, h.Get(headerOrigin))
	b = line(b, `"clearbox-destination"`, h.Get(headerDestination))
	b = line(b, `"clearbox-version"`, h.Get(headerVersion))
	return append(append(b, `"@signature-params": `...), params...)
}

// answerBase is the signature base of an answer, bound to the request's
// signature by ;req (RFC 9421, 2.4).
func answerBase(status int, h http.Header, requestSignature, params string) []byte {
	b := make([]byte, 0, 512)
	b = line(b, `"@status"`, strconv.Itoa(status))
	b = line(b, `"content-type"`, h.Get(headerType))
	b = line(b, `"content-digest"`, h.Get(headerDigest))
	b = line(b, `"signature";req`, requestSignature)
	return append(append(b, `"@signature-params": `...), params...)
}

func line(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, '\n')
}

// params are the parameters of one signature. Nonce and expires are absent in
// answers, which live and die with their request.
type params struct {
	created int64 // seconds
	expires int64
	nonce   string
	keyid   string
}

// serialise gives the component list and parameters in their only order.
func (p *params) serialise(components string) string {
	if components == componentsAnswer {
		return components + ";created=" + strconv.FormatInt(p.created, 10) +
			`;keyid="` + p.keyid + `";tag="` + signatureTag + `"`
	}
	return components + ";created=" + strconv.FormatInt(p.created, 10) + ";expires=" + strconv.FormatInt(p.expires, 10) +
		`;nonce="` + p.nonce + `";keyid="` + p.keyid + `";tag="` + signatureTag + `"`
}

// signatureValue is the value of the Signature header (RFC 9421, 4.2).
func signatureValue(sig []byte) string {
	return signatureLabel + "=:" + base64.StdEncoding.EncodeToString(sig) + ":"
}

// once gives the value of a header that must stand exactly once, with no space
// around it and no byte that could end a line of the signature base.
func once(h http.Header, name string) (string, error) {
	v := h[name]
	if len(v) != 1 || v[0] == "" {
		return "", fault(FaultDuplicate)
	}
	s := v[0]
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return "", fault(FaultForm)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return "", fault(FaultForm)
		}
	}
	return s, nil
}

// parseSignature reads both signature headers, keeps only what the profile
// knows, serialises that again and demands byte equality with what came in:
// every extra label, component, parameter, order and spelling falls to that
// one comparison. It returns the parameters, their serialised form as signed,
// and the signature.
func parseSignature(h http.Header, components string) (*params, string, []byte, error) {
	input, err := once(h, headerInput)
	if err != nil {
		return nil, "", nil, err
	}
	header, err := once(h, headerSignature)
	if err != nil {
		return nil, "", nil, err
	}
	if len(input) > maxSignatureHeader || len(header) > maxSignatureHeader {
		return nil, "", nil, fault(FaultLength)
	}
	p, err := parseParams(input)
	if err != nil {
		return nil, "", nil, err
	}
	signed := p.serialise(components)
	if input != signatureLabel+"="+signed {
		return nil, "", nil, fault(FaultComponents)
	}
	sig, err := parseSignatureValue(header)
	if err != nil {
		return nil, "", nil, err
	}
	return p, signed, sig, nil
}

func parseParams(input string) (*params, error) {
	dict, err := httpsfv.UnmarshalDictionary([]string{input})
	if err != nil {
		return nil, fault(FaultForm)
	}
	member, ok := dict.Get(signatureLabel)
	if !ok {
		return nil, fault(FaultComponents)
	}
	list, ok := member.(httpsfv.InnerList)
	if !ok || list.Params == nil {
		return nil, fault(FaultComponents)
	}
	p := &params{}
	p.created, _ = integer(list.Params, "created")
	p.expires, _ = integer(list.Params, "expires")
	p.nonce, _ = text(list.Params, "nonce")
	p.keyid, ok = text(list.Params, "keyid")
	if !ok || p.created <= 0 || !kidPattern.MatchString(p.keyid) {
		return nil, fault(FaultComponents)
	}
	return p, nil
}

func integer(p *httpsfv.Params, name string) (int64, bool) {
	v, _ := p.Get(name)
	n, ok := v.(int64)
	return n, ok
}

func text(p *httpsfv.Params, name string) (string, bool) {
	v, _ := p.Get(name)
	s, ok := v.(string)
	return s, ok
}

func parseSignatureValue(header string) ([]byte, error) {
	dict, err := httpsfv.UnmarshalDictionary([]string{header})
	if err != nil {
		return nil, fault(FaultForm)
	}
	member, _ := dict.Get(signatureLabel)
	item, ok := member.(httpsfv.Item)
	if !ok {
		return nil, fault(FaultComponents)
	}
	sig, ok := item.Value.([]byte)
	if !ok || len(sig) != 64 || header != signatureValue(sig) {
		return nil, fault(FaultComponents)
	}
	return sig, nil
}

// nonceBytes reads a nonce: 128 bits in base64url, canonical.
func nonceBytes(s string) ([]byte, error) {
	b, err := decode64(s)
	if err != nil || len(b) != 16 {
		return nil, fault(FaultForm)
	}
	return b, nil
}
