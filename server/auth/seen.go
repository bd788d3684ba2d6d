package auth

import (
	"sync"
	"time"
)

// maxVerified bounds the memory of verified tokens, about 400 bytes each.
const maxVerified = 16_384

// verifiedTokens remembers access tokens that were verified, by hash, until they
// expire, so that a request does not pay for the signature and the database
// again. Revocation takes its sessions out at once.
type verifiedTokens struct {
	mu         sync.Mutex // guards all below
	generation uint64     // counts revocations
	byHash     map[[32]byte]verifiedToken
	bySession  map[string][][32]byte
}

type verifiedToken struct {
	who     Principal
	expires time.Time
}

func newVerifiedTokens() *verifiedTokens {
	return &verifiedTokens{byHash: make(map[[32]byte]verifiedToken), bySession: make(map[string][][32]byte)}
}

// get finds a token that has not expired. The generation is what put wants.
func (v *verifiedTokens) get(now time.Time, hash [32]byte) (who Principal, generation uint64, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t, ok := v.byHash[hash]
	if ok && !now.Before(t.expires) {
		v.drop(hash, t)
		ok = false
	}
	return t.who, v.generation, ok
}

// put remembers a token unless something was revoked since generation: what the
// caller read from the database may then be older than the revocation.
func (v *verifiedTokens) put(generation uint64, hash [32]byte, who Principal, expires time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.generation != generation {
		return
	}
	if len(v.byHash) >= maxVerified {
		v.makeRoom()
	}
	if _, ok := v.byHash[hash]; !ok {
		v.bySession[who.Session] = append(v.bySession[who.Session], hash)
	}
	v.byHash[hash] = verifiedToken{who, expires}
}

// makeRoom forgets an eighth; map order makes the choice. A forgotten token
// costs one verification.
func (v *verifiedTokens) makeRoom() {
	n := maxVerified / 8
	for hash, t := range v.byHash {
		if n--; n < 0 {
			return
		}
		v.drop(hash, t)
	}
}

func (v *verifiedTokens) drop(hash [32]byte, t verifiedToken) {
	delete(v.byHash, hash)
	rest := v.bySession[t.who.Session]
	for i := range rest {
		if rest[i] == hash {
			rest = append(rest[:i], rest[i+1:]...)
			break
		}
	}
	if len(rest) == 0 {
		delete(v.bySession, t.who.Session)
		return
	}
	v.bySession[t.who.Session] = rest
}

// revoke forgets the tokens of the sessions, or of all when everyone is set.
func (v *verifiedTokens) revoke(sessions map[string]bool, everyone bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.generation++
	if everyone {
		clear(v.byHash)
		clear(v.bySession)
		return
	}
	for s := range sessions {
		for _, hash := range v.bySession[s] {
			delete(v.byHash, hash)
		}
		delete(v.bySession, s)
	}
}

// proofs remembers the login proofs of the last minutes, so that each counts once.
type proofs struct {
	mu   sync.Mutex // guards used
	used map[[32]byte]time.Time
}

// maxProofs bounds their memory. Only valid proofs with the right password are
// kept, so it takes that many real devices to fill it.
const maxProofs = 100_000

// once is false when the proof was seen before or the memory is full of
// unexpired ones. The proof is forgotten at until.
func (p *proofs) once(now time.Time, proof [32]byte, until time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.used[proof]; ok && now.Before(t) {
		return false
	}
	if len(p.used) >= maxProofs {
		for k, t := range p.used {
			if !now.Before(t) {
				delete(p.used, k)
			}
		}
		if len(p.used) >= maxProofs {
			return false
		}
	}
	p.used[proof] = until
	return true
}
