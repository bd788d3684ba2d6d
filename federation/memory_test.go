package federation_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// outbox is a federation.Outbox in memory that checks what it is asked.
type outbox struct {
	mu              sync.Mutex
	rows            []*row
	stream          []byte
	next            int64
	fence           int64
	faults          []string
	failed          int
	outcomes        []federation.Outcome // of the attempts that failed
	repeats         int                  // batches that were sent again
	fail            func(method string) error
	reordersAllowed bool
	base            uint64
	low             int   // rows before it are final
	batches         []int // sizes of the batches taken
}

type row struct {
	row     int64
	item    federation.Item
	pos     int64 // 0 = not dispatched
	first   int64 // of its batch
	settled int
	verdict federation.VerdictCode
	reason  clearbox.Code
	due     time.Time
	void    bool
	final   bool
}

func newOutbox(base uint64) *outbox {
	return &outbox{stream: bytes.Repeat([]byte{byte(base + 1)}, 16), next: 1, base: base << 32}
}

func (o *outbox) add(from, to clearbox.ServerName) *row {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := int64(len(o.rows) + 1)
	r := &row{row: n, item: federation.Item{
		ID: messageID(o.base + uint64(n)), Sender: clearbox.UserID{UID: knownUID, Server: from}, SenderDevice: 1,
		Recipient: clearbox.UserID{UID: knownUID, Server: to}, AcceptedAt: clearbox.Millis(time.Now().UnixMilli()),
		Envelopes: []federation.ItemEnvelope{{Device: 1, Registration: 7, Type: clearbox.ContentWhisper, Content: bytes.Repeat([]byte{byte(n)}, 200)}},
	}}
	o.rows = append(o.rows, r)
	return r
}

func (o *outbox) broken(method string) error {
	if o.fail == nil {
		return nil
	}
	return o.fail(method)
}

func (o *outbox) Lease(context.Context, clearbox.ServerName, federation.Class) (federation.Lease, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.broken("lease"); err != nil {
		return federation.Lease{}, err
	}
	o.fence++
	return federation.Lease{Stream: o.stream, Fence: o.fence, Next: o.next}, nil
}

func (o *outbox) checkLease(l federation.Lease) {
	if l.Fence != o.fence || !bytes.Equal(l.Stream, o.stream) {
		o.faults = append(o.faults, "an old lease was used")
	}
}

func (o *outbox) Take(_ context.Context, _ clearbox.ServerName, _ federation.Class, l federation.Lease, maxItems, maxBytes int) (*federation.Batch, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.checkLease(l)
	if err := o.broken("take"); err != nil {
		return nil, err
	}
	b := &federation.Batch{FirstPos: o.next}
	size := 0
	for _, r := range o.rows[o.low:] {
		if r.pos != 0 || r.final || r.void || r.due.After(time.Now()) {
			continue
		}
		size += r.item.Size()
		if len(b.Items) == maxItems || len(b.Items) > 0 && size > maxBytes {
			break
		}
		r.pos, r.first = o.next, b.FirstPos
		o.next++
		b.Items, b.Rows = append(b.Items, r.item), append(b.Rows, r.row)
	}
	if len(b.Items) == 0 {
		return nil, nil
	}
	o.batches = append(o.batches, len(b.Items))
	return b, nil
}

func (o *outbox) Pending(_ context.Context, _ clearbox.ServerName, _ federation.Class, l federation.Lease) ([]*federation.Batch, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.checkLease(l)
	if err := o.broken("pending"); err != nil {
		return nil, err
	}
	var out []*federation.Batch
	open := o.open()
	for _, r := range open {
		if len(out) == 0 || out[len(out)-1].FirstPos != r.first && r.pos == r.first || len(out) > 0 && out[len(out)-1].LastPos()+1 != r.pos {
			out = append(out, &federation.Batch{FirstPos: r.pos})
		}
		b := out[len(out)-1]
		item := r.item
		if r.void {
			item = federation.Item{Void: true}
		}
		b.Items, b.Rows = append(b.Items, item), append(b.Rows, r.row)
	}
	return out, nil
}

func (o *outbox) open() []*row {
	var open []*row
	for _, r := range o.rows[o.low:] {
		if r.pos != 0 && !r.final {
			open = append(open, r)
		} else if len(open) == 0 && r.final && r == o.rows[o.low] {
			o.low++
		}
	}
	slices.SortFunc(open, byPosition)
	return open
}

func (o *outbox) Settle(_ context.Context, _ clearbox.ServerName, _ federation.Class, l federation.Lease, b *federation.Batch, verdicts []federation.Verdict) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.checkLease(l)
	if err := o.broken("settle"); err != nil {
		return err
	}
	if len(verdicts) != len(b.Items) || len(b.Rows) != len(b.Items) {
		o.faults = append(o.faults, fmt.Sprintf("%d verdicts and %d rows for %d items", len(verdicts), len(b.Rows), len(b.Items)))
		return nil
	}
	open := o.open()
	for i, n := range b.Rows {
		r := o.rows[n-1]
		if i >= len(open) || open[i] != r || r.pos != b.FirstPos+int64(i) {
			o.faults = append(o.faults, fmt.Sprintf("row %d settled out of order", n))
		}
		r.verdict, r.reason = verdicts[i].Code, verdicts[i].Reason
		if verdicts[i].Code == federation.VerdictDeferred {
			r.pos, r.due = 0, time.Now().Add(verdicts[i].RetryAfter)
			continue
		}
		r.settled, r.final = r.settled+1, true
	}
	return nil
}

