package delivery

import (
	"context"
	"crypto/subtle"
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
	byUID map[clearbox.UID]*storage.Reach
	round uint64 // of changes; what was read before one is not remembered
}

func (rs *reaches) get(uid clearbox.UID) (r *storage.Reach, round uint64) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.byUID[uid], rs.round
}

func (rs *reaches) keep(uid clearbox.UID, r *storage.Reach, round uint64) {
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
func (r *Router) reach(ctx context.Context, uid clearbox.UID) (*storage.Reach, error) {
	known, round := r.reaches.get(uid)
	if known != nil {
		return known, nil
	}
	var got storage.Reach
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		got, err = tx.Reach(uid)
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
	r.reaches.keep(uid, &got, round)
	return &got, nil
}

// decoy is what is opened in place of nobody's token.
func (r *Router) decoy() []byte {
	r.decoyOnce.Do(func() {
		r.decoySealed, _ = r.keys.Seal(storage.ServerKey, storage.PurposeContacts, nil, make([]byte, len(clearbox.DeliveryToken{})))
	})
	return r.decoySealed
}

// admits tells whether a peer that shows the token may reach the account: it is
// the account's delivery token, the one before within its day, or the id of an
// open knock of the account at that very peer. An account of nobody compares as
// much as any other, and what does not fit takes the same time whatever it is.
func (r *Router) admits(re *storage.Reach, peer clearbox.ServerName, token []byte, at clearbox.Millis) bool {
	var zero clearbox.DeliveryToken
	if len(token) != len(zero) || subtle.ConstantTimeCompare(token, zero[:]) == 1 {
		return false
	}
	fits := subtle.ConstantTimeCompare(token, re.Token[:])
	fits |= subtle.ConstantTimeCompare(token, re.Previous[:]) & flag(re.Until > at)
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
// account's one-time keys: by its delivery token, or by the id of a knock of the
// account at that very peer. Nobody may reach nobody.
func (r *Router) MayReach(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID, token []byte) (bool, error) {
	re, err := r.reach(ctx, uid)
	if err != nil {
		return false, err
	}
	return r.admits(re, peer, token, r.now()), nil
}

// TokenOf gives an account's delivery token, for people who let everybody write
// to them; clearbox.CodeConsentRequired: there is none, or no such account.
func (r *Router) TokenOf(ctx context.Context, uid clearbox.UID) (clearbox.DeliveryToken, error) {
	re, err := r.reach(ctx, uid)
	if err != nil {
		return clearbox.DeliveryToken{}, err
	}
	if re.Token == (clearbox.DeliveryToken{}) {
		return clearbox.DeliveryToken{}, errConsent()
	}
	return re.Token, nil
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
