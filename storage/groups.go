package storage

import (
	"encoding/hex"
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// GroupState is whether a group's membership may change here.
type GroupState string

// The states. Former groups keep their id, so that none comes back.
const (
	GroupActive  GroupState = "active"
	GroupFrozen  GroupState = "frozen"  // its hub showed what cannot be: nothing more is taken from it
	GroupClosed  GroupState = "closed"  // by an owner, in the chain
	GroupDeleted GroupState = "deleted" // by the administrators of its hub, or here when nobody of this server is left
)

// Group is a group that people here are or were in, or that this server is the hub of.
type Group struct {
	No      int64 // given by PutGroup
	ID      clearbox.GroupID
	Hub     clearbox.ServerName
	Epoch   uint64 // of the newest stored operation
	Head    [32]byte
	State   GroupState
	Reason  string          // why it is frozen: a word of ours, nothing of anybody's
	Created clearbox.Millis // when it was stored first; now if 0
	Changed clearbox.Millis // of epoch or state; given
}

const groupColumns = "no, id, hub, epoch, head, state, reason, created, changed"

// PutGroup stores a group and sets No. *ExistsError with Field "id" when it is known.
func (tx *Tx) PutGroup(g *Group) error {
	if g.Created == 0 {
		g.Created = tx.now
	}
	g.Changed = tx.now
	err := tx.write(`INSERT INTO groups (id, hub, epoch, head, state, reason, created, changed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT DO NOTHING RETURNING no`,
		args(g.ID[:], string(g.Hub), int64(g.Epoch), g.Head[:], string(g.State), g.Reason, int64(g.Created), int64(g.Changed)), &g.No)
	if err == ErrNotFound {
		return &ExistsError{Field: "id"}
	}
	return err
}

// Group finds a group.
func (tx *Tx) Group(id clearbox.GroupID) (Group, error) {
	gs, err := tx.groups("id = $1", id[:])
	if err == nil && len(gs) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Group{}, err
	}
	return gs[0], nil
}

// Groups gives at most limit groups with numbers above after, in order.
func (tx *Tx) Groups(after int64, limit int) ([]Group, error) {
	return tx.groups("no > $1 ORDER BY no LIMIT $2", after, int64(limit))
}

// GroupsOf gives the groups with a membership of the account, former ones too.
func (tx *Tx) GroupsOf(userNo int64) ([]Group, error) {
	return tx.groups("no IN (SELECT group_no FROM group_members WHERE user_no = $1 AND user_no > 0) ORDER BY no", userNo)
}

func (tx *Tx) groups(where string, a ...any) ([]Group, error) {
	var out []Group
	var g Group
	var id, head []byte
	var hub, state string
	var epoch, created, changed int64
	err := tx.each("SELECT "+groupColumns+" FROM groups WHERE "+where, a,
		[]any{&g.No, &id, &hub, &epoch, &head, &state, &g.Reason, &created, &changed}, func() error {
			copy(g.ID[:], id)
			copy(g.Head[:], head)
			g.Hub, g.State, g.Epoch = clearbox.ServerName(hub), GroupState(state), uint64(epoch)
			g.Created, g.Changed = clearbox.Millis(created), clearbox.Millis(changed)
			out = append(out, g)
			return nil
		})
	return out, err
}

// AppendGroupOp stores the operation after g's epoch and moves g to it, whose
// Head, Hub and State the caller has set. ErrNotFound: the group is at another
// epoch by now; nothing was changed.
func (tx *Tx) AppendGroupOp(g *Group, op []byte) error {
	err := tx.change("UPDATE groups SET epoch = $1, head = $2, hub = $3, state = $4, changed = $5 WHERE no = $6 AND epoch = $7 AND state = 'active'",
		int64(g.Epoch+1), g.Head[:], string(g.Hub), string(g.State), int64(tx.now), g.No, int64(g.Epoch))
	if err != nil {
		return err
	}
	g.Epoch++
	_, err = tx.exec("INSERT INTO group_ops (group_no, epoch, op) VALUES ($1, $2, $3)", g.No, int64(g.Epoch), op)
	return err
}

