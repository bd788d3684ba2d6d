package api

import (
	"net/http"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/wire"
)

func (c *call) reTokens(status int, t auth.Tokens) error {
	return c.reply(status, wire.Tokens{
		Access: t.Access, AccessExpires: t.AccessExpires, Refresh: t.Refresh, RefreshExpires: t.RefreshExpires,
		Session: t.Session, User: t.User, Address: c.api.addressOf(t.Handle), Device: t.Device, Role: string(t.Role),
	})
}

// addressOf is the address of a person of this server.
func (a *API) addressOf(h clearbox.Handle) string {
	return clearbox.Address{Handle: h, Server: a.server}.String()
}

func register(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	var in wire.Registration
	if err := c.body(&in); err != nil {
		return err
	}
	purposes := make([]auth.Purpose, 0, len(in.Consents))
	for i, s := range in.Consents {
		p, err := auth.ParsePurpose(s)
		if err != nil {
			return place(err, at("/consents", i))
		}
		purposes = append(purposes, p)
	}
	t, err := c.api.parts.Auth.Register(c.ctx(), auth.Registration{
		Handle: clearbox.Handle(in.Handle), UID: in.UID, Password: in.Password, Invite: in.Invite,
		DeviceList: in.DeviceList, DeviceName: in.DeviceName, Keys: keysIn(&in.Keys),
		Notice: auth.NoticeAck{Version: in.Notice.Version, Hash: in.Notice.Hash}, Language: in.Notice.Language,
		Consents: purposes, Client: c.client(),
	})
	if err != nil {
		return keyPlace(err)
	}
	return c.reTokens(http.StatusCreated, t)
}

func login(c *call) error {
	var in wire.Login
	if err := c.body(&in); err != nil {
		return err
	}
	l := auth.Login{Name: in.Handle, Password: in.Password, Client: c.client()}
	if in.Device != nil {
		l.Device = in.Device.Device
		l.Proof = &auth.DeviceProof{At: in.Device.At, Signature: in.Device.Signature}
	}
	t, err := c.api.parts.Auth.Login(c.ctx(), l)
	if err != nil {
		return err
	}
	return c.reTokens(http.StatusOK, t)
}

func refresh(c *call) error {
	var in wire.Refresh
	if err := c.body(&in); err != nil {
		return err
	}
	t, err := c.api.parts.Auth.Refresh(c.ctx(), in.Token)
	if err != nil {
		return err
	}
	return c.reTokens(http.StatusOK, t)
}

func reset(c *call) error {
	var in wire.PasswordReset
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.api.parts.Auth.Reset(c.ctx(), in.Code, in.New, c.client()); err != nil {
		return err
	}
	return c.done()
}

func logout(c *call) error {
	if err := c.api.parts.Auth.Logout(c.ctx(), c.who); err != nil {
		return err
	}
	return c.done()
}

func changePassword(c *call) error {
	var in wire.PasswordChange
	if err := c.body(&in); err != nil {
		return err
	}
	t, err := c.api.parts.Auth.ChangePassword(c.ctx(), c.who, auth.PasswordChange{Old: in.Old, New: in.New})
	if err != nil {
		return err
	}
	return c.reTokens(http.StatusOK, t)
}

func ticket(c *call) error {
	t, expires, err := c.api.parts.Auth.Ticket(c.ctx(), c.who)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, wire.Ticket{Ticket: t, Expires: expires})
}

func me(c *call) error {
	m, err := c.api.parts.Auth.Me(c.ctx(), c.who)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, wire.Me{User: m.User, Address: c.api.addressOf(m.Handle), Role: string(m.Role), Device: m.Device,
		Session: m.Session, Created: m.Created, Notice: m.Notice, Stale: m.NoticeStale})
}

func acknowledge(c *call) error {
	var in wire.NoticeAck
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.api.parts.Auth.AcknowledgeNotice(c.ctx(), c.who, auth.NoticeAck{Version: in.Version, Hash: in.Hash}); err != nil {
		return err
	}
	return c.done()
}

