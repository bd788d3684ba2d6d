package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/afar"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/archive"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/server/linking"
	"github.com/clearbox-im/clearbox/server/media"
	"github.com/clearbox-im/clearbox/server/presence"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage/blob"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

const home = authtest.Server

// noRoute is a server without peers.
type noRoute struct{}

func (noRoute) Route(context.Context, clearbox.ServerName) error {
	return clearbox.Errorf(clearbox.CodePeerBlocked, "no peering")
}

// world is one homeserver's doors on real rooms and a loopback listener.
type world struct {
	*authtest.World
	t        testing.TB
	api      *api.API
	router   *delivery.Router
	hub      *presence.Hub
	server   *httptest.Server
	local    *httptest.Server // the admin socket
	client   *http.Client     // validates against the OpenAPI file
	log      *syncBuffer
	stop     func()
	notReady error
}

// syncBuffer collects log lines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type setup struct {
	api     api.Options
	auth    auth.Options
	archive archive.Options

	directory directory.Options
	peers     delivery.Peers // noRoute if nil
	afar      func(*world) *afar.Service

	mailbox func(api.Mailbox) api.Mailbox
	router  func(api.Router) api.Router
	media   media.Options
	bubble  bool // in a synctest bubble: no listener
	draws   int  // random bytes drawn beforehand: another number makes other keys
}

// attachments keeps them in a folder of its own.
func (o *setup) attachments(w *world) *media.Service {
	blobs, err := blob.Open(w.t.TempDir(), blob.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return media.New(w.Store, blobs, home, o.media)
}

func newWorld(t testing.TB, o setup) *world {
	t.Helper()
	if o.auth.LoginsPerMinute == 0 {
		o.auth.LoginsPerMinute = -1
	}
	w := &world{World: authtest.New(t, o.auth), t: t, log: &syncBuffer{}, hub: presence.New()}
	w.Random.Read(make([]byte, o.draws))
	o.directory.Now, o.directory.Random = w.Clock.Now, w.Random
	dir := directory.New(w.Store, w.Auth, home, o.directory)
	if o.peers == nil {
		o.peers = noRoute{}
	}
	w.router = delivery.New(w.Store, w.People, dir, o.peers, home, delivery.Options{Now: w.Clock.Now})
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.api.Log = log
	o.api.Version = wire.Version{Version: "test", Go: "go"}
	o.api.Checks = append(o.api.Checks, api.Check{Name: "store", Probe: func(ctx context.Context) error {
		if w.notReady != nil {
			return w.notReady
		}
		return w.Store.Ping(ctx)
	}})
	kept := groups.New(w.Store, dir, w.router, home, groups.Options{Now: w.Clock.Now})
	parts := api.Parts{
		Groups: kept,
		Auth:   w.Auth, Directory: dir, Router: w.router, Contacts: w.router, Archive: archive.New(w.Store, o.archive), Presence: w.hub,
		Linking: linking.New(linking.Options{Now: w.Clock.Now}),
		Media:   o.attachments(w),
		Mailbox: func(p auth.Principal) api.Mailbox { return w.router.Mailbox(p) },
		Admin:   admin.New(w.Store, w.Auth, home, admin.Options{Now: w.Clock.Now, Version: o.api.Version, Groups: kept}),
		Servers: func(_ context.Context, name clearbox.ServerName) (wire.ServerInfo, error) {
			return wire.ServerInfo{Server: name, State: wire.ServerUnreachable, Since: 5, Controller: "Clinic", Country: "AT", Contact: "dpo@" + string(name),
				Roots: []wire.SenderRoot{{Key: make([]byte, 33), NotBefore: 1, Expires: 2}}}, nil
		},
	}
	if o.afar != nil {
		parts.Afar = o.afar(w)
	}
	if o.mailbox != nil {
		open := parts.Mailbox
		parts.Mailbox = func(p auth.Principal) api.Mailbox { return o.mailbox(open(p)) }
	}
	if o.router != nil {
		parts.Router = o.router(w.router)
	}
	w.api = api.New(home, parts, o.api)
	run, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.router.Run(run) })
	running.Go(func() { w.api.Run(run) })
	running.Go(func() { w.Auth.Run(run) })

	if !o.bubble {
		w.server = httptest.NewUnstartedServer(w.api.Handler())
		w.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		api.ConfigureServer(w.server.Config)
		w.server.Start()
		w.local = httptest.NewServer(w.api.AdminHandler())
		w.client = &http.Client{Transport: &validator{t: t, next: w.server.Client().Transport, doc: document(t)}}
	}
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		running.Wait()
		if w.server != nil {
			w.server.Client().CloseIdleConnections()
			w.server.Close()
			w.local.Close()
		}
		if n := w.api.Panics(); n != 0 {
			t.Errorf("%d handlers panicked:\n%s", n, w.log)
		}
	}
	t.Cleanup(w.stop)
	return w
}