// PutGroupOps stores the first operations of a group, whose row was just put.
func (tx *Tx) PutGroupOps(no int64, ops [][]byte) error {
	for i, op := range ops {
		if _, err := tx.exec("INSERT INTO group_ops (group_no, epoch, op) VALUES ($1, $2, $3)", no, int64(i+1), op); err != nil {
			return err
		}
	}
	return nil
}

// SetGroupState freezes or deletes a group, or thaws it.
func (tx *Tx) SetGroupState(no int64, state GroupState, reason string) error {
	return tx.change("UPDATE groups SET state = $1, reason = $2, changed = $3 WHERE no = $4", string(state), reason, int64(tx.now), no)
}

// EmptyGroup deletes a group's operations and members. Its row stays.
func (tx *Tx) EmptyGroup(no int64) error {
	if _, err := tx.exec("DELETE FROM group_ops WHERE group_no = $1", no); err != nil {
		return err
	}
	_, err := tx.exec("DELETE FROM group_members WHERE group_no = $1", no)
	return err
}

// GroupOps gives at most limit operations of epochs above after, in order, and
// stops before maxBytes unless the first alone is larger.
func (tx *Tx) GroupOps(no int64, after uint64, limit, maxBytes int) ([][]byte, error) {
	r, err := tx.c.query("SELECT op FROM group_ops WHERE group_no = $1 AND epoch > $2 ORDER BY epoch LIMIT $3", no, int64(after), int64(limit))
	if err != nil {
		return nil, err
	}
	var out [][]byte
	size := 0
	for r.next() {
		var op []byte
		if err := r.scan(&op); err != nil {
			r.close()
			return nil, err
		}
		if size += len(op); size > maxBytes && len(out) > 0 {
			break
		}
		out = append(out, op)
	}
	return out, r.close()
}

// GroupMember is who a member of a group is. It is deleted when the person is
// erased; the operations do not need it.
type GroupMember struct {
	GroupNo int64
	Member  clearbox.MemberID
	User    clearbox.UserID // for the index; not given back
	UserNo  int64           // 0 for people of other servers
	Opening []byte          // encoded (crypto/chain); nil when the person's key is gone
}

func (tx *Tx) memberIndex(u clearbox.UserID) []byte {
	return tx.index("group_members.user", u.String())
}

func memberRow(groupNo int64, m clearbox.MemberID) string {
	return number64(groupNo) + "|" + hex.EncodeToString(m[:])
}

// memberKey is the key of the account, or the server's for people elsewhere.
func (tx *Tx) memberKey(userNo int64) (KeyID, error) {
	if userNo == 0 {
		return ServerKey, nil
	}
	return tx.userKey(userNo)
}

// PutGroupMember stores who a member is. One that is known stays as it is.
func (tx *Tx) PutGroupMember(m *GroupMember) error {
	key, err := tx.memberKey(m.UserNo)
	if err != nil {
		return err
	}
	sealed, err := tx.seal(key, PurposeContacts, "group_members", "opening", memberRow(m.GroupNo, m.Member), m.Opening)
	if err != nil {
		return err
	}
	_, err = tx.exec("INSERT INTO group_members (group_no, member, user_no, user_index, opening) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
		m.GroupNo, m.Member[:], m.UserNo, tx.memberIndex(m.User), sealed)
	return err
}

// GroupMembers gives who is known of a group's members, former ones too.
func (tx *Tx) GroupMembers(no int64) ([]GroupMember, error) {
	type sealed struct {
		GroupMember
		opening []byte
	}
	var rows []sealed
	var row sealed
	var member []byte
	err := tx.each("SELECT member, user_no, opening FROM group_members WHERE group_no = $1 ORDER BY member", args(no),
		[]any{&member, &row.UserNo, &row.opening}, func() error {
			copy(row.Member[:], member)
			rows = append(rows, row)
			return nil
		})
	if err != nil {
		return nil, err
	}
	out := make([]GroupMember, 0, len(rows))
	for _, r := range rows {
		key, err := tx.memberKey(r.UserNo)
		if err != nil {
			return nil, err
		}
		m := r.GroupMember
		m.GroupNo = no
		if m.Opening, err = tx.open(key, PurposeContacts, "group_members", "opening", memberRow(no, m.Member), r.opening); err != nil {
			return nil, fmt.Errorf("open who a member is: %w", err)
		}
		out = append(out, m)
	}
	return out, nil
}

