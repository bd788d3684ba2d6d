package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
)

type groupCommand struct {
	List    groupList    `cmd:"" default:"1" help:"List groups and invitations."`
	Create  groupCreate  `cmd:"" help:"Found a group, and invite people."`
	Show    groupShow    `cmd:"" help:"Show who is in a group, and its rules."`
	Add     groupAdd     `cmd:"" help:"Invite people; they are in it once they accept."`
	Accept  groupAccept  `cmd:"" help:"Accept an invitation."`
	Decline groupDecline `cmd:"" help:"Decline an invitation."`
	Leave   groupLeave   `cmd:"" help:"Leave a group."`
	Remove  groupRemove  `cmd:"" help:"Remove people, or take their invitation back."`
	Role    groupRole    `cmd:"" help:"Give a member another role."`
	Info    groupInfo    `cmd:"" help:"Change what a group is called."`
	Policy  groupPolicy  `cmd:"" help:"Change a group's rules."`
	Close   groupClose   `cmd:"" help:"End a group for everybody."`
}

// groupLine is a group in JSON.
type groupLine struct {
	Type        string              `json:"type"` // group
	ID          clearbox.GroupID    `json:"id"`
	Name        string              `json:"name,omitempty"` // empty while nobody told the key for it
	Description string              `json:"description,omitempty"`
	Epoch       uint64              `json:"epoch"`
	Hub         clearbox.ServerName `json:"hub"`
	State       string              `json:"state"` // own membership: invited, active or former
	Role        string              `json:"role,omitempty"`
	InvitedBy   string              `json:"invited_by,omitempty"`
	Closed      bool                `json:"closed,omitempty"`
	Alarm       core.Alarm          `json:"alarm,omitempty"`
	Behind      bool                `json:"behind,omitempty"` // the own server does not show what members know of
	Members     []memberLine        `json:"members"`
	Policy      policyLine          `json:"policy"`
}

// memberLine is a member in JSON.
type memberLine struct {
	Address string          `json:"address"`
	User    clearbox.UserID `json:"user,omitzero"`
	Role    string          `json:"role"`
	Invited bool            `json:"invited,omitempty"`
	Trust   core.Trust      `json:"trust"`
	Foreign bool            `json:"other_keys,omitempty"` // known by other keys than those that they were invited with
}

// policyLine is a group's rules in JSON.
type policyLine struct {
	MayAdd     string   `json:"may_add"`
	Disappear  uint32   `json:"disappear,omitempty"` // seconds
	MaxMembers int      `json:"max_members"`
	Servers    []string `json:"servers,omitempty"`
	Countries  []string `json:"countries,omitempty"`
}

func addersText(a chain.Adders) string {
	if a == chain.MembersAdd {
		return "members"
	}
	return "admins"
}

// groupName is what a group is called on screen.
func groupName(g *core.Group) string {
	if name := oneLine(g.Title); name != "" {
		return name
	}
	return g.ID.String()
}

// memberName is what a member is called on screen.
func (p *profile) memberName(ctx context.Context, user clearbox.UserID) string {
	if user.IsZero() {
		return "somebody"
	}
	return p.name(ctx, user)
}

func (a *app) groupLine(ctx context.Context, p *profile, g *core.Group) groupLine {
	out := groupLine{
		Type: "group", ID: g.ID, Name: g.Title, Description: g.Description, Epoch: g.Epoch, Hub: g.Hub, State: g.Mine.String(),
		Closed: g.Closed, Alarm: g.Alarm, Behind: g.Behind, Members: []memberLine{},
		Policy: policyLine{addersText(g.Policy.MayAdd), g.Policy.Disappear, g.Policy.MaxMembers, g.Policy.Servers, g.Policy.Countries},
	}
	if g.Mine == chain.StatusActive {
		out.Role = g.Role.String()
	}
	if !g.InvitedBy.IsZero() {
		out.InvitedBy = p.name(ctx, g.InvitedBy)
	}
	for _, m := range g.Members {
		out.Members = append(out.Members, memberLine{p.memberName(ctx, m.User), m.User, m.Role.String(), m.Invited, m.Trust, m.Foreign})
	}
	return out
}

// alarms are the sentences for what is wrong with a group.
var alarms = map[core.Alarm]string{
	core.AlarmFork:    "ALARM: there are two histories of it; one of the servers shows different people different things. Its membership is frozen here; cbx group create NAME --like GROUP goes on with the same people",
	core.AlarmForged:  "ALARM: a server brought a change that nobody may make. Its membership is frozen here; cbx group create NAME --like GROUP goes on with the same people",
	core.AlarmDeleted: "deleted by the administrators of its server",
}

