// Package vault keeps a brain's memory in a directory: encrypted, append-only,
// synced before it says so, and open in one process at a time. It knows keys
// and values; what they mean is the brain's.
//
// # Files
//
//	vault.log    a header and the transactions since the last compaction
//	vault.new    a compaction that did not finish; removed when seen
//	vault.mark   how far the log has come, to notice one that went backwards
//	vault.lock   locked by the process that has the vault open
//
// All are readable by the owner only. The header holds a random data key,
// wrapped with a key that comes from a passphrase (Argon2id, RFC 9106) or from
// a key file. Each transaction is one record under XChaCha20-Poly1305 whose
// associated data names the file's generation and the record's number, so
// records can be neither moved nor left out. A compaction draws a new data
// key and wipes the old wrapped one, so that what was deleted stays so even
// where the old file's blocks can be read.
//
// # What a crash leaves
//
// A record is either whole and synced, or the last one and cut short (or, where
// the file grew before its data came, zeros). The latter was never reported as
// done and is cut off at the next Open. Anything else that does not verify is
// damage and refused: a vault that silently went back in time would use message
// keys twice.
//
// A log that is older than its mark was restored from a copy and is refused
// with ErrRolledBack. A copy of the whole directory can not be told from the
// original here; the brain compares with what its homeserver remembers, and
// begins every session anew where that is more.
package vault

import (
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox/clients/core"
)

var (
	// ErrLocked: another process has the vault open.
	ErrLocked = errors.New("this profile is in use by another process")
	// ErrWrongKey: the passphrase or key file does not open the vault.
	ErrWrongKey = errors.New("the passphrase or key file does not open this vault")
	// ErrAbsent: there is no vault in the directory, and Create was not asked for.
	ErrAbsent = errors.New("there is no vault here")
	// ErrExists: Create was asked for where a vault is.
	ErrExists = errors.New("there is a vault here already")
	// ErrRolledBack: the log is older than the mark beside it.
	ErrRolledBack = errors.New("this vault is an older copy: opening it would use message keys twice; link this device again instead")
	// ErrBroken: an earlier write failed and its outcome is not known; close the
	// vault and open it again.
	ErrBroken = fmt.Errorf("an earlier write to the vault failed; open it again: %w", core.ErrVaultBroken)
	// ErrClosed: the vault was closed.
	ErrClosed = fmt.Errorf("the vault is closed: %w", core.ErrVaultBroken)
	// ErrVersion: the vault was written by a newer version of this program.
	ErrVersion = errors.New("this vault was written by a newer version of the program")
)

// CorruptError says where a file does not verify.
type CorruptError struct {
	File   string // name without its directory
	Offset int64  // bytes from the beginning
	Reason string
}

// Error is one line for the person.
func (e *CorruptError) Error() string {
	return "the vault is damaged: " + e.File + ": " + e.Reason + "; restore it or link this device again"
}
