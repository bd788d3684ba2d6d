package main

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

type groupCommands struct {
	List   groupList   `cmd:"" help:"List the groups of people here: numbers and servers, no names and no titles."`
	Show   groupShow   `cmd:"" help:"Show one."`
	Delete groupDelete `cmd:"" help:"Delete a group that this server keeps; all its members are told."`
}

type groupList struct {
	Frozen bool `help:"Only those whose membership is frozen."`
}

func (c *groupList) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var all wire.AdminGroups
	if err := s.do(http.MethodGet, "/admin/groups", nil, &all); err != nil {
		return err
	}
	picked := wire.AdminGroups{Groups: []wire.AdminGroup{}}
	for _, g := range all.Groups {
		if !c.Frozen || g.State == "frozen" {
			picked.Groups = append(picked.Groups, g)
		}
	}
	x.show(picked, func() {
		if len(picked.Groups) == 0 {
			x.printf("There are no such groups.\n")
			return
		}
		rows := [][]string{{"GROUP", "HUB", "STATE", "MEMBERS", "INVITED", "SERVERS", "CHANGED"}}
		for _, g := range picked.Groups {
			rows = append(rows, []string{g.Group.String(), string(g.Hub), g.State, strconv.Itoa(g.Members), strconv.Itoa(g.Invited),
				strconv.Itoa(len(g.Servers)), when(g.Changed)})
		}
		x.table(rows)
	})
	return nil
}

type groupShow struct {
	Group string `arg:"" help:"Its id in the list."`
}

func (c *groupShow) Run(x *call) error {
	id, err := groupID(c.Group)
	if err != nil {
		return err
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	var g wire.AdminGroup
	if err := s.do(http.MethodGet, "/admin/groups/"+id, nil, &g); err != nil {
		return err
	}
	x.show(g, func() {
		hub := string(g.Hub)
		if g.Own {
			hub += " (this server)"
		}
		servers := make([]string, 0, len(g.Servers))
		for _, name := range g.Servers {
			servers = append(servers, string(name))
		}
		x.printf("group      %s\nhub        %s\nstate      %s\nepoch      %d\nmembers    %d\ninvited    %d\nservers    %s\nsince      %s\nchanged    %s\n",
			g.Group, hub, g.State, g.Epoch, g.Members, g.Invited, strings.Join(servers, ", "), when(g.Created), when(g.Changed))
		switch {
		case g.State == "frozen":
			x.printf("\nIts hub contradicted itself (%s): who is in it cannot change here any more, messages go on. Call the\nadministrator of %s; members can begin a new group.\n", g.Reason, g.Hub)
		case g.Own && g.State == "active":
			x.printf("\nTo delete it: clearbox group delete %s%s\n", g.Group, x.mention())
		}
	})
	return nil
}

// groupID reads a group's id before anything is asked.
func groupID(text string) (string, error) {
	id, err := clearbox.ParseGroupID(text)
	if err != nil {
		return "", usage("%v; `clearbox group list` shows them", err)
	}
	return id.String(), nil
}

type groupDelete struct {
	Group string `arg:"" help:"Its id in the list."`
	Yes   bool   `help:"Do it; without this the command only says what would happen."`
}

func (c *groupDelete) Run(x *call) error {
	id, err := groupID(c.Group)
	if err != nil {
		return err
	}
	if !c.Yes {
		return x.unsure("the group ends for good for everybody in it, here and at other servers; what they have of it on their devices stays theirs", "group delete "+id)
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	if err := s.do(http.MethodDelete, "/admin/groups/"+id, nil, nil); err != nil {
		return err
	}
	x.show(map[string]string{"group": id, "state": "deleted"}, func() {
		x.printf("The group is deleted; its members and their servers are told.\n")
	})
	return nil
}

// groups looks for groups whose hub contradicted itself.
func (e *examination) groups() finding {
	const name = "groups"
	if e.down != nil {
		return unknown(name, "the server is not running")
	}
	var all wire.AdminGroups
	s, err := e.x.dial()
	if err == nil {
		err = s.do(http.MethodGet, "/admin/groups", nil, &all)
	}
	if err != nil {
		return bad(name, "look into the server's log", "%v", err)
	}
	active, frozen := 0, 0
	for _, g := range all.Groups {
		switch g.State {
		case "active":
			active++
		case "frozen":
			frozen++
		}
	}
	if frozen > 0 {
		return warn(name, "clearbox group list --frozen"+e.x.mention(),
			"the membership of %d groups is frozen, since their hubs contradicted themselves: who is in them cannot change here any more", frozen)
	}
	return ok(name, "%d active", active)
}
