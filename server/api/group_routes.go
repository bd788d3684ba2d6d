package api

import (
	"math"
	"net/http"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/server/wire"
)

// groupID is the group of the path.
func (c *call) groupID() (clearbox.GroupID, error) {
	id, err := clearbox.ParseGroupID(c.param("id"))
	if err != nil {
		return id, clearbox.Wrap(clearbox.CodeNotFound, "there is no such group", err)
	}
	return id, nil
}

func createGroup(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	var in wire.GroupCreate
	if err := c.body(&in); err != nil {
		return err
	}
	r, err := c.api.parts.Groups.Create(c.ctx(), c.who, in.Op, in.Opening)
	return c.replyOr(err, http.StatusCreated, place32(r))
}

func place32(r groups.Result) wire.GroupPlace {
	return wire.GroupPlace{Group: r.Group, Epoch: r.Epoch, Head: r.Head[:]}
}

func submitGroupOp(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	id, err := c.groupID()
	if err != nil {
		return err
	}
	var in wire.GroupSubmit
	if err := c.body(&in); err != nil {
		return err
	}
	r, err := c.api.parts.Groups.Submit(c.ctx(), c.who, id, in.Op, in.Openings)
	return c.replyOr(err, http.StatusOK, place32(r))
}

func groupSummary(s *groups.Summary) wire.GroupSummary {
	return wire.GroupSummary{
		Group: s.ID, Hub: s.Hub, State: string(s.State), Epoch: s.Epoch, Head: s.Head[:], Member: s.Member, Role: s.Role.String(), Status: s.Status.String(),
	}
}

func listGroups(c *call) error {
	list, err := c.api.parts.Groups.List(c.ctx(), c.who)
	out := wire.Groups{Groups: make([]wire.GroupSummary, 0, len(list))}
	for i := range list {
		out.Groups = append(out.Groups, groupSummary(&list[i]))
	}
	return c.replyOr(err, http.StatusOK, out)
}

func readGroup(c *call) error {
	id, err := c.groupID()
	if err != nil {
		return err
	}
	sum, openings, err := c.api.parts.Groups.Get(c.ctx(), c.who, id)
	return c.replyOr(err, http.StatusOK, wire.GroupDetail{Summary: groupSummary(&sum), Openings: orEmpty(openings)})
}

func orEmpty(b [][]byte) [][]byte {
	if b == nil {
		return [][]byte{}
	}
	return b
}

func readGroupOps(c *call) error {
	if err := c.knownQuery("after"); err != nil {
		return err
	}
	id, err := c.groupID()
	if err != nil {
		return err
	}
	after, err := c.queryInt("after", 0, math.MaxInt32)
	if err != nil {
		return err
	}
	p, err := c.api.parts.Groups.Ops(c.ctx(), c.who, id, uint64(after))
	return c.replyOr(err, http.StatusOK, wire.GroupPage{Ops: orEmpty(p.Ops), Openings: orEmpty(p.Openings), More: p.More})
}

func adminGroups(c *call) error {
	out, err := c.api.parts.Admin.Groups(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminGroup(c *call) error {
	id, err := c.groupID()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Group(c.ctx(), c.actor(), id)
	return c.replyOr(err, http.StatusOK, out)
}

func adminDeleteGroup(c *call) error {
	id, err := c.groupID()
	if err != nil {
		return err
	}
	if err := c.api.parts.Admin.DeleteGroup(c.ctx(), c.actor(), id); err != nil {
		return err
	}
	return c.done()
}
