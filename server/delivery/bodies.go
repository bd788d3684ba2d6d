package delivery

import "sync"

// bodies keeps the bodies that were read last, as they are stored: what many
// devices that were away come for is read once. Numbers are never given again.
type bodies struct {
	mu    sync.Mutex // guards what follows
	byNo  map[int64][]byte
	bytes int
}

const maxBodies = 4 << 20 // bytes; reaching it forgets all

func (b *bodies) get(no int64) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.byNo[no]
	return body, ok
}

func (b *bodies) keep(no int64, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.byNo[no]; ok || body == nil {
		return
	}
	if b.bytes+len(body) > maxBodies {
		clear(b.byNo)
		b.bytes = 0
	}
	b.byNo[no] = body
	b.bytes += len(body)
}
