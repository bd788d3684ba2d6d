//go:build !unix

package vault

import (
	"errors"
	"os"
)

// lock refuses: without a lock two processes could advance one ratchet.
func lock(*os.File) error {
	return errors.New("this system has no file locks that the vault can use")
}
