package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/wire"
)

// openSocket is GET /ws: it finds out who calls before it upgrades, hands the
// connection to a goroutine of its own and returns, so that everything the
// HTTP server keeps for a request is let go.
func openSocket(c *call) error {
	a := c.api
	if a.draining.Load() {
		return draining()
	}
	p, err := c.socketCaller()
	if err == nil {
		c.who, c.class = p, classOf(p)
	}
	if err := c.charge(err); err != nil {
		return err
	}
	if c.class == byNoDevice {
		return c.refusal()
	}
	format, err := c.upgradable()
	if err != nil {
		return err
	}
	if n := a.limits.Load().Sockets; n > 0 && a.sockets.count() >= n {
		return &throttle.Error{Code: clearbox.CodeUnavailable, After: 10 * time.Second, Text: "too many connections"}
	}
	visible, err := a.parts.Auth.Consented(c.ctx(), p.UserNo, auth.PurposePresence)
	if err != nil {
		return err
	}
	s := &socket{api: a, who: p, format: format, users: 1, done: make(chan struct{}), room: make(chan struct{}, wire.WindowSends)}
	if err := s.upgrade(c.w, c.r); err != nil {
		a.o.Log.Debug("socket not opened", "request_id", requestID(c.ctx()), "error", err.Error())
		return nil // the library has answered
	}
	s.begin(visible)
	return nil
}

// socketCaller takes the principal from the Authorization header, or from
// ?token=, which holds an access token or a ticket.
func (c *call) socketCaller() (auth.Principal, error) {
	if token := bearer(c.r); token != "" {
		return c.api.parts.Auth.Verify(c.ctx(), token)
	}
	if token := c.r.URL.Query().Get("token"); token != "" {
		return c.api.parts.Auth.Admit(c.ctx(), token)
	}
	return auth.Principal{}, clearbox.Errorf(clearbox.CodeUnauthorized, "an access token or a ticket is needed")
}

// upgradable checks the handshake (RFC 6455, 4.2.1) as far as the library's
// answers would not be problem documents.
func (c *call) upgradable() (wire.Format, error) {
	if c.r.ProtoMajor != 1 || !headerHas(c.r.Header, "Connection", "upgrade") || !headerHas(c.r.Header, "Upgrade", "websocket") {
		return 0, clearbox.Errorf(clearbox.CodeBadRequest, "this address is for WebSocket connections over HTTP/1.1")
	}
	if origin := c.r.Header.Get("Origin"); origin != "" && !c.api.originAllowed(origin, c.r.Host) {
		return 0, clearbox.Errorf(clearbox.CodeForbidden, "pages of this origin may not connect")
	}
	// CBOR is the default among those offered; an offer is required.
	for _, name := range []string{wire.SubprotocolCBOR, wire.SubprotocolJSON} {
		if headerHas(c.r.Header, "Sec-Websocket-Protocol", name) {
			return wire.ParseSubprotocol(name)
		}
	}
	return wire.ParseSubprotocol("")
}

// headerHas finds token in a comma-separated header, whatever its case.
func headerHas(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for part := range bytes.SplitSeq([]byte(v), []byte(",")) {
			if bytes.EqualFold(bytes.TrimSpace(part), []byte(token)) {
				return true
			}
		}
	}
	return false
}

// originAllowed compares a page's origin (RFC 6454) with this host and with
// those that were listed.
func (a *API) originAllowed(origin, host string) bool {
	if origin == "https://"+host || origin == "http://"+host {
		return true
	}
	for _, o := range a.o.Origins {
		if origin == o {
			return true
		}
	}
	return false
}

// readBuffer is what an idle socket keeps for reading, in bytes: enough for
// the header of a frame and a small frame.
const readBuffer = 512

// upgrade takes the connection over. A caller that fails has been answered.
func (s *socket) upgrade(w http.ResponseWriter, r *http.Request) error {
	s.out = newFrameWriter()
	ws, err := websocket.Accept(&hijacker{ResponseWriter: w, out: s.out, heard: func() { s.heard.Store(s.api.o.Now().UnixNano()) }}, r, &websocket.AcceptOptions{
		Subprotocols:       []string{s.format.Subprotocol()},
		InsecureSkipVerify: true, // the origin was checked
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return err
	}
	ws.SetReadLimit(wire.MaxFrame)
	s.ws = ws
	return nil
}

// hijacker gives the library small buffers instead of the server's.
type hijacker struct {
	http.ResponseWriter
	out   *frameWriter
	heard func()
}

// Hijack takes the connection from the server. What was read already moves
// into the small buffer.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.out.conn = conn
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	framed := newFrameReader(conn, early, h.heard)
	// The library takes what is buffered, and the size.
	in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(early)), framed), max(readBuffer, len(early)))
	if _, err := in.Peek(len(early)); err != nil {
		return nil, nil, err
	}
	return framed, bufio.NewReadWriter(in, bufio.NewWriterSize(h.out, 16)), nil
}

