package field_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
)

// message is a message with one field of every kind.
type message struct {
	number uint32          // 1
	time   uint64          // 2
	data   []byte          // 3, 0 to 4 bytes
	key    curve.PublicKey // 4
}

func (m *message) encode() []byte {
	b := field.AppendUint(nil, 1, uint64(m.number))
	b = field.AppendFixed64(b, 2, m.time)
	b = field.AppendData(b, 3, m.data)
	return field.AppendData(b, 4, m.key.Bytes())
}

func parse(b []byte) (*message, error) {
	m := new(message)
	err := field.Read(b, field.Set(1, 2, 3, 4), field.Set(1, 3), func(f field.Field) error {
		switch f.Number {
		case 1:
			return f.Uint32(&m.number)
		case 2:
			return f.Fixed64(&m.time)
		case 3:
			return f.Data(&m.data, 0, 4)
		default:
			return f.PublicKey(&m.key)
		}
	})
	return m, err
}

func TestRead(t *testing.T) {
	good := (&message{number: 0, time: 5, data: []byte("data"), key: curve.PublicKey{9}}).encode()
	if m, err := parse(good); err != nil || m.number != 0 || m.time != 5 || string(m.data) != "data" || m.key[0] != 9 {
		t.Fatalf("%+v, %v", m, err)
	}
	unknown := field.AppendData(field.AppendUint(good, 5, 1), 63, []byte("later"))
	unknown = append(unknown, 0x85, 0x04, 1, 2, 3, 4) // field 64, four fixed bytes
	if _, err := parse(unknown); err != nil {
		t.Errorf("unknown fields: %v", err)
	}
	for name, b := range map[string][]byte{
		"empty":                  {},
		"a required one missing": field.AppendUint(nil, 1, 1),
		"repeated":               field.AppendUint(bytes.Clone(good), 1, 1),
		"cut":                    good[:len(good)-1],
		"cut in a tag":           append(bytes.Clone(good), 0x80),
		"field zero":             append(bytes.Clone(good), 0x00, 0x01),
		"group":                  append(bytes.Clone(good), 0x2b, 0x2c),
		"too long":               field.AppendData(field.AppendUint(nil, 1, 1), 3, []byte("12345")),
		"above 32 bits":          field.AppendData(field.AppendUint(nil, 1, 1<<32), 3, nil),
		"varint as bytes":        field.AppendData(field.AppendData(nil, 1, []byte{1}), 3, nil),
		"fixed as varint":        field.AppendUint(field.AppendData(field.AppendUint(nil, 1, 1), 3, nil), 2, 1),
		"bytes as varint":        field.AppendUint(field.AppendUint(nil, 1, 1), 3, 1),
		"key as varint":          field.AppendUint(field.AppendData(field.AppendUint(nil, 1, 1), 3, nil), 4, 1),
		"key without its type":   field.AppendData(field.AppendData(field.AppendUint(nil, 1, 1), 3, nil), 4, make([]byte, 32)),
	} {
		if _, err := parse(b); !errors.Is(err, field.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add((&message{number: 1, data: []byte("x")}).encode())
	f.Add([]byte{0x08, 0x80, 0x00, 0x1a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			if !errors.Is(err, field.ErrMalformed) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		again, err := parse(m.encode())
		if err != nil || again.number != m.number || again.time != m.time || !bytes.Equal(again.data, m.data) || again.key != m.key {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}
