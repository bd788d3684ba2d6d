package core

import (
	"errors"
	"io"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/vault"
)

// carried are the records of the vault that are a person's and not a device's:
// what a further device gets, and what archives and exports hold. The rest is
// sessions, prekeys, queues and what the device was doing. The order is that in
// which they are handed over: people before what they wrote.
var carried = []string{
	prefixContac, prefixAddr, prefixAlias, prefixKnock, "roots/", keySettings, keyProfile, prefixConv,
	prefixGroup, prefixOp, prefixWho, prefixMsg,
}

// isCarried tells whether the record at key is a person's.
func isCarried(key string) bool {
	for _, p := range carried {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}

// record is one record of a vault on its way to another one. A nil Value deletes.
type record struct {
	Key   string `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint,omitempty"`
}

// generation separates the orders that devices after one another give: what is
// handed over keeps its place before all that the new device adds.
const generation = 1 << 40

// nextGeneration is the first order of a device that takes over from one whose last
// was order.
func nextGeneration(order uint64) uint64 { return (order/generation + 1) * generation }

// gather lists what is a person's. Of messages, those above after.
func gather(r Reader, after uint64) ([]record, error) {
	var out []record
	for _, prefix := range carried {
		entries, err := r.List(Range{Prefix: prefix})
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if prefix == prefixMsg && orderOf(e.Key) <= after {
				continue
			}
			out = append(out, record(e))
		}
	}
	return out, nil
}

// writeRecords seals records into w; each frame is one.
func writeRecords(w *vault.Writer, all []record) error {
	for i := range all {
		frame, err := recordOut.Marshal(&all[i])
		if err != nil {
			return err
		}
		if err := w.WriteFrame(frame); err != nil {
			return err
		}
	}
	return nil
}

// takeBatch is how many records one transaction takes in.
const takeBatch = 2000

// readRecords gives what r holds to take, in batches. It is whole when the error
// is nil.
func readRecords(r *vault.Reader, take func([]record) error) error {
	var batch []record
	for {
		frame, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		one, err := parse[record](frame)
		if err != nil {
			return err
		}
		if batch = append(batch, *one); len(batch) == takeBatch {
			if err := take(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return take(batch)
}

// takeIn puts records of another vault of the same account into this one. What is
// here already stays, so it may be repeated; messages that are not here get their
// place by their old order, if it is free, else at the end. fresh is for a vault
// that has nothing of its own yet: there, newer records take the place of older.
func takeIn(tx Tx, all []record, fresh bool) (messages int, err error) {
	for _, one := range all {
		switch {
		case !isCarried(one.Key):
			continue // of a later version, or not for us
		case strings.HasPrefix(one.Key, prefixMsg):
			added, err := takeMessage(tx, one, fresh)
			if err != nil {
				return messages, err
			}
			if added {
				messages++
			}
		case one.Value == nil:
			if fresh {
				err = tx.Delete(one.Key)
			}
		default:
			known, getErr := optional(tx.Get(one.Key))
			if err = getErr; err == nil && (fresh || known == nil) {
				err = tx.Put(one.Key, one.Value)
			}
		}
		if err != nil {
			return messages, err
		}
	}
	return messages, nil
}

// takeMessage takes in one line of a conversation.
func takeMessage(tx Tx, one record, fresh bool) (bool, error) {
	if one.Value == nil { // it was taken back, or has disappeared
		if !fresh {
			return false, nil
		}
		return false, dropMessage(tx, one.Key)
	}
	m, err := parse[Message](one.Value)
	if err != nil {
		return false, err
	}
	uuid := uuidOf(prefixMsg, one.Key)
	if m.Outgoing && m.State == StateQueued {
		m.State, m.Reason = StateAtServer, "" // it is another device's to send
	}
	m.Token = nil
	at, err := load[place](tx, idKey(uuidOfUser(m.Sender), m.ID))
	if err != nil {
		return false, err
	}
	named := m.ID != (clearbox.MessageID{})
	known := named && at != nil
	if known && !(fresh && at.UUID == uuid && at.Order == m.Order) {
		return false, nil
	}
	key := messageKey(uuid, m.Order)
	if !known {
		taken, err := optional(tx.Get(key))
		if err != nil {
			return false, err
		}
		if taken != nil && !named {
			return false, nil // a note without an id, which is here
		}
		if taken != nil {
			if m.Order, err = nextOrder(tx); err != nil {
				return false, err
			}
			key = messageKey(uuid, m.Order)
		}
	}
	if err := save(tx, key, m); err != nil {
		return false, err
	}
	if m.Gone != 0 {
		if err := tx.Put(goneKey(m.Gone, m.Order), []byte(uuid)); err != nil { // perhaps at once
			return false, err
		}
	}
	for _, id := range []clearbox.MessageID{m.ID, m.Outer} {
		if id == (clearbox.MessageID{}) {
			continue
		}
		if err := save(tx, idKey(uuidOfUser(m.Sender), id), place{UUID: uuid, Order: m.Order}); err != nil {
			return false, err
		}
	}
	return !known, nil
}

func dropMessage(tx Tx, key string) error {
	m, err := load[Message](tx, key)
	if err != nil || m == nil {
		return err
	}
	return errors.Join(tx.Delete(key), tx.Delete(newKey(m.Order)))
}
