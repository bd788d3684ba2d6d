package vault

import "github.com/clearbox-im/clearbox/clients/core/memvault"

// OpenAt is Open with a hook that may crash the vault between two steps.
var OpenAt = open

// HeaderSize is where the first record begins.
const HeaderSize = headerSize

// Abandon lets go of the files as a killed process does: nothing is synced or
// written any more.
func (v *Vault) Abandon() { v.closeFiles() }

// DecodeHeader, DecodeOps and EncodeOps are the parsers of what is on disk.
func DecodeHeader(b []byte) error {
	_, err := decodeHeader(b)
	return err
}

func DecodeOps(b []byte) ([]memvault.Op, error) { return decodeOps(b) }
func EncodeOps(ops []memvault.Op) []byte        { return encodeOps(ops) }
