package groups

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/storage"
)

// futureAllowed is how far ahead of our clock an operation may be dated where it
// is handed in.
const futureAllowed = 5 * time.Minute

// examination is what the chain alone cannot tell of an operation: who the people
// in it are.
type examination struct {
	s        *Service
	cur      *snapshot
	op       *chain.Op
	next     *chain.State
	openings [][]byte
	// strict is where the operation is handed in, at the actor's server and at
	// the hub: nothing is taken that cannot be checked. A follower takes the word
	// of the chain where another server does not answer; members check again.
	strict bool
}

// people checks everything and gives whom the operation adds.
func (e *examination) people(ctx context.Context) ([]person, error) {
	if e.strict && clearbox.Millis(e.op.Time) > e.s.now()+clearbox.Millis(futureAllowed.Milliseconds()) {
		return nil, ErrFuture
	}
	added, err := e.added()
	if err != nil {
		return nil, err
	}
	here := added[:0]
	for _, p := range added {
		if err := e.newcomer(ctx, &p); err == nil {
			here = append(here, p)
		} else if !errors.Is(err, errGone) {
			return nil, err
		}
	}
	added = here
	if err := e.policy(added); err != nil {
		return nil, err
	}
	actor, known := e.cur.people[e.op.Actor]
	if e.op.Body.Kind() == chain.KindCreate {
		actor, known = added[0], true
	}
	if !known { // erased: nobody can check, and nobody is written to
		if e.strict {
			return nil, chain.ErrUnknownMember
		}
		return added, nil
	}
	return added, e.actor(ctx, &actor)
}

// added matches openings with the people whom the operation adds, each with each.
func (e *examination) added() ([]person, error) {
	wanted := map[chain.Member]bool{}
	switch b := e.op.Body.(type) {
	case chain.Create:
		wanted[e.op.Actor] = true
	case chain.Add:
		for _, v := range b.Invitees {
			wanted[v.Member] = true
		}
	}
	if len(e.openings) != len(wanted) {
		return nil, ErrOpening
	}
	var out []person
	seen := map[clearbox.UserID]bool{}
	for _, raw := range e.openings {
		p, err := readPerson(raw)
		if err != nil || !wanted[p.parsed.Member] {
			return nil, ErrOpening
		}
		delete(wanted, p.parsed.Member)
		if err := e.next.Opens(p.parsed); err != nil {
			return nil, err
		}
		if seen[p.user] {
			return nil, ErrTwice
		}
		seen[p.user] = true
		if _, m, ok := e.cur.membership(p.user); ok && m.Status != chain.StatusFormer {
			return nil, ErrTwice
		}
		out = append(out, p)
	}
	return out, nil
}

// newcomer finds who is added and compares the identity.
func (e *examination) newcomer(ctx context.Context, p *person) error {
	if p.user.Server == e.s.server {
		no, err := e.s.userNo(ctx, p.user)
		if clearbox.CodeOf(err) == clearbox.CodeRecipientUnavailable && !e.strict {
			return errGone
		}
		if err != nil {
			return err
		}
		p.userNo = no
	} else if e.strict && e.cur.hub(e.op) == e.s.server {
		if err := e.s.o.Route(ctx, p.user.Server); err != nil {
			return err // the hub must be able to tell the person's server
		}
	}
	list, _, err := e.s.dir.List(ctx, p.user, 0)
	if err == nil && sameIdentity(p, list) != nil { // perhaps a newer one than is known here
		list, _, err = e.s.dir.List(ctx, p.user, list.Version+1)
	}
	if clearbox.CodeOf(err) == clearbox.CodeNotFound {
		return ErrGhost
	}
	if err != nil {
		return e.unchecked(p.user, err)
	}
	return sameIdentity(p, list)
}

// errGone: somebody of this server is added who was erased or banned since the hub
// asked. The group goes on without them.
var errGone = errors.New("groups: somebody here is gone")

// hub is who orders the group's operations: before the first one, whom it names.
func (n *snapshot) hub(op *chain.Op) clearbox.ServerName {
	if c, ok := op.Body.(chain.Create); ok {
		return clearbox.ServerName(c.Hub)
	}
	return n.row.Hub
}

// sameIdentity compares the identity that a person is a member under with their
// list: it is the present one, or one that they had before and that endorsed
// their root.
func sameIdentity(p *person, list *keys.DeviceList) error {
	if !list.Vouches(p.parsed.Identity[:]) {
		return ErrIdentity
	}
	return nil
}

// unchecked tells whether what could not be looked up is passed over: at a
// follower, when it is another server that does not answer.
func (e *examination) unchecked(u clearbox.UserID, err error) error {
	if e.strict || u.Server == e.s.server {
		return err
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodePeerUnreachable, clearbox.CodePeerBlocked, clearbox.CodeUnknownPeer, clearbox.CodeNoRoutePolicy, clearbox.CodeUnavailable:
		e.s.o.Log.Info("a group's operation was taken without its member's device list", "peer", string(u.Server), "code", string(clearbox.CodeOf(err)))
		return nil
	}
	return err
}

// userNo is the number of an account here that is active.
func (s *Service) userNo(ctx context.Context, u clearbox.UserID) (int64, error) {
	var known storage.Recipient
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		known, err = tx.Recipient(u.UID)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) || err == nil && known.State != storage.UserActive {
		return 0, clearbox.Errorf(clearbox.CodeRecipientUnavailable, "this person cannot be reached here")
	}
	return known.No, err
}

// policy holds servers and countries against the policy after the operation:
// those of the people who come, and of everybody when the policy is new.
func (e *examination) policy(added []person) error {
	rules := e.next.Policy
	allowed := func(u clearbox.UserID) bool {
		return rules.AllowsServer(string(u.Server)) && rules.AllowsCountry(e.s.o.Country(u.Server))
	}
	for _, p := range added {
		if !allowed(p.user) {
			return ErrPolicy
		}
	}
	if e.op.Body.Kind() != chain.KindPolicy {
		return nil
	}
	var err error
	e.cur.present(func(_ chain.Member, p person) {
		if !allowed(p.user) {
			err = ErrPolicy
		}
	})
	return err
}

// actor compares the device that signed with the person's device list.
func (e *examination) actor(ctx context.Context, p *person) error {
	kind := e.op.Body.Kind()
	list, withdrawn, err := e.s.dir.List(ctx, p.user, e.op.List)
	switch {
	case clearbox.CodeOf(err) == clearbox.CodeNotFound && !e.strict && kind != chain.KindAccept && kind != chain.KindDevice:
		return nil // erased since; the chain knows the key
	case clearbox.CodeOf(err) == clearbox.CodeNotFound:
		return ErrGhost
	case err != nil:
		return e.unchecked(p.user, err)
	}
	if kind == chain.KindAccept || kind == chain.KindCreate {
		if err := sameIdentity(p, list); err != nil {
			return err
		}
	}
	if list.Version < e.op.List {
		return ErrDevice // it names a list that the person's server does not have
	}
	for _, d := range list.Devices {
		if !bytes.Equal(d.Key, e.op.Signer) {
			continue
		}
		if d.Removed != 0 && (e.strict || d.Removed <= e.op.Time) {
			return ErrDevice
		}
		for _, id := range withdrawn {
			if e.strict && d.Removed == 0 && clearbox.DeviceID(d.ID) == id {
				return ErrDevice
			}
		}
		return nil
	}
	return ErrDevice
}
