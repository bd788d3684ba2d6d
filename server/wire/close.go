package wire

// CloseCode is a WebSocket close code (RFC 6455, 7.4). Beside these, 1000, 1001
// (the client leaves), 1002 (broken WebSocket), 1003 (text on a CBOR socket or
// binary on a JSON one), 1009 (larger than max_frame) and 1011 (a fault of the
// server) have their usual meaning.
type CloseCode int

// The close codes. After "again" a client reconnects with backoff and jitter;
// the others need something else first.
const (
	CloseBadFrame  CloseCode = 4000 // a frame that cannot be read; an error frame came before. Do not repeat it
	CloseRevoked   CloseCode = 4001 // the session ended: log in
	CloseReplaced  CloseCode = 4002 // the same device opened a newer socket. Do not reconnect by yourself
	CloseSlow      CloseCode = 4003 // frames were not read or mail was not acknowledged: again
	CloseDraining  CloseCode = 4004 // the server restarts: again, after the draining frame's retry_after
	CloseTimeout   CloseCode = 4005 // no answer to pings for 45 seconds: again
	CloseRateLimit CloseCode = 4006 // too many frames: again, later
)

// Again tells whether a client should reconnect by itself after the code.
func (c CloseCode) Again() bool {
	switch c {
	case CloseBadFrame, CloseRevoked, CloseReplaced, 1002, 1003, 1009:
		return false
	}
	return true
}