// begin makes the socket known, greets and starts its reader.
func (s *socket) begin(visible bool) {
	a := s.api
	older, ok := a.sockets.add(s)
	if !ok {
		_ = s.ws.CloseNow() // the server is going down
		return
	}
	s.mail = a.parts.Mailbox(s.who)
	a.parts.Presence.Arrive(s.who.User, visible)
	// The greeting asks the store, which takes a deep stack; the reader's own
	// goroutine, which lives as long as the socket, keeps a small one.
	a.workers.run(s.introduce)
	if older != nil {
		older.close(wire.CloseReplaced)
	}
}

// introduce greets and starts the reader.
func (s *socket) introduce() {
	now := s.api.o.Now().UnixNano()
	s.heard.Store(now)
	s.acked.Store(now)
	if err := s.greet(); err != nil {
		s.api.o.Log.Debug("socket not greeted", "session", s.who.Session, "code", string(codeOf(err)))
	}
	go s.read() // also after a failure: it reads the answer to the close frame
}

// greet says welcome and lets the mail flow.
func (s *socket) greet() error {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	// The session may have ended between the token's check and now: from here
	// on sockets.revoke finds this socket.
	if err := s.api.parts.Auth.Standing(ctx, s.who); err != nil {
		s.close(wire.CloseRevoked)
		return err
	}
	acked, err := s.mail.Acked(ctx)
	if err != nil {
		s.close(closeInternal)
		return err
	}
	s.mu.Lock()
	s.sent = acked
	s.mu.Unlock()
	s.send(&wire.ServerFrame{Type: wire.FrameWelcome, Session: s.who.Session, Device: s.who.Device, MaxFrame: wire.MaxFrame,
		Acked: acked, ServerTime: clearbox.Millis(s.api.o.Now().UnixMilli())})
	if m, ok := s.mail.(waker); ok {
		m.OnWake(s.wake)
	} else {
		go s.follow(s.mail.Wake())
	}
	s.wake()
	return nil
}

// follow turns a mailbox's channel into calls of wake.
func (s *socket) follow(woken <-chan struct{}) {
	for {
		select {
		case <-woken:
			s.wake()
		case <-s.done:
			return
		}
	}
}

// read is the socket's goroutine.
func (s *socket) read() {
	defer s.leave()
	defer s.finish()
	defer s.caught("/ws read")
	for s.next() {
	}
}

// finish ends the conversation after the reader, unless close does: it answers
// the client's close frame, or sends one after a broken frame, and waits a
// little for the client to read it.
func (s *socket) finish() {
	s.mu.Lock()
	s.ended = true
	closing := s.closing
	s.mu.Unlock()
	close(s.done)
	if !closing {
		_ = s.ws.Close(websocket.StatusProtocolError, "") // closes the connection, whatever it returns
	}
}

// next reads and handles one frame. It tells whether to go on.
func (s *socket) next() bool {
	kind, r, err := s.ws.Reader(context.Background())
	if err != nil {
		return s.unread(err)
	}
	buf := lend()
	defer giveBack(buf)
	data, err := readAll(buf, r)
	if err != nil {
		return s.unread(err)
	}
	if kind != kindOf(s.format) {
		s.close(1003)
		return false
	}
	f, err := wire.ParseClientFrame(s.format, data)
	if err != nil {
		s.refuse(0, err)
		s.close(wire.CloseBadFrame)
		return false
	}
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return false // nothing is done for a session that ended
	}
	return s.handle(f)
}

// unread says goodbye to a client that began a message and did not end it.
func (s *socket) unread(err error) bool {
	if isTimeout(err) {
		s.close(wire.CloseSlow)
	}
	return false
}

func (s *socket) handle(f *wire.ClientFrame) bool {
	switch f.Type {
	case wire.FrameSend:
		s.submit(f)
	case wire.FrameAck:
		s.ack(f.Seq)
	case wire.FrameWatch:
		if _, ok := s.api.watches.Allow(s.api.o.Now(), string(s.who.User.UID)); !ok {
			s.close(wire.CloseRateLimit)
			return false
		}
		s.follows(f.Users)
		s.followsAfar(f.Tokens)
	case wire.FrameSignal:
		s.api.signal(s.who, f.To)
	}
	return true
}

// refuse answers with an error before anything else is read.
func (s *socket) refuse(ref uint64, err error) {
	s.write([]*wire.ServerFrame{s.problem(ref, err)})
}