func consents(c *call) error {
	list, err := c.api.parts.Auth.Consents(c.ctx(), c.who)
	if err != nil {
		return err
	}
	out := wire.Consents{Consents: make([]wire.Consent, 0, len(list))}
	for _, k := range list {
		out.Consents = append(out.Consents, consentOut(k))
	}
	return c.reply(http.StatusOK, out)
}

func consentOut(k auth.Consent) wire.Consent {
	return wire.Consent{Purpose: string(k.Purpose), Granted: k.Granted, Stale: k.Stale, NoticeVersion: k.NoticeVersion, At: k.At}
}

func grantConsent(c *call) error {
	var in wire.ConsentGrant
	if err := c.body(&in); err != nil {
		return err
	}
	return c.setConsent(true, in.Notice)
}

func withdrawConsent(c *call) error { return c.setConsent(false, wire.NoticeAck{}) }

func (c *call) setConsent(granted bool, ack wire.NoticeAck) error {
	purpose, err := auth.ParsePurpose(c.param("purpose"))
	if err != nil {
		return clearbox.Wrap(clearbox.CodeNotFound, "there is no such purpose", err)
	}
	k, err := c.api.parts.Auth.SetConsent(c.ctx(), c.who, purpose, granted, auth.NoticeAck{Version: ack.Version, Hash: ack.Hash}, ack.Language)
	if err != nil {
		return err
	}
	if purpose == auth.PurposePresence {
		c.api.parts.Presence.SetVisible(c.who.User, k.Granted)
	}
	if purpose == auth.PurposeOpenReachability {
		c.api.parts.Contacts.Consented(c.who.User.UID)
	}
	if c.api.parts.Afar != nil && (purpose == auth.PurposePresence || purpose == auth.PurposeFederatedPresence) {
		c.api.parts.Afar.Consented(c.ctx(), c.who.User.UID)
	}
	return c.reply(http.StatusOK, consentOut(k))
}

func devices(c *call) error {
	o, err := c.api.parts.Directory.Devices(c.ctx(), c.who)
	if err != nil {
		return err
	}
	out := wire.Devices{Devices: make([]wire.Device, 0, len(o.Devices)), DeviceList: o.DeviceList, Version: o.Version}
	for _, d := range o.Devices {
		out.Devices = append(out.Devices, wire.Device{Device: d.ID, Registration: d.Registration, Name: d.Name,
			Added: d.Added, LastSeenDay: d.LastSeenDay, Current: d.Current})
	}
	return c.reply(http.StatusOK, out)
}

func publishDevices(c *call) error {
	var in wire.DeviceListUpload
	if err := c.body(&in); err != nil {
		return err
	}
	u := directory.ListUpdate{Signed: in.DeviceList, Keys: map[clearbox.DeviceID]directory.Keys{}, Names: map[clearbox.DeviceID]string{}}
	for i := range in.Added {
		u.Keys[in.Added[i].Device] = keysIn(&in.Added[i].Keys)
		u.Names[in.Added[i].Device] = in.Added[i].Name
	}
	acc, err := c.api.parts.Directory.PublishList(c.ctx(), c.who, u)
	if err != nil {
		return keyPlace(addedPlace(err, in.Added))
	}
	return c.reply(http.StatusOK, wire.DeviceListStored{Version: acc.Version})
}

func removeDevice(c *call) error {
	id, err := c.deviceParam()
	if err != nil {
		return err
	}
	if err := c.api.parts.Directory.RemoveDevice(c.ctx(), c.who, id); err != nil {
		return err
	}
	return c.done()
}

// deviceParam reads {id}. What cannot be a device is absent.
func (c *call) deviceParam() (clearbox.DeviceID, error) {
	var n int64
	s := c.param("id")
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || i == 3 {
			n = 0
			break
		}
		n = n*10 + int64(s[i]-'0')
	}
	id, err := clearbox.ParseDeviceID(n)
	if err != nil {
		return 0, clearbox.Wrap(clearbox.CodeNotFound, "there is no such device", err)
	}
	return id, nil
}