// answer is what came back over HTTP.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	problem wire.Problem
}

// do sends a request; body is JSON text, something to be encoded, or nil.
func (w *world) do(method, path, token string, body any) answer {
	w.t.Helper()
	return w.request(w.server.URL, method, path, token, body, nil)
}

// admin sends a request to the admin socket.
func (w *world) admin(method, path string, body any) answer {
	w.t.Helper()
	return w.request(w.local.URL, method, path, "", body, nil)
}

func (w *world) request(base, method, path, token string, body any, change func(*http.Request)) answer {
	w.t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	case io.Reader:
		in = b
	default:
		raw, err := wire.Append(wire.JSON, nil, b)
		if err != nil {
			w.t.Fatal(err)
		}
		in = bytes.NewReader(raw)
	}
	r, err := http.NewRequest(method, base+path, in)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if change != nil {
		change(r)
	}
	res, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		w.t.Fatal(err)
	}
	if res.Header.Get("Content-Type") == wire.ProblemType && method != http.MethodHead {
		if err := json.Unmarshal(a.body, &a.problem); err != nil {
			w.t.Fatal(err)
		}
	}
	return a
}

// into decodes a good answer.
func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if a.status >= 300 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	reflect.ValueOf(v).Elem().SetZero() // absent members are not those of the last answer
	if err := wire.DecodeAnswer(wire.JSON, a.body, v); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
}

// want demands a problem with the code, at the pointer if that is not "".
func (a answer) want(t testing.TB, status int, code clearbox.Code, pointer string) {
	t.Helper()
	if a.status != status || a.problem.Code != code || a.problem.Status != status {
		t.Fatalf("got %d %s (%s), want %d %s", a.status, a.problem.Code, a.body, status, code)
	}
	if pointer != "" && (len(a.problem.Errors) == 0 || a.problem.Errors[0].Pointer != pointer) {
		t.Fatalf("errors %v, want %s", a.problem.Errors, pointer)
	}
	if a.problem.RequestID == "" || a.problem.RequestID != a.header.Get("X-Request-Id") {
		t.Errorf("request id %q in the problem, %q in the header", a.problem.RequestID, a.header.Get("X-Request-Id"))
	}
	if status == 429 || status == 503 {
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if status == 401 && a.header.Get("WWW-Authenticate") == "" {
		t.Error("no WWW-Authenticate")
	}
}

// someone is a registered person with tokens of device 1.
type someone struct {
	*authtest.Person
	w      *world
	tokens auth.Tokens
}

func (w *world) join(h clearbox.Handle) *someone {
	w.t.Helper()
	p, tokens := w.Join(h)
	return &someone{Person: p, w: w, tokens: tokens}
}

// joinAs registers somebody with a role.
func (w *world) joinAs(h clearbox.Handle, role auth.Role) *someone {
	w.t.Helper()
	p := w.Person(h)
	tokens, err := w.Auth.Register(w.t.Context(), p.Registration(w.Invite(auth.NewInvite{Role: role}).Code))
	if err != nil {
		w.t.Fatal(err)
	}
	return &someone{Person: p, w: w, tokens: tokens}
}

func (s *someone) do(method, path string, body any) answer {
	s.w.t.Helper()
	return s.w.do(method, path, s.tokens.Access, body)
}

// consent grants a purpose.
func (s *someone) consent(p auth.Purpose) {
	s.w.t.Helper()
	n := s.w.Auth.Notice()
	_, err := s.w.Auth.SetConsent(s.w.t.Context(), s.w.Principal(s.tokens.Access), p, true, auth.NoticeAck{Version: n.Version, Hash: n.Hash}, "en")
	if err != nil {
		s.w.t.Fatal(err)
	}
}

func newID(t testing.TB) clearbox.MessageID {
	t.Helper()
	id, err := clearbox.NewMessageID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// to is a submission for device 1 of somebody.
func (s *someone) message(content string) *wire.Submission {
	return &wire.Submission{ID: newID(s.w.t), To: []wire.Recipient{{User: s.User, Envelopes: []wire.Outgoing{
		{Device: 1, Registration: 1001, Type: clearbox.ContentWhisper, Content: []byte(content)},
	}}}}
}

// submission is a message as the rooms know it.
func submission(s *wire.Submission) delivery.Submission {
	out := delivery.Submission{ID: s.ID}
	for _, to := range s.To {
		r := delivery.Recipient{User: to.User}
		for _, e := range to.Envelopes {
			r.Envelopes = append(r.Envelopes, delivery.Outgoing(e))
		}
		out.To = append(out.To, r)
	}
	return out
}

// eventually waits for a condition that another goroutine makes true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
