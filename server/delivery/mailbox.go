package delivery

import (
	"context"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// A Mailbox reads one device's mail for one connection. Mail is read from the
// durable queue; what was committed while the connection was open is also kept
// in a short tail, which is used only where it continues the reader's position
// without a hole.
type Mailbox struct {
	r        *Router
	deviceNo int64
	device   clearbox.DeviceID
	key      storage.KeyID
	wake     chan struct{} // capacity 1: "there is more"; wakes are coalesced

	mu      sync.Mutex // guards what follows
	onWake  func()     // called instead of filling wake; never under mu
	tail    []Delivery // committed and not yet read, in order of sequence
	bytes   int        // of the tail's contents
	posts   uint64     // entries posted so far
	read    int64      // highest sequence handed out
	empty   bool       // the queue was found empty behind read, and nothing came since
	scanned time.Time  // when that was
}

const (
	tailItems = 256     // entries that a reader may lag behind before it goes back to the queue
	tailBytes = 1 << 20 // and bytes
	rescan    = 30 * time.Second
)

type mailboxes struct {
	mu   sync.RWMutex // guards open
	open map[int64][]*Mailbox
}

// Mailbox opens the mail of the principal's device; the principal must have
// one. Several connections of a device may be open: each gets everything that
// is not acknowledged. Close it in the end.
func (r *Router) Mailbox(p auth.Principal) *Mailbox {
	m := &Mailbox{r: r, deviceNo: p.DeviceNo, device: p.Device, key: p.Key, wake: make(chan struct{}, 1)}
	b := &r.mailboxes
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[m.deviceNo] = append(b.open[m.deviceNo], m)
	return m
}

// Close ends the reading; it may be called again.
func (m *Mailbox) Close() {
	b := &m.r.mailboxes
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.open[m.deviceNo]
	for i, other := range list {
		if other == m {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(b.open, m.deviceNo)
	} else {
		b.open[m.deviceNo] = list
	}
}

// Wake receives when there may be something to read, unless OnWake was used.
func (m *Mailbox) Wake() <-chan struct{} { return m.wake }

// OnWake has fn called whenever there may be something to read, so that an
// idle connection needs no goroutine. fn must not block and may be called from
// several goroutines at once.
func (m *Mailbox) OnWake(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onWake = fn
}

// post tells the open readers of a device what was committed for it. Calls for
// one device come in order of sequence, but for notices, which only wake.
func (b *mailboxes) post(deviceNo int64, d Delivery) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, m := range b.open[deviceNo] {
		m.post(d)
	}
}

// reads tells whether anybody reads a device's mail now.
func (b *mailboxes) reads(deviceNo int64) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.open[deviceNo]) > 0
}

