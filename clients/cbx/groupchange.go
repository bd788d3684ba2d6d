package main

import (
	"context"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
)

type groupAdd struct {
	Group  string   `arg:"" help:"Its name, or its id."`
	People []string `arg:"" help:"name@server, or the name alone at your own server."`
	Admin  bool     `help:"Let them invite and remove people as well."`
}

// Run invites people.
func (c *groupAdd) Run(ctx context.Context, a *app) error {
	return a.inGroup(ctx, c.Group, func(p *profile, g core.Group) error {
		people, err := p.people(ctx, c.People)
		if err != nil {
			return err
		}
		for _, who := range people {
			if err := p.brain.InviteToGroup(ctx, g.ID, who.User, c.Admin); err != nil {
				return err
			}
		}
		return a.changed(ctx, p, g.ID)
	})
}

type groupAccept struct {
	Group string `arg:"" help:"Its name, or its id."`
}

// Run joins a group.
func (c *groupAccept) Run(ctx context.Context, a *app) error {
	return a.actOn(ctx, c.Group, (*core.Brain).AcceptGroup)
}

type groupDecline struct {
	Group string `arg:"" help:"Its name, or its id."`
}

// Run declines an invitation.
func (c *groupDecline) Run(ctx context.Context, a *app) error {
	return a.actOn(ctx, c.Group, (*core.Brain).DeclineGroup)
}

type groupLeave struct {
	Group string `arg:"" help:"Its name, or its id."`
}

// Run leaves a group.
func (c *groupLeave) Run(ctx context.Context, a *app) error {
	return a.actOn(ctx, c.Group, (*core.Brain).LeaveGroup)
}

type groupClose struct {
	Group string `arg:"" help:"Its name, or its id."`
	Yes   bool   `help:"It cannot be undone; say that you mean it."`
}

// Run ends a group.
func (c *groupClose) Run(ctx context.Context, a *app) error {
	if !c.Yes {
		return usage("nobody can write in a closed group any more, and nothing opens it again: add --yes")
	}
	return a.actOn(ctx, c.Group, (*core.Brain).CloseGroup)
}

func (a *app) actOn(ctx context.Context, name string, act func(*core.Brain, context.Context, clearbox.GroupID) error) error {
	return a.inGroup(ctx, name, func(p *profile, g core.Group) error {
		if err := act(p.brain, ctx, g.ID); err != nil {
			return err
		}
		return a.changed(ctx, p, g.ID)
	})
}

type groupRemove struct {
	Group  string   `arg:"" help:"Its name, or its id."`
	People []string `arg:"" help:"name@server, or the name alone at your own server."`
}

// Help is the long help.
func (groupRemove) Help() string {
	return `Whoever was removed reads nothing that a device wrote which knew of it. What they read before stays with them.`
}

// Run removes people.
func (c *groupRemove) Run(ctx context.Context, a *app) error {
	return a.inGroup(ctx, c.Group, func(p *profile, g core.Group) error {
		for _, name := range c.People {
			who, err := p.known(ctx, name)
			if err != nil {
				return err
			}
			if err := p.brain.RemoveFromGroup(ctx, g.ID, who.User); err != nil {
				return err
			}
		}
		return a.changed(ctx, p, g.ID)
	})
}

type groupRole struct {
	Group   string `arg:"" help:"Its name, or its id."`
	Address string `arg:"" help:"name@server, or the name alone at your own server."`
	Role    string `arg:"" help:"${enum}." enum:"member,admin,owner"`
}

// Run gives a member another role.
func (c *groupRole) Run(ctx context.Context, a *app) error {
	role := map[string]chain.Role{"member": chain.RoleMember, "admin": chain.RoleAdmin, "owner": chain.RoleOwner}[c.Role]
	return a.inGroup(ctx, c.Group, func(p *profile, g core.Group) error {
		who, err := p.known(ctx, c.Address)
		if err != nil {
			return err
		}
		if err := p.brain.SetGroupRole(ctx, g.ID, who.User, role); err != nil {
			return err
		}
		return a.changed(ctx, p, g.ID)
	})
}

type groupInfo struct {
	Group       string  `arg:"" help:"Its name, or its id."`
	Name        string  `help:"What it is called from now on." placeholder:"NAME"`
	Description *string `help:"What it is for." placeholder:"TEXT"`
}

// Run changes what a group is called.
func (c *groupInfo) Run(ctx context.Context, a *app) error {
	return a.inGroup(ctx, c.Group, func(p *profile, g core.Group) error {
		title, description := g.Title, g.Description
		if c.Name != "" {
			title = c.Name
		}
		if c.Description != nil {
			description = *c.Description
		}
		if title != g.Title || description != g.Description {
			if err := p.brain.SetGroupInfo(ctx, g.ID, title, description); err != nil {
				return err
			}
		}
		return a.changed(ctx, p, g.ID)
	})
}

type groupPolicy struct {
	Group      string         `arg:"" help:"Its name, or its id."`
	MayAdd     string         `help:"Who may invite: admins or members." enum:"admins,members," default:""`
	MaxMembers int            `help:"How many people at most." placeholder:"N"`
	Disappear  *time.Duration `help:"After what time messages disappear; 0 is never." placeholder:"DURATION"`
	Servers    []string       `help:"Only people of these servers; any takes that back." placeholder:"SERVER"`
	Countries  []string       `help:"Only people of servers in these countries, two letters each; any takes that back." placeholder:"COUNTRY"`
}

// Help is the long help.
func (groupPolicy) Help() string {
	return `Servers and devices hold everybody to the rules. Rules that exclude somebody who is in the group, or invited, are refused: remove them first. Where a server is says its operator, or whoever agreed on the peering.`
}

// only gives the entries of a rule; "any" takes it back.
func only(entries []string) []string {
	if slices.Contains(entries, "any") {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(entries)))
}

// Run changes a group's rules.
func (c *groupPolicy) Run(ctx context.Context, a *app) error {
	return a.inGroup(ctx, c.Group, func(p *profile, g core.Group) error {
		err := p.brain.SetGroupPolicy(ctx, g.ID, func(policy *chain.Policy) {
			switch c.MayAdd {
			case "admins":
				policy.MayAdd = chain.AdminsAdd
			case "members":
				policy.MayAdd = chain.MembersAdd
			}
			if c.MaxMembers > 0 {
				policy.MaxMembers = c.MaxMembers
			}
			if c.Disappear != nil {
				policy.Disappear = uint32(c.Disappear.Seconds())
			}
			if len(c.Servers) > 0 {
				policy.Servers = only(c.Servers)
			}
			if len(c.Countries) > 0 {
				policy.Countries = only(c.Countries)
			}
		})
		if err != nil {
			return err
		}
		return a.changed(ctx, p, g.ID)
	})
}