// group prints a group in a line.
func (a *app) group(ctx context.Context, p *profile, g *core.Group) {
	line := a.groupLine(ctx, p, g)
	text := groupName(g)
	switch {
	case g.Mine == chain.StatusInvited:
		text += fmt.Sprintf("  you are invited by %s: cbx group accept %q, or decline", p.memberName(ctx, g.InvitedBy), groupName(g))
	case g.Mine == chain.StatusActive:
		text += fmt.Sprintf("  %d people, you are %s", len(g.Members), g.Role)
	default:
		text += "  you are not in it any more"
	}
	if g.Closed {
		text += ", closed"
	}
	if g.Alarm != "" {
		text += ", " + alarms[g.Alarm]
		if !g.AlarmBy.IsZero() {
			text += "; so says " + p.name(ctx, g.AlarmBy) + ", and it ends when they are removed"
		}
	}
	if g.Behind {
		text += ", your server does not show what changed in it"
	}
	a.say(line, "%s", text)
}

// shownGroupID is how much of a group's id stands for it where its name does not
// tell.
const shownGroupID = 8

// groupNamed finds a group by its name, its id or the beginning of that.
func (p *profile) groupNamed(ctx context.Context, name string) (core.Group, error) {
	all, err := p.brain.Groups(ctx)
	if err != nil {
		return core.Group{}, err
	}
	var found []core.Group
	for _, g := range all {
		if g.ID.String() == name {
			return g, nil
		}
		if g.Title == name || len(name) >= 6 && strings.HasPrefix(g.ID.String(), name) {
			found = append(found, g)
		}
	}
	switch len(found) {
	case 0:
		return core.Group{}, advise(core.ErrNoGroup, "cbx group lists them; an invitation shows there once it has come.")
	case 1:
		return found[0], nil
	}
	ids := make([]string, len(found))
	for i := range found {
		ids[i] = found[i].ID.String()[:shownGroupID]
	}
	return core.Group{}, usage("%d groups are called %s: say %s; cbx group show tells whose it is", len(found), clean(name), strings.Join(ids, " or "))
}

// inGroup runs something about a group that was named, with what the server has
// for this device read before.
func (a *app) inGroup(ctx context.Context, name string, do func(*profile, core.Group) error) error {
	return a.with(ctx, func(p *profile) error {
		drainErr := p.brain.Drain(ctx)
		g, err := p.groupNamed(ctx, name)
		if err != nil {
			return errors.Join(err, drainErr)
		}
		return do(p, g)
	})
}

// changed sends what a change of a group has caused, and shows the group.
func (a *app) changed(ctx context.Context, p *profile, id clearbox.GroupID) error {
	if err := p.running(ctx, p.flush); err != nil {
		return err
	}
	g, err := p.brain.Group(ctx, id)
	if err == nil {
		a.group(ctx, p, &g)
	}
	return err
}

type groupList struct{}

// Run lists groups by name.
func (groupList) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		drainErr := p.brain.Drain(ctx)
		limit, cancel := context.WithTimeout(ctx, 3*time.Second)
		_ = p.brain.ConfirmNames(limit) // without an answer the user id is shown
		cancel()
		all, err := p.brain.Groups(ctx)
		for i := range all {
			a.group(ctx, p, &all[i])
		}
		if err == nil && len(all) == 0 {
			a.remark("There is no group yet; cbx group create NAME ADDRESS founds one.")
		}
		return errors.Join(drainErr, err)
	})
}

type groupCreate struct {
	Name        string   `arg:"" help:"What it is called."`
	People      []string `arg:"" optional:"" help:"Whom to invite: name@server, or the name alone at your own server."`
	Description string   `help:"What it is for." placeholder:"TEXT"`
	Like        string   `help:"Invite who is in another group, and take over its rules and what it is for." placeholder:"GROUP"`
}

// Help is the long help.
func (groupCreate) Help() string {
	return `With --like, the people of another group are invited by the keys that they have there: the way on from a group whose server is gone, or whose membership is frozen. Who is known by other keys by now is left out, and said.`
}

// Run makes a group and invites people to it.
func (c *groupCreate) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		people, err := p.people(ctx, c.People)
		if err != nil {
			return err
		}
		if c.Like != "" {
			return c.like(ctx, a, p, people)
		}
		g, err := p.brain.CreateGroup(ctx, c.Name, c.Description)
		if err != nil {
			return err
		}
		for _, who := range people {
			if err := p.brain.InviteToGroup(ctx, g.ID, who.User, false); err != nil {
				return err
			}
		}
		return a.changed(ctx, p, g.ID)
	})
}

