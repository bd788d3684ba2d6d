package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/server/wire"
)

// answer is how a code looks over HTTP.
type answer struct {
	status int
	title  string
}

// answers is the one table from code to status. A code that is not here is a
// fault of the server.
var answers = map[clearbox.Code]answer{
	clearbox.CodeInternal:         {http.StatusInternalServerError, "Internal error"},
	clearbox.CodeBadRequest:       {http.StatusBadRequest, "Bad request"},
	clearbox.CodeBadHandle:        {http.StatusBadRequest, "Name not allowed"},
	clearbox.CodeHandleTaken:      {http.StatusConflict, "Name taken"},
	clearbox.CodeUnauthorized:     {http.StatusUnauthorized, "Not authenticated"},
	clearbox.CodeBadCredentials:   {http.StatusUnauthorized, "Wrong name or password"},
	clearbox.CodeTokenExpired:     {http.StatusUnauthorized, "Token expired"},
	clearbox.CodeTokenReused:      {http.StatusUnauthorized, "Token used twice"},
	clearbox.CodeForbidden:        {http.StatusForbidden, "Not allowed"},
	clearbox.CodeNotFound:         {http.StatusNotFound, "Not found"},
	clearbox.CodeMethod:           {http.StatusMethodNotAllowed, "Method not allowed"},
	clearbox.CodeConflict:         {http.StatusConflict, "Conflict"},
	clearbox.CodeStaleDevices:     {http.StatusConflict, "The recipient's devices changed"},
	clearbox.CodeTooLarge:         {http.StatusRequestEntityTooLarge, "Too large"},
	clearbox.CodeUnsupportedMedia: {http.StatusUnsupportedMediaType, "Unsupported media type"},
	clearbox.CodeRateLimited:      {http.StatusTooManyRequests, "Too many requests"},
	clearbox.CodeStoreFull:        {http.StatusInsufficientStorage, "Storage is full"},
	clearbox.CodeUnavailable:      {http.StatusServiceUnavailable, "Try again later"},
	clearbox.CodeNotImplemented:   {http.StatusNotImplemented, "Not available yet"},
	clearbox.CodeConsentRequired:  {http.StatusForbidden, "Consent required"},
	clearbox.CodeNoticeRequired:   {http.StatusForbidden, "Privacy notice not acknowledged"},
	clearbox.CodeInviteInvalid:    {http.StatusForbidden, "Invite not valid"},
	clearbox.CodeBadSignature:     {http.StatusBadRequest, "Bad signature"},
	clearbox.CodeQuota:            {http.StatusForbidden, "Quota exceeded"},
	clearbox.CodeRange:            {http.StatusRequestedRangeNotSatisfiable, "Nothing there"},
	clearbox.CodeGroupChanged:     {http.StatusConflict, "The group changed"},
	clearbox.CodeUnproven:         {http.StatusUnprocessableEntity, "Not proven"},

	clearbox.CodePeerUnreachable:      {http.StatusBadGateway, "The other server cannot be reached"},
	clearbox.CodePeerBlocked:          {http.StatusForbidden, "No connection with that server"},
	clearbox.CodePeerBacklogFull:      {http.StatusServiceUnavailable, "Too much is waiting for that server"},
	clearbox.CodeNoRoutePolicy:        {http.StatusForbidden, "No connection with that server"},
	clearbox.CodeRecipientUnavailable: {http.StatusNotFound, "Recipient not available"},
	clearbox.CodeMailboxFull:          {http.StatusServiceUnavailable, "The recipient's mailbox is full"},
	clearbox.CodeExpired:              {http.StatusGone, "Expired"},
	clearbox.CodeIdentityChanged:      {http.StatusConflict, "The other side's identity changed"},
	clearbox.CodeNoDevice:             {http.StatusNotFound, "No such device"},
	clearbox.CodeOutcomeUnknown:       {http.StatusBadGateway, "Outcome unknown"},
	clearbox.CodeNotAMember:           {http.StatusForbidden, "Not a member of the group"},

	clearbox.CodeUnknownKey:          {http.StatusUnauthorized, "Unknown key"},
	clearbox.CodeClockSkew:           {http.StatusUnauthorized, "Clocks differ"},
	clearbox.CodeReplay:              {http.StatusUnauthorized, "Used before"},
	clearbox.CodeGap:                 {http.StatusConflict, "Gap"},
	clearbox.CodeFenced:              {http.StatusConflict, "Fenced"},
	clearbox.CodeUnknownPeer:         {http.StatusForbidden, "Unknown peer"},
	clearbox.CodeUnsupportedCritical: {http.StatusBadRequest, "Not understood"},
	clearbox.CodeUnsupportedVersion:  {http.StatusForbidden, "No common version"},

	clearbox.CodeHubUnreachable: {http.StatusServiceUnavailable, "The group's server cannot be reached"},
	clearbox.CodeGroupFrozen:    {http.StatusConflict, "The group is frozen"},
	clearbox.CodeGroupClosed:    {http.StatusConflict, "The group is closed"},
	clearbox.CodeDeviceRemoved:  {http.StatusForbidden, "Not a device of the person"},
}

