package core_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

func (w *world) tokens(s *session) *wire.Tokens {
	w.serial++
	delete(w.access, s.access)
	s.access, s.refresh = fmt.Sprintf("access-%d", w.serial), fmt.Sprintf("refresh-%d", w.serial)
	s.expires = time.Now().Add(15 * time.Minute)
	w.access[s.access], w.refresh[s.refresh] = s, s
	now := clearbox.Millis(time.Now().UnixMilli())
	return &wire.Tokens{
		Access: s.access, AccessExpires: now + 15*60*1000, Refresh: s.refresh, RefreshExpires: now + 30*24*3600*1000,
		Session: fmt.Sprint(w.serial), User: s.user, Device: s.device, Role: "member",
	}
}

func (w *world) register(server clearbox.ServerName, body []byte) (any, error) {
	r, err := decode[wire.Registration](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := r.Handle + "@" + string(server)
	if _, taken := w.names[name]; taken {
		return nil, refusal(clearbox.CodeHandleTaken)
	}
	user := clearbox.UserID{UID: r.UID, Server: server}
	list, err := keys.ParseDeviceList(r.DeviceList)
	if err != nil || list.Account != user.String() || len(list.Active()) != 1 {
		return nil, refusal(clearbox.CodeBadSignature)
	}
	w.names[name] = user
	w.accounts[user] = &account{
		list: r.DeviceList, parsed: list, password: r.Password, sent: map[clearbox.MessageID]*submitted{},
		devices: map[clearbox.DeviceID]*device{1: newDevice(r.Keys)},
		open:    slices.Contains(r.Consents, "open_reachability"), knocks: map[clearbox.MessageID]bool{},
	}
	return w.tokens(&session{user: user, device: 1, used: map[string]bool{}}), nil
}

func newDevice(k wire.Keys) *device {
	return &device{keys: k, wake: make(chan struct{}), streams: map[*stream]bool{}}
}

func (w *world) login(server clearbox.ServerName, body []byte) (any, error) {
	l, err := decode[wire.Login](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	user, ok := w.names[l.Handle+"@"+string(server)]
	acc := w.accounts[user]
	if !ok || acc.password != l.Password {
		return nil, refusal(clearbox.CodeBadCredentials)
	}
	if l.Device == nil {
		return w.tokens(&session{user: user, used: map[string]bool{}}), nil
	}
	return w.begin(server, user, l.Device)
}

// begin begins a session of a device that proves itself; the caller holds mu.
func (w *world) begin(server clearbox.ServerName, user clearbox.UserID, proof *wire.DeviceProof) (any, error) {
	acc := w.accounts[user]
	if acc == nil {
		return nil, refusal(clearbox.CodeNotFound)
	}
	for _, d := range acc.parsed.Active() {
		if d.ID == uint8(proof.Device) && ed25519.Verify(d.Key, wire.LoginProof(server, user.UID, proof.Device, proof.At), proof.Signature) {
			return w.tokens(&session{user: user, device: proof.Device, used: map[string]bool{}}), nil
		}
	}
	return nil, refusal(clearbox.CodeBadCredentials)
}

func (w *world) doRefresh(body []byte) (any, error) {
	r, err := decode[wire.Refresh](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.refresh[r.Token]
	switch {
	case s == nil || s.revoked:
		return nil, refusal(clearbox.CodeUnauthorized)
	case s.used[r.Token]:
		s.revoked = true
		return nil, refusal(clearbox.CodeTokenReused)
	}
	s.used[r.Token] = true
	return w.tokens(s), nil
}

// revokeAll ends every session of user; the caller holds mu.
func (w *world) revokeAll(user clearbox.UserID) {
	for _, s := range w.access {
		s.revoked = s.revoked || s.user == user
	}
}

func (w *world) reset(body []byte) error {
	r, err := decode[wire.PasswordReset](body)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for user, acc := range w.accounts {
		if acc.reset == r.Code {
			acc.reset, acc.password = "", r.New
			w.revokeAll(user)
			return nil
		}
	}
	return refusal(clearbox.CodeBadCredentials)
}

func (w *world) changePassword(s *session, body []byte) (any, error) {
	c, err := decode[wire.PasswordChange](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	acc := w.accounts[s.user]
	if acc.password != c.Old {
		return nil, refusal(clearbox.CodeBadCredentials)
	}
	acc.password = c.New
	w.revokeAll(s.user)
	return w.tokens(&session{user: s.user, device: s.device, used: map[string]bool{}}), nil
}

func (w *world) revoke(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.revoked = true
}

func (w *world) ownDevices(s *session) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	acc := w.accounts[s.user]
	out := &wire.Devices{DeviceList: acc.list, Version: acc.parsed.Version, Devices: []wire.Device{}}
	for _, d := range acc.parsed.Active() {
		if acc.devices[clearbox.DeviceID(d.ID)] != nil {
			out.Devices = append(out.Devices, wire.Device{Device: clearbox.DeviceID(d.ID), Registration: d.Registration})
		}
	}
	return out, nil
}

func (w *world) putList(s *session, body []byte) (any, error) {
	u, err := decode[wire.DeviceListUpload](body)
	if err != nil {
		return nil, err
	}
	list, err := keys.ParseDeviceList(u.DeviceList)
	if err != nil {
		return nil, refusal(clearbox.CodeBadSignature)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	acc := w.accounts[s.user]
	if err := list.Follows(acc.parsed); err != nil {
		return nil, refusal(clearbox.CodeConflict)
	}
	if renewed := list.Identity != acc.parsed.Identity; renewed && len(u.Added) != len(acc.devices) {
		w.t.Errorf("a new identity came with the keys of %d devices of %d", len(u.Added), len(acc.devices))
	}
	acc.list, acc.parsed, acc.withdrawn = u.DeviceList, list, nil
	for _, a := range u.Added {
		if d := acc.devices[a.Device]; d != nil { // under a new identity
			d.keys = a.Keys
			continue
		}
		acc.devices[a.Device] = newDevice(a.Keys)
	}
	for id := range acc.devices {
		if !active(list, id) {
			delete(acc.devices, id)
		}
	}
	return &wire.DeviceListStored{Version: list.Version}, nil
}

func active(l *keys.DeviceList, id clearbox.DeviceID) bool {
	for _, d := range l.Active() {
		if d.ID == uint8(id) {
			return true
		}
	}
	return false
}

func (w *world) withdraw(s *session, text string) error {
	id, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	acc := w.accounts[s.user]
	delete(acc.devices, clearbox.DeviceID(id))
	acc.withdrawn = append(acc.withdrawn, id)
	return nil
}

func (w *world) own(s *session) *device { return w.accounts[s.user].devices[s.device] }

func (w *world) keyStatus(s *session) *wire.KeyStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.own(s)
	return &wire.KeyStatus{OneTime: len(d.keys.OneTime), OneTimeKEM: len(d.keys.OneTimeKEM), Max: 100}
}

func (w *world) standingKeys(s *session) *wire.StandingKeys {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &wire.StandingKeys{Devices: []wire.StandingKey{}}
	for id, d := range w.accounts[s.user].devices {
		out.Devices = append(out.Devices, wire.StandingKey{Device: id, Signed: *d.keys.Signed, KEM: *d.keys.KEM})
	}
	return out
}

func (w *world) putKeys(s *session, body []byte) (any, error) {
	k, err := decode[wire.Keys](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	if signer := w.accounts[s.user].parsed.Identity; k.Signed != nil && !curve.Verify(signer, k.Signed.Key, k.Signed.Signature) {
		w.mu.Unlock()
		return nil, refusal(clearbox.CodeBadSignature)
	}
	d := w.own(s)
	if k.Signed != nil {
		d.keys.Signed, d.keys.KEM = k.Signed, k.KEM
	}
	d.keys.OneTime = append(d.keys.OneTime, k.OneTime...)
	d.keys.OneTimeKEM = append(d.keys.OneTimeKEM, k.OneTimeKEM...)
	over := len(d.keys.OneTime) > 100 || len(d.keys.OneTimeKEM) > 100
	w.mu.Unlock()
	if over {
		w.t.Error("more than 100 one-time prekeys were uploaded")
	}
	return w.keyStatus(s), nil
}

func (w *world) claim(body []byte) (any, error) {
	c, err := decode[wire.KeyClaim](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if again := w.claims[c.ClaimID]; again != nil {
		return again, nil
	}
	acc := w.accounts[c.User]
	if acc == nil {
		return nil, refusal(clearbox.CodeRecipientUnavailable)
	}
	out := &wire.Bundles{User: c.User, Bundles: []wire.Bundle{}}
	for _, id := range c.DeviceIDs() {
		d := acc.devices[id]
		if d == nil {
			continue
		}
		b := wire.Bundle{Device: id, Identity: acc.parsed.Identity.Bytes(), Signed: *d.keys.Signed, KEM: *d.keys.KEM}
		for _, e := range acc.parsed.Active() {
			if e.ID == uint8(id) {
				b.Registration = e.Registration
			}
		}
		if n := len(d.keys.OneTime); n > 0 {
			b.OneTime = &d.keys.OneTime[0]
			w.handed[fmt.Sprint(c.User, id, "ec", b.OneTime.ID)]++
			d.keys.OneTime = d.keys.OneTime[1:]
		}
		if n := len(d.keys.OneTimeKEM); n > 0 {
			b.KEM = d.keys.OneTimeKEM[0]
			w.handed[fmt.Sprint(c.User, id, "kem", b.KEM.ID)]++
			d.keys.OneTimeKEM = d.keys.OneTimeKEM[1:]
		}
		out.Bundles = append(out.Bundles, b)
	}
	w.claims[c.ClaimID] = out
	return out, nil
}

func (w *world) lookup(s *session, id string) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	user, ok := w.names[id]
	_, server, _ := strings.Cut(id, "@")
	_, byUID := clearbox.ParseUserID(id)
	if w.away && clearbox.ServerName(server) != s.user.Server {
		return nil, refusal(clearbox.CodePeerUnreachable)
	}
	if byUID != nil && clearbox.ServerName(server) != s.user.Server && (!ok || !w.accounts[user].open) {
		return nil, refusal(clearbox.CodeConsentRequired)
	}
	if !ok {
		var err error
		if user, err = clearbox.ParseUserID(id); err != nil {
			return nil, refusal(clearbox.CodeNotFound)
		}
	}
	acc := w.accounts[user]
	if acc == nil {
		return nil, refusal(clearbox.CodeNotFound)
	}
	out := &wire.Account{User: user, DeviceList: acc.list, Version: acc.parsed.Version, Withdrawn: acc.withdrawn}
	if ok {
		out.Address = id
		if user.Server != s.user.Server {
			out.Token = acc.token
		}
	}
	return out, nil
}

func (w *world) statuses(s *session, body []byte) (any, error) {
	q, err := decode[wire.StatusQuery](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &wire.Statuses{States: []wire.Status{}}
	for _, id := range q.IDs {
		st := wire.Status{ID: id, State: wire.StateUnknown}
		if sub := w.accounts[s.user].sent[id]; sub != nil {
			st.State = sub.state
		}
		out.States = append(out.States, st)
	}
	return out, nil
}

// submit is the homeserver's Submit: idempotent, exact device sets, all or nothing.
func (w *world) submit(s *session, sub *wire.Submission) (*wire.Receipt, error) {
	body, err := wire.Append(wire.CBOR, nil, sub)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := clearbox.Millis(time.Now().UnixMilli())
	sender := w.accounts[s.user]
	if before := sender.sent[sub.ID]; before != nil {
		if !bytes.Equal(before.body, body) {
			return nil, refusal(clearbox.CodeConflict)
		}
		return &wire.Receipt{ID: sub.ID, Status: wire.StateAccepted, AcceptedAt: now}, nil
	}
	if w.refuse != nil {
		if err := w.refuse(sub); err != nil {
			return nil, err
		}
	}
	if err := w.fellows(s, sub); err != nil {
		return nil, err
	}
	for _, to := range sub.To {
		if err := w.compare(s, to); err != nil {
			return nil, err
		}
		away := to.User.Server != s.user.Server
		if away && len(to.Token) != 16 && sub.Group == nil {
			return nil, refusal(clearbox.CodeConsentRequired)
		}
		for _, e := range to.Envelopes {
			if (e.Type == clearbox.ContentSealed) != away {
				w.t.Errorf("an envelope of type %d for %s", e.Type, to.User.Server)
				return nil, refusal(clearbox.CodeBadRequest)
			}
		}
	}
	for _, to := range sub.To {
		if away := to.User.Server != s.user.Server; away && sub.Group == nil && !w.allows(to.User, to.Token) {
			sender.sent[sub.ID] = &submitted{body: body, state: wire.StateUndeliverable}
			w.deliver(s.user, s.device, wire.ServerFrame{Type: wire.FrameReceive, Notice: &wire.Notice{
				Kind: wire.NoticeUndeliverable, ID: sub.ID, Recipient: to.User, Code: clearbox.CodeConsentRequired,
			}})
			return &wire.Receipt{ID: sub.ID, Status: wire.StateAccepted, AcceptedAt: now}, nil
		}
	}
	if err := w.many(s, sub, now); err != nil {
		return nil, err
	}
	for _, to := range sub.To {
		for _, e := range to.Envelopes {
			env := &wire.Envelope{ID: sub.ID, Recipient: to.User, Device: e.Device, Type: e.Type, AcceptedAt: now, Content: e.Content}
			if to.User.Server == s.user.Server {
				env.Sender, env.SenderDevice = s.user, s.device
			} else {
				env.Origin = s.user.Server
			}
			w.deliver(to.User, e.Device, wire.ServerFrame{Type: wire.FrameReceive, Envelope: env})
		}
	}
	state := wire.StateAccepted
	if len(sub.To) == 0 || sub.To[0].User.Server != s.user.Server {
		state = wire.StateAtPeer
	}
	sender.sent[sub.ID] = &submitted{body: body, state: state}
	return &wire.Receipt{ID: sub.ID, Status: wire.StateAccepted, AcceptedAt: now}, nil
}

func (w *world) compare(s *session, to wire.Recipient) error {
	acc := w.accounts[to.User]
	if acc == nil {
		return refusal(clearbox.CodeRecipientUnavailable)
	}
	stale := &clearbox.StaleDevicesError{User: to.User, Version: acc.parsed.Version}
	has := map[clearbox.DeviceRef]bool{}
	for _, e := range to.Envelopes {
		has[clearbox.DeviceRef{ID: e.Device, Registration: e.Registration}] = true
	}
	for _, d := range acc.parsed.Active() {
		ref := clearbox.DeviceRef{ID: clearbox.DeviceID(d.ID), Registration: d.Registration}
		if acc.devices[ref.ID] == nil || to.User == s.user && ref.ID == s.device {
			continue
		}
		if !has[ref] {
			stale.Missing = append(stale.Missing, ref)
		}
		delete(has, ref)
	}
	for ref := range has {
		stale.Extra = append(stale.Extra, ref)
	}
	if len(stale.Missing)+len(stale.Extra) > 0 {
		return stale
	}
	return nil
}

// deliver puts f into a mailbox; the caller holds mu.
func (w *world) deliver(user clearbox.UserID, id clearbox.DeviceID, f wire.ServerFrame) {
	d := w.accounts[user].devices[id]
	d.seq++
	f.Seq = d.seq
	d.mail = append(d.mail, f)
	close(d.wake)
	d.wake = make(chan struct{})
}

// notify delivers a notice about one of user's messages.
func (w *world) notify(user clearbox.UserID, n wire.Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deliver(user, 1, wire.ServerFrame{Type: wire.FrameReceive, Notice: &n})
}

func (w *world) ack(d *device, seq int64) {
	if seq > d.seq {
		w.t.Errorf("acknowledged %d of %d", seq, d.seq)
	}
	for len(d.mail) > 0 && d.mail[0].Seq <= seq {
		d.mail = d.mail[1:]
	}
	d.acked = max(d.acked, seq)
}

func (w *world) sync(ctx context.Context, s *session, query string) (any, error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	ack, _ := strconv.ParseInt(q.Get("ack"), 10, 64)
	timeout, _ := strconv.Atoi(q.Get("timeout"))
	deadline := time.Now().Add(time.Duration(timeout) * time.Second)
	for {
		w.mu.Lock()
		d := w.own(s)
		w.ack(d, ack)
		out := &wire.Sync{Acked: d.acked, Events: []wire.ServerFrame{}}
		for _, f := range d.mail {
			if len(out.Events) == 3 { // small pages, so that tests see More
				out.More = true
				break
			}
			out.Events = append(out.Events, f)
		}
		wake := d.wake
		w.mu.Unlock()
		wait := time.Until(deadline)
		if len(out.Events) > 0 || wait <= 0 {
			return out, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}
