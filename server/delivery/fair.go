package delivery

import (
	"sync"

	"github.com/clearbox-im/clearbox/storage"
)

// turns remembers for each queue whose turn is next among its senders. Losing
// it costs nobody more than one round.
type turns struct {
	mu   sync.Mutex // guards next
	next map[storage.PeerClass]int64
}

func (t *turns) after(q storage.PeerClass) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next[q]
}

func (t *turns) set(q storage.PeerClass, sender int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == nil {
		t.next = map[storage.PeerClass]int64{}
	}
	t.next[q] = sender
}

// shared makes room in a batch that is full for senders who have nothing in it:
// up to half of it, so that what somebody wrote after another one's hundred
// thousand messages waits for a batch and not for all of them. Each sender's
// messages stay in order.
func (r *Router) shared(tx *storage.Tx, q storage.PeerClass, batch []storage.OutboxItem, maxItems, maxBytes int) ([]storage.OutboxItem, error) {
	numbers, last, err := tx.OutboxOthers(q.Peer, q.Class, batch, r.turns.after(q), max(1, maxItems/2))
	if err != nil || len(numbers) == 0 {
		return batch, err
	}
	r.turns.set(q, last)
	others, err := tx.OutboxRows(numbers)
	if err != nil {
		return nil, err
	}
	room := 0
	for i := range others {
		if room += taken(&others[i]); room > maxBytes/2 && i > 0 {
			room -= taken(&others[i])
			others = others[:i]
			break
		}
	}
	size := room
	of := map[int64]int{}
	for i := range batch {
		size += taken(&batch[i])
		of[batch[i].SenderNo]++
	}
	// What goes back is the end of those who have more than one.
	keep := make([]bool, len(batch))
	left := len(batch)
	for i := len(batch) - 1; i >= 0; i-- {
		if s := batch[i].SenderNo; (left+len(others) > maxItems || size > maxBytes) && of[s] > 1 {
			of[s]--
			left--
			size -= taken(&batch[i])
			continue
		}
		keep[i] = true
	}
	out := make([]storage.OutboxItem, 0, left+len(others))
	for i := range batch {
		if keep[i] {
			out = append(out, batch[i])
		}
	}
	for i := range others {
		if len(out) > 0 && (len(out) >= maxItems || size > maxBytes) {
			break // nobody has more than one
		}
		out = append(out, others[i])
	}
	return out, nil
}

// taken is what an item takes of a batch.
func taken(it *storage.OutboxItem) int { return len(it.Sealed.Payload) + rowOverhead }