// like makes a group in place of another one. Somebody who cannot be invited keeps
// nobody else out.
func (c *groupCreate) like(ctx context.Context, a *app, p *profile, people []core.Contact) error {
	old, err := p.groupNamed(ctx, c.Like)
	if err != nil {
		return err
	}
	me, err := p.brain.Profile()
	if err != nil {
		return err
	}
	if c.Description == "" {
		c.Description = old.Description
	}
	g, err := p.brain.CreateGroup(ctx, c.Name, c.Description)
	if err != nil {
		return err
	}
	if err := p.brain.SetGroupPolicy(ctx, g.ID, func(policy *chain.Policy) { *policy = old.Policy }); err != nil {
		return err
	}
	for _, who := range people {
		old.Members = append(old.Members, core.GroupMember{User: who.User})
	}
	invited := map[clearbox.UserID]bool{me.User: true}
	for _, m := range old.Members {
		if m.User.IsZero() || invited[m.User] {
			continue
		}
		invited[m.User] = true
		var err error = clearbox.Errorf(clearbox.CodeIdentityChanged, "they are known by other keys than in that group")
		if !m.Foreign {
			err = p.brain.InviteToGroup(ctx, g.ID, m.User, m.Role >= chain.RoleAdmin)
		}
		if err != nil {
			a.warn(string(clearbox.CodeOf(err)), p.memberName(ctx, m.User)+" was not invited: "+err.Error())
		}
	}
	return a.changed(ctx, p, g.ID)
}

// people looks everybody up before anything is done.
func (p *profile) people(ctx context.Context, names []string) (out []core.Contact, err error) {
	for _, name := range names {
		c, err := p.contact(ctx, name)
		if err != nil {
			return nil, err
		}
		if c.Pending {
			return nil, clearbox.Errorf(clearbox.CodeConsentRequired, "%s has not accepted you yet: write to them first", clean(name))
		}
		out = append(out, c)
	}
	return out, nil
}

type groupShow struct {
	Group string `arg:"" help:"Its name, or its id."`
}

// Run shows a group.
func (c *groupShow) Run(ctx context.Context, a *app) error {
	return a.inGroup(ctx, c.Group, func(p *profile, g core.Group) error {
		a.group(ctx, p, &g)
		if a.JSON {
			return nil
		}
		if g.Description != "" {
			fmt.Fprintf(a.stdout, "  %s\n", indented(g.Description))
		}
		fmt.Fprintf(a.stdout, "  id %s, ordered by %s, %d changes so far\n", g.ID, g.Hub, g.Epoch)
		fmt.Fprintf(a.stdout, "  %s may invite, at most %d people%s\n", addersText(g.Policy.MayAdd), g.Policy.MaxMembers, limitsText(g.Policy))
		for _, m := range g.Members {
			note := m.Role.String()
			if m.Invited {
				note = "invited"
			}
			if m.Foreign {
				note += ", KNOWN BY OTHER KEYS THAN THOSE OF THE INVITATION"
			}
			trust := trustText[m.Trust]
			if me, err := p.brain.Profile(); err == nil && me.User == m.User {
				trust = "you"
			}
			fmt.Fprintf(a.stdout, "  %s  %s, %s\n", p.memberName(ctx, m.User), note, trust)
		}
		return nil
	})
}

func limitsText(policy chain.Policy) string {
	text := ""
	if policy.Disappear > 0 {
		text += ", messages disappear after " + (time.Duration(policy.Disappear) * time.Second).String()
	}
	if len(policy.Servers) > 0 {
		text += ", of " + strings.Join(policy.Servers, ", ") + " only"
	}
	if len(policy.Countries) > 0 {
		text += ", of servers in " + strings.Join(policy.Countries, ", ") + " only"
	}
	return text
}

// happenedInGroup says what became of a group.
func (p *profile) happenedInGroup(ctx context.Context, m *core.Message) string {
	e := m.Event
	if e == nil {
		return "something that this version does not know"
	}
	var about []string
	for _, user := range e.About {
		about = append(about, p.name(ctx, user))
	}
	whom, who := strings.Join(about, ", "), p.memberName(ctx, m.Sender)
	if whom == "" {
		whom = "somebody"
	}
	switch e.Kind {
	case core.GroupCreated:
		return who + " founded the group"
	case core.GroupInvited:
		return who + " invited " + whom
	case core.GroupJoined:
		return who + " joined"
	case core.GroupDeclined:
		return who + " declined"
	case core.GroupRemoved:
		return who + " removed " + whom
	case core.GroupLeft:
		return who + " left"
	case core.GroupRole:
		return who + " made " + whom + " " + clean(e.Role)
	case core.GroupPolicy:
		return who + " changed the rules"
	case core.GroupNamed:
		return who + " called the group " + oneLine(e.Title)
	case core.GroupClosed:
		return who + " closed the group"
	case core.GroupAlarm:
		return alarms[e.Alarm]
	}
	return "something that this version does not know"
}

// whereText is the conversation that a line belongs to, where it is a group.
func (p *profile) whereText(ctx context.Context, m *core.Message) string {
	if m.Group.IsZero() {
		return ""
	}
	g, err := p.brain.Group(ctx, m.Group)
	if err != nil {
		g.ID = m.Group
	}
	return "[" + groupName(&g) + "] "
}