func (s *socket) problem(ref uint64, err error) *wire.ServerFrame {
	p := problemOf(err, "")
	if p.Code == clearbox.CodeInternal {
		p.RequestID = s.api.newRequestID()
		s.api.o.Log.Error("frame failed", "request_id", p.RequestID, "session", s.who.Session, "error", err.Error())
	}
	return &wire.ServerFrame{Type: wire.FrameError, Ref: ref, Problem: p}
}

// submit hands a message in. While as many as allowed have no answer it waits,
// and so does the client.
func (s *socket) submit(f *wire.ClientFrame) {
	s.room <- struct{}{}
	s.mu.Lock()
	s.pending++
	news := s.stopNews == nil && s.api.parts.StatusEvents != nil
	s.mu.Unlock()
	if news {
		stop := s.api.parts.StatusEvents(s.who.UserNo, s.tellState)
		s.mu.Lock()
		s.stopNews = stop
		s.mu.Unlock()
	}
	ref := f.Ref
	s.api.submit(context.Background(), s.who, f.Submission, func(rc *wire.Receipt, err error) {
		out := &wire.ServerFrame{Type: wire.FrameSent, Ref: ref, Receipt: rc}
		if err != nil {
			out = s.problem(ref, err)
		}
		s.mu.Lock()
		s.pending--
		s.mu.Unlock()
		<-s.room
		s.send(out)
	})
}

func (s *socket) tellState(st delivery.State) {
	s.send(&wire.ServerFrame{Type: wire.FrameStatus, ID: st.ID, State: wire.MessageState(st.State)})
}

// ack opens the window and lets the mailbox forget.
func (s *socket) ack(seq int64) {
	s.acked.Store(s.api.o.Now().UnixNano())
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	if err := s.mail.Ack(ctx, seq); err != nil {
		s.send(s.problem(0, err))
		return
	}
	s.mu.Lock()
	full, _ := s.window.room()
	s.window.ack(seq)
	if full == 0 && s.dirty {
		s.start()
		return
	}
	s.mu.Unlock()
}

// follows replaces the people whose presence the client wants to know.
func (s *socket) follows(users []clearbox.UserID) {
	if s.watch == nil {
		s.watch = s.api.parts.Presence.Watch(func(u clearbox.UserID, online bool) {
			s.send(&wire.ServerFrame{Type: wire.FrameOnline, User: u, Online: &online})
		})
	}
	s.watch.Set(users)
}

// followsAfar is follows for people of other servers, whose tokens the client
// has. The first one makes the watch: nothing is asked for who needs none.
func (s *socket) followsAfar(tokens []wire.WatchToken) {
	if s.far == nil {
		if s.api.parts.Afar == nil || len(tokens) == 0 {
			return
		}
		s.far = s.api.parts.Afar.Watch(s.who.User.UID, func(u clearbox.UserID, p wire.Presence) {
			online := p == wire.PresenceActive
			s.send(&wire.ServerFrame{Type: wire.FrameOnline, User: u, Online: &online, Presence: p})
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	s.far.Set(ctx, tokens)
}

// How the socket's health is judged. A peer that vanished is found within
// pingSlots + pingTimeout seconds, and its socket closed 5 seconds later.
const (
	pingTimeout = 15 * time.Second
	ackTimeout  = 5 * time.Minute // with a full window
	lookEvery   = 6               // slots' rounds between looks for mail without a wake
)

// tend looks after the sockets of one slot: once in pingSlots seconds each.
func (a *API) tend(round int) {
	now := a.o.Now()
	for _, s := range a.sockets.inSlot(round % pingSlots) {
		s.tend(now, round/pingSlots)
	}
}

func (s *socket) tend(now time.Time, round int) {
	since := func(nanos int64) time.Duration { return now.Sub(time.Unix(0, nanos)) }
	s.mu.Lock()
	room, _ := s.window.room()
	stuck := room == 0 && since(s.acked.Load()) > ackTimeout
	if s.ended || stuck {
		s.mu.Unlock()
		if stuck {
			s.close(wire.CloseSlow)
		}
		return
	}
	s.users++
	s.mu.Unlock()
	s.api.workers.run(s.ping)
	if (round+s.slot)%lookEvery == 0 {
		s.wake() // a lost wake costs time, never a message
	}
}

// ping asks the client for a sign of life.
func (s *socket) ping() {
	defer s.leave()
	started := s.api.o.Now()
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	err := s.ws.Ping(ctx)
	if err == nil || !errors.Is(err, context.DeadlineExceeded) || s.heard.Load() > started.UnixNano() {
		return // alive, or closed already
	}
	s.close(wire.CloseTimeout)
}