func (m *Mailbox) post(d Delivery) {
	m.mu.Lock()
	m.empty = false
	m.posts++
	size := 0
	if d.Envelope != nil {
		size = len(d.Envelope.Content)
	}
	switch {
	case len(m.tail) >= tailItems || m.bytes+size > tailBytes:
		m.dropTail() // the reader is behind: the queue has it all
	case len(m.tail) > 0 && d.Seq != m.tail[len(m.tail)-1].Seq+1:
		m.dropTail()
	default:
		m.tail = append(m.tail, d)
		m.bytes += size
	}
	wake := m.onWake
	m.mu.Unlock()
	if wake != nil {
		wake()
		return
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Mailbox) dropTail() {
	clear(m.tail)
	m.tail, m.bytes = m.tail[:0], 0
}

// Read gives up to limit entries behind the sequence number, in order, and
// stops before maxBytes of content unless the first alone is larger. It gives
// nil when there is nothing. What it gives must not be changed.
func (m *Mailbox) Read(ctx context.Context, after int64, limit, maxBytes int) ([]Delivery, error) {
	out, posts, known := m.fromTail(after, limit, maxBytes)
	if known {
		return out, nil
	}
	started := m.r.opts.Now()
	for len(out) == 0 {
		mails, bodies, err := m.fromQueue(ctx, after, limit, maxBytes)
		if err != nil {
			return nil, err
		}
		if len(mails) == 0 {
			break
		}
		if out, err = m.opened(mails, bodies); err != nil {
			return nil, err
		}
		after = mails[len(mails)-1].Seq // behind a stretch that will never open
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(out); n > 0 {
		m.read = max(m.read, out[n-1].Seq)
	} else if m.posts == posts {
		m.empty, m.scanned = true, started
	}
	return out, nil
}

func (m *Mailbox) fromQueue(ctx context.Context, after int64, limit, maxBytes int) (mails []storage.Mail, bodies map[int64][]byte, err error) {
	err = m.r.store.View(ctx, func(tx *storage.Tx) (err error) {
		if mails, err = tx.MailAfter(m.deviceNo, after, limit, maxBytes); err != nil {
			return err
		}
		bodies, err = m.r.bodiesOf(tx, mails)
		return err
	})
	return mails, bodies, err
}

// opened gives those of the mails that can be read. The device acknowledges
// past a damaged one with the next one. A fault that may pass is an error:
// to skip mail for it would be to lose it.
func (m *Mailbox) opened(mails []storage.Mail, bodies map[int64][]byte) ([]Delivery, error) {
	out := make([]Delivery, 0, len(mails))
	for i := range mails {
		var d Delivery
		open := func() (err error) {
			if d, err = m.r.openMail(m.key, m.device, &mails[i]); err == nil && d.pointer != nil {
				err = d.complete(bodies[mails[i].Body])
			}
			return err
		}
		err := open()
		switch {
		case err == nil:
		case !m.r.damaged(m.key, err, open):
			if len(out) > 0 {
				return out, nil // the next look tells
			}
			return nil, err
		default:
			m.r.opts.Log.Error("a stored mailbox entry does not open", "error", err)
			continue
		}
		if d.Envelope != nil {
			d.Envelope.Device = m.device
		}
		out = append(out, d)
	}
	return out, nil
}

// fromTail answers without the queue when the tail continues after, or when
// the queue is known to be empty.
func (m *Mailbox) fromTail(after int64, limit, maxBytes int) (out []Delivery, posts uint64, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	skip := 0
	for skip < len(m.tail) && m.tail[skip].Seq <= after {
		skip++
	}
	if len(m.tail) == skip {
		m.dropTail()
		// A wake may be lost with a crash of our own making; look again now and then.
		return nil, m.posts, m.empty && m.read <= after && m.r.opts.Now().Sub(m.scanned) < rescan
	}
	if m.tail[skip].Seq != after+1 {
		return nil, m.posts, false
	}
	n, bytes := skip, 0
	for n < len(m.tail) && n-skip < limit {
		if e := m.tail[n].Envelope; e != nil {
			if bytes += len(e.Content); bytes > maxBytes && n > skip {
				break
			}
		}
		n++
	}
	out = append(out, m.tail[skip:n]...)
	rest := copy(m.tail, m.tail[n:])
	clear(m.tail[rest:])
	m.tail = m.tail[:rest]
	m.bytes = 0
	for i := range m.tail {
		if e := m.tail[i].Envelope; e != nil {
			m.bytes += len(e.Content)
		}
	}
	m.read = max(m.read, out[len(out)-1].Seq)
	return out, m.posts, true
}

// Acked gives the sequence up to which the device has acknowledged.
func (m *Mailbox) Acked(ctx context.Context) (int64, error) {
	var d storage.DeviceRecord
	err := m.r.store.View(ctx, func(tx *storage.Tx) (err error) {
		d, err = tx.DeviceByNo(m.deviceNo)
		return err
	})
	return d.AckedSeq, err
}

// Ack records that the device has stored everything up to the sequence number;
// the mail is deleted. It does not wait: a lost acknowledgement costs a repeat.
// An acknowledgement of something that was never handed out is refused.
func (m *Mailbox) Ack(ctx context.Context, upTo int64) error {
	m.mu.Lock()
	read := m.read
	m.mu.Unlock()
	if upTo > read {
		// Another connection of this device may have handed it out, or an
		// earlier one: the queue's own numbers bound it.
		var d storage.DeviceRecord
		err := m.r.store.View(ctx, func(tx *storage.Tx) (err error) {
			d, err = tx.DeviceByNo(m.deviceNo)
			return err
		})
		if err != nil {
			return err
		}
		if upTo >= d.NextSeq || upTo < 0 {
			return field(clearbox.CodeBadRequest, "/seq", "nothing with this number was ever delivered")
		}
	}
	return m.r.writes.put(&ack{r: m.r, deviceNo: m.deviceNo, upTo: upTo})
}

// ack deletes acknowledged mail.
type ack struct {
	r        *Router
	deviceNo int64
	upTo     int64
}

// apply writes the highest acknowledgement of the device in this batch when it
// meets the first one; the others are covered by it.
func (a *ack) apply(tx *storage.Tx, b *batch) error {
	upTo, due := b.acked[a.deviceNo]
	if !due {
		return nil
	}
	delete(b.acked, a.deviceNo)
	_, err := tx.AckMail(a.deviceNo, upTo)
	return err
}

func (a *ack) done(err error) {
	if err != nil && clearbox.CodeOf(err) != clearbox.CodeNotFound {
		a.r.opts.Log.Warn("an acknowledgement was not stored; the mail will be delivered again", "error", err)
	}
}
