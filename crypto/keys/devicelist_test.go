package keys_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

const (
	account = "abcdefghijklmnopqrstuvwxya@a.test"
	morning = 1_790_000_000_000 // milliseconds since 1970
)

func entry(t testing.TB, id uint8, name string, removed int64) keys.DeviceEntry {
	return keys.DeviceEntry{ID: id, Registration: 1000 + uint16(id), Key: public(signingKey(t, name)), Added: morning + int64(id), Removed: removed}
}

func newList(t testing.TB) (*keys.DeviceList, ed25519.PrivateKey) {
	t.Helper()
	root := signingKey(t, "root")
	return &keys.DeviceList{
		Account:  account,
		Version:  3,
		Identity: identity(t, "list identity").Public(),
		Root:     public(root),
		Issued:   morning + 1000,
		Devices: []keys.DeviceEntry{
			entry(t, 1, "phone", 0),
			entry(t, 2, "laptop", morning+500),
			entry(t, 3, "tablet", 0),
		},
	}, root
}

func mustSign(t testing.TB, l *keys.DeviceList, root ed25519.PrivateKey) []byte {
	t.Helper()
	b, err := l.Sign(root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDeviceListWireForm(t *testing.T) {
	l, root := newList(t)
	signed := mustSign(t, l, root)
	golden(t, "device_list.bin", signed)
	got, err := keys.ParseDeviceList(signed)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, l) {
		t.Errorf("read back as %+v", got)
	}
	if want := 150 + len(account) + 3*51; len(signed) != want {
		t.Errorf("%d bytes, the layout has %d", len(signed), want)
	}
	if active := got.Active(); len(active) != 2 || active[0].ID != 1 || active[1].ID != 3 {
		t.Errorf("active: %+v", active)
	}
	// The parsed list keeps no part of the buffer.
	clear(signed)
	if !reflect.DeepEqual(got, l) {
		t.Error("the list shares memory with what it was read from")
	}
}

// renew replaces the identity of that name.
func renew(t testing.TB, l *keys.DeviceList, old, next string) {
	t.Helper()
	if err := l.Renew(chance("endorse "+old), identity(t, old), identity(t, next).Public(), morning+700); err != nil {
		t.Fatal(err)
	}
}

func TestRenewedListWireForm(t *testing.T) {
	l, root := newList(t)
	before, _ := newList(t)
	renew(t, l, "list identity", "renewed")
	if len(before.Former) != 0 || before.Identity == l.Identity {
		t.Fatal("the list before changed, or nothing did")
	}
	signed := mustSign(t, l, root)
	golden(t, "device_list_renewed.bin", signed)
	got, err := keys.ParseDeviceList(signed)
	if err != nil || !reflect.DeepEqual(got, l) {
		t.Fatalf("read back as %+v, %v", got, err)
	}
	for _, known := range []curve.PublicKey{before.Identity, l.Identity} {
		if !got.Vouches(known.Bytes()) {
			t.Error("an identity of the account is not vouched for")
		}
	}
	if got.Vouches(identity(t, "other").Public().Bytes()) || got.Vouches(nil) {
		t.Error("another identity is vouched for")
	}
	if until, ok := got.Replaced(before.Identity); !ok || until != morning+700 {
		t.Errorf("replaced at %d, %v", until, ok)
	}
	lost := *before
	if err := lost.Renew(nil, nil, l.Identity, morning+700); err != nil {
		t.Fatal(err)
	}
	if read, err := keys.ParseDeviceList(mustSign(t, &lost, root)); err != nil || read.Vouches(before.Identity.Bytes()) || !read.Vouches(l.Identity.Bytes()) {
		t.Errorf("an identity that endorsed nothing: %v", err)
	}
	if _, ok := got.Replaced(l.Identity); ok {
		t.Error("the present identity is said to be replaced")
	}
	for n := range len(signed) {
		if _, err := keys.ParseDeviceList(signed[:n]); !errors.Is(err, keys.ErrDeviceList) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
	if err := l.Renew(chance("x"), identity(t, "list identity"), identity(t, "y").Public(), morning); !errors.Is(err, keys.ErrDeviceList) {
		t.Errorf("renewed by an identity that is not the present one: %v", err)
	}
}

func TestLargestDeviceList(t *testing.T) {
	l, root := newList(t)
	l.Account = strings.Repeat("a", keys.MaxAccount-2) + "@b"
	l.Devices = nil
	for i := range keys.MaxDeviceEntries {
		removed := int64(morning)
		if i >= keys.MaxDeviceEntries-keys.MaxActiveDevices {
			removed = 0
		}
		l.Devices = append(l.Devices, entry(t, uint8(i%keys.MaxDevice)+1, fmt.Sprint("device ", i), removed))
	}
	l.Identity = identity(t, "identity 0").Public()
	for i := range keys.MaxFormer {
		renew(t, l, fmt.Sprint("identity ", i), fmt.Sprint("identity ", i+1))
	}
	last := fmt.Sprint("identity ", keys.MaxFormer)
	if err := l.Renew(chance("x"), identity(t, last), identity(t, "one more").Public(), morning); !errors.Is(err, keys.ErrDeviceList) {
		t.Errorf("one identity more: %v", err)
	}
	signed := mustSign(t, l, root)
	if len(signed) != keys.MaxDeviceListSize {
		t.Errorf("%d bytes, the limit says %d", len(signed), keys.MaxDeviceListSize)
	}
	if _, err := keys.ParseDeviceList(signed); err != nil {
		t.Error(err)
	}
	l.Devices = append(l.Devices, entry(t, 100, "one more", morning))
	if _, err := l.Sign(root); !errors.Is(err, keys.ErrDeviceList) {
		t.Errorf("one entry more: %v", err)
	}
}

// Each rule of a list is held by Sign, and by ParseDeviceList when somebody
// else's program signed all the same.
func TestDeviceListRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, l *keys.DeviceList)
	}{
		{"no account", func(t *testing.T, l *keys.DeviceList) { l.Account = "" }},
		{"account without server", func(t *testing.T, l *keys.DeviceList) { l.Account = "alice" }},
		{"account with empty server", func(t *testing.T, l *keys.DeviceList) { l.Account = "alice@" }},
		{"account with empty name", func(t *testing.T, l *keys.DeviceList) { l.Account = "@a.test" }},
		{"account with two at signs", func(t *testing.T, l *keys.DeviceList) { l.Account = "a@b@c" }},
		{"account with a blank", func(t *testing.T, l *keys.DeviceList) { l.Account = "a b@c" }},
		{"account with a zero byte", func(t *testing.T, l *keys.DeviceList) { l.Account = "a\x00@c" }},
		{"account not ASCII", func(t *testing.T, l *keys.DeviceList) { l.Account = "é@c" }},
		{"account too long", func(t *testing.T, l *keys.DeviceList) { l.Account = strings.Repeat("a", 279) + "@b" }},
		{"version 0", func(t *testing.T, l *keys.DeviceList) { l.Version = 0 }},
		{"version negative", func(t *testing.T, l *keys.DeviceList) { l.Version = -1 }},
		{"version huge", func(t *testing.T, l *keys.DeviceList) { l.Version = 1 << 53 }},
		{"identity missing", func(t *testing.T, l *keys.DeviceList) { l.Identity = curve.PublicKey{} }},
		{"identity not canonical", func(t *testing.T, l *keys.DeviceList) { l.Identity[31] |= 0x80 }},
		{"not issued", func(t *testing.T, l *keys.DeviceList) { l.Issued = 0 }},
		{"no devices", func(t *testing.T, l *keys.DeviceList) { l.Devices = nil }},
		{"device 0", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].ID = 0 }},
		{"device 128", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].ID = 128 }},
		{"registration 0", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Registration = 0 }},
		{"registration of 15 bits", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Registration = 1 << 14 }},
		{"never added", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Added = 0 }},
		{"removed before 1970", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Removed = -1 }},
		{"removed in the far future", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Removed = 1 << 53 }},
		{"two active devices of one id", func(t *testing.T, l *keys.DeviceList) { l.Devices[2].ID = 1 }},
		{"one key twice", func(t *testing.T, l *keys.DeviceList) { l.Devices[2].Key = l.Devices[1].Key }},
		{"a former identity that is the present one", func(t *testing.T, l *keys.DeviceList) {
			renew(t, l, "list identity", "renewed")
			l.Identity = l.Former[0].Identity
		}},
		{"a former identity twice", func(t *testing.T, l *keys.DeviceList) {
			renew(t, l, "list identity", "renewed")
			l.Former = append(l.Former, l.Former[0])
		}},
		{"an endorsement by another identity", func(t *testing.T, l *keys.DeviceList) {
			renew(t, l, "list identity", "renewed")
			l.Former[0].Identity = identity(t, "other").Public()
		}},
		{"an endorsement of another root", func(t *testing.T, l *keys.DeviceList) {
			other := *l
			other.Root = public(signingKey(t, "another root"))
			renew(t, &other, "list identity", "renewed")
			l.Identity, l.Former = other.Identity, other.Former
		}},
		{"a former identity of no time", func(t *testing.T, l *keys.DeviceList) {
			renew(t, l, "list identity", "renewed")
			l.Former[0].Until = 0
		}},
		{"root as a device", func(t *testing.T, l *keys.DeviceList) { l.Devices[2].Key = l.Root }},
		{"nine active devices", func(t *testing.T, l *keys.DeviceList) {
			for id := uint8(4); id <= 10; id++ {
				l.Devices = append(l.Devices, entry(t, id, fmt.Sprint("more ", id), 0))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, root := newList(t)
			c.spoil(t, l)
			if _, err := l.Sign(root); !errors.Is(err, keys.ErrDeviceList) {
				t.Errorf("signing: %v", err)
			}
			if _, err := keys.ParseDeviceList(keys.SignUnchecked(l, root)); !errors.Is(err, keys.ErrDeviceList) {
				t.Errorf("reading: %v", err)
			}
		})
	}

	l, root := newList(t)
	l.Devices[0].Key = l.Devices[0].Key[:31]
	if _, err := l.Sign(root); !errors.Is(err, keys.ErrDeviceList) {
		t.Errorf("short device key: %v", err)
	}
	l, _ = newList(t)
	if _, err := l.Sign(signingKey(t, "another root")); !errors.Is(err, keys.ErrDeviceList) {
		t.Errorf("signed by a root that is not in the list: %v", err)
	}
	if _, err := l.Sign(nil); !errors.Is(err, keys.ErrDeviceList) {
		t.Errorf("signed without a key: %v", err)
	}
}

