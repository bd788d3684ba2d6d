package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// person is a real client: the brain over a vault of the terminal client on
// disk, with a network of ours between it and a real server.
type person struct {
	no      int
	brain   *core.Brain
	vault   *vault.Vault
	network *network
	user    clearbox.UserID
	address clearbox.Address
}

// join makes a vault and registers an account.
func join(ctx context.Context, dir string, no int, srv *rig.Server, g *gate) (*person, error) {
	secret := make([]byte, vault.KeySize)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	v, err := vault.Open(filepath.Join(dir, fmt.Sprintf("vault%d", no)), vault.Options{Secret: vault.Secret{Key: secret}, Random: rand.Reader, Create: true})
	if err != nil {
		return nil, err
	}
	p := &person{no: no, vault: v, network: &network{srv: srv, source: rig.Source(no), gate: g}}
	p.network.client = srv.Client(rig.Via{Source: p.network.source})
	if p.brain, err = core.New(ctx, v, p.network, core.Options{Now: time.Now, Random: rand.Reader}); err != nil {
		v.Close()
		return nil, err
	}
	if err := p.register(ctx); err != nil {
		p.close()
		return nil, fmt.Errorf("register person %d: %w", no, err)
	}
	return p, nil
}

func (p *person) register(ctx context.Context) error {
	notice, err := p.brain.Notice(ctx)
	if err != nil {
		return err
	}
	handle := clearbox.Handle(fmt.Sprintf("person%d", p.no))
	err = p.brain.Register(ctx, core.Registration{
		Server: p.network.srv.Name, Handle: handle, Password: "a long enough fixture phrase 7", DeviceName: "test",
		Notice:   wire.NoticeAck{Version: notice.Version, Hash: notice.Hash, Language: notice.Language},
		Consents: []string{"open_reachability"}, // the people of the other server write to it without asking first
	})
	if err != nil {
		return err
	}
	profile, err := p.brain.Profile()
	if err != nil {
		return err
	}
	p.user, p.address = profile.User, clearbox.Address{Handle: handle, Server: p.network.srv.Name}
	return nil
}

func (p *person) close() {
	p.network.client.Close()
	p.vault.Close()
}

// network implements core.Network over the rig.
type network struct {
	srv    *rig.Server
	client *rig.Client
	source net.IP
	gate   *gate
}

// Do implements core.Network.
func (n *network) Do(ctx context.Context, req core.Request) (core.Response, error) {
	status, body, err := n.client.Raw(ctx, req.Method, req.Path, req.Token, req.Body)
	return core.Response{Status: status, Body: body}, err
}

// quiet is after how long without a frame or a ping a client gives up.
const quiet = 45 * time.Second

// Open implements core.Network.
func (n *network) Open(ctx context.Context, token string) (core.Stream, error) {
	sock, err := n.srv.Dial(ctx, token, rig.Via{Source: n.source})
	var refused *rig.StatusError
	if errors.As(err, &refused) && refused.Code() != "" {
		return nil, &clearbox.Error{Code: refused.Code(), Text: "the server refused the socket", Cause: err}
	}
	if err != nil {
		return nil, err
	}
	s := &stream{socket: sock, gate: n.gate}
	sock.OnPing = func() { sock.SetReadDeadline(time.Now().Add(quiet)) }
	sock.SetReadDeadline(time.Now().Add(quiet))
	return s, nil
}

// stream implements core.Stream and counts sends without an answer.
type stream struct {
	socket *rig.Socket
	gate   *gate
	open   atomic.Int64 // sends written and not answered
	ending sync.Once
	ended  atomic.Bool
}

var isSend = []byte("send_message")

// Send implements core.Stream.
func (s *stream) Send(_ context.Context, frame []byte) error {
	send := bytes.Contains(frame[:min(len(frame), 64)], isSend) || bytes.Contains(frame[max(0, len(frame)-64):], isSend)
	if send {
		if s.gate.hold(s, frame) {
			return nil
		}
		s.counted(1)
	}
	s.socket.Queue(frame)
	return s.socket.Flush()
}

// Receive implements core.Stream.
func (s *stream) Receive(context.Context) ([]byte, error) {
	frame, _, err := s.socket.Next()
	var closed *rig.CloseError
	if errors.As(err, &closed) {
		err = &core.ClosedError{Code: closed.Code}
	}
	if err != nil {
		s.end()
		return nil, err
	}
	s.socket.SetReadDeadline(time.Now().Add(quiet))
	if e, err := rig.ReadEvent(frame); err == nil && e.Ref != 0 && (e.Type == wire.FrameSent || e.Type == wire.FrameError) {
		s.counted(-1)
	}
	return bytes.Clone(frame), nil
}

func (s *stream) counted(n int64) {
	s.open.Add(n)
	s.gate.flying.Add(n)
}

// end counts what stays unanswered, once.
func (s *stream) end() {
	s.ending.Do(func() {
		s.ended.Store(true)
		n := s.open.Load()
		s.gate.flying.Add(-n)
		s.gate.unanswered.Add(n)
	})
}

// Close implements core.Stream.
func (s *stream) Close() error {
	s.socket.Close()
	s.end()
	return nil
}

// gate stands before the sends to one server. While it is shut they wait, as
// on a network that hesitates, so that many are under way at once afterwards.
type gate struct {
	flying     atomic.Int64 // sends written and not answered
	unanswered atomic.Int64 // sends whose connection ended before an answer

	mu   sync.Mutex
	shut bool   // guarded by mu
	held []held // guarded by mu
}

type held struct {
	s     *stream
	frame []byte
}

// hold keeps a frame while the gate is shut; else it returns false.
func (g *gate) hold(s *stream, frame []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.held = append(g.held, held{s, bytes.Clone(frame)})
	}
	return g.shut
}

func (g *gate) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

// open lets everything through that waited. Connections that ended meanwhile
// are passed over: their clients send again.
func (g *gate) open() {
	g.mu.Lock()
	waited := g.held
	g.shut, g.held = false, nil
	g.mu.Unlock()
	for _, h := range waited {
		if !h.s.ended.Load() {
			h.s.counted(1)
			h.s.socket.Queue(h.frame)
		}
	}
	for _, h := range waited {
		h.s.socket.Flush() // an error meets the reader too
	}
}
