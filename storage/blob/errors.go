package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/clearbox-im/clearbox"
)

// OffsetError says that an upload stands elsewhere than the caller thinks.
type OffsetError struct{ Have int64 } // bytes that are here

// Error names the place.
func (e *OffsetError) Error() string { return fmt.Sprintf("the upload stands at byte %d", e.Have) }

// Unwrap gives the error its code.
func (e *OffsetError) Unwrap() error {
	return &clearbox.Error{Code: clearbox.CodeConflict, Text: e.Error()}
}

// failure gives what the system said its code. It is nil for nil.
func failure(what string, err error) error {
	var own *clearbox.Error
	switch {
	case err == nil || errors.As(err, &own):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return clearbox.Wrap(clearbox.CodeNotFound, "there is no such attachment", fmt.Errorf("%s: %w", what, err))
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return clearbox.Wrap(clearbox.CodeStoreFull, "the server's storage is full", fmt.Errorf("%s: %w", what, err))
	}
	return clearbox.Wrap(clearbox.CodeUnavailable, "the server's storage failed", fmt.Errorf("%s: %w", what, err))
}
