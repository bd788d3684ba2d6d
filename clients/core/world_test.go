package core_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// world is a federation of homeservers in memory: everything that the brain
// needs of them, and faults on request. Servers share one state, so mail
// reaches the other organisation at once.
type world struct {
	t  testing.TB
	mu sync.Mutex

	accounts map[clearbox.UserID]*account
	names    map[string]clearbox.UserID
	access   map[string]*session // by access token
	refresh  map[string]*session // by refresh token
	serial   int
	claims   map[clearbox.MessageID]*wire.Bundles
	handed   map[string]int // one-time prekeys handed out, by account, kind and id

	// fault, if set, is asked for each request and each frame of a client:
	// "lost" drops it on the way there, "unheard" the answer on the way back.
	fault   func(method, path string) string
	faultMu sync.Mutex // guards fault, and what it uses
	// noSocket makes every socket impossible.
	noSocket bool
	// refuse, if set, may refuse a submission.
	refuse func(*wire.Submission) error
}

type account struct {
	list      []byte
	parsed    *keys.DeviceList
	password  string
	devices   map[clearbox.DeviceID]*device
	sent      map[clearbox.MessageID]*submitted
	withdrawn []int
}

type submitted struct {
	body  []byte
	state wire.MessageState
}

type device struct {
	keys    wire.Keys
	seq     int64
	acked   int64
	mail    []wire.ServerFrame
	wake    chan struct{} // closed and replaced when mail comes
	streams map[*stream]bool
}

type session struct {
	user    clearbox.UserID
	device  clearbox.DeviceID
	access  string
	expires time.Time
	refresh string
	revoked bool
	used    map[string]bool
}

func newWorld(t testing.TB) *world {
	return &world{
		t: t, accounts: map[clearbox.UserID]*account{}, names: map[string]clearbox.UserID{},
		access: map[string]*session{}, refresh: map[string]*session{}, claims: map[clearbox.MessageID]*wire.Bundles{}, handed: map[string]int{},
	}
}

// network is one brain's way to its homeserver.
type network struct {
	w      *world
	server clearbox.ServerName

	mu      sync.Mutex
	away    bool // the network is down
	streams []*stream
}

var errNet = errors.New("network is down")

func (n *network) setAway(away bool) {
	n.mu.Lock()
	n.away = away
	streams := n.streams
	n.streams = nil
	n.mu.Unlock()
	for _, s := range streams {
		s.Close()
	}
}

func (n *network) isAway() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.away
}

func refusal(code clearbox.Code) error { return &clearbox.Error{Code: code, Text: string(code)} }

// Do implements core.Network.
func (n *network) Do(ctx context.Context, req core.Request) (core.Response, error) {
	if err := ctx.Err(); err != nil {
		return core.Response{}, err
	}
	fault := n.w.strike(req.Method, req.Path)
	if n.isAway() || fault == "lost" {
		return core.Response{}, errNet
	}
	out, err := n.w.serve(ctx, n.server, req)
	if n.isAway() || fault == "unheard" {
		return core.Response{}, errNet
	}
	if err != nil {
		p := &wire.Problem{Status: 400, Code: clearbox.CodeOf(err), Detail: err.Error()}
		var stale *clearbox.StaleDevicesError
		if errors.As(err, &stale) {
			p.Stale = &wire.StaleDevices{User: stale.User, Version: stale.Version, Missing: stale.Missing, Extra: stale.Extra}
		}
		body, err := wire.Append(wire.JSON, nil, p)
		return core.Response{Status: 400, Body: body}, err
	}
	res := core.Response{Status: 200}
	if out != nil {
		if res.Body, err = wire.Append(wire.JSON, nil, out); err != nil {
			return res, err
		}
	}
	return res, nil
}

func (w *world) setFault(fault func(method, path string) string) {
	w.faultMu.Lock()
	defer w.faultMu.Unlock()
	w.fault = fault
}

func (w *world) setNoSocket(no bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noSocket = no
}

func (w *world) setRefuse(refuse func(*wire.Submission) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = refuse
}

func (w *world) strike(method, path string) string {
	w.faultMu.Lock()
	defer w.faultMu.Unlock()
	if w.fault == nil {
		return ""
	}
	return w.fault(method, path)
}

func decode[T any](body []byte) (*T, error) {
	v := new(T)
	return v, wire.Decode(wire.JSON, body, v)
}

