// Package vault is responsible for what a person's secrets protect outside of
// messages: attachments, the container of backups, exports and history, the
// recovery key, and the linking of a further device. It does not know servers,
// files or formats of what it seals: bytes come in and go out, and where they are
// kept is the caller's.
//
// There is no clock and no I/O but the Readers and Writers handed in. Randomness
// is handed in too, with one exception: linking uses crypto/internal/hpke, which takes the
// randomness of its encapsulation from the system.
//
// Secrets that this package owns are zeroed when they are done with; Go cannot
// promise that no copy remains. Without assembly (WebAssembly) Go's AES uses
// tables and is not constant in time.
package vault

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"math/bits"
)

// pad rounds a size up so that little of it is told: to a number of which only as
// many leading bits may be set as its logarithm has bits (Padmé; Nikitin et al.,
// "Reducing Metadata Leakage from Encrypted Files", 2019). From 256 to 64 KiB
// there are 16 sizes for each doubling, then 32, and it costs less than 1/16. Below
// least, which is at least 256, everything looks alike.
func pad(n, least int64) int64 {
	n = max(n, least)
	e := bits.Len64(uint64(n)) - 1
	mask := int64(1)<<(e-bits.Len(uint(e))) - 1
	return (n + mask) &^ mask
}

// derive is HKDF-SHA256 (RFC 5869).
func derive(secret, salt []byte, info string, size int) []byte {
	out, err := hkdf.Key(sha256.New, secret, salt, info, size)
	if err != nil {
		panic("vault: HKDF gives this many bytes")
	}
	return out
}

func fill(random io.Reader, b []byte) error {
	if _, err := io.ReadFull(random, b); err != nil {
		return fmt.Errorf("vault: random source: %w", err)
	}
	return nil
}
