package ratchet

import (
	"encoding/hex"
	"strings"

	"github.com/clearbox-im/clearbox/crypto/keys"
)

// Address names a device. The name may be any string; only the text form of a
// service id (keys.ServiceID) is bound into the first messages of a session, so
// that a message delivered under another address is refused.
type Address struct {
	Name   string
	Device uint8 // 1 to MaxDevice
}

// AddressOf returns the address of an account's device.
func AddressOf(account keys.ServiceID, device uint8) Address {
	return Address{account.UUID(), device}
}

func (a Address) valid() bool { return a.Device >= 1 && a.Device <= MaxDevice }

// serviceIDSize: kind (0 account, 1 phone number identity) and UUID.
const serviceIDSize = 17

// bound returns the fixed-width form of an address whose name is a service id:
// 17 bytes and the device id.
func (a Address) bound() ([]byte, bool) {
	text, pni := strings.CutPrefix(a.Name, "PNI:")
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' ||
		strings.ToLower(text) != text {
		return nil, false
	}
	uuid, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(uuid) != 16 {
		return nil, false
	}
	b := make([]byte, 0, serviceIDSize+1)
	if pni {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, uuid...)
	return append(b, a.Device), true
}

// addressField returns what binds a message to its two ends, or nothing if one
// of them is not named by a service id.
func addressField(sender, recipient Address) []byte {
	s, ok := sender.bound()
	if !ok {
		return nil
	}
	r, ok := recipient.bound()
	if !ok {
		return nil
	}
	return append(s, r...)
}
