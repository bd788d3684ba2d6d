// Package pack reads and writes the storage formats of crypto: big-endian
// integers, fixed fields and length-prefixed bytes. Every length is bounded by
// the reader, so a damaged record is an error and never a large allocation.
package pack

import (
	"encoding/binary"
	"errors"
)

// ErrDamaged reports a record that cannot have been written by this format.
var ErrDamaged = errors.New("damaged record")

// Reader takes fields off the front of a record. After the first failure every
// further read gives zero values; Done reports it.
type Reader struct {
	rest []byte
	bad  bool
}

// NewReader reads b, which stays owned by the caller and must not change while
// slices returned by Bytes are in use.
func NewReader(b []byte) *Reader { return &Reader{rest: b} }

func (r *Reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// Bool reads one byte that must be 0 or 1.
func (r *Reader) Bool() bool {
	b := r.Byte()
	if b > 1 {
		r.bad = true
	}
	return b == 1
}

// Uint16 reads two bytes.
func (r *Reader) Uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads four bytes.
func (r *Reader) Uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 reads eight bytes.
func (r *Reader) Uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Fixed fills dst.
func (r *Reader) Fixed(dst []byte) { copy(dst, r.take(len(dst))) }

// Bytes reads a 32-bit length of at most max and that many bytes. The result
// shares memory with the record and has no spare capacity.
func (r *Reader) Bytes(max int) []byte {
	n := r.Uint32()
	if uint64(n) > uint64(max) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

// Fail marks the record as damaged.
func (r *Reader) Fail() { r.bad = true }

// OK reports whether every read so far succeeded.
func (r *Reader) OK() bool { return !r.bad }

// Done returns ErrDamaged unless every read succeeded and nothing is left.
func (r *Reader) Done() error {
	if r.bad || len(r.rest) != 0 {
		return ErrDamaged
	}
	return nil
}

// AppendBool appends 0 or 1.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// AppendBytes appends a 32-bit length and v.
func AppendBytes(b, v []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}
