// Package cbc is AES-256-CBC with PKCS#7 padding, as the Signal Protocol encrypts the
// body of a message. It is responsible for nothing that makes a message authentic:
// what is decrypted was found so before, and the padding tells an attacker nothing.
package cbc

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
)

// Sizes in bytes.
const (
	KeySize   = 32
	BlockSize = aes.BlockSize // of a block, and of an IV
)

// ErrPadding: the plaintext was not padded by Encrypt.
var ErrPadding = errors.New("padding")

// Encrypt gives the ciphertext in a new slice. It panics for a key or an IV of
// another size.
func Encrypt(key, iv, plaintext []byte) []byte {
	pad := BlockSize - len(plaintext)%BlockSize
	b := make([]byte, len(plaintext)+pad)
	copy(b, plaintext)
	for i := len(plaintext); i < len(b); i++ {
		b[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(block(key), iv).CryptBlocks(b, b)
	return b
}

// Decrypt is the inverse, in a new slice; its error is ErrPadding. It panics for a
// key or an IV of another size, and for a ciphertext that is no whole number of
// blocks.
func Decrypt(key, iv, ciphertext []byte) ([]byte, error) {
	if len(ciphertext) == 0 {
		return nil, ErrPadding
	}
	b := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block(key), iv).CryptBlocks(b, ciphertext)
	pad := int(b[len(b)-1])
	if pad == 0 || pad > BlockSize {
		return nil, ErrPadding
	}
	for _, p := range b[len(b)-pad:] {
		if int(p) != pad {
			return nil, ErrPadding
		}
	}
	return b[:len(b)-pad], nil
}

func block(key []byte) cipher.Block {
	if len(key) != KeySize {
		panic("cbc: a key has 32 bytes")
	}
	c, err := aes.NewCipher(key)
	if err != nil {
		panic("cbc: " + err.Error())
	}
	return c
}
