// Package wire is the language of the client API: the bodies and frames that a
// homeserver and its clients exchange, their limits, their close codes and
// their problem documents. There is one schema; it is written as JSON (debug,
// and all HTTP bodies) or as CBOR (RFC 8949, the default of the socket). Bytes
// are base64 in JSON and byte strings in CBOR; ids are text in both.
//
// It is not responsible for meaning: no rights, no storage, no transport. It
// builds for the browser.
//
// Everything that a client sends is read strictly: an unknown field, a
// duplicate key, a wrong type, bad UTF-8 or anything after the value refuses
// the whole input. What a server sends is read the same way, except that
// unknown fields are skipped, because additions are not breaks.
package wire

import (
	"github.com/clearbox-im/clearbox"
)

// Limits of the client API. They are part of the protocol.
const (
	// MaxFrame is the largest frame in either direction, in bytes, and is
	// announced in the welcome frame. It holds MaxSubmission in base64.
	MaxFrame = 3 << 20
	// MaxSubmission bounds the ciphertext of all envelopes of one submission
	// together, in bytes.
	MaxSubmission = 2 << 20
	// MaxMulti bounds a message for many recipients, in bytes: 1,024 recipients
	// with 8 devices each, and the largest content.
	MaxMulti = 1<<10*(17+8*3+48) + clearbox.MaxContent
	// MaxBody bounds an HTTP body where nothing else is said, in bytes.
	MaxBody = 64 << 10
	// MaxKeysBody bounds the bodies of /auth/register and /keys, in bytes.
	MaxKeysBody = 512 << 10
	// MaxHistoryBody bounds the body of POST /messages/history, in bytes.
	MaxHistoryBody = 1 << 20

	MaxPassword     = 1024     // bytes, in UTF-8
	MaxDeviceName   = 64       // bytes
	MaxDeviceList   = 16 << 10 // bytes of a signed device list
	MaxPreKeys      = 100      // one-time prekeys of a kind in one upload, and kept
	MaxWatch        = 256      // users in one watch frame
	MaxSignal       = 1 << 10  // bytes of content of a signal's envelope
	MaxStatusQuery  = 256      // ids in one status query
	MaxHistoryItems = 200      // items in one upload, and in one page
	MaxHistoryItem  = 128 << 10
	MaxConversation = 64 // bytes of an opaque conversation id
	MaxToken        = 4096

	// WindowFrames and WindowBytes bound what a server sends on one socket
	// before it waits for acknowledgements; bytes count ciphertext.
	WindowFrames = 256
	WindowBytes  = 4 << 20
	// WindowSends is how many send_message frames of one socket may be
	// unanswered. The server reads no further frame while it is full.
	WindowSends = 16

	// MaxSyncSeconds is the longest wait of GET /sync.
	MaxSyncSeconds = 25
)

// Limits of every decoder.
const (
	maxDepth    = 16
	maxElements = 4096
	maxPairs    = 256
)

// Format is one of the two spellings of the schema.
type Format uint8

// The formats.
const (
	CBOR Format = iota // RFC 8949, core deterministic encoding when written
	JSON               // RFC 8259
)

// The WebSocket subprotocols (RFC 6455, 1.9).
const (
	SubprotocolCBOR = "clearbox.v1.cbor"
	SubprotocolJSON = "clearbox.v1.json"
)

// Subprotocol is the WebSocket subprotocol that speaks f.
func (f Format) Subprotocol() string {
	if f == JSON {
		return SubprotocolJSON
	}
	return SubprotocolCBOR
}

// ParseSubprotocol gives the format that a negotiated subprotocol speaks.
func ParseSubprotocol(s string) (Format, error) {
	switch s {
	case SubprotocolCBOR:
		return CBOR, nil
	case SubprotocolJSON:
		return JSON, nil
	}
	return 0, clearbox.Errorf(clearbox.CodeBadRequest, "the socket speaks %s and %s", SubprotocolCBOR, SubprotocolJSON)
}

// A checker is a body that has rules beyond its types.
type checker interface{ Check() error }

// Decode reads one value strictly into the struct that into points to and, if
// the struct has a Check method, checks it. The error is an *InvalidError.
// Nothing in into aliases data. After an error into is undefined.
func Decode(f Format, data []byte, into any) error { return decode(f, data, into, false) }

// DecodeAnswer is Decode for what a server sent: unknown fields are skipped.
func DecodeAnswer(f Format, data []byte, into any) error { return decode(f, data, into, true) }

func decode(f Format, data []byte, into any, lenient bool) error {
	var err error
	if f == JSON {
		err = decodeJSON(data, into, lenient)
	} else {
		err = decodeCBOR(data, into, lenient)
	}
	if err != nil {
		return err
	}
	if c, ok := into.(checker); ok {
		return c.Check()
	}
	return nil
}

// Append writes v after dst and returns the longer slice. v is one of this
// package's types or a pointer to one; CBOR is written in core deterministic
// encoding (RFC 8949, 4.2.1).
func Append(f Format, dst []byte, v any) ([]byte, error) {
	if f == JSON {
		return appendJSON(dst, v)
	}
	return appendCBOR(dst, v)
}
