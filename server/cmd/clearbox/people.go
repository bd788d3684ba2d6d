package main

import (
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"

	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
)

type userCommands struct {
	Create userCreate `cmd:"" help:"Make a personal invite for a new account with this name and role."`
	List   userList   `cmd:"" help:"List accounts."`
	Ban    userBan    `cmd:"" help:"Shut a person out; sessions end at once."`
	Unban  userUnban  `cmd:"" help:"Let a banned person log in again."`
	Role   userRole   `cmd:"" help:"Change what a person may do."`
	Reset  userReset  `cmd:"" help:"Make a code with which the person sets a new password, once."`
}

type userCreate struct {
	Name    string `arg:"" help:"The name, without @ and server."`
	Role    string `default:"member" enum:"admin,moderator,rights,dpo,member" help:"admin, moderator, rights, dpo or member."`
	Expires string `placeholder:"72h" help:"How long the invite is valid, such as 30m or 7d."`
	QR      bool   `name:"qr" help:"Show the link as a QR code too."`
}

func (c *userCreate) Run(x *call) error {
	ttl, err := seconds(c.Expires)
	if err != nil {
		return err
	}
	return x.makeInvite("/admin/users", &wire.AdminUserCreate{Handle: c.Name, Role: c.Role, TTL: ttl}, c.QR)
}

// seconds reads --expires; empty is 0, the server's default.
func seconds(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	d, err := config.ParseDuration(text)
	if err != nil {
		return 0, usage("--expires: %v", err)
	}
	return int64(d.Seconds()), nil
}

func (x *call) makeInvite(path string, body any, withQR bool) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var made wire.AdminInviteCreated
	if err := s.do(http.MethodPost, path, body, &made); err != nil {
		return err
	}
	picture := ""
	if withQR {
		if picture, err = qrCode(made.Link); err != nil {
			return err
		}
	}
	x.show(made, func() {
		whom := "anybody who has it"
		if made.For != "" {
			whom = string(made.For)
		}
		x.printf("An invite for %s, role %s, valid until %s, for one use:\n\n  %s\n\n", whom, made.Role, when(made.Expires), made.Link)
		if picture != "" {
			x.printf("%s\n", picture)
		}
		x.printf("In a terminal: cbx join '%s'\nTo take it back: clearbox invite revoke %s\n", made.Link, made.ID)
	})
	return nil
}

type userList struct{}

func (c *userList) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	all := wire.AdminUsers{Users: []wire.AdminUser{}}
	for after := ""; ; {
		var page wire.AdminUsers
		if err := s.do(http.MethodGet, "/admin/users"+pageQuery(after), nil, &page); err != nil {
			return err
		}
		all.Users = append(all.Users, page.Users...)
		if after = page.Next; after == "" {
			break
		}
	}
	x.show(all, func() {
		rows := [][]string{{"NAME", "ROLE", "STATE", "DEVICES", "CREATED", "ID"}}
		for _, u := range all.Users {
			rows = append(rows, []string{string(u.Handle), u.Role, u.State, strconv.Itoa(u.Devices), when(u.Created), u.User.String()})
		}
		x.table(rows)
	})
	return nil
}

func pageQuery(after string) string {
	q := url.Values{"limit": {strconv.Itoa(wire.MaxAdminPage)}}
	if after != "" {
		q.Set("after", after)
	}
	return "?" + q.Encode()
}

type userBan struct {
	Name   string `arg:"" help:"The name, without @ and server."`
	Reason string `help:"Why; kept in the audit log."`
}

func (c *userBan) Run(x *call) error {
	return x.changeUser(c.Name, "ban", &wire.AdminReason{Reason: c.Reason}, "%s is banned; every session has ended.\n")
}

type userUnban struct {
	Name   string `arg:"" help:"The name, without @ and server."`
	Reason string `help:"Why; kept in the audit log."`
}

func (c *userUnban) Run(x *call) error {
	return x.changeUser(c.Name, "unban", &wire.AdminReason{Reason: c.Reason}, "%s may log in again.\n")
}

type userRole struct {
	Name string `arg:"" help:"The name, without @ and server."`
	Role string `arg:"" enum:"admin,moderator,rights,dpo,member" help:"admin, moderator, rights, dpo or member."`
}

func (c *userRole) Run(x *call) error {
	return x.changeUser(c.Name, "role", &wire.AdminRole{Role: c.Role}, "%s has the role "+c.Role+".\n")
}

