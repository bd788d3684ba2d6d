package core

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
	"github.com/clearbox-im/clearbox/server/wire"
)

// How prekeys are kept.
const (
	preKeyTarget   = wire.MaxPreKeys     // one-time prekeys of a kind at the server
	preKeyLow      = 4                   // more are uploaded when less than a quarter is left: 25
	preKeyRotation = 7 * 24 * time.Hour  // of the signed and the last-resort prekey
	preKeyGrace    = 60 * 24 * time.Hour // for which rotated ones are kept: longer than mail may wait
	preKeyKept     = 1000                // private one-time prekeys of a kind; the oldest go
	preKeyIDs      = 1 << 24             // ids are 24 bits
)

// preKeyState is the bookkeeping of the own prekeys.
type preKeyState struct {
	NextID  uint32          `cbor:"1,keyasint"`           // ids are shared by all kinds
	Rotated clearbox.Millis `cbor:"2,keyasint,omitempty"` // when the server took the present signed ones
}

// privatePreKey is an own prekey's private half: 32 bytes for X25519, the
// secret of crypto/ratchet for Kyber.
type privatePreKey struct {
	Secret     []byte          `cbor:"1,keyasint"`
	Created    clearbox.Millis `cbor:"2,keyasint"`
	LastResort bool            `cbor:"3,keyasint,omitempty"`
}

func preKeyKey(kind string, id uint32) string { return fmt.Sprintf("prekey/%s/%08x", kind, id) }

// makePreKeys draws n one-time prekeys of each kind and, if rotate, new signed
// ones. The private halves are in the vault when it returns the public ones, so
// whatever a server hands out can be answered. Kept ones above preKeyKept go.
func (b *Brain) makePreKeys(ctx context.Context, s *self, n int, rotate bool) (*wire.Keys, error) {
	var out wire.Keys
	private := map[string]privatePreKey{} // kind and offset of the id
	now := b.now()
	add := func(kind string, offset uint32, secret []byte, lastResort bool) {
		private[kind+strconv.Itoa(int(offset))] = privatePreKey{Secret: secret, Created: now, LastResort: lastResort}
	}
	// Ids are given in the transaction, but signatures cover keys and not ids,
	// so the slow part can happen before it.
	var total uint32
	if rotate {
		signed, secret, err := ratchet.NewSignedPreKey(b.opts.Random, s.identity, 0)
		if err != nil {
			return nil, err
		}
		last, kem, err := ratchet.NewKEMPreKey(b.opts.Random, s.identity, 0, true)
		if err != nil {
			return nil, err
		}
		out.Signed = &wire.PreKey{ID: 0, Key: signed.Key.Bytes(), Signature: signed.Signature}
		out.KEM = &wire.PreKey{ID: 1, Key: last.Key, Signature: last.Signature}
		add("s", 0, secret.Bytes(), false)
		add("k", 1, kem.Secret, true)
		total = 2
	}
	for range n {
		key, secret, err := ratchet.NewOneTimePreKey(b.opts.Random, 0)
		if err != nil {
			return nil, err
		}
		kemKey, kem, err := ratchet.NewKEMPreKey(b.opts.Random, s.identity, 0, false)
		if err != nil {
			return nil, err
		}
		out.OneTime = append(out.OneTime, wire.PreKey{ID: total, Key: key.Key.Bytes()})
		add("e", total, secret.Bytes(), false)
		out.OneTimeKEM = append(out.OneTimeKEM, wire.PreKey{ID: total + 1, Key: kemKey.Key, Signature: kemKey.Signature})
		add("k", total+1, kem.Secret, false)
		total += 2
	}
	var first uint32
	err := b.vault.Update(ctx, func(tx Tx) error {
		st, err := loadPreKeyState(tx)
		if err != nil {
			return err
		}
		first = st.NextID
		if first == 0 || first+total >= preKeyIDs {
			first = 1
		}
		st.NextID = first + total
		for name, p := range private {
			offset, err := strconv.Atoi(name[1:])
			if err != nil {
				return err
			}
			if err := save(tx, preKeyKey(name[:1], first+uint32(offset)), p); err != nil {
				return err
			}
		}
		if err := b.prunePreKeys(tx); err != nil {
			return err
		}
		return save(tx, keyPreKeys, st)
	})
	if err != nil {
		return nil, err
	}
	for _, k := range []*wire.PreKey{out.Signed, out.KEM} {
		if k != nil {
			k.ID += first
		}
	}
	for i := range out.OneTime {
		out.OneTime[i].ID += first
		out.OneTimeKEM[i].ID += first
	}
	return &out, nil
}

