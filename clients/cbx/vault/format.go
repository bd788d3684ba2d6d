package vault

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// Limits of the format.
const (
	maxRecord   = 64 << 20 // bytes of one record's body
	maxKey      = 1 << 10  // bytes of one key
	maxArgonMem = 1 << 20  // KiB
	maxArgonRun = 64
)

// How the key that wraps the data key is made.
const (
	kdfArgon2id = 1
	kdfKeyFile  = 2
)

var headerMagic = [8]byte{'C', 'B', 'X', 'V', 'A', 'U', 'L', 'T'}

const (
	formatVersion = 1
	headerSize    = 8 + 2 + 1 + 1 + 4 + 4 + 16 + 8 + 24 + 48 + 32
	wrappedAt     = headerSize - 32 - 48 - 24 // nonce and wrapped key begin here
	recordHead    = 4 + 16
	markSize      = 8 + 8 + 32
)

// Argon is the cost of turning a passphrase into a key. The zero value is
// RFC 9106, 4, second recommendation: 3 passes over 64 MiB with 4 lanes.
type Argon struct {
	Passes    uint32
	MemoryKiB uint32
	Lanes     uint8
}

func (a Argon) orDefault() Argon {
	if a == (Argon{}) {
		return Argon{Passes: 3, MemoryKiB: 64 << 10, Lanes: 4}
	}
	return a
}

// header is the first part of a log:
//
//	8 magic | 2 version | 1 kdf | 1 lanes | 4 passes | 4 memory KiB | 16 salt |
//	8 generation | 24 nonce | 48 wrapped data key | 32 SHA-256 of all before
type header struct {
	kdf        byte
	argon      Argon
	salt       [16]byte
	generation uint64 // one more with every compaction
	nonce      [24]byte
	wrapped    [48]byte
}

func (h *header) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, headerMagic[:]...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = append(b, h.kdf, h.argon.Lanes)
	b = binary.BigEndian.AppendUint32(b, h.argon.Passes)
	b = binary.BigEndian.AppendUint32(b, h.argon.MemoryKiB)
	b = append(b, h.salt[:]...)
	b = binary.BigEndian.AppendUint64(b, h.generation)
	b = append(b, h.nonce[:]...)
	b = append(b, h.wrapped[:]...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeHeader checks everything that can be checked without the key.
func decodeHeader(b []byte) (*header, error) {
	damaged := func(reason string) error { return &CorruptError{File: logName, Reason: reason} }
	if len(b) < headerSize {
		return nil, damaged("the header is cut short")
	}
	b = b[:headerSize]
	if !bytes.Equal(b[:8], headerMagic[:]) {
		return nil, damaged("it does not begin like a vault")
	}
	if v := binary.BigEndian.Uint16(b[8:]); v > formatVersion {
		return nil, ErrVersion
	}
	if sum := sha256.Sum256(b[:headerSize-32]); !bytes.Equal(sum[:], b[headerSize-32:]) {
		return nil, damaged("the header was altered")
	}
	h := &header{kdf: b[10]}
	h.argon = Argon{Lanes: b[11], Passes: binary.BigEndian.Uint32(b[12:]), MemoryKiB: binary.BigEndian.Uint32(b[16:])}
	copy(h.salt[:], b[20:])
	h.generation = binary.BigEndian.Uint64(b[36:])
	copy(h.nonce[:], b[wrappedAt:])
	copy(h.wrapped[:], b[wrappedAt+24:])
	switch h.kdf {
	case kdfKeyFile:
	case kdfArgon2id:
		if h.argon.Lanes == 0 || h.argon.Passes == 0 || h.argon.Passes > maxArgonRun || h.argon.MemoryKiB > maxArgonMem {
			return nil, damaged("the header asks for an unreasonable key derivation")
		}
	default:
		return nil, damaged("the header names an unknown key derivation")
	}
	return h, nil
}

// Secret opens a vault: a passphrase or the 32 random bytes of a key file.
// Exactly one is set.
type Secret struct {
	Passphrase []byte
	Key        []byte // KeySize bytes
}

// KeySize is the length of a key file's key in bytes.
const KeySize = 32

func (s Secret) kdf() (byte, error) {
	switch {
	case len(s.Key) == KeySize && s.Passphrase == nil:
		return kdfKeyFile, nil
	case len(s.Passphrase) > 0 && s.Key == nil:
		return kdfArgon2id, nil
	}
	return 0, errors.New("a vault needs a passphrase or a key of 32 bytes")
}

// wrappingKey derives the key that wraps the data key.
func (h *header) wrappingKey(s Secret) ([]byte, error) {
	kdf, err := s.kdf()
	if err != nil {
		return nil, err
	}
	if kdf != h.kdf {
		return nil, ErrWrongKey
	}
	secret := s.Key
	if kdf == kdfArgon2id {
		secret = argon2.IDKey(s.Passphrase, h.salt[:], h.argon.Passes, h.argon.MemoryKiB, h.argon.Lanes, 32)
	}
	return hkdf.Key(sha256.New, secret, h.salt[:], "clearbox vault v1 wrapping key", 32)
}

// wrap fills nonce and wrapped from data; random gives the nonce.
func (h *header) wrap(kek, data []byte, random io.Reader) error {
	if _, err := io.ReadFull(random, h.nonce[:]); err != nil {
		return fmt.Errorf("draw a nonce: %w", err)
	}
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return err
	}
	copy(h.wrapped[:], aead.Seal(nil, h.nonce[:], data, h.encode()[:wrappedAt]))
	return nil
}

// unwrap gives the data key; ErrWrongKey if kek is not the one.
func (h *header) unwrap(kek []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return nil, err
	}
	data, err := aead.Open(nil, h.nonce[:], h.wrapped[:], h.encode()[:wrappedAt])
	if err != nil {
		return nil, ErrWrongKey
	}
	return data, nil
}

