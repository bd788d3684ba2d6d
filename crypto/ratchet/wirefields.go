package ratchet

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// field is one field of an encoded message.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64 // of varint and fixed fields
	bytes  []byte // of length-delimited fields; shares memory with the message
}

// readFields walks an encoded message. Known fields (numbers up to known) may
// occur once; unknown ones are passed over; groups are refused.
func readFields(b []byte, known protowire.Number, visit func(f field) error) error {
	var seen uint64
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: field tag", ErrMalformed)
		}
		b = b[n:]
		f := field{number: number, kind: kind}
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
		if number > known {
			continue
		}
		if seen&(1<<number) != 0 {
			return fmt.Errorf("%w: field %d repeated", ErrMalformed, number)
		}
		seen |= 1 << number
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

func (f field) wrong() error { return fmt.Errorf("%w: field %d", ErrMalformed, f.number) }

func (f field) uint32(dst *uint32) error {
	if f.kind != protowire.VarintType || f.value > math.MaxUint32 {
		return f.wrong()
	}
	*dst = uint32(f.value)
	return nil
}

func (f field) uint64(dst *uint64) error {
	if f.kind != protowire.VarintType {
		return f.wrong()
	}
	*dst = f.value
	return nil
}

// data takes bytes of a length between min and max.
func (f field) data(dst *[]byte, min, max int) error {
	if f.kind != protowire.BytesType || len(f.bytes) < min || len(f.bytes) > max {
		return f.wrong()
	}
	*dst = f.bytes
	return nil
}

func (f field) publicKey(dst *curve.PublicKey) error {
	if f.kind != protowire.BytesType {
		return f.wrong()
	}
	k, err := curve.ParsePublicKey(f.bytes)
	if err != nil {
		return fmt.Errorf("%w: field %d: %w", ErrMalformed, f.number, err)
	}
	*dst = k
	return nil
}

func appendUint(b []byte, number protowire.Number, v uint64) []byte {
	b = protowire.AppendTag(b, number, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func appendData(b []byte, number protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

// complete reports whether all required fields, given as a bit set by number,
// were seen.
func complete(seen, required uint64) error {
	if seen&required != required {
		return fmt.Errorf("%w: a required field is missing", ErrMalformed)
	}
	return nil
}
