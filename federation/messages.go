package federation

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
)

// The endpoints below a server's base URL.
const (
	PathWellKnown = "/.well-known/clearbox/server"
	PathServer    = "/fed/v1/server"
	PathTxn       = "/fed/v1/txn"
	PathHello     = "/fed/v1/hello"
	PathResolve   = "/fed/v1/resolve"
	PathDevices   = "/fed/v1/devices"
	PathClaim     = "/fed/v1/prekeys/claim"
	PathPeering   = "/fed/v1/peering"
	PathEphemeral = "/fed/v1/ephemeral"
	PathMedia     = "/fed/v1/media"
)

// The media types of bodies.
const (
	TypeCBOR    = "application/cbor"
	TypeJSON    = "application/json"
	TypeProblem = "application/problem+json"
)

// WellKnown is the body at PathWellKnown.
type WellKnown struct {
	Base string `json:"base"` // as ParseEndpoint accepts it
}

// Hello says "I am here" and what each side sees of the other's document.
// The answer has the same form.
type Hello struct {
	Seq   int64  `cbor:"seq"`   // of the speaker's own document
	Hash  []byte `cbor:"hash"`  // of the speaker's own document
	Seen  []byte `cbor:"seen"`  // hash of the listener's document that the speaker holds, or empty
	Clock int64  `cbor:"clock"` // the speaker's time, ms

	// Streams are the speaker's own towards the listener, in the answer the same ones as far as they
	// were accepted.
	Streams []Position `cbor:"streams,omitempty"`

	Gossip *Gossip `cbor:"gossip,omitempty"` // about servers that both may know
}

type resolveRequest struct {
	Handle string `cbor:"handle"`
}

type devicesRequest struct {
	UID string `cbor:"uid"`
}

type claimRequest struct {
	ClaimID string  `cbor:"claim_id"`
	UID     string  `cbor:"uid"`
	Token   []byte  `cbor:"token,omitempty"` // 16 bytes
	Devices []int64 `cbor:"devices,omitempty"`
	Group   []byte  `cbor:"group,omitempty"` // 32 bytes, in place of a token: both sides have somebody in it
	Epoch   uint64  `cbor:"epoch,omitempty"`
}

type accountAnswer struct {
	User    string `cbor:"user"`
	Handle  string `cbor:"handle,omitempty"`
	Devices []byte `cbor:"device_list"`
	Version int64  `cbor:"version"`
	Token   []byte `cbor:"token,omitempty"` // 16 bytes; of people who may be written to without a knock
}

type claimAnswer struct {
	Bundles []Bundle `cbor:"bundles"`
}

// maxClaimID is the longest claim id in bytes.
const maxClaimID = 64

func decodeBody(b []byte, into any) error {
	if err := decoder.Unmarshal(b, into); err != nil {
		return clearbox.Wrap(clearbox.CodeBadRequest, "the body is not readable", err)
	}
	return nil
}

// problem is an error answer (RFC 9457). Detail never holds more than the code
// says.
type problem struct {
	Title        string        `json:"title"`
	Status       int           `json:"status"`
	Code         clearbox.Code `json:"code"`
	ServerTime   int64         `json:"server_time,omitempty"`
	Expected     int64         `json:"expected,omitempty"`
	RetryAfterMS int64         `json:"retry_after_ms,omitempty"`
}

