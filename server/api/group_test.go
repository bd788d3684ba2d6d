package api_test

import (
	"crypto/ed25519"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/wire"
)

// A group of two over HTTP. Every request and answer is held against openapi.yaml.
func TestGroupRoutes(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	opening := func(p *someone, n byte) *chain.Opening {
		o := &chain.Opening{Member: chain.Member{n}, Salt: [32]byte{n}, Account: p.User.String()}
		copy(o.Identity[:], p.Identity.Public().Bytes())
		return o
	}
	sign := func(p *someone, o *chain.Op) []byte {
		raw, err := chain.Sign(p.Devices[1], o)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	public := func(p *someone) ed25519.PublicKey { return p.Devices[1].Public().(ed25519.PublicKey) }
	now := w.Clock.Now().UnixMilli()
	a, b := opening(alice, 1), opening(bob, 2)
	raw := sign(alice, &chain.Op{Epoch: 1, Actor: a.Member, Signer: public(alice), List: alice.List.Version, Time: now, Body: chain.Create{
		Hub: string(home), Commitment: a.Commitment(), Policy: chain.Policy{MayAdd: chain.AdminsAdd, MaxMembers: 5},
	}})
	state, err := chain.Verify([][]byte{raw})
	if err != nil {
		t.Fatal(err)
	}
	id := clearbox.GroupID(state.Group).String()
	var place wire.GroupPlace
	res := alice.do("POST", "/groups/create", wire.GroupCreate{Op: raw, Opening: a.Encode()})
	if res.into(t, &place); res.status != 201 || place.Group.String() != id || place.Epoch != 1 {
		t.Fatalf("%d %s", res.status, res.body)
	}
	bob.do("GET", "/groups/"+id, nil).want(t, 404, clearbox.CodeNotFound, "")
	o := state.Next(a.Member, public(alice), alice.List.Version, now)
	o.Body = chain.Add{Invitees: []chain.Invitee{{Member: b.Member, Commitment: b.Commitment(), Role: chain.RoleMember}}}
	raw = sign(alice, o)
	alice.do("POST", "/groups/"+id+"/ops", wire.GroupSubmit{Op: raw}).want(t, 400, clearbox.CodeBadRequest, "")
	alice.do("POST", "/groups/"+id+"/ops", wire.GroupSubmit{Op: raw, Openings: [][]byte{b.Encode()}}).into(t, &place)
	stale := alice.do("POST", "/groups/"+id+"/ops", wire.GroupSubmit{Op: sign(alice, func() *chain.Op {
		o := state.Next(a.Member, public(alice), alice.List.Version, now)
		o.Body = chain.Close{}
		return o
	}())})
	stale.want(t, 409, clearbox.CodeGroupChanged, "")
	if stale.problem.Epoch != 2 {
		t.Errorf("the epoch told is %d", stale.problem.Epoch)
	}

	var list wire.Groups
	bob.do("GET", "/groups", nil).into(t, &list)
	if len(list.Groups) != 1 || list.Groups[0].Status != "invited" || list.Groups[0].Role != "member" || list.Groups[0].Epoch != 2 {
		t.Errorf("bob's groups: %+v", list)
	}
	var detail wire.GroupDetail
	bob.do("GET", "/groups/"+id, nil).into(t, &detail)
	var page wire.GroupPage
	bob.do("GET", "/groups/"+id+"/ops?after=1", nil).into(t, &page)
	if len(detail.Openings) != 2 || len(page.Ops) != 1 || len(page.Openings) != 1 || string(page.Ops[0]) != string(raw) || page.More {
		t.Errorf("detail with %d openings, page %+v", len(detail.Openings), page)
	}
	var sync wire.Sync
	bob.do("GET", "/sync", nil).into(t, &sync)
	if len(sync.Events) != 1 || sync.Events[0].Group == nil || string(sync.Events[0].Group.Op) != string(raw) || len(sync.Events[0].Group.Openings) != 1 {
		t.Errorf("bob's mail: %+v", sync)
	}

	alice.do("POST", "/groups/x/ops", wire.GroupSubmit{Op: raw}).want(t, 404, clearbox.CodeNotFound, "")
	alice.do("POST", "/groups/"+id+"/ops", wire.GroupSubmit{Op: make([]byte, wire.MaxGroupOp+1)}).want(t, 400, clearbox.CodeBadRequest, "/op")
	alice.do("GET", "/admin/groups", nil).want(t, 403, clearbox.CodeForbidden, "")

	var all wire.AdminGroups
	w.admin("GET", "/admin/groups", nil).into(t, &all)
	if len(all.Groups) != 1 || !all.Groups[0].Own || all.Groups[0].Members != 1 || all.Groups[0].Invited != 1 || len(all.Groups[0].Servers) != 1 {
		t.Errorf("administrators see %+v", all)
	}
	if res := w.admin("DELETE", "/admin/groups/"+id, nil); res.status != 204 {
		t.Errorf("deletion: %d %s", res.status, res.body)
	}
	var one wire.AdminGroup
	if w.admin("GET", "/admin/groups/"+id, nil).into(t, &one); one.State != "deleted" {
		t.Errorf("after its deletion: %+v", one)
	}
	w.admin("DELETE", "/admin/groups/"+clearbox.GroupID{}.String(), nil).want(t, 404, clearbox.CodeNotFound, "")
}
