package auth

import (
	"encoding/binary"

	"github.com/clearbox-im/clearbox"
)

// proofLabel separates these signatures from everything else that a device key
// signs.
const proofLabel = "ClearBox login proof v1\x00"

// LoginProof is what a device signs to log in: the label, the server and the uid
// each with their length as one byte before them, the device id as one byte and
// the time as eight bytes, big-endian. Clients build the same bytes with
// server/wire; a test compares the two.
func LoginProof(server clearbox.ServerName, uid clearbox.UID, device clearbox.DeviceID, at clearbox.Millis) []byte {
	b := make([]byte, 0, len(proofLabel)+len(server)+len(uid)+11)
	b = append(b, proofLabel...)
	b = append(b, byte(len(server))) // at most clearbox.MaxServerName
	b = append(b, server...)
	b = append(b, byte(len(uid)))
	b = append(b, uid...)
	b = append(b, byte(device))
	return binary.BigEndian.AppendUint64(b, uint64(at))
}
