package ratchet_test

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

func bytesField(n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), v)
}

func uintField(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

// signalFields are well-formed fields by number.
func signalFields() map[protowire.Number][]byte {
	key := append([]byte{5}, make([]byte, 32)...)
	return map[protowire.Number][]byte{
		1: bytesField(1, key),
		2: uintField(2, 0),
		3: uintField(3, 0),
		4: bytesField(4, make([]byte, 16)),
		5: bytesField(5, []byte{1, 1, 1, 0}),
		6: bytesField(6, make([]byte, 36)),
	}
}

func preKeyFields() map[protowire.Number][]byte {
	key := append([]byte{5}, make([]byte, 32)...)
	return map[protowire.Number][]byte{
		1: uintField(1, 7),
		2: bytesField(2, key),
		3: bytesField(3, key),
		4: bytesField(4, make([]byte, 80)),
		5: uintField(5, 16383),
		6: uintField(6, 7),
		7: uintField(7, 7),
		8: bytesField(8, make([]byte, 1569)),
	}
}

func join(fields map[protowire.Number][]byte, tail ...byte) []byte {
	b := []byte{0x44}
	for n := range protowire.Number(20) {
		b = append(b, fields[n]...)
	}
	return append(b, tail...)
}

// Every field once, required ones present, right types and lengths: else the
// message is refused. Unknown fields are passed over.
func TestDecodersAreStrict(t *testing.T) {
	for _, d := range []struct {
		name     string
		fields   func() map[protowire.Number][]byte
		tail     []byte
		required []protowire.Number
		parse    func([]byte) error
	}{
		{"SignalMessage", signalFields, make([]byte, 8), []protowire.Number{1, 2, 4}, ratchet.ParseSignal},
		{"PreKeySignalMessage", preKeyFields, nil, []protowire.Number{2, 3, 4, 6, 7, 8}, ratchet.ParsePreKey},
	} {
		if err := d.parse(join(d.fields(), d.tail...)); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		refuse := func(what string, n protowire.Number, fields map[protowire.Number][]byte) {
			t.Helper()
			if err := d.parse(join(fields, d.tail...)); !errors.Is(err, ratchet.ErrMalformed) {
				t.Errorf("%s, field %d %s: %v", d.name, n, what, err)
			}
		}
		for n, field := range d.fields() {
			twice := d.fields()
			twice[n] = slices.Concat(field, field)
			refuse("repeated", n, twice)

			without := d.fields()
			delete(without, n)
			if slices.Contains(d.required, n) {
				refuse("missing", n, without)
			} else if err := d.parse(join(without, d.tail...)); err != nil {
				t.Errorf("%s without field %d: %v", d.name, n, err)
			}

			_, kind, _ := protowire.ConsumeTag(field)
			other := d.fields()
			if kind == protowire.VarintType {
				other[n] = bytesField(n, []byte("x"))
				refuse("of another type", n, other)
				other[n] = uintField(n, 1<<32)
				refuse("too large", n, other)
			} else {
				other[n] = uintField(n, 1)
				refuse("of another type", n, other)
				other[n] = bytesField(n, make([]byte, 129<<10))
				if d.parse(join(other, d.tail...)) == nil {
					t.Errorf("%s, field %d of 129 KiB accepted", d.name, n)
				}
			}
		}
		unknown := d.fields()
		unknown[15] = bytesField(15, []byte("later version"))
		if err := d.parse(join(unknown, d.tail...)); err != nil {
			t.Errorf("%s with an unknown field: %v", d.name, err)
		}
		group := d.fields()
		group[15] = protowire.AppendTag(protowire.AppendTag(nil, 15, protowire.StartGroupType), 15, protowire.EndGroupType)
		refuse("as a group", 15, group)
	}
	registration := preKeyFields()
	registration[5] = uintField(5, 16384)
	if err := ratchet.ParsePreKey(join(registration)); !errors.Is(err, ratchet.ErrMalformed) {
		t.Errorf("registration id of 15 bits: %v", err)
	}
	block := signalFields()
	block[4] = bytesField(4, make([]byte, 17))
	if err := ratchet.ParseSignal(join(block, make([]byte, 8)...)); !errors.Is(err, ratchet.ErrMalformed) {
		t.Errorf("ciphertext of 17 bytes: %v", err)
	}
}

// A peer that holds the keys can send any padding; only PKCS#7 is read.
func TestPaddingIsStrict(t *testing.T) {
	keys := make([]byte, 80)
	block, err := aes.NewCipher(keys[:32])
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		last []byte // end of the only block
		ok   bool
	}{
		"one byte":      {[]byte{1}, true},
		"whole block":   {slices.Repeat([]byte{16}, 16), true},
		"zero":          {[]byte{0}, false},
		"17":            {[]byte{17}, false},
		"255":           {[]byte{255}, false},
		"inconsistent":  {[]byte{9, 3, 3}, false},
		"one too short": {[]byte{9, 4, 4, 4}, false},
	} {
		b := slices.Concat(make([]byte, 16-len(c.last)), c.last)
		cipher.NewCBCEncrypter(block, keys[64:]).CryptBlocks(b, b)
		if _, err := ratchet.DecryptBody(keys, b); (err == nil) != c.ok || err != nil && !errors.Is(err, ratchet.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