func TestDeviceListBytes(t *testing.T) {
	l, root := newList(t)
	good := mustSign(t, l, root)
	body := len(good) - 64
	for n := range len(good) {
		if _, err := keys.ParseDeviceList(good[:n]); !errors.Is(err, keys.ErrDeviceList) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x01
		if _, err := keys.ParseDeviceList(bad); err == nil {
			t.Errorf("byte %d altered", i)
		}
	}
	for name, bad := range map[string][]byte{
		"a byte more": append(bytes.Clone(good), 0),
		"format 0":    append([]byte{0}, good[1:]...),
		"format 3":    append([]byte{3}, good[1:]...),
		"format 2 without a former identity": func() []byte {
			b := append([]byte{2}, good[1:body]...)
			return append(append(b, 0), good[body:]...)
		}(),
		"over the limit": make([]byte, keys.MaxDeviceListSize+1),
		"many entries": func() []byte {
			b := bytes.Clone(good)
			binary.BigEndian.PutUint16(b[body-3*51-2:], 0xffff)
			return b
		}(),
		"identity of another type": func() []byte {
			b := bytes.Clone(good)
			b[1+2+len(account)+8] = 0x06
			return b
		}(),
	} {
		if _, err := keys.ParseDeviceList(bad); !errors.Is(err, keys.ErrDeviceList) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unlabelled := append(bytes.Clone(good[:body]), ed25519.Sign(root, good[:body])...)
	if _, err := keys.ParseDeviceList(unlabelled); !errors.Is(err, keys.ErrDeviceListSignature) {
		t.Errorf("signed without the label: %v", err)
	}
	other := append(bytes.Clone(good[:body]), ed25519.Sign(signingKey(t, "another root"), append([]byte("clearbox device list v1\x00"), good[:body]...))...)
	if _, err := keys.ParseDeviceList(other); !errors.Is(err, keys.ErrDeviceListSignature) {
		t.Errorf("signed by another root: %v", err)
	}
}

func TestDeviceListFollows(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, l *keys.DeviceList)
		want   error
	}{
		{"only the version", func(*testing.T, *keys.DeviceList) {}, nil},
		{"versions missed", func(t *testing.T, l *keys.DeviceList) { l.Version = 900 }, nil},
		{"a device added", func(t *testing.T, l *keys.DeviceList) { l.Devices = append(l.Devices, entry(t, 4, "new", 0)) }, nil},
		{"a device removed", func(t *testing.T, l *keys.DeviceList) { l.Devices[2].Removed = morning + 900 }, nil},
		{"an id given again", func(t *testing.T, l *keys.DeviceList) { l.Devices = append(l.Devices, entry(t, 2, "new", 0)) }, nil},
		{"identity renewed", func(t *testing.T, l *keys.DeviceList) { renew(t, l, "list identity", "renewed") }, nil},
		{"identity renewed twice", func(t *testing.T, l *keys.DeviceList) {
			renew(t, l, "list identity", "renewed")
			renew(t, l, "renewed", "again")
		}, nil},
		{"identity replaced without a word", func(t *testing.T, l *keys.DeviceList) { l.Identity = identity(t, "renewed").Public() }, keys.ErrHistory},
		{"another identity renewed", func(t *testing.T, l *keys.DeviceList) {
			l.Identity = identity(t, "other").Public()
			renew(t, l, "other", "renewed")
		}, keys.ErrHistory},
		{"same version", func(t *testing.T, l *keys.DeviceList) { l.Version = 3 }, keys.ErrVersionNotNewer},
		{"older version", func(t *testing.T, l *keys.DeviceList) { l.Version = 2 }, keys.ErrVersionNotNewer},
		{"another account", func(t *testing.T, l *keys.DeviceList) { l.Account = "b@b.test" }, keys.ErrOtherAccount},
		{"another root", func(t *testing.T, l *keys.DeviceList) { l.Root = public(signingKey(t, "another root")) }, keys.ErrOtherRoot},
		{"removed device back", func(t *testing.T, l *keys.DeviceList) { l.Devices[1].Removed = 0 }, keys.ErrHistory},
		{"removed at another time", func(t *testing.T, l *keys.DeviceList) { l.Devices[1].Removed++ }, keys.ErrHistory},
		{"entry dropped", func(t *testing.T, l *keys.DeviceList) { l.Devices = l.Devices[:2] }, keys.ErrHistory},
		{"entries swapped", func(t *testing.T, l *keys.DeviceList) {
			l.Devices[0], l.Devices[2] = l.Devices[2], l.Devices[0]
		}, keys.ErrHistory},
		{"another key", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Key = public(signingKey(t, "new")) }, keys.ErrHistory},
		{"another registration", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Registration++ }, keys.ErrHistory},
		{"another id", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].ID = 9 }, keys.ErrHistory},
		{"added at another time", func(t *testing.T, l *keys.DeviceList) { l.Devices[0].Added++ }, keys.ErrHistory},
	} {
		t.Run(c.name, func(t *testing.T) {
			prev, _ := newList(t)
			next, _ := newList(t)
			next.Version++
			c.change(t, next)
			if err := next.Follows(prev); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestNextID(t *testing.T) {
	l, _ := newList(t)
	if got := l.NextID(); got != 4 {
		t.Errorf("after 1, 2 and 3 comes %d", got)
	}
	l.Devices = nil
	if got := l.NextID(); got != 1 {
		t.Errorf("the first is %d", got)
	}
	for id := range keys.MaxDevice {
		l.Devices = append(l.Devices, keys.DeviceEntry{ID: uint8(id) + 1, Removed: morning})
	}
	l.Devices[0].Removed = 0
	for _, want := range []uint8{2, 3, 4} {
		got := l.NextID()
		if got != want {
			t.Fatalf("all ids were used: got %d, want %d", got, want)
		}
		l.Devices = append(l.Devices, keys.DeviceEntry{ID: got, Removed: morning + 1})
	}
}

func FuzzParseDeviceList(f *testing.F) {
	l, root := newList(f)
	good := mustSign(f, l, root)
	f.Add(good)
	f.Add(good[:len(good)-64])
	renew(f, l, "list identity", "renewed")
	f.Add(mustSign(f, l, root))
	f.Add([]byte{1})
	f.Add([]byte{1, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		// Signed anew, so that the rules behind the signature are reached too.
		if len(b) > 64 {
			body := b[:len(b)-64]
			b = append(bytes.Clone(body), ed25519.Sign(root, append([]byte("clearbox device list v1\x00"), body...))...)
		}
		l, err := keys.ParseDeviceList(b)
		if err != nil {
			if !errors.Is(err, keys.ErrDeviceList) && !errors.Is(err, keys.ErrDeviceListSignature) {
				t.Fatalf("an error of no type: %v", err)
			}
			return
		}
		again, err := l.Sign(root)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("reading and signing changed the list: %v", err)
		}
		if len(l.Active()) > keys.MaxActiveDevices {
			t.Fatal("too many active devices")
		}
	})
}

func BenchmarkParseDeviceList(b *testing.B) {
	l, root := newList(b)
	signed := mustSign(b, l, root)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.ParseDeviceList(signed); err != nil {
			b.Fatal(err)
		}
	}
}
