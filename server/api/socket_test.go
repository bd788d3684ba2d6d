package api_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/wire"
)

// peer is the client's end of a socket.
type peer struct {
	t      testing.TB
	ws     *websocket.Conn
	format wire.Format
}

// open connects with an access token and reads the welcome.
func (s *someone) open(f wire.Format) *peer {
	s.w.t.Helper()
	p, _, err := s.w.dial(f, http.Header{"Authorization": {"Bearer " + s.tokens.Access}}, "")
	if err != nil {
		s.w.t.Fatal(err)
	}
	if got := p.next(); got.Type != wire.FrameWelcome || got.Session != s.tokens.Session || got.MaxFrame != wire.MaxFrame {
		s.w.t.Fatalf("welcome %+v", got)
	}
	return p
}

func (w *world) dial(f wire.Format, h http.Header, query string) (*peer, *http.Response, error) {
	w.t.Helper()
	ws, res, err := websocket.Dial(w.t.Context(), w.server.URL+"/ws"+query, &websocket.DialOptions{HTTPHeader: h, Subprotocols: []string{f.Subprotocol()}, HTTPClient: w.server.Client()})
	if err != nil {
		return nil, res, err
	}
	ws.SetReadLimit(wire.MaxFrame)
	w.t.Cleanup(func() { ws.CloseNow() })
	return &peer{t: w.t, ws: ws, format: f}, res, nil
}

func (p *peer) read() (*wire.ServerFrame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	kind, data, err := p.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	if (kind == websocket.MessageText) != (p.format == wire.JSON) {
		p.t.Errorf("a %v message on a socket of format %v", kind, p.format)
	}
	return wire.ParseServerFrame(p.format, data)
}

func (p *peer) next() *wire.ServerFrame {
	p.t.Helper()
	f, err := p.read()
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// raw sends bytes as one message.
func (p *peer) raw(data []byte) {
	p.t.Helper()
	kind := websocket.MessageBinary
	if p.format == wire.JSON {
		kind = websocket.MessageText
	}
	if err := p.ws.Write(p.t.Context(), kind, data); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) send(f *wire.ClientFrame) {
	p.t.Helper()
	b, err := wire.AppendClientFrame(nil, p.format, f)
	if err != nil {
		p.t.Fatal(err)
	}
	p.raw(b)
}

// closed reads on until the socket closes and gives the code.
func (p *peer) closed() wire.CloseCode {
	p.t.Helper()
	for {
		if _, err := p.read(); err != nil {
			var c websocket.CloseError
			if !errors.As(err, &c) {
				p.t.Fatalf("closed without a word: %v", err)
			}
			return wire.CloseCode(c.Code)
		}
	}
}

func bearerOf(s *someone) http.Header {
	return http.Header{"Authorization": {"Bearer " + s.tokens.Access}}
}

var formats = []wire.Format{wire.CBOR, wire.JSON}

func TestSocketCarriesMessages(t *testing.T) {
	for _, f := range formats {
		t.Run(f.Subprotocol(), func(t *testing.T) {
			w := newWorld(t, setup{})
			alice, bob := w.join("alice"), w.join("bob")
			a, b := alice.open(f), bob.open(f)
			m := bob.message("opaque")
			a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 7, Submission: m})
			sent := a.next()
			if sent.Type != wire.FrameSent || sent.Ref != 7 || sent.Receipt.ID != m.ID || sent.Receipt.Status != wire.StateAccepted {
				t.Fatalf("%+v", sent)
			}
			got := b.next()
			if got.Type != wire.FrameReceive || got.Seq != 1 || string(got.Envelope.Content) != "opaque" || got.Envelope.Sender != alice.User ||
				got.Envelope.Recipient != bob.User || got.Envelope.Device != 1 || got.Envelope.ID != m.ID || got.Envelope.AcceptedAt != sent.Receipt.AcceptedAt {
				t.Fatalf("%+v %+v", got, got.Envelope)
			}
			// The same over REST is the same message.
			var rc wire.Receipt
			alice.do("POST", "/messages/send", m).into(t, &rc)
			if rc != *sent.Receipt {
				t.Errorf("REST answers %+v, the socket %+v", rc, *sent.Receipt)
			}
			// Without an acknowledgement it comes again.
			b2 := bob.open(f)
			if code := b.closed(); code != wire.CloseReplaced {
				t.Errorf("the older socket closed with %d", code)
			}
			if again := b2.next(); again.Seq != 1 || again.Envelope.ID != m.ID {
				t.Errorf("%+v", again)
			}
			b2.send(&wire.ClientFrame{Type: wire.FrameAck, Seq: 1})
			eventually(t, "the acknowledgement is stored", func() bool {
				box := w.router.Mailbox(w.Principal(bob.tokens.Access))
				defer box.Close()
				acked, err := box.Acked(t.Context())
				return err == nil && acked == 1
			})
			b3, _, err := w.dial(f, http.Header{"Authorization": {"Bearer " + bob.tokens.Access}}, "")
			if err != nil {
				t.Fatal(err)
			}
			if hello := b3.next(); hello.Type != wire.FrameWelcome || hello.Acked != 1 {
				t.Errorf("%+v", hello)
			}
			a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 8, Submission: bob.message("second")})
			if got := b3.next(); got.Seq != 2 || string(got.Envelope.Content) != "second" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Sends that are in flight together are accepted in their order, each answered.
func TestSocketKeepsOrder(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	a, b := alice.open(wire.CBOR), bob.open(wire.CBOR)
	const n = 400
	var group sync.WaitGroup
	group.Go(func() {
		for i := range n {
			a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: uint64(i + 1), Submission: bob.message(strconv.Itoa(i))})
		}
	})
	group.Go(func() {
		for i := range n {
			if f, err := a.read(); err != nil || f.Type != wire.FrameSent || f.Ref != uint64(i+1) {
				t.Errorf("answer %d: %+v, %v", i, f, err)
				return
			}
		}
	})
	for i := range n {
		f := b.next()
		if f.Seq != int64(i+1) || string(f.Envelope.Content) != strconv.Itoa(i) {
			t.Fatalf("message %d: seq %d, %s", i, f.Seq, f.Envelope.Content)
		}
		if i%50 == 49 {
			b.send(&wire.ClientFrame{Type: wire.FrameAck, Seq: f.Seq})
		}
	}
	group.Wait()
}