// sealer turns transactions into the records of one file:
//
//	4 body length | 16 MAC of the length | body = 24 nonce, ciphertext, 16 tag
//
// The length has a MAC of its own, so that a damaged one is not taken for a
// record that was cut short.
type sealer struct {
	generation uint64
	aead       cipher.AEAD
	mac        []byte
}

func newSealer(data []byte, generation uint64) (*sealer, error) {
	key, err := hkdf.Key(sha256.New, data, nil, "clearbox vault v1 records", 32)
	if err != nil {
		return nil, err
	}
	mac, err := hkdf.Key(sha256.New, data, nil, "clearbox vault v1 lengths", 32)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return &sealer{generation: generation, aead: aead, mac: mac}, nil
}

// place names a record: generation and number are its associated data.
func (s *sealer) place(number uint64) []byte {
	b := append(make([]byte, 0, 32), "cbx record "...)
	b = binary.BigEndian.AppendUint64(b, s.generation)
	return binary.BigEndian.AppendUint64(b, number)
}

func (s *sealer) lengthMAC(number uint64, length uint32) []byte {
	m := hmac.New(sha256.New, s.mac)
	m.Write(s.place(number))
	m.Write(binary.BigEndian.AppendUint32(nil, length))
	return m.Sum(nil)[:16]
}

// seal appends record number to dst.
func (s *sealer) seal(dst []byte, number uint64, plain []byte, random io.Reader) ([]byte, error) {
	length := s.aead.NonceSize() + len(plain) + s.aead.Overhead()
	if length > maxRecord {
		return nil, fmt.Errorf("a transaction of %d bytes is too large for the vault", len(plain))
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(length))
	dst = append(dst, s.lengthMAC(number, uint32(length))...)
	var nonce [chacha20poly1305.NonceSizeX]byte
	if _, err := io.ReadFull(random, nonce[:]); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	dst = append(dst, nonce[:]...)
	return s.aead.Seal(dst, nonce[:], plain, s.place(number)), nil
}

// errCut says that the rest of the file is a record that did not get written
// in full.
var errCut = errors.New("cut short")

// open reads record number from the head of b and gives its plaintext and its
// length in b. It gives errCut if b ends inside the record or holds only zeros.
func (s *sealer) open(b []byte, number uint64) (plain []byte, size int, err error) {
	if len(b) < recordHead {
		return nil, 0, errCut
	}
	length := binary.BigEndian.Uint32(b)
	if !hmac.Equal(b[4:recordHead], s.lengthMAC(number, length)) {
		if allZero(b) {
			return nil, 0, errCut
		}
		return nil, 0, errors.New("a record's length does not verify")
	}
	if length > maxRecord || int(length) < s.aead.NonceSize()+s.aead.Overhead() {
		return nil, 0, errors.New("a record has an impossible length")
	}
	size = recordHead + int(length)
	if len(b) < size {
		return nil, 0, errCut
	}
	body := b[recordHead:size]
	nonce := body[:s.aead.NonceSize()]
	plain, err = s.aead.Open(nil, nonce, body[len(nonce):], s.place(number))
	if err != nil {
		return nil, 0, errors.New("a record does not verify")
	}
	return plain, size, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// encodeOps writes a transaction: per change a byte (1 put, 2 delete), the key
// and, for a put, the value, each after its length as a varint.
func encodeOps(ops []memvault.Op) []byte {
	size := 0
	for _, op := range ops {
		size += 1 + 2*binary.MaxVarintLen32 + len(op.Key) + len(op.Value)
	}
	b := make([]byte, 0, size)
	for _, op := range ops {
		kind := byte(1)
		if op.Delete {
			kind = 2
		}
		b = append(b, kind)
		b = binary.AppendUvarint(b, uint64(len(op.Key)))
		b = append(b, op.Key...)
		if !op.Delete {
			b = binary.AppendUvarint(b, uint64(len(op.Value)))
			b = append(b, op.Value...)
		}
	}
	return b
}

// decodeOps reads a transaction; values share b's memory.
func decodeOps(b []byte) ([]memvault.Op, error) {
	malformed := errors.New("a record's content is malformed")
	field := func(limit uint64) ([]byte, bool) {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > limit || n > uint64(len(b)-w) {
			return nil, false
		}
		v := b[w : w+int(n) : w+int(n)]
		b = b[w+int(n):]
		return v, true
	}
	var ops []memvault.Op
	for len(b) > 0 {
		kind := b[0]
		if kind != 1 && kind != 2 {
			return nil, malformed
		}
		b = b[1:]
		key, ok := field(maxKey)
		if !ok {
			return nil, malformed
		}
		op := memvault.Op{Key: string(key), Delete: kind == 2}
		if !op.Delete {
			if op.Value, ok = field(maxRecord); !ok {
				return nil, malformed
			}
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// mark says how many records a generation's log had when it last grew.
type mark struct {
	generation uint64
	records    uint64
}

// markKey comes from the wrapping key, which outlives generations.
func markKey(kek []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, kek, nil, "clearbox vault v1 mark", 32)
}

func (m mark) encode(key []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, markSize), m.generation)
	b = binary.BigEndian.AppendUint64(b, m.records)
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h.Sum(b)
}

func decodeMark(b, key []byte) (mark, error) {
	if len(b) != markSize {
		return mark{}, &CorruptError{File: markName, Reason: "it has the wrong length"}
	}
	m := mark{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	if !hmac.Equal(m.encode(key), b) {
		return mark{}, &CorruptError{File: markName, Reason: "it does not verify"}
	}
	return m, nil
}
