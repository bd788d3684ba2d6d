package spqr

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

const (
	macSize  = 32
	protocol = "Signal_PQCKA_V1_MLKEM768"
)

// derive is HKDF-SHA256. It cannot fail for the lengths used here.
func derive(salt, secret []byte, info string, size int) []byte {
	out, err := hkdf.Key(sha256.New, secret, salt, info, size)
	if err != nil {
		panic("spqr: " + err.Error())
	}
	return out
}

// epochLabel is a label of the braid followed by the epoch, big-endian.
func epochLabel(label string, epoch uint64) string {
	b := make([]byte, 0, len(protocol)+len(label)+8)
	b = append(b, protocol...)
	b = append(b, label...)
	return string(binary.BigEndian.AppendUint64(b, epoch))
}

// authenticator proves that keys and ciphertexts come from the peer of the key
// agreement. ML-KEM Braid, 2.3.
type authenticator struct {
	root [32]byte
	mac  [32]byte
}

func newAuthenticator(key []byte) (a authenticator) {
	a.update(1, key)
	return a
}

func (a *authenticator) update(epoch uint64, key []byte) {
	in := append(a.root[:len(a.root):len(a.root)], key...)
	out := derive(nil, in, epochLabel(":Authenticator Update", epoch), 64)
	copy(a.root[:], out)
	copy(a.mac[:], out[32:])
	clear(in)
	clear(out)
}

func (a *authenticator) sum(label string, epoch uint64, parts ...[]byte) (out [macSize]byte) {
	h := hmac.New(sha256.New, a.mac[:])
	h.Write([]byte(epochLabel(label, epoch)))
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(out[:0])
	return out
}

func (a *authenticator) header(epoch uint64, header []byte) [macSize]byte {
	return a.sum(":ekheader", epoch, header)
}

func (a *authenticator) ciphertext(epoch uint64, part1, part2 []byte) [macSize]byte {
	return a.sum(":ciphertext", epoch, part1, part2)
}

// epochKey is the braid's output for one epoch.
func epochKey(shared []byte, epoch uint64) []byte {
	return derive(nil, shared, epochLabel(":SCKA Key", epoch), 32)
}
