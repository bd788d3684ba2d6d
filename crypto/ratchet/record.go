package ratchet

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/internal/pack"
	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/spqr"
)

// The storage format of this package is its own. Byte 0 of a record and of each
// session is its version.
const (
	recordVersion  = 1
	sessionVersion = 1

	maxStoredSession = 64 << 20 // bytes; a full session within the limits stays below 1 MiB
	maxArchivedRead  = 1 << 12
)

// record holds all sessions with one peer. Sessions stay encoded until they are
// needed.
type record struct {
	generation uint64
	current    []byte // nil: none
	archived   [][]byte
}

// Generation returns how often the record was replaced, 0 for an empty one. It
// gives ErrRecord for what is not a record.
func Generation(stored []byte) (uint64, error) {
	if len(stored) == 0 {
		return 0, nil
	}
	if len(stored) < 9 || stored[0] != recordVersion {
		return 0, ErrRecord
	}
	return binary.BigEndian.Uint64(stored[1:]), nil
}

// parseRecord reads a record, an empty one from nothing. The result shares
// memory with b and never writes to it.
func parseRecord(b []byte) (*record, error) {
	rec := new(record)
	if len(b) == 0 {
		return rec, nil
	}
	r := pack.NewReader(b)
	if r.Byte() != recordVersion {
		return nil, fmt.Errorf("%w: version", ErrRecord)
	}
	rec.generation = r.Uint64()
	if r.Bool() {
		rec.current = r.Bytes(maxStoredSession)
	}
	n := int(r.Uint16())
	if n > maxArchivedRead {
		return nil, ErrRecord
	}
	for range n {
		rec.archived = append(rec.archived, r.Bytes(maxStoredSession))
		if !r.OK() {
			break
		}
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return rec, nil
}

func (rec *record) append(b []byte) []byte {
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, rec.generation)
	b = pack.AppendBool(b, rec.current != nil)
	if rec.current != nil {
		b = pack.AppendBytes(b, rec.current)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(rec.archived)))
	for _, a := range rec.archived {
		b = pack.AppendBytes(b, a)
	}
	return b
}

// size is an estimate of the encoded length, at least the true one.
func (rec *record) size() int {
	n := 32 + len(rec.current)
	for _, a := range rec.archived {
		n += 4 + len(a)
	}
	return n
}

// archive makes room for a new current session.
func (rec *record) archive(limit int) {
	if rec.current == nil {
		return
	}
	rec.archived = slices.Insert(slices.Clone(rec.archived), 0, rec.current)
	rec.archived = rec.archived[:min(len(rec.archived), limit)]
	rec.current = nil
}

// promote makes session i the current one; -1 is the current one already.
func (rec *record) promote(i, limit int) {
	if i < 0 {
		return
	}
	hit := rec.archived[i]
	rec.archived = slices.Delete(slices.Clone(rec.archived), i, i+1)
	rec.archive(limit)
	rec.current = hit
}

// withBase finds the session that a base key began: its index among the
// archived, -1 for the current one.
func (rec *record) withBase(base curve.PublicKey) (int, bool) {
	if hasBase(rec.current, base) {
		return -1, true
	}
	i := slices.IndexFunc(rec.archived, func(b []byte) bool { return hasBase(b, base) })
	return i, i >= 0
}

func hasBase(b []byte, base curve.PublicKey) bool {
	return len(b) > 33 && b[0] == sessionVersion && curve.PublicKey(b[1:33]) == base
}

func (rec *record) session(i int) ([]byte, *session, error) {
	b := rec.current
	if i >= 0 {
		b = rec.archived[i]
	}
	s, err := parseSession(b)
	return b, s, err
}

// append appends the storage form of a session. The base key stands first so
// that a session can be found by it without reading the rest.
func (s *session) append(b []byte) []byte {
	b = append(b, sessionVersion)
	b = append(b, s.base[:]...)
	b = append(b, s.local[:]...)
	b = append(b, s.remote[:]...)
	b = binary.BigEndian.AppendUint16(b, s.registration)
	b = append(b, s.root[:]...)
	b = binary.BigEndian.AppendUint32(b, s.previous)
	b = append(b, s.sending.own.private[:]...)
	b = append(b, s.sending.own.public[:]...)
	b = append(b, s.sending.key[:]...)
	b = binary.BigEndian.AppendUint32(b, s.sending.counter)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.receiving)))
	for i := range s.receiving {
		c := &s.receiving[i]
		b = append(b, c.peer[:]...)
		b = append(b, c.key[:]...)
		b = binary.BigEndian.AppendUint32(b, c.counter)
		b = pack.AppendBytes(b, c.kept)
	}
	b = pack.AppendBool(b, s.pending != nil)
	if p := s.pending; p != nil {
		b = pack.AppendBool(b, p.oneTime != nil)
		if p.oneTime != nil {
			b = binary.BigEndian.AppendUint32(b, *p.oneTime)
		}
		b = binary.BigEndian.AppendUint32(b, p.signed)
		b = binary.BigEndian.AppendUint32(b, p.kem)
		b = pack.AppendBytes(b, p.kemCipher)
		b = binary.BigEndian.AppendUint64(b, uint64(p.created))
	}
	// The post-quantum state is the rest, after its length.
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = s.pq.Append(b)
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func parseSession(b []byte) (*session, error) {
	r := pack.NewReader(b)
	if r.Byte() != sessionVersion {
		return nil, fmt.Errorf("%w: session version", ErrRecord)
	}
	s := new(session)
	r.Fixed(s.base[:])
	r.Fixed(s.local[:])
	r.Fixed(s.remote[:])
	s.registration = r.Uint16()
	r.Fixed(s.root[:])
	s.previous = r.Uint32()
	r.Fixed(s.sending.own.private[:])
	r.Fixed(s.sending.own.public[:])
	r.Fixed(s.sending.key[:])
	s.sending.counter = r.Uint32()
	n := int(r.Uint16())
	s.receiving = make([]receivingChain, 0, min(n, 8)+1)
	for range n {
		var c receivingChain
		r.Fixed(c.peer[:])
		r.Fixed(c.key[:])
		c.counter = r.Uint32()
		c.kept = readKept(r, c.counter)
		if !r.OK() {
			return nil, ErrRecord
		}
		s.receiving = append(s.receiving, c)
	}
	if r.Bool() {
		p := new(pending)
		if r.Bool() {
			id := r.Uint32()
			p.oneTime = &id
		}
		p.signed = r.Uint32()
		p.kem = r.Uint32()
		p.kemCipher = r.Bytes(kemCiphertextSize)
		created := r.Uint64()
		if len(p.kemCipher) != kemCiphertextSize || created > math.MaxInt64 {
			return nil, ErrRecord
		}
		p.created = int64(created)
		s.pending = p
	}
	pq := r.Bytes(maxStoredSession)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	var err error
	if s.pq, err = spqr.Parse(pq); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return s, nil
}

func readKept(r *pack.Reader, counter uint32) []byte {
	kept := r.Bytes(maxStoredSession)
	if len(kept)%keptSize != 0 {
		r.Fail()
		return nil
	}
	for i := 0; i < len(kept); i += keptSize {
		n := binary.BigEndian.Uint32(kept[i:])
		if n >= counter || i > 0 && n <= binary.BigEndian.Uint32(kept[i-keptSize:]) {
			r.Fail()
			return nil
		}
	}
	return kept
}