// retryDefault is said where a 429 or 503 knows no better, in seconds.
const retryDefault = 5

// problemOf describes err. What an internal error says stays in the log.
func problemOf(err error, requestID string) *wire.Problem {
	code := codeOf(err)
	a, known := answers[code]
	if !known {
		code = clearbox.CodeInternal
		a = answers[code]
	}
	p := &wire.Problem{Type: wire.ProblemBase + string(code), Title: a.title, Status: a.status, Code: code, RequestID: requestID}
	if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
		p.RetryAfter = retryDefault
		if after, ok := throttle.RetryAfter(err); ok {
			p.RetryAfter = max(1, int(math.Ceil(after.Seconds())))
		}
	}
	if code == clearbox.CodeInternal {
		p.Detail = "The server failed. The request id helps its operator to find out why."
		return p
	}
	describe(p, err)
	return p
}

func describe(p *wire.Problem, err error) {
	var (
		invalid *wire.InvalidError
		stale   *clearbox.StaleDevicesError
		changed *clearbox.GroupChangedError
		own     *clearbox.Error
	)
	switch {
	case errors.As(err, &invalid):
		p.Detail = invalid.Error()
		p.Errors = invalid.Errors
	case errors.As(err, &stale):
		p.Detail = stale.Error()
		first := staleDevices(stale)
		p.Stale = &first
		for i := range stale.Others {
			p.StaleMembers = append(p.StaleMembers, staleDevices(&stale.Others[i]))
		}
	case errors.As(err, &changed):
		p.Detail = changed.Error()
		p.Epoch = changed.Epoch
	case errors.As(err, &own):
		p.Detail = own.Error()
		if own.Field != "" {
			p.Errors = []wire.FieldError{{Pointer: own.Field, Detail: own.Error()}}
		}
	}
	if p.Detail == string(p.Code) { // an error without a text
		p.Detail = ""
	}
}

func staleDevices(e *clearbox.StaleDevicesError) wire.StaleDevices {
	s := wire.StaleDevices{User: e.User, Version: e.Version, Missing: e.Missing, Extra: e.Extra}
	if s.Missing == nil {
		s.Missing = []clearbox.DeviceRef{}
	}
	if s.Extra == nil {
		s.Extra = []clearbox.DeviceRef{}
	}
	return s
}

// codeOf is CodeOf, and knows that a deadline that passed is nobody's fault.
func codeOf(err error) clearbox.Code {
	code := clearbox.CodeOf(err)
	if code == clearbox.CodeInternal && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return clearbox.CodeUnavailable
	}
	return code
}

// writeProblem answers with err as a problem document (RFC 9457).
func (a *API) writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	id := requestID(r.Context())
	p := problemOf(err, id)
	if p.Status >= 500 && p.Status != http.StatusNotImplemented {
		a.o.Log.Error("request failed", "request_id", id, "route", routeOf(r), "code", string(p.Code), "error", err.Error())
	}
	h := w.Header()
	h.Set("Content-Type", wire.ProblemType)
	h.Set("Cache-Control", "no-store")
	h.Del("ETag")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter)) // RFC 9110, 10.2.3
	}
	switch p.Code {
	case clearbox.CodeUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="clearbox"`) // RFC 6750, 3
	case clearbox.CodeTokenExpired, clearbox.CodeTokenReused:
		h.Set("WWW-Authenticate", `Bearer realm="clearbox", error="invalid_token"`)
	case clearbox.CodeBadCredentials, clearbox.CodeUnknownKey, clearbox.CodeClockSkew, clearbox.CodeReplay:
		h.Set("WWW-Authenticate", `Bearer realm="clearbox"`)
	}
	body, encodeErr := wire.Append(wire.JSON, nil, p)
	if encodeErr != nil {
		panic(encodeErr) // a problem document is plain strings
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a client that left needs no answer
}

// draining refuses new work while the server goes down.
func draining() error {
	return &throttle.Error{Code: clearbox.CodeUnavailable, After: 2 * time.Second, Text: "the server is restarting"}
}
