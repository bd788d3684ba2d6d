package federation

import (
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox"
)

// GapError says that a transaction begins beyond the position the receiver
// expects next on the stream.
type GapError struct{ Expected int64 }

// Error names the expected position.
func (e *GapError) Error() string { return fmt.Sprintf("gap: position %d is expected", e.Expected) }

// Unwrap gives the error its code.
func (e *GapError) Unwrap() error { return &clearbox.Error{Code: clearbox.CodeGap} }

// FencedError says that a later lease than the transaction's has been seen.
type FencedError struct{ Fence int64 }

// Error names the newest fence.
func (e *FencedError) Error() string { return fmt.Sprintf("fenced: lease %d was seen", e.Fence) }

// Unwrap gives the error its code.
func (e *FencedError) Unwrap() error { return &clearbox.Error{Code: clearbox.CodeFenced} }

// RollbackError says that a server document with a lower sequence than the
// stored one, or another one with the same sequence, was offered.
type RollbackError struct{ Have, Got int64 }

// Error names both sequences.
func (e *RollbackError) Error() string {
	return fmt.Sprintf("server document %d is not newer than %d", e.Got, e.Have)
}

// Unwrap gives the error its code.
func (e *RollbackError) Unwrap() error { return &clearbox.Error{Code: clearbox.CodeBadSignature} }

// PinError says that a document is signed by another identity than the pinned
// one.
type PinError struct{ Server clearbox.ServerName }

// Error names the server.
func (e *PinError) Error() string {
	return fmt.Sprintf("%s presented another identity than the pinned one", e.Server)
}

// Unwrap gives the error its code.
func (e *PinError) Unwrap() error { return &clearbox.Error{Code: clearbox.CodeIdentityChanged} }

// RefusedError is a peer's answer that is not a success. Signed tells whether
// the peer's signature on it was verified; only then it may stop a queue.
type RefusedError struct {
	Status     int
	Code       clearbox.Code
	Signed     bool
	RetryAfter time.Duration   // 0 = none was named
	ServerTime clearbox.Millis // with clock_skew
	Expected   int64           // with gap
}

// Error names status and code.
func (e *RefusedError) Error() string { return fmt.Sprintf("peer answered %d %s", e.Status, e.Code) }

// Unwrap gives the error its code.
func (e *RefusedError) Unwrap() error { return &clearbox.Error{Code: e.Code} }