// Mail stops at the window and goes on when it is acknowledged.
func TestSocketWindow(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	a := alice.open(wire.CBOR)
	const n = wire.WindowFrames + 100
	for i := range n {
		a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: uint64(i + 1), Submission: bob.message("x")})
		a.next()
	}
	b := bob.open(wire.CBOR)
	for range wire.WindowFrames {
		b.next()
	}
	if n, bytes := w.api.Window(bob.tokens.Session); n != wire.WindowFrames || bytes != wire.WindowFrames {
		t.Errorf("%d frames, %d bytes are in flight", n, bytes)
	}
	// What is sent now must wait, while answers do not.
	b.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: alice.message("y")})
	if f := b.next(); f.Type != wire.FrameSent {
		t.Fatalf("beyond the window: %+v", f)
	}
	b.send(&wire.ClientFrame{Type: wire.FrameAck, Seq: 100})
	for i := range 100 {
		if f := b.next(); f.Seq != int64(wire.WindowFrames+i+1) {
			t.Fatalf("seq %d", f.Seq)
		}
	}
	b.send(&wire.ClientFrame{Type: wire.FrameAck, Seq: n})
	eventually(t, "the window is empty", func() bool { n, _ := w.api.Window(bob.tokens.Session); return n == 0 })
}

func TestSocketAdmission(t *testing.T) {
	w := newWorld(t, setup{api: api.Options{Origins: []string{"https://chat.example"}}})
	bob := w.join("bob")
	var sessionOnly wire.Tokens
	w.do("POST", "/auth/login", "", wire.Login{Handle: "bob", Password: "seven green kettles"}).into(t, &sessionOnly)
	ticket := func() string {
		var tick wire.Ticket
		bob.do("POST", "/auth/ticket", nil).into(t, &tick)
		return tick.Ticket
	}
	bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	with := func(h http.Header, name, value string) http.Header { h = h.Clone(); h.Set(name, value); return h }
	used := ticket()
	for _, c := range []struct {
		name   string
		header http.Header
		query  string
		status int
	}{
		{"access token in the header", bearer(bob.tokens.Access), "", 101},
		{"access token in the URL", nil, "?token=" + bob.tokens.Access, 101},
		{"ticket in the URL", nil, "?token=" + used, 101},
		{"ticket a second time", nil, "?token=" + used, 401},
		{"own origin", with(bearer(bob.tokens.Access), "Origin", w.server.URL), "", 101},
		{"listed origin", with(bearer(bob.tokens.Access), "Origin", "https://chat.example"), "", 101},
		{"foreign origin", with(bearer(bob.tokens.Access), "Origin", "https://evil.example"), "", 403},
		{"null origin", with(bearer(bob.tokens.Access), "Origin", "null"), "", 403},
		{"no token", nil, "", 401},
		{"nonsense token", bearer("x.y.z"), "", 401},
		{"refresh token", bearer(bob.tokens.Refresh), "", 401},
		{"session without a device", bearer(sessionOnly.Access), "", 403},
	} {
		p, res, err := w.dial(wire.CBOR, c.header, c.query)
		if got := res.StatusCode; got != c.status {
			t.Errorf("%s: status %d (%v), want %d", c.name, got, err, c.status)
		}
		if err != nil && res.Header.Get("Content-Type") != wire.ProblemType {
			t.Errorf("%s: refused with %s", c.name, res.Header.Get("Content-Type"))
		}
		if p != nil {
			if f := p.next(); f.Type != wire.FrameWelcome {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
	}
	ws, res, err := websocket.Dial(t.Context(), w.server.URL+"/ws", &websocket.DialOptions{HTTPHeader: bearer(bob.tokens.Access), Subprotocols: []string{"other"}})
	if err == nil {
		ws.CloseNow()
	}
	if res.StatusCode != 400 {
		t.Errorf("another subprotocol: status %d", res.StatusCode)
	}
	bob.do("GET", "/ws", nil).want(t, 400, clearbox.CodeBadRequest, "")
	for _, secret := range []string{bob.tokens.Access, used, bob.tokens.Refresh} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("a token is in the log")
		}
	}
}