func loadPreKeyState(r Reader) (*preKeyState, error) {
	st, err := load[preKeyState](r, keyPreKeys)
	if st == nil && err == nil {
		st = &preKeyState{}
	}
	return st, err
}

// prunePreKeys forgets rotated prekeys after their grace time and one-time ones
// beyond what a server could still hand out. The newest signed ones stay.
func (b *Brain) prunePreKeys(tx Tx) error {
	expired := b.now() - clearbox.Millis(preKeyGrace.Milliseconds())
	for _, kind := range []string{"e", "k", "s"} {
		entries, err := tx.List(Range{Prefix: "prekey/" + kind + "/"})
		if err != nil {
			return err
		}
		if kind != "s" && len(entries) <= preKeyKept {
			continue // Kyber ones are long: read them only when there are too many
		}
		type aged struct {
			key     string
			created clearbox.Millis
		}
		var rotated, oneTime []aged
		for _, e := range entries {
			p, err := parse[privatePreKey](e.Value)
			if err != nil {
				return err
			}
			if kind == "s" || p.LastResort {
				rotated = append(rotated, aged{e.Key, p.Created})
			} else {
				oneTime = append(oneTime, aged{e.Key, p.Created})
			}
		}
		var newest clearbox.Millis
		for _, a := range rotated {
			newest = max(newest, a.created)
		}
		for _, a := range rotated {
			if a.created < expired && a.created != newest {
				if err := tx.Delete(a.key); err != nil {
					return err
				}
			}
		}
		for len(oneTime) > preKeyKept { // ids rise, so the list begins with the oldest
			if err := tx.Delete(oneTime[0].key); err != nil {
				return err
			}
			oneTime = oneTime[1:]
		}
	}
	return nil
}

// tendPreKeys uploads what the server is short of and rotates what is old.
func (b *Brain) tendPreKeys(ctx context.Context) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	var st *preKeyState
	err = b.vault.View(ctx, func(r Reader) error {
		st, err = loadPreKeyState(r)
		return err
	})
	if err != nil {
		return err
	}
	if s.Missed {
		return ErrMissedRenewal // it has nothing that its identity could sign
	}
	rotate := b.now() >= st.Rotated+clearbox.Millis(preKeyRotation.Milliseconds())
	var have wire.KeyStatus
	if err := b.call(ctx, "GET", "/keys/status", nil, &have); err != nil {
		return err
	}
	n := 0
	low := b.keysLow.Swap(false)
	if least := min(have.OneTime, have.OneTimeKEM); least < b.preKeys/preKeyLow || low {
		n = b.preKeys - max(have.OneTime, have.OneTimeKEM)
	}
	if n <= 0 && !rotate {
		return nil
	}
	upload, err := b.makePreKeys(ctx, s, max(n, 0), rotate)
	if err != nil {
		return err
	}
	err = b.call(ctx, "PUT", "/keys", upload, nil)
	if clearbox.CodeOf(err) == clearbox.CodeBadSignature { // the account has another identity by now
		if _, err := b.Devices(ctx); err != nil {
			return err
		}
		return ErrMissedRenewal
	}
	if err != nil {
		return err
	}
	if !rotate {
		return nil
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		st, err := loadPreKeyState(tx)
		if err != nil {
			return err
		}
		st.Rotated = b.now()
		return save(tx, keyPreKeys, st)
	})
}
