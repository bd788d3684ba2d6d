package delivery

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// previousToken is how long a replaced delivery token lets messages in, so that
// contacts can learn the new one.
const previousToken = 24 * time.Hour

// reaches remembers by what people here are reached from other servers, and who
// is nobody, since a peer's message must cost the same for both.
type reaches struct {
	mu    sync.RWMutex // guards what follows
	byUID map[clearbox.UID]*reach
	round uint64 // of changes; what was read before one is not remembered
}

// reach is by what an account is reached. open is the token of strangers who
// found it by name: zero for who does not want that, and another one after each
// consent, so that none outlives its consent.
type reach struct {
	storage.Reach
	open clearbox.DeliveryToken
}

func (rs *reaches) get(uid clearbox.UID) (r *reach, round uint64) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.byUID[uid], rs.round
}

func (rs *reaches) keep(uid clearbox.UID, r *reach, round uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.round != round {
		return
	}
	if len(rs.byUID) >= maxPeople {
		clear(rs.byUID)
	}
	rs.byUID[uid] = r
}

// forget is called after the commit of a change and before it is answered: from
// then on the change holds.
func (rs *reaches) forget(uid clearbox.UID) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.round++
	delete(rs.byUID, uid)
}

// reach gives by what the account is reached. Nobody is reached by nothing that
// anybody could know, and finding that out takes the same work.
func (r *Router) reach(ctx context.Context, uid clearbox.UID) (*reach, error) {
	known, round := r.reaches.get(uid)
	if known != nil {
		return known, nil
	}
	var got reach
	var agreed clearbox.Millis
	err := r.store.View(ctx, func(tx *storage.Tx) error {
		found, err := tx.Reach(uid)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		got.Reach = found
		var failed error
		if agreed, failed = r.opts.Open(tx, found.UserNo); failed != nil { // of nobody too: the same work
			return failed
		}
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		if _, err := r.keys.Open(storage.ServerKey, storage.PurposeContacts, nil, r.decoy()); err != nil {
			return nil, err
		}
	}
	open := r.openToken(got.UserNo, agreed)
	if agreed != 0 {
		got.open = open
	}
	r.reaches.keep(uid, &got, round)
	return &got, nil
}

// openToken is the token of strangers for somebody who agreed to them then.
func (r *Router) openToken(userNo int64, agreed clearbox.Millis) (t clearbox.DeliveryToken) {
	b := binary.BigEndian.AppendUint64(nil, uint64(userNo))
	copy(t[:], r.keys.Index("delivery.open", binary.BigEndian.AppendUint64(b, uint64(agreed))))
	return t
}

// Consented makes a decision about strangers hold that was stored before.
func (r *Router) Consented(uid clearbox.UID) { r.reaches.forget(uid) }

// decoy is what is opened in place of nobody's token.
func (r *Router) decoy() []byte {
	r.decoyOnce.Do(func() {
		r.decoySealed, _ = r.keys.Seal(storage.ServerKey, storage.PurposeContacts, nil, make([]byte, len(clearbox.DeliveryToken{})))
	})
	return r.decoySealed
}

// admits tells whether a peer that shows the token may reach the account: it is
// the account's delivery token, the one before within its day, that of strangers
// where they may write, or the id of an open knock of the account at that very peer. An account of nobody compares as
// much as any other, and what does not fit takes the same time whatever it is.
func (r *Router) admits(re *reach, peer clearbox.ServerName, token []byte, at clearbox.Millis) bool {
	var zero clearbox.DeliveryToken
	if len(token) != len(zero) || subtle.ConstantTimeCompare(token, zero[:]) == 1 {
		return false
	}
	fits := subtle.ConstantTimeCompare(token, re.Token[:])
	fits |= subtle.ConstantTimeCompare(token, re.Previous[:]) & flag(re.Until > at)
	fits |= subtle.ConstantTimeCompare(token, re.open[:])
	if fits == 1 {
		return true
	}
	id := storage.KnockIndex(r.keys.Index, token)
	for i := range maxKnocks {
		var k storage.OpenKnock
		if i < len(re.Knocks) {
			k = re.Knocks[i]
		}
		fits |= subtle.ConstantTimeCompare(id[:], k.ID[:]) & flag(k.Peer == peer) & flag(k.Expires > at)
	}
	return fits == 1
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// MayReach tells whether somebody at the peer who shows the token may have the
// account's one-time keys: by its delivery token, by the id of a knock of the
// account at that very peer, or by the permit of a group in which the account is
// and the peer has somebody. Nobody may reach nobody.
func (r *Router) MayReach(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID, token []byte) (bool, error) {
	if g, ok := clearbox.ParsePermit(token); ok {
		return r.shareGroup(ctx, peer, clearbox.UserID{UID: uid, Server: r.server}, g)
	}
	re, err := r.reach(ctx, uid)
	if err != nil {
		return false, err
	}
	return r.admits(re, peer, token, r.now()), nil
}

// TokenOf gives the token that lets strangers write to somebody who wants that,
// for as long as they do; the account's own is for those alone whom it was given
// to. clearbox.CodeConsentRequired: they do not, their devices have not made a
// token yet, or there is no such account.
func (r *Router) TokenOf(ctx context.Context, uid clearbox.UID) (clearbox.DeliveryToken, error) {
	re, err := r.reach(ctx, uid)
	if err != nil {
		return clearbox.DeliveryToken{}, err
	}
	if re.Token == (clearbox.DeliveryToken{}) || re.open == (clearbox.DeliveryToken{}) {
		return clearbox.DeliveryToken{}, errConsent()
	}
	return re.open, nil
}

func errConsent() error {
	return clearbox.Errorf(clearbox.CodeConsentRequired, "this person has to accept you first")
}

// SetToken replaces the person's delivery token, durably and at once. The one
// before stays valid for 24 hours. The same again changes nothing.
func (r *Router) SetToken(ctx context.Context, p auth.Principal, t clearbox.DeliveryToken) error {
	if err := contactDevice(p); err != nil {
		return err
	}
	if t == (clearbox.DeliveryToken{}) {
		return field(clearbox.CodeBadRequest, "/token", "a delivery token has 16 random bytes")
	}
	err := r.store.Update(ctx, func(tx *storage.Tx) error { return tx.SetToken(p.UserNo, t, after(tx.Now(), previousToken)) })
	r.reaches.forget(p.User.UID) // also after an error, which may hide a commit
	return err
}

// maxBlocks is how many people somebody may block.
const maxBlocks = 1000

// Blocks gives whom the person has blocked: their knocks do not arrive.
func (r *Router) Blocks(ctx context.Context, p auth.Principal) ([]clearbox.UserID, error) {
	var out []clearbox.UserID
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		out, err = tx.Blocks(p.UserNo)
		return err
	})
	return out, err
}

// SetBlocks replaces whom the person has blocked. Open knocks of those that are
// new among them are closed.
func (r *Router) SetBlocks(ctx context.Context, p auth.Principal, users []clearbox.UserID) error {
	if err := contactDevice(p); err != nil {
		return err
	}
	if len(users) > maxBlocks {
		return field(clearbox.CodeTooLarge, "/users", "at most 1000 people can be blocked")
	}
	for _, u := range users {
		if u.Server == r.server {
			return field(clearbox.CodeBadRequest, "/users", "people of this server do not knock")
		}
	}
	return r.store.Update(ctx, func(tx *storage.Tx) error {
		if err := tx.Unblock(p.UserNo); err != nil {
			return err
		}
		for _, u := range users {
			if err := tx.Block(p.UserNo, u); err != nil {
				return err
			}
		}
		return nil
	})
}

func contactDevice(p auth.Principal) error {
	if p.HasDevice() {
		return nil
	}
	return clearbox.Errorf(clearbox.CodeForbidden, "log in with a device for this")
}
