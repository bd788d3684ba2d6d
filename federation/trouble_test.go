package federation_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// Every row of the classification (federation.md, 8): what the sender does and
// what an operator is told. The verdict of a single item never comes here; it
// bounces that item.
func TestClassification(t *testing.T) {
	away := func(cause error) error {
		return clearbox.Wrap(clearbox.CodePeerUnreachable, "the peer could not be reached", cause)
	}
	dial := func(cause error) error { return away(&net.OpError{Op: "dial", Net: "tcp", Err: cause}) }
	answer := func(status int, code clearbox.Code, signed bool, after time.Duration) error {
		return &federation.RefusedError{Status: status, Code: code, Signed: signed, RetryAfter: after}
	}
	const later = 7 * time.Second
	for _, c := range []struct {
		name    string
		err     error
		does    string
		trouble federation.Trouble
	}{
		{"dns", dial(&net.DNSError{Err: "no such host", Name: "b.test", IsNotFound: true}), "grow", federation.TroubleDNS},
		{"dns, too slow", dial(&net.DNSError{Err: "i/o timeout", Name: "b.test", IsTimeout: true}), "grow", federation.TroubleDNS},
		{"private addresses", clearbox.Errorf(clearbox.CodeForbidden, "no public address"), "grow", federation.TroubleAddress},
		{"refused", dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "grow", federation.TroubleRefused},
		{"no route", dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), "grow", federation.TroubleTCP},
		{"reset", away(os.NewSyscallError("read", syscall.ECONNRESET)), "grow", federation.TroubleTCP},
		{"ended early", away(io.ErrUnexpectedEOF), "grow", federation.TroubleTCP},
		{"connect timed out", dial(os.ErrDeadlineExceeded), "grow", federation.TroubleTimeout},
		{"tarpit", away(context.DeadlineExceeded), "grow", federation.TroubleTimeout},
		{"tls, not spoken", away(tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}), "grow", federation.TroubleTLS},
		{"tls, old version", away(tls.AlertError(70)), "grow", federation.TroubleTLS},
		{"tls, unknown authority", away(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), "grow", federation.TroubleTLS},
		{"tls, other name", away(x509.HostnameError{Host: "b.test"}), "grow", federation.TroubleTLS},
		{"500", answer(500, clearbox.CodeInternal, true, 0), "grow", federation.TroubleHTTP},
		{"502 of a proxy", answer(502, "", false, 0), "grow", federation.TroubleHTTP},
		{"503 without a time", answer(503, clearbox.CodeUnavailable, true, 0), "grow", federation.TroubleHTTP},
		{"503 with a time", answer(503, clearbox.CodeStoreFull, true, later), "wait", federation.TroubleBusy},
		{"503 of a proxy with a time", answer(503, "", false, later), "wait", federation.TroubleBusy},
		{"429 with a time", answer(429, clearbox.CodeRateLimited, true, later), "wait", federation.TroubleBusy},
		{"unknown key", answer(401, clearbox.CodeUnknownKey, false, 0), "quick", federation.TroubleKey},
		{"replay", answer(401, clearbox.CodeReplay, true, 0), "quick", federation.TroubleKey},
		{"unknown key of theirs", fmt.Errorf("answer: %w", &federation.ProfileError{Fault: federation.FaultKey, Code: clearbox.CodeUnknownKey}), "grow", federation.TroubleKey},
		{"clock skew that was not corrected", answer(401, clearbox.CodeClockSkew, true, 0), "grow", federation.TroubleClock},
		{"403", answer(403, clearbox.CodePeerBlocked, true, 0), "park", federation.TroubleRefusal},
		{"403 of a proxy", answer(403, "", false, 0), "grow", federation.TroubleHTTP},
		{"our own table", clearbox.Errorf(clearbox.CodePeerBlocked, "not active"), "park", federation.TroubleRefusal},
		{"413", answer(413, clearbox.CodeTooLarge, true, 0), "split", federation.TroubleTooLarge},
		{"413 of a proxy", answer(413, "", false, 0), "grow", federation.TroubleTooLarge},
		{"400", answer(400, clearbox.CodeBadRequest, true, 0), "split", federation.TroubleProtocol},
		{"gap", answer(409, clearbox.CodeGap, true, 0), "rewind", federation.TroubleProtocol},
		{"fenced", answer(409, clearbox.CodeFenced, true, 0), "fenced", federation.TroubleProtocol},
		{"another identity", &federation.PinError{Server: "b.test"}, "grow", federation.TroubleIdentity},
		{"an older document", &federation.RollbackError{Have: 3, Got: 2}, "grow", federation.TroubleIdentity},
		{"unsigned answer", &federation.ProfileError{Fault: federation.FaultUnsigned, Code: clearbox.CodeBadSignature}, "grow", federation.TroubleProtocol},
		{"another answer's bytes", clearbox.Errorf(clearbox.CodeBadRequest, "the answer does not fit the transaction"), "grow", federation.TroubleProtocol},
		{"anything else", errors.New("boom"), "grow", federation.TroubleTCP},
	} {
		if does := federation.ReactionTo(c.err); does != c.does {
			t.Errorf("%s: the sender's reaction is %s, want %s", c.name, does, c.does)
		}
		// Only a signed refusal leaves no doubt, and what was never sent.
		known := map[string]federation.Outcome{
			"429 with a time": federation.OutcomeNotTaken, "clock skew that was not corrected": federation.OutcomeNotTaken, "413": federation.OutcomeNotTaken,
			"400": federation.OutcomeNotTaken, "gap": federation.OutcomeNotTaken, "fenced": federation.OutcomeNotTaken,
			"403": federation.OutcomeRefused, "our own table": federation.OutcomeRefused,
		}[c.name]
		if got := federation.OutcomeOf(c.err); got != known {
			t.Errorf("%s: the outcome is %d, want %d", c.name, got, known)
		}
		if kind := federation.TroubleOf(c.err); kind != c.trouble {
			t.Errorf("%s: the trouble is %s, want %s", c.name, kind, c.trouble)
		}
	}
	if federation.TroubleOf(nil) != "" {
		t.Error("success is no trouble")
	}
}