func (w *world) serve(ctx context.Context, server clearbox.ServerName, req core.Request) (any, error) {
	path, query, _ := strings.Cut(req.Path, "?")
	switch req.Method + " " + path {
	case "GET /.well-known/clearbox":
		return &wire.WellKnown{Server: server, Registration: "invite"}, nil
	case "GET /notice":
		return &wire.PrivacyNotice{Version: "1", Hash: "h", Text: "notice"}, nil
	case "POST /auth/register":
		return w.register(server, req.Body)
	case "POST /auth/login":
		return w.login(server, req.Body)
	case "POST /auth/refresh":
		return w.doRefresh(req.Body)
	}
	w.mu.Lock()
	s := w.access[req.Token]
	ok := s != nil && !s.revoked
	expired := ok && !time.Now().Before(s.expires)
	w.mu.Unlock()
	if !ok {
		return nil, refusal(clearbox.CodeUnauthorized)
	}
	if expired {
		return nil, refusal(clearbox.CodeTokenExpired)
	}
	switch req.Method + " " + path {
	case "POST /auth/logout":
		w.revoke(s)
		return nil, nil
	case "GET /devices":
		return w.ownDevices(s)
	case "PUT /devices/list":
		return w.putList(s, req.Body)
	case "GET /keys/status":
		return w.keyStatus(s), nil
	case "PUT /keys":
		return w.putKeys(s, req.Body)
	case "POST /keys/claim":
		return w.claim(req.Body)
	case "POST /messages/send":
		sub, err := decode[wire.Submission](req.Body)
		if err != nil {
			return nil, err
		}
		return w.submit(s, sub)
	case "POST /messages/status":
		return w.statuses(s, req.Body)
	case "GET /sync":
		return w.sync(ctx, s, query)
	}
	if id, ok := strings.CutPrefix(path, "/users/"); ok && req.Method == "GET" {
		id, err := url.PathUnescape(id)
		if err != nil {
			return nil, err
		}
		return w.lookup(id)
	}
	if id, ok := strings.CutPrefix(path, "/devices/"); ok && req.Method == "DELETE" {
		return nil, w.withdraw(s, id)
	}
	return nil, refusal(clearbox.CodeNotFound)
}

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
	if !ok || acc.password != l.Password || l.Device == nil {
		return nil, refusal(clearbox.CodeBadCredentials)
	}
	for _, d := range acc.parsed.Active() {
		if d.ID == uint8(l.Device.Device) && ed25519.Verify(d.Key, wire.LoginProof(server, user.UID, l.Device.Device, l.Device.At), l.Device.Signature) {
			return w.tokens(&session{user: user, device: l.Device.Device, used: map[string]bool{}}), nil
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
	acc.list, acc.parsed, acc.withdrawn = u.DeviceList, list, nil
	for _, a := range u.Added {
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

func (w *world) putKeys(s *session, body []byte) (any, error) {
	k, err := decode[wire.Keys](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
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

func (w *world) lookup(id string) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	user, ok := w.names[id]
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
	for _, to := range sub.To {
		if err := w.compare(s, to); err != nil {
			return nil, err
		}
	}
	for _, to := range sub.To {
		for _, e := range to.Envelopes {
			w.deliver(to.User, e.Device, wire.ServerFrame{Type: wire.FrameReceive, Envelope: &wire.Envelope{
				ID: sub.ID, Sender: s.user, SenderDevice: s.device, Recipient: to.User, Device: e.Device, Type: e.Type, AcceptedAt: now, Content: e.Content,
			}})
		}
	}
	state := wire.StateAccepted
	if sub.To[0].User.Server != s.user.Server {
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

// stream is a WebSocket in memory.
type stream struct {
	w      *world
	n      *network
	s      *session
	d      *device
	out    chan []byte // to the client; unbuffered
	done   chan struct{}
	once   sync.Once
	reason error // why it ended; set before done is closed
}

// Open implements core.Network.
func (n *network) Open(ctx context.Context, token string) (core.Stream, error) {
	w := n.w
	if n.isAway() || w.strike("OPEN", "/ws") != "" {
		return nil, errNet
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.noSocket {
		return nil, core.ErrNoSocket
	}
	s := w.access[token]
	switch {
	case s == nil || s.revoked:
		return nil, refusal(clearbox.CodeUnauthorized)
	case !time.Now().Before(s.expires):
		return nil, refusal(clearbox.CodeTokenExpired)
	}
	st := &stream{w: w, n: n, s: s, d: w.own(s), out: make(chan []byte), done: make(chan struct{})}
	for old := range st.d.streams {
		old.end(&core.ClosedError{Code: wire.CloseReplaced})
		delete(st.d.streams, old)
	}
	st.d.streams[st] = true
	n.mu.Lock()
	n.streams = append(n.streams, st)
	n.mu.Unlock()
	go st.serve(st.d.acked)
	return st, nil
}

func (s *stream) serve(acked int64) {
	if !s.push(&wire.ServerFrame{Type: wire.FrameWelcome, Device: s.s.device, MaxFrame: wire.MaxFrame, Acked: acked}) {
		return
	}
	next := acked
	for {
		s.w.mu.Lock()
		var frame *wire.ServerFrame
		for i := range s.d.mail {
			if s.d.mail[i].Seq > next {
				f := s.d.mail[i]
				frame = &f
				break
			}
		}
		wake := s.d.wake
		s.w.mu.Unlock()
		if frame == nil {
			select {
			case <-wake:
				continue
			case <-s.done:
				return
			}
		}
		if !s.push(frame) {
			return
		}
		next = frame.Seq
	}
}

func (s *stream) push(f *wire.ServerFrame) bool {
	b, err := wire.AppendServerFrame(nil, wire.CBOR, f)
	if err != nil {
		s.w.t.Error(err)
		return false
	}
	select {
	case s.out <- b:
		return true
	case <-s.done:
		return false
	}
}

// Send implements core.Stream.
func (s *stream) Send(ctx context.Context, frame []byte) error {
	select {
	case <-s.done:
		return s.reason
	default:
	}
	f, err := wire.ParseClientFrame(wire.CBOR, frame)
	if err != nil {
		s.w.t.Errorf("a frame that no server would take: %v", err)
		return err
	}
	fault := s.w.strike("FRAME", string(f.Type))
	if fault == "lost" {
		s.end(errNet)
		return nil // written to a socket that nobody reads
	}
	switch f.Type {
	case wire.FrameAck:
		s.w.mu.Lock()
		s.w.ack(s.d, f.Seq)
		s.w.mu.Unlock()
	case wire.FrameSend:
		answer := &wire.ServerFrame{Type: wire.FrameSent, Ref: f.Ref}
		if answer.Receipt, err = s.w.submit(s.s, f.Submission); err != nil {
			p := &wire.Problem{Code: clearbox.CodeOf(err), Detail: err.Error()}
			var stale *clearbox.StaleDevicesError
			if errors.As(err, &stale) {
				p.Stale = &wire.StaleDevices{User: stale.User, Version: stale.Version, Missing: stale.Missing, Extra: stale.Extra}
			}
			answer = &wire.ServerFrame{Type: wire.FrameError, Ref: f.Ref, Problem: p}
		}
		if fault == "unheard" {
			s.end(errNet)
			return nil
		}
		go s.push(answer)
	}
	return nil
}

// Receive implements core.Stream.
func (s *stream) Receive(ctx context.Context) ([]byte, error) {
	select {
	case b := <-s.out:
		return b, nil
	case <-s.done:
		return nil, s.reason
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *stream) end(reason error) {
	s.once.Do(func() {
		s.reason = reason
		close(s.done)
	})
}

// Close implements core.Stream.
func (s *stream) Close() error {
	s.end(io.EOF)
	return nil
}

// person is one brain with its vault and network, which may crash and return.
type person struct {
	t     testing.TB
	w     *world
	name  clearbox.Address
	store *memvault.Vault
	vault core.Vault
	net   *network
	opts  core.Options
	brain *core.Brain
	user  clearbox.UserID

	preKeys int // one-time prekeys of a kind; 0 is the product's number

	cancel context.CancelFunc
	ended  chan error
}

func newPerson(t testing.TB, w *world, name string) *person {
	t.Helper()
	p := &person{t: t, w: w, store: &memvault.Vault{}, opts: core.Options{Now: time.Now, Random: cryptoRandom}}
	var err error
	if p.name, err = clearbox.ParseAddress(name); err != nil {
		t.Fatal(err)
	}
	p.net = &network{w: w, server: p.name.Server}
	p.vault, p.preKeys = p.store, 4
	p.open()
	return p
}

// open makes a new brain over what the vault holds, as a new process would.
func (p *person) open() {
	p.t.Helper()
	brain, err := core.New(context.Background(), p.vault, p.net, p.opts)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.preKeys > 0 {
		core.SetPreKeys(brain, p.preKeys)
	}
	p.brain = brain
}

func (p *person) registration() core.Registration {
	return core.Registration{
		Server: p.name.Server, Handle: p.name.Handle, Password: "secret", Invite: "invite", DeviceName: "laptop",
		Notice: wire.NoticeAck{Version: "1", Hash: "h"},
	}
}

// join registers.
func (p *person) join() *person {
	p.t.Helper()
	if err := p.brain.Register(context.Background(), p.registration()); err != nil {
		p.t.Fatal(err)
	}
	p.user = p.profile().User
	return p
}

func (p *person) profile() core.Profile {
	p.t.Helper()
	pr, err := p.brain.Profile()
	if err != nil {
		p.t.Fatal(err)
	}
	return pr
}

func (p *person) start() *person {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan error, 1)
	brain, ended := p.brain, p.ended
	go func() { ended <- brain.Run(ctx) }()
	return p
}

// stop ends Run and gives its error.
func (p *person) stop() error {
	if p.cancel == nil {
		return nil
	}
	p.cancel()
	p.cancel = nil
	return <-p.ended
}

func (p *person) contact(name string) core.Contact {
	p.t.Helper()
	c, err := p.brain.Contact(context.Background(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *person) send(to *person, text string) clearbox.MessageID {
	p.t.Helper()
	p.contact(to.name.String())
	m, err := p.brain.Send(context.Background(), to.user, text)
	if err != nil {
		p.t.Fatal(err)
	}
	return m.ID
}

func (p *person) state(id clearbox.MessageID) core.State {
	p.t.Helper()
	m, err := p.brain.Message(context.Background(), id)
	if err != nil {
		p.t.Fatal(err)
	}
	return m.State
}

// heard gives the texts of other's messages in their order.
func (p *person) heard(other *person) []string {
	p.t.Helper()
	lines, err := p.brain.Messages(context.Background(), other.user, 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, m := range lines {
		switch {
		case m.Outgoing:
		case m.Kind == core.MessageText:
			out = append(out, m.Text)
		default:
			out = append(out, "<"+string(m.Kind)+">")
		}
	}
	return out
}
