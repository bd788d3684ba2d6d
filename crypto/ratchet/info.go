package ratchet

import (
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// Info is what may be known about a record without using it. All fields but
// Archived and Generation describe the current session and are zero without
// one.
type Info struct {
	Usable         bool            // Encrypt would not answer ErrNoSession
	Unacknowledged bool            // initiated here and not answered yet
	Identity       curve.PublicKey // of the peer
	Local          curve.PublicKey // own identity that the session was begun with
	Registration   uint16          // of the peer's device
	RatchetKey     curve.PublicKey // own one, in the messages being sent; see DecryptionError
	Epoch          uint64          // of the post-quantum ratchet
	Phase          string          // of the post-quantum ratchet, for diagnosis
	Archived       int
	Generation     uint64
}

// Inspect describes a stored record; nothing at all is a record without
// sessions.
func (d *Device) Inspect(stored []byte, now time.Time) (*Info, error) {
	rec, err := parseRecord(stored)
	if err != nil {
		return nil, err
	}
	info := &Info{Archived: len(rec.archived), Generation: rec.generation}
	if rec.current == nil {
		return info, nil
	}
	s, err := parseSession(rec.current)
	if err != nil {
		return nil, err
	}
	info.Usable = !s.expired(now, d.Limits.filled())
	info.Unacknowledged = s.pending != nil
	info.Identity, info.Local = s.remote, s.local
	info.Registration = s.registration
	info.RatchetKey = s.sending.own.public
	info.Epoch = s.pq.Epoch()
	info.Phase = s.pq.Phase().String()
	return info, nil
}
