package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/clearbox-im/clearbox"
)

// Trouble is the kind of what stood in the way of an attempt (federation.md, 8,
// classification). The attempt's code says what it means for messages, the
// trouble where an operator has to look.
type Trouble string

// The kinds of trouble. The words are stored and shown; they are only added to.
const (
	TroubleDNS      Trouble = "dns"       // the name has no address
	TroubleAddress  Trouble = "address"   // it has only addresses that must not be dialled
	TroubleRefused  Trouble = "refused"   // nobody listens at the address
	TroubleTCP      Trouble = "tcp"       // no connection, or it broke
	TroubleTLS      Trouble = "tls"       // no TLS 1.3, or a certificate that does not fit
	TroubleTimeout  Trouble = "timeout"   // no answer in time
	TroubleHTTP     Trouble = "http"      // an answer that says the server behind it is not there (5xx), or is none of a homeserver
	TroubleBusy     Trouble = "busy"      // 429 or 503 with a time to wait
	TroubleKey      Trouble = "key"       // one side does not know the other's key
	TroubleClock    Trouble = "clock"     // the clocks are too far apart
	TroubleRefusal  Trouble = "refusal"   // the peer does not want us, or our own table does not want it
	TroubleTooLarge Trouble = "too_large" // 413
	TroubleIdentity Trouble = "identity"  // another identity than the pinned one, or an older document
	TroubleProtocol Trouble = "protocol"  // an answer that breaks the protocol
)

// away tells whether the peer was not reached.
func (t Trouble) away() bool {
	switch t {
	case TroubleDNS, TroubleRefused, TroubleTCP, TroubleTLS, TroubleTimeout, TroubleHTTP:
		return true
	}
	return false
}

// TroubleOf names the kind of what Client.Call or Transport.Do failed with; ""
// for nil.
func TroubleOf(err error) Trouble {
	if err == nil {
		return ""
	}
	if r := (*RefusedError)(nil); errors.As(err, &r) {
		return troubleOfAnswer(r)
	}
	var pin *PinError
	var rollback *RollbackError
	if errors.As(err, &pin) || errors.As(err, &rollback) {
		return TroubleIdentity
	}
	if p := (*ProfileError)(nil); errors.As(err, &p) {
		if p.Fault == FaultKey {
			return TroubleKey
		}
		return TroubleProtocol
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodePeerBlocked, clearbox.CodeUnknownPeer:
		return TroubleRefusal
	case clearbox.CodeForbidden:
		return TroubleAddress
	case clearbox.CodeTooLarge:
		return TroubleTooLarge
	case clearbox.CodeInternal, clearbox.CodePeerUnreachable:
		return troubleOfPath(err)
	}
	return TroubleProtocol
}

func troubleOfAnswer(r *RefusedError) Trouble {
	switch r.Code {
	case clearbox.CodeClockSkew:
		return TroubleClock
	case clearbox.CodeUnknownKey, clearbox.CodeReplay:
		return TroubleKey
	case clearbox.CodeIdentityChanged:
		return TroubleIdentity
	}
	switch {
	case r.Status == http.StatusTooManyRequests, r.Status == http.StatusServiceUnavailable && r.RetryAfter > 0:
		return TroubleBusy
	case r.Status == http.StatusRequestEntityTooLarge:
		return TroubleTooLarge
	case r.Status >= 500 || !r.Signed:
		return TroubleHTTP
	case r.Status == http.StatusForbidden:
		return TroubleRefusal
	}
	return TroubleProtocol
}

// troubleOfPath looks for what the network said. A name that was not resolved
// in time is still a matter of the name.
func troubleOfPath(err error) Trouble {
	var (
		dns    *net.DNSError
		record tls.RecordHeaderError
		alert  tls.AlertError
		cert   *tls.CertificateVerificationError
		host   x509.HostnameError
		signer x509.UnknownAuthorityError
		bad    x509.CertificateInvalidError
		slow   interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &dns):
		return TroubleDNS
	case errors.As(err, &record), errors.As(err, &alert), errors.As(err, &cert), errors.As(err, &host), errors.As(err, &signer), errors.As(err, &bad):
		return TroubleTLS
	case errors.Is(err, syscall.ECONNREFUSED):
		return TroubleRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return TroubleTimeout
	}
	return TroubleTCP
}
