package wycheproof

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"testing"
)

// sizes are the parameters of the symmetric suites, in bits.
type sizes struct {
	Key int `json:"keySize"`
	IV  int `json:"ivSize"`
	Tag int `json:"tagSize"`
}

// Message bodies are AES-256-CBC with PKCS#7 padding. The cipher is the standard
// library's; the padding here is written for this test, to the same rule.
func TestAESCBC(t *testing.T) {
	type test struct {
		vector
		Key octets `json:"key"`
		IV  octets `json:"iv"`
		Msg octets `json:"msg"`
		CT  octets `json:"ct"`
	}
	counts := make(tally)
	for _, g := range load[sizes, test](t, "aes_cbc_pkcs5_test.json", "AES-CBC-PKCS5") {
		for _, v := range g.Tests {
			block, err := aes.NewCipher(v.Key)
			if err != nil || 8*len(v.Key) != g.Parameters.Key {
				t.Fatalf("vector %d: %v", v.ID, err)
			}
			opened, ok := openCBC(block, v.IV, v.CT)
			counts.judge(t, v.vector, ok && bytes.Equal(opened, v.Msg))
			if v.Result == valid && !bytes.Equal(sealCBC(block, v.IV, v.Msg), v.CT) {
				t.Errorf("vector %d: another ciphertext", v.ID)
			}
		}
	}
	counts.report(t)
}

// RFC 5652, 6.3.
func sealCBC(block cipher.Block, iv, plaintext []byte) []byte {
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize
	out := append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, out)
	return out
}

func openCBC(block cipher.Block, iv, ciphertext []byte) ([]byte, bool) {
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, false
	}
	out := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(out, ciphertext)
	pad := int(out[len(out)-1])
	if pad < 1 || pad > aes.BlockSize {
		return nil, false
	}
	body, tail := out[:len(out)-pad], out[len(out)-pad:]
	return body, bytes.Equal(tail, bytes.Repeat([]byte{byte(pad)}, pad))
}

// Stores at rest are AES-256-GCM. The product uses nonces of 96 bits; the others
// show that the implementation derives the counter rightly for them too.
func TestAESGCM(t *testing.T) {
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
	for _, g := range load[sizes, test](t, "aes_gcm_test.json", "AES-GCM") {
		for _, v := range g.Tests {
			block, err := aes.NewCipher(v.Key)
			if err != nil || 8*len(v.Key) != g.Parameters.Key {
				t.Fatalf("vector %d: %v", v.ID, err)
			}
			aead, err := cipher.NewGCMWithNonceSize(block, len(v.IV))
			if err != nil { // an empty nonce
				counts.judge(t, v.vector, false)
				continue
			}
			sealed := append(bytes.Clone(v.CT), v.Tag...)
			opened, err := aead.Open(nil, v.IV, sealed, v.AAD)
			counts.judge(t, v.vector, err == nil && bytes.Equal(opened, v.Msg))
			if v.Result == valid && !bytes.Equal(aead.Seal(nil, v.IV, v.Msg, v.AAD), sealed) {
				t.Errorf("vector %d: another ciphertext", v.ID)
			}
		}
	}
	counts.report(t)
}

func TestHKDF(t *testing.T) {
	type test struct {
		vector
		IKM  octets `json:"ikm"`
		Salt octets `json:"salt"`
		Info octets `json:"info"`
		Size int    `json:"size"`
		OKM  octets `json:"okm"`
	}
	counts := make(tally)
	for _, g := range load[sizes, test](t, "hkdf_sha256_test.json", "HKDF-SHA-256") {
		for _, v := range g.Tests {
			got, err := hkdf.Key(sha256.New, v.IKM, v.Salt, string(v.Info), v.Size)
			counts.judge(t, v.vector, err == nil && bytes.Equal(got, v.OKM))
		}
	}
	counts.report(t)
}

// Tags are cut where the suite cuts them, as messages cut theirs to 8 bytes.
func TestHMAC(t *testing.T) {
	type test struct {
		vector
		Key octets `json:"key"`
		Msg octets `json:"msg"`
		Tag octets `json:"tag"`
	}
	counts := make(tally)
	for _, g := range load[sizes, test](t, "hmac_sha256_test.json", "HMACSHA256") {
		for _, v := range g.Tests {
			mac := hmac.New(sha256.New, v.Key)
			mac.Write(v.Msg)
			counts.judge(t, v.vector, hmac.Equal(mac.Sum(nil)[:g.Parameters.Tag/8], v.Tag))
		}
	}
	counts.report(t)
}
