package core

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/wire"
)

// DefaultGroupPolicy is that of a new group.
func DefaultGroupPolicy() chain.Policy {
	return chain.Policy{MayAdd: chain.AdminsAdd, MaxMembers: clearbox.MaxGroup}
}

// CreateGroup makes a group with nobody in it but this account, at the own
// server. It needs the network.
func (b *Brain) CreateGroup(ctx context.Context, title, description string) (Group, error) {
	s, err := b.me()
	if err != nil {
		return Group{}, err
	}
	if err := checkInfo(title, description); err != nil {
		return Group{}, err
	}
	opening, err := b.openingOf(s.User, s.identity.Public().Bytes())
	if err != nil {
		return Group{}, err
	}
	create := chain.Create{Hub: string(s.User.Server), Commitment: opening.Commitment(), Policy: DefaultGroupPolicy()}
	key := make([]byte, groupKeySize)
	if _, err := io.ReadFull(b.opts.Random, key); err != nil {
		return Group{}, err
	}
	if _, err := io.ReadFull(b.opts.Random, create.Nonce[:]); err != nil {
		return Group{}, err
	}
	if create.Info, err = sealInfo(b.opts.Random, key, groupInfo{title, description}); err != nil {
		return Group{}, err
	}
	raw, err := chain.Sign(s.deviceKey, &chain.Op{
		Epoch: 1, Actor: opening.Member, Signer: s.deviceKey.Public().(ed25519.PublicKey), List: s.list.Version, Time: int64(b.now()), Body: create,
	})
	if err != nil {
		return Group{}, err
	}
	id := clearbox.GroupID(chain.HashOf(raw))
	// The key is kept before the server hears of the group: without it nobody
	// could be told what the group is called.
	err = b.vault.Update(ctx, func(tx Tx) error {
		return save(tx, groupKey(id), group{ID: id, Me: opening.Member, Keys: [][]byte{key}})
	})
	if err != nil {
		return Group{}, err
	}
	var answer wire.GroupPlace
	if err := b.call(ctx, "POST", "/groups/create", wire.GroupCreate{Op: raw, Opening: opening.Encode()}, &answer); err != nil {
		return Group{}, err
	}
	if err := b.adoptOp(ctx, id, 1, raw, opening.Encode()); err != nil {
		return Group{}, err
	}
	return b.Group(ctx, id)
}

func checkInfo(title, description string) error {
	switch {
	case title == "":
		return clearbox.Errorf(clearbox.CodeBadRequest, "a group needs a name")
	case len(title) > MaxTitle || len(description) > MaxDescription:
		return clearbox.Errorf(clearbox.CodeTooLarge, "a group's name has at most %d bytes, its description %d", MaxTitle, MaxDescription)
	}
	return checkText(title + description)
}

// openingOf makes a new membership for a person.
func (b *Brain) openingOf(user clearbox.UserID, identity []byte) (*chain.Opening, error) {
	o := &chain.Opening{Account: user.String()}
	copy(o.Identity[:], identity)
	if _, err := io.ReadFull(b.opts.Random, o.Member[:]); err != nil {
		return nil, err
	}
	_, err := io.ReadFull(b.opts.Random, o.Salt[:])
	return o, err
}

// adoptOp takes an own operation that the hub accepted, without waiting for the
// mail to bring it.
func (b *Brain) adoptOp(ctx context.Context, id clearbox.GroupID, epoch uint64, raw []byte, openings ...[]byte) error {
	err := b.vault.Update(ctx, func(tx Tx) error {
		return save(tx, opKey(prefixNewOp, id, epoch), newOp{raw, openings})
	})
	if err != nil {
		return err
	}
	return b.syncGroup(ctx, id, false)
}

// actRounds is how often an operation is made again because the group changed
// meanwhile.
const actRounds = 8

