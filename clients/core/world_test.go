package core_test

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// world is a federation of homeservers in memory: everything that the brain
// needs of them, and faults on request. Servers share one state, so mail
// reaches the other organisation at once.
type world struct {
	t  testing.TB
	mu sync.Mutex

	accounts     map[clearbox.UserID]*account
	names        map[string]clearbox.UserID
	access       map[string]*session // by access token
	refresh      map[string]*session // by refresh token
	serial       int
	claims       map[clearbox.MessageID]*wire.Bundles
	authorities  map[clearbox.ServerName]*authority
	asked        map[clearbox.ServerName]int // requests for what is known of a server
	certificates int                         // issued
	knocks       int                         // that people were asked by
	serverState  wire.ServerState            // of every server; empty is reachable
	refuseKnock  clearbox.Code               // if set, no knock is taken

	country       string              // where every server says that all others are
	refuseServers clearbox.Code       // if set, nothing is told of servers
	away          bool                // nobody is found at another server
	signals       int                 // that clients sent
	watched       []*wire.ClientFrame // who asked for whose presence
	handed        map[string]int      // one-time prekeys handed out, by account, kind and id

	// fault, if set, is asked for each request and each frame of a client:
	// "lost" drops it on the way there, "unheard" the answer on the way back.
	fault   func(method, path string) string
	faultMu sync.Mutex // guards fault, and what it uses
	rooms   map[string]*linkRoom
	// relay, if set, may alter what passes a room: by side, number and body.
	relay func(side string, n int, body []byte) []byte
	// noSocket makes every socket impossible.
	noSocket bool
	// refuse, if set, may refuse a submission.
	refuse func(*wire.Submission) error

	groups   map[clearbox.GroupID]*groupAt
	hubAway  bool            // no hub orders anything
	uploads  int             // messages to groups
	kept     []wire.Envelope // what servers saw of messages to groups
	reports  []wire.Report   // as they came
	onReport clearbox.Code   // what they are refused with

	// showOps, if set, gives what is told of operations to somebody.
	showOps func(to clearbox.UserID, ops []wire.GroupEvent) []wire.GroupEvent
}

type account struct {
	list      []byte
	parsed    *keys.DeviceList
	password  string
	reset     string // code that sets a new one, once
	devices   map[clearbox.DeviceID]*device
	sent      map[clearbox.MessageID]*submitted
	withdrawn []int

	open        bool   // people of other servers find the account by its name
	token       []byte // delivery token, and the one before
	tokenBefore []byte
	knocks      map[clearbox.MessageID]bool // own ones that are open
	blocks      []clearbox.UserID
	shut        bool // a knock was answered by a block

	archive   []wire.HistoryItem
	archiving bool // with consent
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
		access: map[string]*session{}, refresh: map[string]*session{}, claims: map[clearbox.MessageID]*wire.Bundles{}, handed: map[string]int{}, rooms: map[string]*linkRoom{}, groups: map[clearbox.GroupID]*groupAt{},
		authorities: map[clearbox.ServerName]*authority{}, asked: map[clearbox.ServerName]int{},
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
		var changed *clearbox.GroupChangedError
		if errors.As(err, &changed) {
			p.Epoch = changed.Epoch
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

func (w *world) takeReport(r *wire.Report) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reports = append(w.reports, *r)
	if w.onReport != "" {
		return refusal(w.onReport)
	}
	return nil
}

func (w *world) setReports(refused clearbox.Code) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onReport = refused
}

func (w *world) reported() []wire.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.reports)
}

func decode[T any](body []byte) (*T, error) {
	v := new(T)
	return v, wire.Decode(wire.JSON, body, v)
}

func (w *world) serve(ctx context.Context, server clearbox.ServerName, req core.Request) (any, error) {
	if out, err, ok := w.serveRooms(ctx, server, req); ok {
		return out, err
	}
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
	case "POST /auth/reset":
		return nil, w.reset(req.Body)
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
	if out, err, ok := w.serveHistory(s, req.Method, path, query, req.Body); ok {
		return out, err
	}
	if out, err, ok := w.serveGroups(s, req.Method, path, query, req.Body); ok {
		return out, err
	}
	if out, err, ok := w.serveContacts(s, req.Method, path, req.Body); ok {
		return out, err
	}
	switch req.Method + " " + path {
	case "POST /auth/logout":
		w.revoke(s)
		return nil, nil
	case "POST /auth/password":
		return w.changePassword(s, req.Body)
	case "GET /devices":
		return w.ownDevices(s)
	case "PUT /devices/list":
		return w.putList(s, req.Body)
	case "GET /keys/status":
		return w.keyStatus(s), nil
	case "GET /keys/standing":
		return w.standingKeys(s), nil
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
	case "POST /reports":
		r, err := decode[wire.Report](req.Body)
		if err != nil {
			return nil, err
		}
		return nil, w.takeReport(r)
	case "GET /sync":
		return w.sync(ctx, s, query)
	}
	if id, ok := strings.CutPrefix(path, "/users/"); ok && req.Method == "GET" {
		id, err := url.PathUnescape(id)
		if err != nil {
			return nil, err
		}
		return w.lookup(s, id)
	}
	if id, ok := strings.CutPrefix(path, "/devices/"); ok && req.Method == "DELETE" {
		return nil, w.withdraw(s, id)
	}
	return nil, refusal(clearbox.CodeNotFound)
}
