package storage

import (
	"errors"

	"github.com/clearbox-im/clearbox"
)

// Errors that callers branch on, with errors.Is. Each carries the code that
// may cross a wire.
var (
	// ErrNotFound: no such row, or it is no longer valid.
	ErrNotFound error = &clearbox.Error{Code: clearbox.CodeNotFound, Text: "not found"}
	// ErrExists: a row with this identity is there already; see ExistsError.
	ErrExists error = &clearbox.Error{Code: clearbox.CodeConflict, Text: "it exists already"}
	// ErrFull: the disk is full. Nothing was stored; the store works again as
	// soon as there is space.
	ErrFull error = &clearbox.Error{Code: clearbox.CodeStoreFull, Text: "the server's storage is full"}
	// ErrBusy: the database was locked by another program for too long.
	ErrBusy error = &clearbox.Error{Code: clearbox.CodeUnavailable, Text: "the server's storage is busy"}
	// ErrIO: the disk or the file system failed. Whether an update was kept is
	// unknown; the caller repeats it under the same ids.
	ErrIO error = &clearbox.Error{Code: clearbox.CodeUnavailable, Text: "the server's storage failed"}
	// ErrQuota: a limit of the caller's own (prekeys, archive).
	ErrQuota error = &clearbox.Error{Code: clearbox.CodeQuota, Text: "the quota is used up"}
	// ErrMailboxFull: the device's mailbox holds as much as it may.
	ErrMailboxFull error = &clearbox.Error{Code: clearbox.CodeMailboxFull, Text: "the mailbox is full"}
	// ErrShredded: the person's key was destroyed, so what it sealed is gone.
	// A Sealer returns it (wrapped) for such keys.
	ErrShredded error = &clearbox.Error{Code: clearbox.CodeNotFound, Text: "erased"}
	// ErrClosed: the store was closed before the work began.
	ErrClosed error = &clearbox.Error{Code: clearbox.CodeUnavailable, Text: "the store is closed"}
	// ErrInUse: another process holds the database.
	ErrInUse error = &clearbox.Error{Code: clearbox.CodeUnavailable, Text: "the database is in use by another process"}
	// ErrNewerSchema: a later release wrote this database.
	ErrNewerSchema error = &clearbox.Error{Code: clearbox.CodeUnavailable, Text: "the database was written by a later release; install that release or a newer one"}
)

// ExistsError says which identity was taken. errors.Is(err, ErrExists) holds.
type ExistsError struct {
	Field string // "handle", "uid", "id", "hash", "device"
}

// Error names the field only.
func (e *ExistsError) Error() string { return "the " + e.Field + " exists already" }

// Unwrap gives ErrExists.
func (e *ExistsError) Unwrap() error { return ErrExists }

// errRolledBack reports that the database ended the whole transaction, not
// only the failed statement.
var errRolledBack = errors.New("the database rolled the transaction back")
