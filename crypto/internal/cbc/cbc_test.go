package cbc_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/internal/cbc"
)

// TestVector: NIST SP 800-38A, F.2.5, with the block of padding behind it.
func TestVector(t *testing.T) {
	bin := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key := bin("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
	iv := bin("000102030405060708090a0b0c0d0e0f")
	plain := bin("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
	sealed := cbc.Encrypt(key, iv, plain)
	if want := bin("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"); len(sealed) != 48 || !bytes.Equal(sealed[:32], want) {
		t.Errorf("%x", sealed)
	}
	for n := range len(plain) {
		got, err := cbc.Decrypt(key, iv, cbc.Encrypt(key, iv, plain[:n]))
		if err != nil || !bytes.Equal(got, plain[:n]) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
	}
	// Blocks that Encrypt does not make: the vector alone ends without padding.
	for _, bad := range [][]byte{nil, sealed[:32], sealed[:16]} {
		if _, err := cbc.Decrypt(key, iv, bad); !errors.Is(err, cbc.ErrPadding) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}
