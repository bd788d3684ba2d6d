package api

import (
	"net/http"
	"strconv"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/wire"
)

// actor is who does an admin deed.
func (c *call) actor() admin.Actor {
	if c.class == byLocal {
		return admin.Local()
	}
	return admin.Of(c.who)
}

// myHandle tells whether {handle} is the caller's own name.
func myHandle(c *call) (bool, error) {
	if c.class == byLocal {
		return false, nil
	}
	m, err := c.api.parts.Auth.Me(c.ctx(), c.who)
	if err != nil {
		return false, err
	}
	return c.param("handle") == string(m.Handle), nil
}

// page reads after= and limit= of an admin list.
func (c *call) page() (after string, limit int, err error) {
	if err := c.knownQuery("after", "limit"); err != nil {
		return "", 0, err
	}
	query := c.r.URL.Query()
	return wire.AdminPage(query.Get("after"), query.Get("limit"))
}

// peer reads {server}.
func (c *call) peer() (clearbox.ServerName, error) {
	name, err := clearbox.ParseServerName(c.param("server"))
	if err != nil {
		return "", clearbox.Wrap(clearbox.CodeNotFound, "there is no such peer", err)
	}
	return name, nil
}

func adminStatus(c *call) error {
	out, err := c.api.parts.Admin.Status(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func (c *call) replyOr(err error, status int, v any) error {
	if err != nil {
		return err
	}
	return c.reply(status, v)
}

func adminUsers(c *call) error {
	after, limit, err := c.page()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Users(c.ctx(), c.actor(), after, limit)
	return c.replyOr(err, http.StatusOK, out)
}

func adminCreateUser(c *call) error {
	var in wire.AdminUserCreate
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.CreateUser(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusCreated, out)
}

func adminBan(c *call) error {
	var in wire.AdminReason
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Ban(c.ctx(), c.actor(), c.param("handle"), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminUnban(c *call) error {
	var in wire.AdminReason
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Unban(c.ctx(), c.actor(), c.param("handle"), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminRole(c *call) error {
	var in wire.AdminRole
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.SetRole(c.ctx(), c.actor(), c.param("handle"), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminReset(c *call) error {
	out, err := c.api.parts.Admin.Reset(c.ctx(), c.actor(), c.param("handle"))
	return c.replyOr(err, http.StatusOK, out)
}

func adminInvites(c *call) error {
	after, limit, err := c.page()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Invites(c.ctx(), c.actor(), after, limit)
	return c.replyOr(err, http.StatusOK, out)
}

func adminCreateInvite(c *call) error {
	var in wire.AdminInviteCreate
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.CreateInvite(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusCreated, out)
}

func adminRevokeInvite(c *call) error {
	if err := c.api.parts.Admin.RevokeInvite(c.ctx(), c.actor(), c.param("id")); err != nil {
		return err
	}
	return c.done()
}

func adminPeers(c *call) error {
	out, err := c.api.parts.Admin.Peers(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminInvitePeer(c *call) error {
	var in wire.AdminPeerInvite
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.InvitePeer(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusCreated, out)
}

func adminAcceptPeer(c *call) error {
	var in wire.AdminPeerAccept
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.AcceptPeer(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminTestPeer(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.TestPeer(c.ctx(), c.actor(), peer)
	return c.replyOr(err, http.StatusOK, out)
}

func adminSuspendPeer(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.SuspendPeer(c.ctx(), c.actor(), peer)
	return c.replyOr(err, http.StatusOK, out)
}

func adminResumePeer(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.ResumePeer(c.ctx(), c.actor(), peer)
	return c.replyOr(err, http.StatusOK, out)
}

func adminRemovePeer(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	if err := c.api.parts.Admin.RemovePeer(c.ctx(), c.actor(), peer); err != nil {
		return err
	}
	return c.done()
}

func adminFederation(c *call) error {
	out, err := c.api.parts.Admin.FedStatus(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminRetry(c *call) error {
	var in wire.AdminFedRetry
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.FedRetry(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminDead(c *call) error {
	if err := c.knownQuery("peer", "code", "after", "limit"); err != nil {
		return err
	}
	query := c.r.URL.Query()
	after, limit, err := wire.AdminPage(query.Get("after"), query.Get("limit"))
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Dead(c.ctx(), c.actor(), clearbox.ServerName(query.Get("peer")), clearbox.Code(query.Get("code")), after, limit)
	return c.replyOr(err, http.StatusOK, out)
}

func adminDeadLetter(c *call) error {
	no, err := strconv.ParseInt(c.param("no"), 10, 64)
	if err != nil {
		no = 0 // there is none
	}
	out, err := c.api.parts.Admin.DeadLetter(c.ctx(), c.actor(), no)
	return c.replyOr(err, http.StatusOK, out)
}

func adminRequeueDead(c *call) error {
	var in wire.AdminDeadPick
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.RequeueDead(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminDropDead(c *call) error {
	var in wire.AdminDeadPick
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.DropDead(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminAudit(c *call) error {
	if err := c.knownQuery("after", "before", "limit"); err != nil {
		return err
	}
	query := c.r.URL.Query()
	after, limit, err := wire.AdminPage(query.Get("after"), query.Get("limit"))
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Audit(c.ctx(), c.actor(), after, query.Get("before"), limit)
	return c.replyOr(err, http.StatusOK, out)
}

func adminReload(c *call) error {
	out, err := c.api.parts.Admin.Reload(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}