func (x *call) changeUser(name, verb string, body any, done string) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var u wire.AdminUser
	if err := s.do(http.MethodPost, "/admin/users/"+segment(name)+"/"+verb, body, &u); err != nil {
		return err
	}
	x.show(u, func() { x.printf(done, u.Handle) })
	return nil
}

type userReset struct {
	Name string `arg:"" help:"The name, without @ and server."`
}

func (c *userReset) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var r wire.AdminReset
	if err := s.do(http.MethodPost, "/admin/users/"+segment(c.Name)+"/reset", nil, &r); err != nil {
		return err
	}
	x.show(r, func() {
		x.printf("A code for %s to set a new password, for one use, valid until %s:\n\n  %s\n\n%s uses it with: cbx login --reset %s\nThe old password works until then. Every session ends when the code is used.\n",
			r.Handle, when(r.Expires), r.Code, r.Handle, r.Code)
	})
	return nil
}

type inviteCommands struct {
	Create inviteCreate `cmd:"" help:"Make an invite."`
	List   inviteList   `cmd:"" help:"List invites."`
	Revoke inviteRevoke `cmd:"" help:"Take an invite back."`
}

type inviteCreate struct {
	For     string `placeholder:"NAME" help:"The name that it is good for; otherwise the person chooses."`
	Role    string `default:"member" enum:"admin,moderator,rights,dpo,member" help:"admin, moderator, rights, dpo or member."`
	Expires string `placeholder:"72h" help:"How long it is valid, such as 30m or 7d."`
	QR      bool   `name:"qr" help:"Show the link as a QR code too."`
}

func (c *inviteCreate) Run(x *call) error {
	ttl, err := seconds(c.Expires)
	if err != nil {
		return err
	}
	return x.makeInvite("/admin/invites", &wire.AdminInviteCreate{For: c.For, Role: c.Role, TTL: ttl}, c.QR)
}

type inviteList struct {
	All bool `help:"Used, revoked and expired ones too."`
}

func (c *inviteList) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	all := wire.AdminInvites{Invites: []wire.AdminInvite{}}
	for after := ""; ; {
		var page wire.AdminInvites
		if err := s.do(http.MethodGet, "/admin/invites"+pageQuery(after), nil, &page); err != nil {
			return err
		}
		for _, i := range page.Invites {
			if c.All || i.State == "open" {
				all.Invites = append(all.Invites, i)
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	sort.SliceStable(all.Invites, func(i, j int) bool { return all.Invites[i].Created < all.Invites[j].Created })
	x.show(all, func() {
		rows := [][]string{{"ID", "STATE", "FOR", "ROLE", "CREATED", "EXPIRES"}}
		for _, i := range all.Invites {
			rows = append(rows, []string{i.ID, i.State, dash(string(i.For)), i.Role, when(i.Created), when(i.Expires)})
		}
		x.table(rows)
	})
	return nil
}

type inviteRevoke struct {
	ID string `arg:"" help:"As in the list."`
}

func (c *inviteRevoke) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	if err := s.do(http.MethodDelete, "/admin/invites/"+segment(c.ID), nil, nil); err != nil {
		return err
	}
	x.show(map[string]string{"revoked": c.ID}, func() { x.printf("The invite is revoked.\n") })
	return nil
}

type auditCommand struct {
	After  string `placeholder:"NO" help:"Only what came after the entry with this number, the first of it."`
	Before string `placeholder:"NO" help:"Only what came before the entry with this number, the last of it."`
	Limit  int    `default:"100" help:"At most so many entries, 1 to 500; the newest, without the others."`
}

func (c *auditCommand) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	q := url.Values{"limit": {strconv.Itoa(c.Limit)}}
	for key, v := range map[string]string{"after": c.After, "before": c.Before} {
		if v != "" {
			q.Set(key, v)
		}
	}
	var page wire.AdminAudit
	if err := s.do(http.MethodGet, "/admin/audit?"+q.Encode(), nil, &page); err != nil {
		return err
	}
	x.show(page, func() {
		rows := [][]string{{"NO", "WHEN", "WHO", "ROLE", "WHAT", "OBJECT", "REASON", "DETAIL"}}
		for _, e := range page.Entries {
			rows = append(rows, []string{fmt.Sprint(e.No), when(e.At), e.Actor, e.Role, e.Action, dash(e.Object), dash(e.Reason), dash(e.Detail)})
		}
		x.table(rows)
		if page.Next != "" {
			x.printf("Newer: clearbox audit --after %s%s\n", page.Next, x.mention())
		}
		if page.Before != "" {
			x.printf("Older: clearbox audit --before %s%s\n", page.Before, x.mention())
		}
	})
	return nil
}