// ForgetGroupMember deletes who a person is in every group, and tells in which
// groups that was. The operations stay.
func (tx *Tx) ForgetGroupMember(u clearbox.UserID) (groups []clearbox.GroupID, err error) {
	index := tx.memberIndex(u)
	var id []byte
	err = tx.each("SELECT g.id FROM groups g JOIN group_members m ON m.group_no = g.no WHERE m.user_index = $1 ORDER BY g.no", args(index), []any{&id}, func() error {
		groups = append(groups, clearbox.GroupID(id))
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, err = tx.exec("DELETE FROM group_members WHERE user_index = $1", index)
	return groups, err
}

// GroupArrival is what a peer handed over about a group, until it is verified.
type GroupArrival struct {
	No       int64 // given by PutGroupArrival
	Peer     clearbox.ServerName
	Arrived  clearbox.Millis // given
	Attempts int
	Payload  []byte // sealed under the server's key
}

// PutGroupArrival keeps it. seal are 16 random bytes that bind the sealed
// payload to its row.
func (tx *Tx) PutGroupArrival(a *GroupArrival, seal []byte) error {
	sealed, err := tx.seal(ServerKey, PurposeContacts, "group_arrivals", "payload", hex.EncodeToString(seal), a.Payload)
	if err != nil {
		return err
	}
	a.Arrived = tx.now
	return tx.write("INSERT INTO group_arrivals (peer, arrived, attempts, due, seal_id, payload) VALUES ($1, $2, 0, $2, $3, $4) RETURNING no",
		args(string(a.Peer), int64(tx.now), seal, sealed), &a.No)
}

// GroupArrivals gives at most limit that are due, in the order in which they
// came. One that does not open has no payload.
func (tx *Tx) GroupArrivals(limit int) ([]GroupArrival, error) {
	var out []GroupArrival
	var a GroupArrival
	var peer string
	var seal, sealed []byte
	var arrived, attempts int64
	err := tx.each("SELECT no, peer, arrived, attempts, seal_id, payload FROM group_arrivals WHERE due <= $1 ORDER BY no LIMIT $2", args(int64(tx.now), int64(limit)),
		[]any{&a.No, &peer, &arrived, &attempts, &seal, &sealed}, func() (err error) {
			a.Peer, a.Arrived, a.Attempts = clearbox.ServerName(peer), clearbox.Millis(arrived), int(attempts)
			if a.Payload, err = tx.open(ServerKey, PurposeContacts, "group_arrivals", "payload", hex.EncodeToString(seal), sealed); err != nil {
				return fmt.Errorf("open what arrived about a group: %w", err)
			}
			out = append(out, a)
			return nil
		})
	return out, err
}

// CountGroupArrivals counts what of a peer waits.
func (tx *Tx) CountGroupArrivals(peer clearbox.ServerName) (n int64, err error) {
	err = tx.one("SELECT COUNT(*) FROM group_arrivals WHERE peer = $1", args(string(peer)), &n)
	return n, err
}

// DeferGroupArrival has it wait until due and counts an attempt.
func (tx *Tx) DeferGroupArrival(no int64, due clearbox.Millis) error {
	_, err := tx.exec("UPDATE group_arrivals SET attempts = attempts + 1, due = $1 WHERE no = $2", int64(due), no)
	return err
}

// DeleteGroupArrival forgets one that was dealt with.
func (tx *Tx) DeleteGroupArrival(no int64) error {
	_, err := tx.exec("DELETE FROM group_arrivals WHERE no = $1", no)
	return err
}
