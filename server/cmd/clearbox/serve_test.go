package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/server/config"
)

// playedServer records what `serve` does to it.
type playedServer struct {
	mu      sync.Mutex
	cfg     *config.Config
	refuse  error
	opt     StartOptions
	running chan struct{} // closed when Run began
	reloads chan error    // the results of Reload, in order
	stuck   chan struct{} // Run ends after this is closed; nil at once
}

func (s *playedServer) Run(ctx context.Context) error {
	close(s.running)
	<-ctx.Done()
	if s.stuck != nil {
		<-s.stuck
	}
	return nil
}

func (s *playedServer) Reload(cfg *config.Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse == nil {
		s.cfg = cfg
	}
	s.reloads <- s.refuse
	return s.refuse
}

// log is a buffer for two goroutines.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type serving struct {
	t       *testing.T
	dir     string
	server  *playedServer
	signals chan os.Signal
	log     *log
	code    chan int
}

func serve(t *testing.T, server *playedServer) *serving {
	t.Helper()
	dir := t.TempDir()
	server.running, server.reloads = make(chan struct{}), make(chan error, 10)
	s := &serving{t: t, dir: dir, server: server, signals: make(chan os.Signal, 4), log: &log{}, code: make(chan int, 1)}
	m := &Main{Version: "test", Now: time.Now, Random: rand.Reader, Lookup: lookup, Signals: s.signals,
		Start: func(cfg *config.Config, opt StartOptions) (Homeserver, error) {
			server.cfg, server.opt = cfg, opt
			return server, nil
		}}
	if code, _, errOut := run(t, m, nil, "init", "chat.example.org", "--dir", dir, "--listen", "127.0.0.1:0"); code != 0 {
		t.Fatal(errOut)
	}
	for _, name := range []string{"cert.pem", "key.pem"} {
		if err := os.WriteFile(filepath.Join(dir, "tls", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		s.code <- m.Run(context.Background(), []string{"serve", "-c", s.path()}, strings.NewReader(""), s.log, s.log, nil)
	}()
	select {
	case <-server.running:
	case code := <-s.code:
		t.Fatalf("serve ended with %d: %s", code, s.log)
	}
	return s
}

func (s *serving) path() string { return filepath.Join(s.dir, "clearbox.yaml") }

// add appends to the configuration.
func (s *serving) add(text string) {
	s.t.Helper()
	data, err := os.ReadFile(s.path())
	if err == nil {
		err = os.WriteFile(s.path(), append(data, text...), 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// end stops the server and gives the exit code.
func (s *serving) end() int {
	s.signals <- syscall.SIGTERM
	return <-s.code
}

func TestServeReloadsAndDrains(t *testing.T) {
	s := serve(t, &playedServer{})
	s.setLevel("debug")
	s.signals <- syscall.SIGHUP
	if err := <-s.server.reloads; err != nil {
		t.Fatal(err)
	}
	// A change that needs a restart is not handed over.
	if err := os.WriteFile(s.path(), []byte(strings.ReplaceAll(s.text(), "127.0.0.1:0", "127.0.0.1:1")), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.server.opt.Reload(context.Background())
	if err != nil || strings.Join(r.Restart, " ") != "listen.addresses" || len(r.Applied) != 0 {
		t.Errorf("reload over the socket: %+v, %v", r, err)
	}
	s.server.mu.Lock()
	got := s.server.cfg
	s.server.mu.Unlock()
	if got.Log.Level != "debug" || got.Listen.Addresses[0] != "127.0.0.1:0" {
		t.Errorf("in force: %+v", got)
	}
	if code := s.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"configuration changed", "field=log.level", "configuration change waits for a restart", "field=listen.addresses", "server draining", "server stopped"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, s.log)
		}
	}
}

func (s *serving) text() string {
	s.t.Helper()
	data, err := os.ReadFile(s.path())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func (s *serving) setLevel(level string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(), []byte(strings.Replace(s.text(), "#level: info", "level: "+level, 1)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// A bad reload keeps the running configuration, whoever refuses it.
func TestBadReloadKeepsTheConfiguration(t *testing.T) {
	s := serve(t, &playedServer{})
	before := s.text()
	s.add("tokenz: 1\n")
	if _, err := s.server.opt.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), "1 mistake in the configuration; the running one stays in force") {
		t.Errorf("a mistake: %v", err)
	}
	if err := os.WriteFile(s.path(), []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	s.setLevel("debug")
	s.server.mu.Lock()
	s.server.refuse = errors.New("cannot read the certificate")
	s.server.mu.Unlock()
	if _, err := s.server.opt.Reload(context.Background()); err == nil {
		t.Error("a refusal was no error")
	}
	<-s.server.reloads
	s.server.mu.Lock()
	if s.server.cfg.Log.Level != "info" {
		t.Errorf("level %s is in force", s.server.cfg.Log.Level)
	}
	s.server.refuse = nil
	s.server.mu.Unlock()
	// The same change is still a change later.
	if r, err := s.server.opt.Reload(context.Background()); err != nil || strings.Join(r.Applied, " ") != "log.level" {
		t.Errorf("after the refusal: %+v, %v", r, err)
	}
	if code := s.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"configuration mistake", "field=tokenz", "reason=\"unknown key\"", "configuration not reloaded", "cannot read the certificate"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, s.log)
		}
	}
}

// Files that appear between the check and the writing are not overwritten.
func TestInitOverwritesNothing(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "keys", "identity.key")
	if err := errors.Join(os.Mkdir(filepath.Dir(there), 0o700), os.WriteFile(there, []byte("precious"), 0o600)); err != nil {
		t.Fatal(err)
	}
	err := writeAll(dir, []newFile{{filepath.Join(dir, "keys", "root.key"), []byte("new")}, {there, []byte("new")}})
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("writeAll = %v", err)
	}
	if data, err := os.ReadFile(there); err != nil || string(data) != "precious" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "keys", "root.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was written before is still there: %v", err)
	}
}

// Who cannot wait for the end of the draining signals twice.
func TestServeSecondSignal(t *testing.T) {
	stuck := make(chan struct{})
	s := serve(t, &playedServer{stuck: stuck})
	defer close(stuck)
	s.signals <- os.Interrupt
	s.signals <- os.Interrupt
	if code := <-s.code; code != exitFailed {
		t.Errorf("exit code %d", code)
	}
}