func TestSocketClosesWithTheSession(t *testing.T) {
	w := newWorld(t, setup{})
	bob := w.join("bob")
	b := bob.open(wire.CBOR)
	started := time.Now()
	if err := w.Auth.Logout(t.Context(), w.Principal(bob.tokens.Access)); err != nil {
		t.Fatal(err)
	}
	if code := b.closed(); code != wire.CloseRevoked {
		t.Errorf("closed with %d", code)
	}
	if d := time.Since(started); d > 5*time.Second {
		t.Errorf("after %v", d)
	}
	if _, res, err := w.dial(wire.CBOR, http.Header{"Authorization": {"Bearer " + bob.tokens.Access}}, ""); err == nil || res.StatusCode != 401 {
		t.Error("the token still opens sockets:", err)
	}
	eventually(t, "the socket is forgotten", func() bool { return w.api.Sockets() == 0 })
}

// Each kind of bad frame has its answer and changes nothing.
func TestSocketBadFrames(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	ok, err := wire.AppendClientFrame(nil, wire.JSON, &wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: bob.message("opaque")})
	if err != nil {
		t.Fatal(err)
	}
	change := func(old, new string) []byte {
		if !bytes.Contains(ok, []byte(old)) {
			t.Fatalf("%q is not in the frame", old)
		}
		return bytes.Replace(ok, []byte(old), []byte(new), 1)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name    string
		format  wire.Format
		frame   []byte
		pointer string
		code    clearbox.Code
	}{
		{"malformed JSON", wire.JSON, []byte(`{"type":`), "/type", ""},
		{"trailing JSON", wire.JSON, append(bytes.Clone(ok), '1'), "", ""},
		{"unknown type", wire.JSON, []byte(`{"type":"shout"}`), "/type", ""},
		{"unknown field", wire.JSON, change(`"ref":1`, `"ref":1,"x":2`), "/x", ""},
		{"forged sender", wire.JSON, change(`"device":1`, `"device":1,"sender":"`+bob.User.String()+`"`), "/submission/to/0/envelopes/0/sender", ""},
		{"wrong type of ref", wire.JSON, change(`"ref":1`, `"ref":"1"`), "/ref", ""},
		{"bad base64", wire.JSON, change(`"b3BhcXVl"`, `"b3Bhc*Vl"`), "/submission/to/0/envelopes/0/content", ""},
		{"bad UTF-8", wire.JSON, change(`"send_message"`, "\"send\xc3\x28\""), "/type", ""},
		{"half a surrogate pair", wire.JSON, change(`"send_message"`, `"\ud83d"`), "/type", ""},
		{"device 0", wire.JSON, change(`"device":1`, `"device":0`), "/submission/to/0/envelopes/0/device", ""},
		{"negative sequence", wire.JSON, []byte(`{"type":"ack","seq":-1}`), "/seq", ""},
		{"too much content", wire.JSON, change(`"b3BhcXVl"`, `"`+strings.Repeat("AAAA", clearbox.MaxContent/3+1)+`"`), "/submission/to/0/envelopes/0/content", clearbox.CodeTooLarge},
		{"malformed CBOR", wire.CBOR, unhex("a2647479"), "", ""},
		{"trailing CBOR", wire.CBOR, unhex("a26474797065636163636373657105" + "00"), "", ""},
		{"CBOR of indefinite length", wire.CBOR, unhex("bf64747970656361636b6373657105ff"), "", ""},
		{"CBOR with a tag", wire.CBOR, unhex("a264747970656361636b63736571c105"), "", ""},
		{"CBOR with a field twice", wire.CBOR, unhex("a364747970656361636b63736571056373657105"), "", ""},
		{"CBOR with bad UTF-8", wire.CBOR, unhex("a264747970656361ff6b6373657105"), "", ""},
		{"CBOR nested deeply", wire.CBOR, append(unhex("a264747970656361636b63736571"), bytes.Repeat([]byte{0x81}, 60)...), "", ""},
		{"an empty message", wire.CBOR, nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := alice.open(c.format)
			a.raw(c.frame)
			f := a.next()
			code := c.code
			if code == "" {
				code = clearbox.CodeBadRequest
			}
			if f.Type != wire.FrameError || f.Problem.Code != code {
				t.Fatalf("%+v", f)
			}
			if c.pointer != "" && f.Problem.Errors[0].Pointer != c.pointer {
				t.Errorf("at %q: %s", f.Problem.Errors[0].Pointer, f.Problem.Detail)
			}
			if got := a.closed(); got != wire.CloseBadFrame {
				t.Errorf("closed with %d", got)
			}
		})
	}
	t.Run("oversized frame", func(t *testing.T) {
		a := alice.open(wire.CBOR)
		go a.ws.Write(context.Background(), websocket.MessageBinary, make([]byte, wire.MaxFrame+1000))
		if got := a.closed(); got != 1009 {
			t.Errorf("closed with %d", got)
		}
	})
	t.Run("text on a CBOR socket", func(t *testing.T) {
		a := alice.open(wire.CBOR)
		if err := a.ws.Write(t.Context(), websocket.MessageText, ok); err != nil {
			t.Fatal(err)
		}
		if got := a.closed(); got != 1003 {
			t.Errorf("closed with %d", got)
		}
	})
	var sync wire.Sync
	if bob.do("GET", "/sync", nil).into(t, &sync); len(sync.Events) != 0 {
		t.Errorf("a refused frame left %d messages", len(sync.Events))
	}
}

