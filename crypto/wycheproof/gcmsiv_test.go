package wycheproof

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/sealed/sealedtest"
)

// Sealed sender version 2 is AES-256-GCM-SIV (RFC 8452), our own implementation.
// The suite's 128-bit keys are not spoken, and must be refused as keys.
func TestAESGCMSIV(t *testing.T) {
	type test struct {
		vector
		Key octets `json:"key"`
		IV  octets `json:"iv"`
		AAD octets `json:"aad"`
		Msg octets `json:"msg"`
		CT  octets `json:"ct"`
		Tag octets `json:"tag"`
	}
	counts := make(tally)
	refused := 0
	for _, g := range load[sizes, test](t, "aes_gcm_siv_test.json", "AES-GCM-SIV") {
		for _, v := range g.Tests {
			aead, err := sealedtest.NewGCMSIV(v.Key)
			if g.Parameters.Key != 256 {
				if err == nil {
					t.Errorf("vector %d: a key of %d bits was accepted", v.ID, g.Parameters.Key)
				}
				refused++
				continue
			}
			if err != nil || len(v.IV) != aead.NonceSize() || len(v.Tag) != aead.Overhead() {
				t.Fatalf("vector %d: %v", v.ID, err)
			}
			sealed := append(bytes.Clone(v.CT), v.Tag...)
			opened, err := aead.Open(nil, v.IV, sealed, v.AAD)
			counts.judge(t, v.vector, err == nil && bytes.Equal(opened, v.Msg))
			if v.Result == valid && !bytes.Equal(aead.Seal(nil, v.IV, v.Msg, v.AAD), sealed) {
				t.Errorf("vector %d: another ciphertext", v.ID)
			}
		}
	}
	if counts[valid] == 0 || counts[invalid] == 0 {
		t.Error("no vectors were left")
	}
	counts.report(t)
	t.Logf("%d with keys of 128 bits, refused", refused)
}
