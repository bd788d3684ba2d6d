package keys

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// The signed form of a device list, all numbers big-endian:
//
//	 1  format: 1, or 2 where the account had other identities before
//	 2  length of account, n        n  account, uid@server
//	 8  version
//	33  identity, with type byte   32  root
//	 8  issued, ms
//	 2  number of entries, then for each:
//	      1 id   2 registration   32 key   8 added, ms   8 removed, ms (0 = active)
//	in format 2, 1 number of former identities, 1 or more, then for each:
//	     33 identity, with type byte   8 until, ms   64 endorsement, or zeros
//	64  Ed25519 signature by root over the label below and all the above
//
// There is one encoding of a list, and nothing may follow it.
const (
	deviceListFormat  = 1
	deviceListRenewed = 2
)

// deviceListLabel comes before what the root signs, so that the signature means
// nothing in any other place where an Ed25519 key signs. It is not transmitted.
const deviceListLabel = "clearbox device list v1\x00"

// endorsementLabel comes before what an identity signs when it is replaced, so
// that it means nothing among the prekeys that it signs.
const endorsementLabel = "clearbox identity endorsement v1\x00"

const (
	formerSize      = 1 + 32 + 8 + endorsementSize
	endorsementSize = 64
	deviceEntrySize = 1 + 2 + ed25519.PublicKeySize + 8 + 8
	deviceListFixed = 1 + 2 + 8 + curve.PublicKeySize + ed25519.PublicKeySize + 8 + 2 + ed25519.SignatureSize
)

// MaxDeviceListSize is the size in bytes that no signed list exceeds.
const MaxDeviceListSize = deviceListFixed + MaxAccount + MaxDeviceEntries*deviceEntrySize + 1 + MaxFormer*formerSize

// Sign returns the signed form of l in a new slice. The same list and key give
// the same bytes. A list against its own rules is an error that wraps
// ErrDeviceList; so is a root that is not the private key of l.Root.
func (l *DeviceList) Sign(root ed25519.PrivateKey) ([]byte, error) {
	if len(root) != ed25519.PrivateKeySize || !l.Root.Equal(root.Public()) {
		return nil, refuse("it names another root key than the one that is to sign")
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	b := l.encode()
	return append(b, ed25519.Sign(root, labelled(b))...), nil
}

// encode gives the signed form without the signature, with room for it.
func (l *DeviceList) encode() []byte {
	b := make([]byte, 0, deviceListFixed+len(l.Account)+len(l.Devices)*deviceEntrySize+1+len(l.Former)*formerSize)
	if len(l.Former) == 0 {
		b = append(b, deviceListFormat)
	} else {
		b = append(b, deviceListRenewed)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.Account)))
	b = append(b, l.Account...)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Version))
	b = append(b, l.Identity.Bytes()...)
	b = append(b, l.Root...)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Issued))
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.Devices)))
	for _, d := range l.Devices {
		b = append(b, d.ID)
		b = binary.BigEndian.AppendUint16(b, d.Registration)
		b = append(b, d.Key...)
		b = binary.BigEndian.AppendUint64(b, uint64(d.Added))
		b = binary.BigEndian.AppendUint64(b, uint64(d.Removed))
	}
	if len(l.Former) == 0 {
		return b
	}
	b = append(b, byte(len(l.Former)))
	for _, f := range l.Former {
		b = append(b, f.Identity.Bytes()...)
		b = binary.BigEndian.AppendUint64(b, uint64(f.Until))
		b = append(b, f.Endorsement...)
	}
	return b
}

func labelled(body []byte) []byte {
	m := make([]byte, 0, len(deviceListLabel)+len(body))
	return append(append(m, deviceListLabel...), body...)
}

// ParseDeviceList reads the signed form, checks every rule and verifies the
// signature with the root key in the list itself. The caller then compares Root
// and Identity with its pins, or Follows with the list it has; without that the
// list proves nothing about whose it is. Errors wrap ErrDeviceList or are
// ErrDeviceListSignature. The list shares no memory with signed.
func ParseDeviceList(signed []byte) (*DeviceList, error) {
	if len(signed) > MaxDeviceListSize {
		return nil, refuse("%d bytes", len(signed))
	}
	r := &reader{rest: signed}
	format := r.byte()
	if !r.short && format != deviceListFormat && format != deviceListRenewed {
		return nil, refuse("format %d", format)
	}
	l := new(DeviceList)
	l.Account = string(r.take(int(r.uint16())))
	l.Version = r.int64()
	identity, err := curve.ParsePublicKey(r.take(curve.PublicKeySize))
	if err != nil && !r.short {
		return nil, refuse("identity of another type")
	}
	l.Identity = identity
	l.Root = r.key()
	l.Issued = r.int64()
	n := int(r.uint16())
	if n > MaxDeviceEntries {
		return nil, refuse("%d devices in its history", n)
	}
	l.Devices = make([]DeviceEntry, 0, n)
	for range n {
		var d DeviceEntry
		d.ID = r.byte()
		d.Registration = r.uint16()
		d.Key = r.key()
		d.Added = r.int64()
		d.Removed = r.int64()
		if r.short {
			break
		}
		l.Devices = append(l.Devices, d)
	}
	if format == deviceListRenewed {
		if err := l.readFormer(r); err != nil {
			return nil, err
		}
	}
	body := signed[:len(signed)-len(r.rest)]
	signature := r.take(ed25519.SignatureSize)
	if r.short {
		return nil, refuse("it ends early")
	}
	if len(r.rest) != 0 {
		return nil, refuse("%d bytes after its end", len(r.rest))
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	if !ed25519.Verify(l.Root, labelled(body), signature) {
		return nil, ErrDeviceListSignature
	}
	return l, nil
}

// readFormer reads the identities before the present one; there are some.
func (l *DeviceList) readFormer(r *reader) error {
	n := int(r.byte())
	if !r.short && (n == 0 || n > MaxFormer) {
		return refuse("%d former identities", n)
	}
	for range n {
		identity, err := curve.ParsePublicKey(r.take(curve.PublicKeySize))
		f := FormerIdentity{Identity: identity, Until: r.int64(), Endorsement: bytes.Clone(r.take(endorsementSize))}
		if r.short {
			break
		}
		if err != nil {
			return refuse("former identity of another type")
		}
		l.Former = append(l.Former, f)
	}
	return nil
}

// reader takes fields from the front of rest. After the first field that is not
// wholly there it is short and gives zero values only.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || len(r.rest) < n {
		r.short = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) key() ed25519.PublicKey {
	return append(ed25519.PublicKey(nil), r.take(ed25519.PublicKeySize)...)
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// int64 reads eight bytes; what does not fit becomes negative and is refused by
// the ranges.
func (r *reader) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}
