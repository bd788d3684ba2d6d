package rig

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Stranger is somebody of a server that does not run, with one device.
func Stranger(server clearbox.ServerName) (*Account, error) {
	uid, err := clearbox.NewUID(random)
	if err != nil {
		return nil, err
	}
	return &Account{User: clearbox.UserID{UID: uid, Server: server}, Registration: 1}, nil
}

// invitees are how many people one operation invites: as many openings as come
// with one.
const invitees = wire.MaxOpenings

// NewGroup makes a group of people of the server over its API: the first creates
// it and invites, the others accept.
func (s *Server) NewGroup(ctx context.Context, people []*Account) (clearbox.GroupRef, error) {
	g := group{s: s, openings: make([]chain.Opening, len(people))}
	for i, a := range people {
		if err := g.describe(i, a); err != nil {
			return clearbox.GroupRef{}, err
		}
	}
	err := g.create(ctx, people[0], len(people))
	for i := 1; err == nil && i < len(people); i += invitees {
		err = g.invite(ctx, people[0], g.openings[i:min(i+invitees, len(people))])
	}
	for i := 1; err == nil && i < len(people); i++ {
		err = g.do(ctx, people[i], i, chain.Accept{}, nil)
	}
	if err != nil {
		return clearbox.GroupRef{}, fmt.Errorf("make a group: %w", err)
	}
	return clearbox.GroupRef{ID: clearbox.GroupID(g.state.Group), Epoch: g.state.Epoch}, nil
}

// group is one that is being made.
type group struct {
	s        *Server
	state    chain.State
	openings []chain.Opening // of the people, in their order
}

func (g *group) describe(i int, a *Account) error {
	o := &g.openings[i]
	o.Account = a.User.String()
	copy(o.Identity[:], a.Identity)
	if _, err := random.Read(o.Member[:]); err != nil {
		return err
	}
	_, err := random.Read(o.Salt[:])
	return err
}

func (g *group) create(ctx context.Context, a *Account, size int) error {
	o := &chain.Op{
		Epoch: 1, Actor: g.openings[0].Member, Signer: a.DeviceKey.Public().(ed25519.PublicKey), List: 1, Time: time.Now().UnixMilli(),
		Body: chain.Create{Hub: string(g.s.Name), Nonce: [16]byte(g.openings[0].Salt[:16]), Commitment: g.openings[0].Commitment(),
			Policy: chain.Policy{MayAdd: chain.AdminsAdd, MaxMembers: size}},
	}
	raw, err := chain.Sign(a.DeviceKey, o)
	if err != nil {
		return err
	}
	if g.state, err = chain.Verify([][]byte{raw}); err != nil {
		return err
	}
	return g.ask(ctx, a, 0, "/groups/create", &wire.GroupCreate{Op: raw, Opening: g.openings[0].Encode()})
}

func (g *group) invite(ctx context.Context, a *Account, who []chain.Opening) error {
	var add chain.Add
	var opens [][]byte
	for i := range who {
		add.Invitees = append(add.Invitees, chain.Invitee{Member: who[i].Member, Commitment: who[i].Commitment(), Role: chain.RoleMember})
		opens = append(opens, who[i].Encode())
	}
	chain.SortInvitees(add.Invitees)
	return g.do(ctx, a, 0, add, opens)
}

// do signs the next operation of the person at i and hands it in.
func (g *group) do(ctx context.Context, a *Account, i int, body chain.Body, opens [][]byte) error {
	o := g.state.Next(g.openings[i].Member, a.DeviceKey.Public().(ed25519.PublicKey), 1, time.Now().UnixMilli())
	o.Body = body
	raw, err := chain.Sign(a.DeviceKey, o)
	if err != nil {
		return err
	}
	if g.state, err = g.state.Apply(raw); err != nil {
		return err
	}
	return g.ask(ctx, a, i, "/groups/"+clearbox.GroupID(g.state.Group).String()+"/ops", &wire.GroupSubmit{Op: raw, Openings: opens})
}

func (g *group) ask(ctx context.Context, a *Account, i int, path string, in any) error {
	c := g.s.Client(Via{Source: Source(i)})
	defer c.Close()
	return c.Do(ctx, http.MethodPost, path, a.Access, in, nil)
}
