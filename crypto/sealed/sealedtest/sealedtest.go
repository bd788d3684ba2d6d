// Package sealedtest shows the vectors of other projects what package sealed
// keeps to itself: its cipher. It is not for products.
package sealedtest

import (
	"crypto/cipher"

	"github.com/clearbox-im/clearbox/crypto/sealed/internal/gcmsiv"
)

// NewGCMSIV returns AES-256-GCM-SIV for a key of 32 bytes; other sizes are
// refused.
func NewGCMSIV(key []byte) (cipher.AEAD, error) { return gcmsiv.New(key) }