func (o *outbox) Failed(_ context.Context, _ clearbox.ServerName, _ federation.Class, _ *federation.Batch, outcome federation.Outcome) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed++
	o.outcomes = append(o.outcomes, outcome)
	return nil
}

func (o *outbox) Repeat(_ context.Context, _ clearbox.ServerName, _ federation.Class, l federation.Lease, b *federation.Batch) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.checkLease(l)
	o.repeats++
	for i, n := range b.Rows {
		if r := o.rows[n-1]; r.pos != b.FirstPos+int64(i) || r.final {
			o.faults = append(o.faults, fmt.Sprintf("row %d is sent again at another position, or after its verdict", n))
		}
	}
	return o.broken("repeat")
}

func (o *outbox) Rewind(_ context.Context, _ clearbox.ServerName, _ federation.Class, l federation.Lease, _ int64) (federation.Lease, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.checkLease(l)
	o.stream = slices.Clone(o.stream)
	o.stream[15]++
	o.next = 1
	first := int64(0)
	shift := int64(0)
	for _, r := range o.open() {
		if r.first != first {
			first, shift = r.first, o.next
		}
		r.pos, r.first = o.next, shift
		o.next++
	}
	return federation.Lease{Stream: o.stream, Fence: o.fence, Next: o.next}, nil
}

func (o *outbox) Due(context.Context, federation.Class) ([]clearbox.ServerName, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.rows { // every test has one peer
		if !r.final && !r.void && !r.due.After(time.Now()) {
			return []clearbox.ServerName{r.item.Recipient.Server}, nil
		}
	}
	return nil, nil
}

func (o *outbox) unsettled() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, r := range o.rows {
		if !r.final && !r.void {
			n++
		}
	}
	return n
}

// acceptor is a federation.Acceptor in memory.
type acceptor struct {
	mu        sync.Mutex
	streams   map[clearbox.ServerName]*inStream
	delivered []clearbox.MessageID
	verdict   func(*federation.Item) *federation.Verdict // nil or an answer other than ok
	fail      func() error                               // before anything is stored
	gaps      int
	repeats   int
	batches   int
}

type inStream struct {
	stream  []byte
	last    int64
	fence   int64
	answers map[string]*federation.Answer
}

func newAcceptor() *acceptor { return &acceptor{streams: map[clearbox.ServerName]*inStream{}} }

func (a *acceptor) Accept(_ context.Context, peer clearbox.ServerName, txn *federation.Transaction) (*federation.Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		if err := a.fail(); err != nil {
			return nil, err
		}
	}
	s := a.streams[peer]
	if s == nil {
		s = &inStream{answers: map[string]*federation.Answer{}}
		a.streams[peer] = s
	}
	if txn.Fence < s.fence {
		return nil, &federation.FencedError{Fence: s.fence}
	}
	if !bytes.Equal(s.stream, txn.Stream) {
		if txn.FirstPos != 1 {
			a.gaps++
			return nil, &federation.GapError{Expected: 1}
		}
		s.stream, s.last, s.answers = txn.Stream, 0, map[string]*federation.Answer{}
	}
	s.fence = txn.Fence
	if txn.FirstPos > s.last+1 {
		a.gaps++
		return nil, &federation.GapError{Expected: s.last + 1}
	}
	key := string(binary.BigEndian.AppendUint64(nil, uint64(txn.FirstPos))) + fmt.Sprint(len(txn.Items))
	if first, ok := s.answers[key]; ok {
		a.repeats++
		return first, nil
	}
	a.batches++
	answer := &federation.Answer{Stream: txn.Stream, FirstPos: txn.FirstPos}
	for i := range txn.Items {
		it := &txn.Items[i]
		pos := txn.FirstPos + int64(i)
		v := federation.Verdict{Code: federation.VerdictOK, DevicesVersion: 7}
		switch {
		case pos <= s.last:
			v = federation.Verdict{Code: federation.VerdictDup}
		case it.Refused != "":
			v = federation.Verdict{Code: federation.VerdictRejected, Reason: it.Refused}
		case it.Void:
		default:
			if a.verdict != nil {
				if other := a.verdict(it); other != nil {
					v = *other
				}
			}
			if v.Code == federation.VerdictOK {
				a.delivered = append(a.delivered, it.ID)
			}
		}
		answer.Verdicts = append(answer.Verdicts, v)
	}
	s.last = max(s.last, txn.LastPos())
	answer.AcceptedThrough = s.last
	s.answers[key] = answer
	return answer, nil
}

func (a *acceptor) Resume(_ context.Context, peer clearbox.ServerName, own federation.Position) (federation.Position, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.streams[peer]
	if s == nil {
		s = &inStream{answers: map[string]*federation.Answer{}}
		a.streams[peer] = s
	}
	if own.Fence < s.fence {
		return federation.Position{}, &federation.FencedError{Fence: s.fence}
	}
	s.fence = own.Fence
	return federation.Position{Class: own.Class, Stream: s.stream, Fence: s.fence, Last: s.last}, nil
}

// onFirst calls f when the next item is taken, before it is answered.
func (a *acceptor) onFirst(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verdict = func(*federation.Item) *federation.Verdict { // with mu held
		a.verdict = nil
		f()
		return nil
	}
}

func (a *acceptor) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.delivered)
}

// copy is a backup.
func (o *outbox) copy() *outbox {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := &outbox{stream: bytes.Clone(o.stream), next: o.next, fence: o.fence, base: o.base}
	for _, r := range o.rows {
		same := *r
		c.rows = append(c.rows, &same)
	}
	return c
}
