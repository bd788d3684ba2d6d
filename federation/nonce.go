package federation

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

// DefaultMaxNonces is how many live nonces are kept for one peer: 240 s of
// 2,000 requests a second.
const DefaultMaxNonces = 480_000

const nonceSlot = 30 * time.Second // granularity of forgetting

// Nonces remembers the nonces of requests that were accepted, per origin, until
// they could not be accepted again. It fails closed: with no room left it
// refuses rather than forget a live one. It is safe for concurrent use.
type Nonces struct {
	max int

	mu    sync.Mutex // guards peers and everything below it
	peers map[clearbox.ServerName]*nonceSlots
}

// nonceSlots groups nonces by the time of their end, so that forgetting is
// dropping whole maps.
type nonceSlots struct {
	count int
	slots map[int64]map[[16]byte]struct{}
}

// NewNonces keeps at most maxPerPeer live nonces of each origin; 0 means
// DefaultMaxNonces.
func NewNonces(maxPerPeer int) *Nonces {
	if maxPerPeer <= 0 {
		maxPerPeer = DefaultMaxNonces
	}
	return &Nonces{max: maxPerPeer, peers: map[clearbox.ServerName]*nonceSlots{}}
}

// Use takes the nonce for good. It returns a *ProfileError with FaultReplay
// when it was taken before and FaultNonceFull when there is no room. until is
// when the request stops being acceptable by the clock alone.
func (n *Nonces) Use(origin clearbox.ServerName, keyid string, nonce []byte, until, now time.Time) error {
	key := nonceKey(keyid, nonce)
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[origin]
	if p == nil {
		n.dropIdle(now) // strangers at the peering door come and go
		p = &nonceSlots{slots: map[int64]map[[16]byte]struct{}{}}
		n.peers[origin] = p
	}
	p.forget(now)
	if p.has(key) {
		return fault(FaultReplay)
	}
	if p.count >= n.max {
		return fault(FaultNonceFull)
	}
	slot := until.UnixNano()/int64(nonceSlot) + 1 // its end is at or after until
	if p.slots[slot] == nil {
		p.slots[slot] = map[[16]byte]struct{}{}
	}
	p.slots[slot][key] = struct{}{}
	p.count++
	return nil
}

// Used tells whether the nonce was taken. It takes nothing, so that what is
// refused afterwards needs no room.
func (n *Nonces) Used(origin clearbox.ServerName, keyid string, nonce []byte) bool {
	key := nonceKey(keyid, nonce)
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[origin]
	return p != nil && p.has(key)
}

func nonceKey(keyid string, nonce []byte) (key [16]byte) {
	h := sha256.New()
	h.Write([]byte(keyid))
	h.Write([]byte{0})
	h.Write(nonce)
	copy(key[:], h.Sum(nil))
	return key
}

func (p *nonceSlots) has(key [16]byte) bool {
	for _, s := range p.slots {
		if _, used := s[key]; used {
			return true
		}
	}
	return false
}

func (n *Nonces) dropIdle(now time.Time) {
	for origin, p := range n.peers {
		if p.forget(now); p.count == 0 {
			delete(n.peers, origin)
		}
	}
}

func (p *nonceSlots) forget(now time.Time) {
	for slot, s := range p.slots {
		if slot*int64(nonceSlot) < now.UnixNano() {
			p.count -= len(s)
			delete(p.slots, slot)
		}
	}
}
