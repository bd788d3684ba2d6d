package delivery

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/storage"
)

// Rosters tells who is in which group. server/groups implements it.
type Rosters interface {
	// Roster gives the members of a group as this server knows them;
	// storage.ErrNotFound when it knows no such group. It is asked for every message
	// and must be cheap.
	Roster(ctx context.Context, group clearbox.GroupID) (Roster, error)
}

// Roster is who is in a group in one epoch. It is never changed: another epoch
// has another one.
type Roster struct {
	Epoch   uint64
	Closed  bool
	Members map[clearbox.UserID]MemberState // former ones too
}

// MemberState is what somebody is in a group.
type MemberState struct {
	Status MemberStatus
	Ended  uint64 // of a former member: the epoch in which they were none any more
}

// MemberStatus is whether somebody belongs to a group.
type MemberStatus uint8

// The values. The zero value is nobody's.
const (
	MemberActive MemberStatus = iota + 1
	MemberInvited
	MemberFormer
)

// in tells whether somebody belonged to the group in an epoch, or does now.
func (m MemberState) in(epoch uint64) bool {
	return m.Status == MemberActive || m.Status == MemberFormer && m.Ended > epoch
}

// roster is a Roster as messages need it.
type roster struct {
	Roster
	id     clearbox.GroupID
	byID   map[keys.ServiceID]clearbox.UserID // of all that Members has
	active []member                           // in order of their names

	local atomic.Pointer[locals] // those of this server, as they were read last
}

// member is an active member.
type member struct {
	user clearbox.UserID
	id   keys.ServiceID
}

// locals are a group's active members at this server under a version of people
// (storage.Tx.PeopleVersion). It is never changed.
type locals struct {
	version int64
	people  map[clearbox.UserID]storage.Recipient // active accounts alone
}

// rosters keeps what was made of the groups that are written to.
type rosters struct {
	mu   sync.RWMutex // guards byID
	byID map[clearbox.GroupID]*roster
}

const maxRosters = 1024 // reaching it empties the map

// roster gives a group; clearbox.CodeNotAMember when there is none here.
func (r *Router) roster(ctx context.Context, id clearbox.GroupID) (*roster, error) {
	if r.opts.Rosters == nil {
		return nil, errNotMember()
	}
	got, err := r.opts.Rosters.Roster(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNotMember()
	}
	if err != nil {
		return nil, err
	}
	rs := &r.rosters
	rs.mu.RLock()
	known := rs.byID[id]
	rs.mu.RUnlock()
	if known != nil && known.Epoch == got.Epoch && known.Closed == got.Closed && len(known.Members) == len(got.Members) {
		return known, nil
	}
	ro := newRoster(id, got)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if len(rs.byID) >= maxRosters {
		clear(rs.byID)
	}
	rs.byID[id] = ro
	return ro, nil
}

func newRoster(id clearbox.GroupID, got Roster) *roster {
	ro := &roster{Roster: got, id: id, byID: make(map[keys.ServiceID]clearbox.UserID, len(got.Members))}
	for u, m := range got.Members {
		sid := keys.AccountServiceID(u.String())
		ro.byID[sid] = u
		if m.Status == MemberActive {
			ro.active = append(ro.active, member{u, sid})
		}
	}
	slices.SortFunc(ro.active, func(a, b member) int { return strings.Compare(a.user.String(), b.user.String()) })
	return ro
}

// has tells whether the group has anybody of a server who may speak in it: in an
// epoch or now, or, for what goes to single members, invited.
func (ro *roster) has(server clearbox.ServerName, epoch uint64, invited bool) bool {
	for u, m := range ro.Members {
		if u.Server == server && (m.in(epoch) || invited && m.Status == MemberInvited) {
			return true
		}
	}
	return false
}

// here gives the active members at this server; fresh reads them even when they
// were read before. All are read at once with the version of people, which tells
// an update whether they are still so.
func (r *Router) here(ctx context.Context, ro *roster, fresh bool) (*locals, error) {
	if known := ro.local.Load(); known != nil && !fresh {
		return known, nil
	}
	out := &locals{people: map[clearbox.UserID]storage.Recipient{}}
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		if out.version, err = tx.PeopleVersion(); err != nil {
			return err
		}
		for u, m := range ro.Members { // former ones too: what was on its way to them is theirs
			if u.Server != r.server || m.Status == MemberInvited {
				continue
			}
			who, err := tx.Recipient(u.UID)
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if who.State == storage.UserActive {
				out.people[u] = who
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ro.local.Store(out)
	return out, nil
}

// Fellows refuses with clearbox.CodeNotAMember unless both people belong to the
// group now or are invited to it.
func (r *Router) Fellows(ctx context.Context, a, b clearbox.UserID, group clearbox.GroupID) error {
	ro, err := r.roster(ctx, group)
	if err != nil {
		return err
	}
	for _, u := range [...]clearbox.UserID{a, b} {
		if st := ro.Members[u].Status; ro.Closed || st != MemberActive && st != MemberInvited {
			return errNotMember()
		}
	}
	return nil
}

// shareGroup tells whether somebody here is in a group in which a peer has
// somebody.
func (r *Router) shareGroup(ctx context.Context, peer clearbox.ServerName, who clearbox.UserID, g clearbox.GroupRef) (bool, error) {
	ro, err := r.roster(ctx, g.ID)
	if clearbox.CodeOf(err) == clearbox.CodeNotAMember {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m := ro.Members[who]
	return ro.has(peer, g.Epoch, true) && (m.in(g.Epoch) || m.Status == MemberInvited), nil
}

func errNotMember() error {
	return clearbox.Errorf(clearbox.CodeNotAMember, "you are not in this group")
}
