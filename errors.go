package clearbox

import (
	"errors"
	"fmt"
)

// Code is a stable slug that crosses every wire and is shared by servers and
// clients. Codes are appended, never renamed or reused.
type Code string

// The codes. server/api/errors.go maps each to one HTTP status.
const (
	CodeInternal         Code = "internal"
	CodeBadRequest       Code = "bad_request"     // malformed or failing a check; nothing was changed
	CodeBadHandle        Code = "bad_handle"      // a name that is not allowed
	CodeHandleTaken      Code = "handle_taken"    //
	CodeUnauthorized     Code = "unauthorized"    // no or no valid token
	CodeBadCredentials   Code = "bad_credentials" // name or password wrong, never which
	CodeTokenExpired     Code = "token_expired"   //
	CodeTokenReused      Code = "token_reused"    // a single-use secret came twice; its family is revoked
	CodeForbidden        Code = "forbidden"       // known caller, not allowed
	CodeNotFound         Code = "not_found"       // absent, or not visible to the caller
	CodeMethod           Code = "method_not_allowed"
	CodeConflict         Code = "conflict"          // the same id with another body
	CodeStaleDevices     Code = "stale_devices"     // see StaleDevicesError
	CodeTooLarge         Code = "too_large"         //
	CodeUnsupportedMedia Code = "unsupported_media" //
	CodeRateLimited      Code = "rate_limited"      //
	CodeStoreFull        Code = "store_full"        // disk or quota of the server
	CodeUnavailable      Code = "unavailable"       // try again later
	CodeNotImplemented   Code = "not_implemented"   // documented, comes with a later release
	CodeConsentRequired  Code = "consent_required"  //
	CodeNoticeRequired   Code = "notice_required"   // the privacy notice was not acknowledged
	CodeInviteInvalid    Code = "invite_invalid"    // unknown, used, revoked or expired
	CodeBadSignature     Code = "bad_signature"     // a key or list whose signature does not verify
	CodeQuota            Code = "quota_exceeded"    // the caller's own quota
	CodeRange            Code = "bad_range"         // a part that the object does not have
	CodeGroupChanged     Code = "group_changed"     // see GroupChangedError
	CodeUnproven         Code = "unproven"          // a report of what the account is not known to have sent

	// Reasons a message was not delivered (bounces), and per-item verdicts.
	CodePeerUnreachable      Code = "peer_unreachable"
	CodePeerBlocked          Code = "peer_blocked"
	CodePeerBacklogFull      Code = "peer_backlog_full"
	CodeNoRoutePolicy        Code = "no_route_policy"
	CodeRecipientUnavailable Code = "recipient_unavailable" // unknown, banned and erased look alike
	CodeMailboxFull          Code = "mailbox_full"
	CodeExpired              Code = "expired"
	CodeIdentityChanged      Code = "identity_changed"
	CodeNoDevice             Code = "no_device"
	CodeOutcomeUnknown       Code = "outcome_unknown"
	CodeNotAMember           Code = "not_a_member" // of the group, or not any more

	// Answers between homeservers.
	CodeUnknownKey          Code = "unknown_key"
	CodeClockSkew           Code = "clock_skew"
	CodeReplay              Code = "replay"
	CodeGap                 Code = "gap"
	CodeFenced              Code = "fenced"
	CodeUnknownPeer         Code = "unknown_peer"
	CodeUnsupportedCritical Code = "unsupported_critical"
	CodeUnsupportedVersion  Code = "unsupported_version" // the two servers speak no common version

	// Why a group's membership does not change.
	CodeHubUnreachable Code = "hub_unreachable" // the server that orders the group's operations does not answer
	CodeGroupFrozen    Code = "group_frozen"    // that server showed what cannot be
	CodeGroupClosed    Code = "group_closed"    // by an owner, or deleted by that server's administrators
	CodeDeviceRemoved  Code = "device_removed"  // the device that signed belongs to its account no more, or never did
)

// Error is the one error that crosses a boundary. Text is for the person and
// holds no key, address, path or SQL; Cause is for the log.
type Error struct {
	Code  Code
	Text  string
	Field string // JSON pointer into the request, or empty
	Cause error
}

// Error is the text for the person, with the code when there is no text.
func (e *Error) Error() string {
	if e.Text == "" {
		return string(e.Code)
	}
	return e.Text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error; a %w operand becomes its cause and stays out of what
// callers show only if the format puts no more of it into the text than meant.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: err.Error(), Cause: errors.Unwrap(err)}
}

// Wrap makes an Error whose text is for the person and whose cause is for the log.
func Wrap(code Code, text string, cause error) *Error {
	return &Error{Code: code, Text: text, Cause: cause}
}

// CodeOf is err's code; a foreign error is internal, nil is "".
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var s *StaleDevicesError
	if errors.As(err, &s) {
		return CodeStaleDevices
	}
	var g *GroupChangedError
	if errors.As(err, &g) {
		return CodeGroupChanged
	}
	return CodeInternal
}

// DeviceRef is a device with the registration id that tells a reinstalled one
// from its predecessor.
type DeviceRef struct {
	ID           DeviceID `json:"device" cbor:"device"`
	Registration uint16   `json:"registration" cbor:"registration"` // 14 bits
}

// StaleDevicesError says how a submission's device set differs from the
// recipient's current one. Nothing was stored; the brain encrypts again.
type StaleDevicesError struct {
	User    UserID
	Version int64       // the recipient's current device list version
	Missing []DeviceRef // to be added (a device with another registration id counts as missing and extra)
	Extra   []DeviceRef // to be left out

	Others []StaleDevicesError // of a message to a group: the other members whose devices differ; without Others of their own
}

// Error names the counts only: who was written to does not belong into logs.
func (e *StaleDevicesError) Error() string {
	return fmt.Sprintf("the recipient's devices changed: %d missing, %d extra", len(e.Missing), len(e.Extra))
}

// GroupChangedError says that the group is in another epoch than the caller took
// it for. Nothing was stored; the caller reads what happened and tries again.
type GroupChangedError struct {
	Epoch uint64 // the current one
}

// Error names no group.
func (e *GroupChangedError) Error() string { return "the group changed meanwhile" }