// statusOf maps the codes that this package answers with.
func statusOf(code clearbox.Code) int {
	switch code {
	case clearbox.CodeBadRequest, clearbox.CodeBadHandle:
		return http.StatusBadRequest
	case clearbox.CodeBadSignature, clearbox.CodeUnknownKey, clearbox.CodeClockSkew, clearbox.CodeReplay:
		return http.StatusUnauthorized
	case clearbox.CodeUnknownPeer, clearbox.CodePeerBlocked, clearbox.CodeForbidden, clearbox.CodeConsentRequired, clearbox.CodeInviteInvalid, clearbox.CodeIdentityChanged,
		clearbox.CodeUnsupportedVersion, clearbox.CodeNotAMember, clearbox.CodeNoRoutePolicy, clearbox.CodeDeviceRemoved:
		return http.StatusForbidden
	case clearbox.CodeNotFound, clearbox.CodeRecipientUnavailable:
		return http.StatusNotFound
	case clearbox.CodeMethod:
		return http.StatusMethodNotAllowed
	case clearbox.CodeConflict, clearbox.CodeGap, clearbox.CodeFenced, clearbox.CodeExpired, clearbox.CodeGroupChanged, clearbox.CodeGroupFrozen, clearbox.CodeGroupClosed:
		return http.StatusConflict
	case clearbox.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case clearbox.CodeUnsupportedMedia:
		return http.StatusUnsupportedMediaType
	case clearbox.CodeRateLimited, clearbox.CodeQuota:
		return http.StatusTooManyRequests
	case clearbox.CodeUnavailable, clearbox.CodeStoreFull:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// retryAfter says in a header when to come again (RFC 9110, 10.2.3).
func (p *problem) retryAfter(h http.Header) {
	if p.RetryAfterMS > 0 {
		h.Set("Retry-After", strconv.FormatInt((p.RetryAfterMS+999)/1000, 10))
	}
}

func (p *problem) encode() []byte {
	p.Status = statusOf(p.Code)
	p.Title = http.StatusText(p.Status)
	b, err := json.Marshal(p)
	if err != nil {
		panic("federation: a problem document cannot be encoded: " + err.Error())
	}
	return b
}

// refusal reads a peer's error answer. A body that is no problem document
// leaves the code to the status.
func refusal(status int, h http.Header, body []byte, signed bool) *RefusedError {
	e := &RefusedError{Status: status, Signed: signed}
	var p problem
	if strictJSON(body, &p) == nil && len(p.Code) <= 64 {
		e.Code, e.Expected, e.ServerTime = p.Code, p.Expected, clearbox.Millis(p.ServerTime)
		if p.RetryAfterMS > 0 {
			e.RetryAfter = time.Duration(min(p.RetryAfterMS, maxRetryAfter.Milliseconds())) * time.Millisecond
		}
	}
	// RFC 9110, 10.2.3: seconds. The form with a date is not used between us.
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s > 0 && e.RetryAfter == 0 {
		e.RetryAfter = min(time.Duration(min(s, 1<<20))*time.Second, maxRetryAfter)
	}
	if e.Code == "" {
		e.Code = codeOfStatus(status)
	}
	return e
}

func codeOfStatus(status int) clearbox.Code {
	switch status {
	case http.StatusForbidden:
		return clearbox.CodeForbidden
	case http.StatusRequestEntityTooLarge:
		return clearbox.CodeTooLarge
	case http.StatusTooManyRequests:
		return clearbox.CodeRateLimited
	}
	return clearbox.CodeUnavailable
}

// EncodeHello gives the body of a greeting.
func EncodeHello(h *Hello) ([]byte, error) {
	b, err := encoder.Marshal(h)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the greeting could not be encoded", err)
	}
	return b, nil
}

// DecodeHello reads a greeting or the answer to it.
func DecodeHello(b []byte) (*Hello, error) {
	var h Hello
	if err := decodeBody(b, &h); err != nil {
		return nil, err
	}
	return &h, nil
}

// EncodePeering gives the body of a PeeringRequest.
func EncodePeering(r *PeeringRequest) ([]byte, error) {
	b, err := encoder.Marshal(r)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the introduction could not be encoded", err)
	}
	return b, nil
}

// DecodePeering reads the answer to it.
func DecodePeering(b []byte) (*PeeringAnswer, error) {
	var a PeeringAnswer
	if err := decodeBody(b, &a); err != nil {
		return nil, err
	}
	return &a, nil
}