// A frame that is well formed and refused has its answer, and the socket lives.
func TestSocketRefusals(t *testing.T) {
	w := newWorld(t, setup{api: api.Options{Limits: api.Limits{SendsPerSecond: 1}}})
	alice, bob := w.join("alice"), w.join("bob")
	a := alice.open(wire.CBOR)
	stale, ghost := bob.message("x"), bob.message("x")
	stale.To[0].Envelopes[0].Device = 2
	ghost.To[0].User = w.Person("ghost").User
	for i, c := range []struct {
		frame *wire.ClientFrame
		code  clearbox.Code
	}{
		{&wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: stale}, clearbox.CodeStaleDevices},
		{&wire.ClientFrame{Type: wire.FrameSend, Ref: 2, Submission: ghost}, clearbox.CodeRecipientUnavailable},
		{&wire.ClientFrame{Type: wire.FrameAck, Seq: 99}, clearbox.CodeBadRequest},
	} {
		a.send(c.frame)
		f := a.next()
		if f.Type != wire.FrameError || f.Ref != c.frame.Ref || f.Problem.Code != c.code {
			t.Errorf("%d: %+v %+v", i, f, f.Problem)
		}
		if c.code == clearbox.CodeStaleDevices && (len(f.Problem.Stale.Missing) != 1 || len(f.Problem.Stale.Extra) != 1) {
			t.Errorf("%+v", f.Problem.Stale)
		}
	}
	var last *wire.ServerFrame
	for i := range 6 {
		a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: uint64(10 + i), Submission: bob.message("x")})
		last = a.next()
	}
	if last.Type != wire.FrameError || last.Problem.Code != clearbox.CodeRateLimited || last.Problem.RetryAfter == 0 {
		t.Errorf("the limit: %+v", last)
	}
	res := alice.do("POST", "/messages/send", bob.message("x"))
	res.want(t, 429, clearbox.CodeRateLimited, "")
	if res.header.Get("RateLimit") == "" || res.header.Get("RateLimit-Policy") != `"messages";q=1;w=1` {
		t.Error(res.header)
	}
}
