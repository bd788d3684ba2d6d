// Package field reads and writes the protobuf fields of sealed sender:
// certificates, contents, envelopes. It is strict where a lenient reader lets
// two programs see two different messages in the same bytes. It does not know
// what a field means.
package field

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// ErrMalformed is every refusal of this package; the text names the field.
var ErrMalformed = errors.New("malformed message")

// Field is one field of an encoded message.
type Field struct {
	Number uint8
	kind   protowire.Type
	value  uint64 // of varint and fixed fields
	bytes  []byte // of length-delimited fields; shares memory with the message
}

// Read walks an encoded message and shows every known field to visit, in order.
// known and required are sets of field numbers made with Set. A known field
// occurs at most once, a required one exactly once; unknown fields are passed
// over; groups are refused. The error wraps ErrMalformed or is that of visit.
func Read(b []byte, known, required uint64, visit func(f Field) error) error {
	var seen uint64
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: field tag", ErrMalformed)
		}
		b = b[n:]
		f := Field{kind: kind}
		switch kind {
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			f.value, n = protowire.ConsumeFixed64(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			f.value = uint64(v)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = -1
		}
		if n < 0 {
			return fmt.Errorf("%w: field %d", ErrMalformed, number)
		}
		b = b[n:]
		if number >= 64 || known>>number&1 == 0 {
			continue
		}
		if seen>>number&1 == 1 {
			return fmt.Errorf("%w: field %d repeated", ErrMalformed, number)
		}
		seen |= 1 << number
		f.Number = uint8(number)
		if err := visit(f); err != nil {
			return err
		}
	}
	if seen&required != required {
		return fmt.Errorf("%w: a required field is missing", ErrMalformed)
	}
	return nil
}

// Set is the set of the given field numbers, each below 64.
func Set(numbers ...uint8) (set uint64) {
	for _, n := range numbers {
		set |= 1 << n
	}
	return set
}

// Wrong is the error for a field whose content is not allowed.
func (f Field) Wrong() error { return fmt.Errorf("%w: field %d", ErrMalformed, f.Number) }

// Uint32 reads a varint of at most 32 bits.
func (f Field) Uint32(dst *uint32) error {
	if f.kind != protowire.VarintType || f.value > math.MaxUint32 {
		return f.Wrong()
	}
	*dst = uint32(f.value)
	return nil
}

// Fixed64 reads eight bytes, little-endian.
func (f Field) Fixed64(dst *uint64) error {
	if f.kind != protowire.Fixed64Type {
		return f.Wrong()
	}
	*dst = f.value
	return nil
}

// Data reads bytes of a length between min and max. They share memory with the
// message.
func (f Field) Data(dst *[]byte, min, max int) error {
	if f.kind != protowire.BytesType || len(f.bytes) < min || len(f.bytes) > max {
		return f.Wrong()
	}
	*dst = f.bytes
	return nil
}

// PublicKey reads a serialized X25519 key.
func (f Field) PublicKey(dst *curve.PublicKey) error {
	if f.kind != protowire.BytesType {
		return f.Wrong()
	}
	k, err := curve.ParsePublicKey(f.bytes)
	if err != nil {
		return fmt.Errorf("%w: field %d: %w", ErrMalformed, f.Number, err)
	}
	*dst = k
	return nil
}

// AppendUint appends a varint field, also when it is zero.
func AppendUint(b []byte, number uint8, v uint64) []byte {
	b = protowire.AppendTag(b, protowire.Number(number), protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

// AppendFixed64 appends an eight-byte field.
func AppendFixed64(b []byte, number uint8, v uint64) []byte {
	b = protowire.AppendTag(b, protowire.Number(number), protowire.Fixed64Type)
	return protowire.AppendFixed64(b, v)
}

// AppendData appends a length-delimited field, also when it is empty.
func AppendData(b []byte, number uint8, v []byte) []byte {
	b = protowire.AppendTag(b, protowire.Number(number), protowire.BytesType)
	return protowire.AppendBytes(b, v)
}