// act signs an operation on the newest state that the own server shows and has
// the hub order it. make gives its body, and the openings of whom it adds; it is
// called again where the group changed meanwhile. ErrNoGroup where this device
// knows none. CodeConflict while an alarm stands.
func (b *Brain) act(ctx context.Context, id clearbox.GroupID, make func(Reader, *group, *chain.State) (chain.Body, [][]byte, error)) error {
	if err := b.syncGroup(ctx, id, true); err != nil {
		return err
	}
	for range actRounds {
		s, err := b.me()
		if err != nil {
			return err
		}
		var op *chain.Op
		var openings [][]byte
		err = b.vault.View(ctx, func(r Reader) error {
			g, st, err := b.loadGroup(r, id)
			switch {
			case err != nil:
				return err
			case g == nil || g.Epoch == 0:
				return ErrNoGroup
			case g.Alarm != "" && !g.doubted():
				return clearbox.Errorf(clearbox.CodeConflict, "the group's history does not hold together (%s): nothing changes it from this device any more", g.Alarm)
			}
			op = st.Next(g.Me, s.deviceKey.Public().(ed25519.PublicKey), s.list.Version, int64(b.now()))
			if op.Body, openings, err = make(r, g, st); err != nil {
				return err
			}
			if out, ok := op.Body.(chain.Remove); g.Alarm != "" && (!ok || !slices.Contains(out.Members, g.AlarmBy) && !slices.Contains(out.Members, g.Me)) {
				return clearbox.Errorf(clearbox.CodeConflict, "a member knows another history of the group: until they are out of it, nothing else changes it from this device")
			}
			me := st.Members[g.Me]
			kind := op.Body.Kind()
			if me.Status == chain.StatusActive && !me.Known(op.Signer) && kind != chain.KindDevice {
				op.Body, openings = chain.Introduce{}, nil // this device's key comes first
			}
			return nil
		})
		if err != nil {
			return err
		}
		introduced := op.Body.Kind() == chain.KindDevice
		raw, err := chain.Sign(s.deviceKey, op)
		if err != nil {
			return clearbox.Wrap(clearbox.CodeBadRequest, "the group does not take this", err)
		}
		var answer wire.GroupPlace
		err = b.call(ctx, "POST", "/groups/"+id.String()+"/ops", wire.GroupSubmit{Op: raw, Openings: openings}, &answer)
		if clearbox.CodeOf(err) == clearbox.CodeGroupChanged {
			if err := b.syncGroup(ctx, id, true); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := b.adoptOp(ctx, id, op.Epoch, raw, openings...); err != nil {
			return err
		}
		if !introduced {
			wake(b.queueWake)
			return nil
		}
	}
	return clearbox.Errorf(clearbox.CodeUnavailable, "the group changes faster than it can be changed from here")
}

// InviteToGroup adds a contact; they are a member once they accept.
func (b *Brain) InviteToGroup(ctx context.Context, id clearbox.GroupID, user clearbox.UserID, admin bool) error {
	c, err := b.contactWithList(ctx, user)
	if err != nil {
		return err
	}
	if c.Changed != nil {
		return errHeldBack
	}
	opening, err := b.openingOf(user, c.Identity)
	if err != nil {
		return err
	}
	invitee := chain.Invitee{Member: opening.Member, Commitment: opening.Commitment(), Role: chain.RoleMember}
	if admin {
		invitee.Role = chain.RoleAdmin
	}
	err = b.act(ctx, id, func(r Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		if _, in, err := memberOf(r, g, st, user); err != nil || in {
			return nil, nil, errors.Join(err, clearbox.Errorf(clearbox.CodeConflict, "they are in the group, or invited, already"))
		}
		if !st.Policy.AllowsServer(string(user.Server)) {
			return nil, nil, clearbox.Errorf(clearbox.CodeForbidden, "the group's rules take nobody of %s", user.Server)
		}
		return chain.Add{Invitees: []chain.Invitee{invitee}}, [][]byte{opening.Encode()}, nil
	})
	if err != nil {
		return err
	}
	return b.giveGroupKey(ctx, id, user, c.Identity)
}

// AcceptGroup joins a group that the account is invited to.
func (b *Brain) AcceptGroup(ctx context.Context, id clearbox.GroupID) error {
	return b.act(ctx, id, invited(chain.Accept{}))
}

// DeclineGroup says no to an invitation.
func (b *Brain) DeclineGroup(ctx context.Context, id clearbox.GroupID) error {
	return b.act(ctx, id, invited(chain.Decline{}))
}

func invited(answer chain.Body) func(Reader, *group, *chain.State) (chain.Body, [][]byte, error) {
	return func(_ Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		if st.Members[g.Me].Status != chain.StatusInvited {
			return nil, nil, clearbox.Errorf(clearbox.CodeConflict, "there is no open invitation to this group")
		}
		return answer, nil, nil
	}
}

// LeaveGroup ends the own membership.
func (b *Brain) LeaveGroup(ctx context.Context, id clearbox.GroupID) error {
	return b.act(ctx, id, func(_ Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		if err := active(g, st); err != nil {
			return nil, nil, err
		}
		return chain.Remove{Members: []chain.Member{g.Me}}, nil, nil
	})
}

// active tells whether the account is in the group.
func active(g *group, st *chain.State) error {
	if st.Closed {
		return clearbox.Errorf(clearbox.CodeConflict, "the group is closed")
	}
	if st.Members[g.Me].Status != chain.StatusActive {
		return clearbox.Errorf(clearbox.CodeNotAMember, "you are not in this group")
	}
	return nil
}

// RemoveFromGroup ends somebody's membership or invitation. What is written by a
// device that knows of it cannot be read by them any more. What the group is
// called is sealed anew under a key that they do not get.
func (b *Brain) RemoveFromGroup(ctx context.Context, id clearbox.GroupID, user clearbox.UserID) error {
	err := b.act(ctx, id, func(r Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		if err := active(g, st); err != nil {
			return nil, nil, err
		}
		all, err := membershipsOf(r, g, st, user)
		if err == nil && len(all) == 0 {
			err = errNotInGroup
		}
		return chain.Remove{Members: all}, nil, err
	})
	if err != nil {
		return err
	}
	g, err := b.Group(ctx, id)
	if err != nil || g.Title == "" {
		return err
	}
	// They are out; a new key for the name is as good as the right to set one.
	if err := b.renameGroup(ctx, id, g.Title, g.Description, true); err != nil && clearbox.CodeOf(err) != clearbox.CodeForbidden {
		return err
	}
	return nil
}

// SetGroupRole gives a member another role.
func (b *Brain) SetGroupRole(ctx context.Context, id clearbox.GroupID, user clearbox.UserID, role chain.Role) error {
	return b.act(ctx, id, withMember(user, func(m chain.Member) chain.Body { return chain.SetRole{Member: m, Role: role} }))
}

var errNotInGroup = clearbox.Errorf(clearbox.CodeNotFound, "they are not in this group")

// withMember makes an operation about the present membership of a person.
func withMember(user clearbox.UserID, body func(chain.Member) chain.Body) func(Reader, *group, *chain.State) (chain.Body, [][]byte, error) {
	return func(r Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		if err := active(g, st); err != nil {
			return nil, nil, err
		}
		m, in, err := memberOf(r, g, st, user)
		if err == nil && !in {
			err = errNotInGroup
		}
		if err != nil {
			return nil, nil, err
		}
		return body(m), nil, nil
	}
}

// SetGroupPolicy changes the group's rules. They are refused while they exclude
// somebody who is in the group, or invited.
func (b *Brain) SetGroupPolicy(ctx context.Context, id clearbox.GroupID, edit func(*chain.Policy)) error {
	return b.act(ctx, id, func(r Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		if err := active(g, st); err != nil {
			return nil, nil, err
		}
		policy := st.Policy
		edit(&policy)
		for m, is := range st.Members {
			if is.Status == chain.StatusFormer {
				continue
			}
			if o, user, err := whoIs(r, g.ID, m); err != nil {
				return nil, nil, err
			} else if o != nil && !policy.AllowsServer(string(user.Server)) {
				return nil, nil, clearbox.Errorf(clearbox.CodeForbidden, "these rules exclude %s, of which somebody is in the group or invited: remove them first", user.Server)
			}
		}
		return chain.SetPolicy{Policy: policy}, nil, nil
	})
}

// CloseGroup ends the group for everybody.
func (b *Brain) CloseGroup(ctx context.Context, id clearbox.GroupID) error {
	return b.act(ctx, id, func(_ Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		return chain.Close{}, nil, active(g, st)
	})
}

// SetGroupInfo changes what the group is called.
func (b *Brain) SetGroupInfo(ctx context.Context, id clearbox.GroupID, title, description string) error {
	return b.renameGroup(ctx, id, title, description, false)
}

// renameGroup seals what the group is called, under a new key where fresh asks
// for one; the members get that by a message to the group.
func (b *Brain) renameGroup(ctx context.Context, id clearbox.GroupID, title, description string, fresh bool) error {
	if err := checkInfo(title, description); err != nil {
		return err
	}
	var key []byte
	err := b.act(ctx, id, func(_ Reader, g *group, st *chain.State) (chain.Body, [][]byte, error) {
		if err := active(g, st); err != nil {
			return nil, nil, err
		}
		if st.Members[g.Me].Role < chain.RoleAdmin {
			return nil, nil, clearbox.Errorf(clearbox.CodeForbidden, "only administrators of the group may do that")
		}
		if fresh || len(g.Keys) == 0 {
			key = make([]byte, groupKeySize)
			if _, err := io.ReadFull(b.opts.Random, key); err != nil {
				return nil, nil, err
			}
		} else {
			key = g.Keys[0]
		}
		sealed, err := sealInfo(b.opts.Random, key, groupInfo{title, description})
		return chain.SetInfo{Sealed: sealed}, nil, err
	})
	if err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		s, err := b.me()
		if err != nil {
			return err
		}
		g, st, err := b.loadGroup(tx, id)
		if err != nil || g == nil {
			return err
		}
		news := len(g.Keys) == 0 || !bytes.Equal(g.Keys[0], key)
		if err := learnKey(g, key); err != nil {
			return err
		}
		nameGroup(g, st)
		if err := save(tx, groupKey(id), g); err != nil || !news {
			return err
		}
		return b.enqueueToGroup(tx, s, id, &Content{Kind: KindGroupKey, GroupKey: key})
	})
}
