package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
)

// MaxOffline is the longest time that documents are signed for in advance.
const MaxOffline = 365 * day

// advance is a document signed in advance with the operational keys of its
// time. Its sequence is one more than that of the one before it, so whatever
// the identity signs when it is back is newer than all of them.
type advance struct {
	From     clearbox.Millis `json:"from"`
	Document []byte          `json:"document"`
	Keys     []selfKey       `json:"keys"`
}

// GoOffline signs, for life from now, the documents that Self would issue: one
// a day, each for at most 7 days, with the operational keys rotated as they
// would be. It keeps them durably, publishes the first one and forgets the
// identity. The caller removes the key from the disk after that. It returns
// when the last document ends. What stands in the documents, except keys and
// times, cannot change until SetIdentity.
func (s *Self) GoOffline(ctx context.Context, life time.Duration) (clearbox.Millis, error) {
	s.issue.Lock()
	defer s.issue.Unlock()
	blob, doc, identity := s.snapshot()
	switch {
	case identity.Key == nil:
		return 0, clearbox.Errorf(clearbox.CodeConflict, "the identity is offline already")
	case life < day || life > MaxOffline:
		return 0, clearbox.Errorf(clearbox.CodeBadRequest, "documents are signed in advance for 1 to %d days", MaxOffline/day)
	}
	now := s.opts.Now()
	end := now.Add(life)
	seq, keys, last := max(blob.Seq+1, now.Unix()), blob.Keys, doc
	var ahead []advance
	for at := now; at.Before(end); at = at.Add(reissueAfter) {
		var err error
		if keys, _, err = rotateKeys(keys, at, s.opts.Random); err != nil {
			return 0, err
		}
		expires := at.Add(MaxDocumentLife)
		if expires.After(end) {
			expires = end
		}
		if last, err = s.compose(last, seq, at, expires, keys, &identity); err != nil {
			return 0, err
		}
		ahead = append(ahead, advance{From: last.Issued, Document: last.raw, Keys: keys})
		seq++
	}
	content, err := s.words(nil)
	if err != nil {
		return 0, err
	}
	first, err := ParseDocument(ahead[0].Document)
	if err != nil {
		return 0, err
	}
	next := selfBlob{
		Seq: first.Seq, Content: content, Document: first.raw, Keys: ahead[0].Keys, Issued: blob.Issued,
		Ahead: ahead[1:], Until: last.Expires,
	}
	if err := s.save(ctx, next, first); err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.identity = Identity{}
	s.mu.Unlock()
	return last.Expires, nil
}

// publish makes the newest document signed in advance whose time has come the
// current one. It needs issue.
func (s *Self) publish(ctx context.Context, blob selfBlob) error {
	if content, err := s.words(nil); err != nil {
		return err
	} else if stale := !bytes.Equal(content, blob.Content); stale != s.warned {
		if s.warned = stale; stale {
			s.opts.Log.Warn("the server document cannot say what the configuration says while the identity is offline", "next", "clearbox identity import")
		}
	}
	now := clearbox.Millis(s.opts.Now().UnixMilli())
	due := -1
	for i := range blob.Ahead {
		if blob.Ahead[i].From <= now {
			due = i
		}
	}
	if due < 0 {
		if blob.Until <= now {
			s.opts.Log.Error("the documents signed in advance have run out: nothing is exchanged with peers", "next", "clearbox identity import")
		}
		return nil
	}
	a := &blob.Ahead[due]
	doc, err := ParseDocument(a.Document)
	if err != nil {
		return err
	}
	blob.Seq, blob.Document, blob.Keys, blob.Ahead = doc.Seq, a.Document, a.Keys, blob.Ahead[due+1:]
	return s.save(ctx, blob, doc)
}

// SetIdentity takes an identity over: one that comes back, or a new one that
// replaces the one at hand and brings it along as Previous. Another one is
// refused with CodeIdentityChanged. A new document is issued at once, newer
// than all that were signed in advance; if that fails it is tried again hourly.
func (s *Self) SetIdentity(ctx context.Context, id Identity) error {
	s.issue.Lock()
	defer s.issue.Unlock()
	blob, doc, _ := s.snapshot()
	known := doc.IdentityKey()
	signs := slices.ContainsFunc(id.signers(s.opts.Now()), func(k ed25519.PrivateKey) bool {
		return known.Equal(k.Public())
	})
	if !signs {
		return clearbox.Errorf(clearbox.CodeIdentityChanged, "this is another identity than the one in the server's document")
	}
	s.mu.Lock()
	s.identity = id
	s.mu.Unlock()
	s.warned = false
	return s.renew(ctx, blob, doc, &id, true)
}

// RevokeKey drops an operational key at once, for when it may be stolen. A
// successor that peers do not know yet takes its place; they fetch the new
// document when they meet it. What a revoked sender-cert key certified is not
// believed any more, also of mail that waits.
func (s *Self) RevokeKey(ctx context.Context, kid string) error {
	s.issue.Lock()
	defer s.issue.Unlock()
	blob, doc, identity := s.snapshot()
	if identity.Key == nil {
		return clearbox.Errorf(clearbox.CodeConflict, "the identity is offline, and only it can revoke a key: clearbox identity import")
	}
	now := s.opts.Now()
	var kept []selfKey
	var rule keyRule
	found, usable := false, false
	for i := range blob.Keys {
		public, err := blob.Keys[i].public()
		if err != nil {
			return err
		}
		if public.KID == kid {
			rule, found = ruleOf(public.Purpose)
			continue
		}
		kept = append(kept, blob.Keys[i])
	}
	if !found {
		return clearbox.Errorf(clearbox.CodeNotFound, "there is no operational key with this id; see `clearbox identity show`")
	}
	ms := clearbox.Millis(now.UnixMilli())
	for i := range kept {
		usable = usable || kept[i].purpose() == rule.purpose && kept[i].NotBefore <= ms && ms < kept[i].Expires
	}
	if !usable {
		k, err := drawKey(rule, now, s.opts.Random)
		if err != nil {
			return err
		}
		kept = append(kept, k)
	}
	blob.Keys = kept
	return s.renew(ctx, blob, doc, &identity, true)
}

// SelfReport is what an operator may see of Self.
type SelfReport struct {
	Document      *Document
	InUse         map[string]bool   // ids of the keys that sign now
	Offline       bool              // the identity key is not here
	OfflineUntil  clearbox.Millis   // when the documents signed in advance end; 0 when it is here
	Ahead         int               // documents signed in advance that are still to come
	Stale         bool              // the configuration says something that the documents cannot say
	Previous      ed25519.PublicKey // the identity that signs along after a rotation, or nil
	PreviousUntil clearbox.Millis
}

// Report tells how Self stands.
func (s *Self) Report() SelfReport {
	content, _ := s.words(nil) // what could not be encoded could not have been issued
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := SelfReport{
		Document: s.doc, InUse: map[string]bool{}, Offline: s.identity.Key == nil, OfflineUntil: s.blob.Until, Ahead: len(s.blob.Ahead),
	}
	r.Stale = r.Offline && !bytes.Equal(content, s.blob.Content)
	if s.identity.Previous != nil && len(s.identity.signers(s.opts.Now())) > 1 {
		r.Previous, r.PreviousUntil = s.identity.Previous.Public().(ed25519.PublicKey), s.identity.PreviousUntil
	}
	for _, rule := range keyRules() {
		if i := s.current(rule.purpose); i >= 0 {
			if k, err := s.blob.Keys[i].public(); err == nil {
				r.InUse[k.KID] = true
			}
		}
	}
	return r
}
