package ratchet

import "time"

// EncryptAltered is Encrypt by a sender whose authentic message carries an
// altered post-quantum field, as a broken or malicious peer would make it.
// Nothing is stored.
func (d *Device) EncryptAltered(store Store, now time.Time, peer Address, plaintext []byte, alter func(pq []byte) []byte) (*Ciphertext, error) {
	c, err := d.begin(store, peer)
	if err != nil {
		return nil, err
	}
	_, s, err := c.record.session(-1)
	if err != nil {
		return nil, err
	}
	pqMessage, pqKey, err := s.pq.Send(d.Random, nil)
	if err != nil {
		return nil, err
	}
	keys := messageKeys(step(&s.sending.key), pqKey)
	m := signalMessage{
		ratchet:    s.sending.own.public,
		counter:    s.sending.counter,
		previous:   s.previous,
		ciphertext: encryptBody(keys, plaintext),
		pq:         alter(pqMessage),
	}
	b := m.append(nil)
	b = append(b, messageMAC(keys[32:64], s.local, s.remote, b)...)
	return &Ciphertext{Type: TypeWhisper, Body: b}, nil
}

// Decoders under fuzzing.
var (
	ParseSignal = func(b []byte) error { _, err := parseSignalMessage(b); return err }
	ParsePreKey = func(b []byte) error { _, err := parsePreKeyMessage(b); return err }
)

// ReencodeSignal parses a message and encodes its fields again.
func ReencodeSignal(b []byte) ([]byte, error) {
	m, err := parseSignalMessage(b)
	if err != nil {
		return nil, err
	}
	return append(m.append(nil), m.mac...), nil
}

// ReencodePreKey parses a first message and encodes its fields again.
func ReencodePreKey(b []byte) ([]byte, error) {
	m, err := parsePreKeyMessage(b)
	if err != nil {
		return nil, err
	}
	return m.append(nil), nil
}

// ReencodeRecord parses a record and all its sessions and encodes them again.
func ReencodeRecord(b []byte) ([]byte, error) {
	rec, err := parseRecord(b)
	if err != nil {
		return nil, err
	}
	for i := -1; i < len(rec.archived); i++ {
		if i < 0 && rec.current == nil {
			continue
		}
		_, s, err := rec.session(i)
		if err != nil {
			return nil, err
		}
		if i < 0 {
			rec.current = s.append(nil)
		} else {
			rec.archived[i] = s.append(nil)
		}
	}
	return rec.append(nil), nil
}

// AddressesOf returns the addresses bound into a message, nil without any.
func AddressesOf(t Type, b []byte) ([]byte, error) {
	if t == TypePreKey {
		m, err := parsePreKeyMessage(b)
		if err != nil {
			return nil, err
		}
		b = m.inner
	}
	m, err := parseSignalMessage(b)
	if err != nil {
		return nil, err
	}
	return m.addresses, nil
}

// Lose makes n messages that nobody will see, in one step.
func (d *Device) Lose(store Store, peer Address, n int) error {
	c, err := d.begin(store, peer)
	if err != nil {
		return err
	}
	encoded, s, err := c.record.session(-1)
	if err != nil {
		return err
	}
	for range n {
		if _, err := s.encrypt(d.Random, nil, nil); err != nil {
			return err
		}
	}
	c.setCurrent(s, len(encoded))
	return c.apply()
}

// KeptKeys returns the number of passed-over keys kept for each receiving
// chain of the current session, oldest chain first.
func KeptKeys(stored []byte) ([]int, error) {
	rec, err := parseRecord(stored)
	if err != nil {
		return nil, err
	}
	_, s, err := rec.session(-1)
	if err != nil {
		return nil, err
	}
	var n []int
	for _, c := range s.receiving {
		n = append(n, len(c.kept)/keptSize)
	}
	return n, nil
}

// DecryptBody opens a body whose MAC was right.
var DecryptBody = decryptBody
