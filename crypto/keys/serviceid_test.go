package keys_test

import (
	"bytes"
	"errors"
	"regexp"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/keys"
)

func TestAccountServiceID(t *testing.T) {
	id := keys.AccountServiceID(account)
	golden(t, "service_id.txt", []byte(account+" "+id.UUID()+"\n"))
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for _, name := range []string{account, "b@b.test", "", "B@b.test", "b@b.test "} {
		id := keys.AccountServiceID(name)
		if !form.MatchString(id.UUID()) || id[0] != 0 {
			t.Errorf("%q: %s", name, id.UUID())
		}
		if got, err := keys.ParseServiceID(id[:]); err != nil || got != id {
			t.Errorf("%q is not read back: %v", name, err)
		}
		if name != account && id == keys.AccountServiceID(account) {
			t.Errorf("%q has the id of another account", name)
		}
	}
}

func TestParseServiceID(t *testing.T) {
	good := keys.AccountServiceID(account)
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":         func([]byte) []byte { return nil },
		"short":         func(b []byte) []byte { return b[:16] },
		"long":          func(b []byte) []byte { return append(b, 0) },
		"kind 1":        func(b []byte) []byte { b[0] = 1; return b },
		"version 4":     func(b []byte) []byte { b[7] = b[7]&0x0f | 0x40; return b },
		"other variant": func(b []byte) []byte { b[9] |= 0xc0; return b },
	} {
		if _, err := keys.ParseServiceID(spoil(bytes.Clone(good[:]))); !errors.Is(err, keys.ErrServiceID) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
