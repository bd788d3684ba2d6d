package federation

import "time"

// pace is how much of one queue is under way at a time: additive increase,
// multiplicative decrease (federation.md, 9). A link that does not carry it, or a
// peer that answers late or asks to wait, gets less, down to one small
// transaction, and more again step by step while answers come quickly. So the
// sender stays below a limit that it has met once.
type pace struct {
	most   int // transactions under way at one time, at best
	window int // now
	bytes  int // of one transaction, by Item.Size
}

const (
	paceBytes = MaxTransaction - 1024
	paceLeast = 16 << 10 // a single item that is larger goes alone
	paceStep  = 64 << 10 // more after each quick answer
	// A transaction that takes longer than the receiver parks the next one
	// (parkFor) had better not be overtaken.
	paceQuick = parkFor
)

func newPace(window int) pace { return pace{most: window, window: window, bytes: paceBytes} }

// slow follows a transaction that did not arrive in its time.
func (p *pace) slow() { p.window, p.bytes = 1, max(paceLeast, p.bytes/2) }

// overtaken follows one that arrived too long before its predecessor.
func (p *pace) overtaken() { p.window = 1 }

// limited follows a peer's wish to wait. One at a time, since what comes before
// its predecessor uses the quota up for nothing.
func (p *pace) limited() { p.slow() }

// landed follows an answer. One that lags halves how many are under way.
func (p *pace) landed(took time.Duration) {
	if took > paceQuick {
		p.window = max(1, p.window/2)
		return
	}
	p.window, p.bytes = min(p.most, p.window+1), min(paceBytes, p.bytes+paceStep)
}

// slowest is the rate below which a link is no use: a body may take its time
// at that rate beside the fixed budget, at both ends.
const slowest = 16 << 10 // bytes a second

func bodyTime(bytes int) time.Duration { return time.Duration(bytes) * time.Second / slowest }

// cut gives the front of b that fits and what is left, nil when all of it does.
// One item always fits.
func (b *Batch) cut(bytes int) (front, rest *Batch) {
	size := 0
	for i := range b.Items {
		if size += b.Items[i].Size(); size > bytes && i > 0 {
			return b.part(0, i), b.part(i, len(b.Items))
		}
	}
	return b, nil
}

func (b *Batch) size() int {
	n := 0
	for i := range b.Items {
		n += b.Items[i].Size()
	}
	return n
}

// part is a stretch of the batch.
func (b *Batch) part(from, to int) *Batch {
	p := &Batch{FirstPos: b.FirstPos + int64(from), Items: b.Items[from:to]}
	if len(b.Rows) == len(b.Items) {
		p.Rows = b.Rows[from:to]
	}
	return p
}
