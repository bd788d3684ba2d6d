package rig

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
)

// Server is one homeserver: a folder with configuration, keys and data, and at
// times a process. It is not safe for concurrent use, but for Kill and Stop
// beside reads of its figures.
type Server struct {
	Name      clearbox.ServerName
	Dir       string // configuration, keys, certificates; data below
	Address   string // host:port of clients and peers
	Authority *Authority
	Binary    string
	// Wrap stands before the command when set, for example a tracer.
	Wrap []string
	// Env is added to the environment of the process.
	Env []string

	mu      sync.Mutex
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{}
	log     *os.File
	check   *http.Client
}

// Setup says what a server gets besides the shipped defaults.
type Setup struct {
	Binary    string
	Parent    string // the folder is made below it
	Name      clearbox.ServerName
	Authority *Authority
	Data      string // data folder; default: data, below the server's own
	Public    string // host:port by which peers reach it; default: where it listens
	Transport string // federation.transport; default: the shipped one
	Extra     string // more YAML, whole sections
}

// NewServer makes the folder, keys and configuration and starts nothing. All
// limits and quotas are the shipped ones unless Extra says otherwise.
func NewServer(s Setup) (*Server, error) {
	dir := filepath.Join(s.Parent, string(s.Name))
	data := s.Data
	if data == "" {
		data = filepath.Join(dir, "data")
	}
	for _, d := range []string{dir, filepath.Join(dir, "keys"), data} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	for _, k := range []string{"root.key", "identity.key"} {
		if err := newKey(filepath.Join(dir, "keys", k)); err != nil {
			return nil, err
		}
	}
	if err := s.Authority.writeCertificates(dir, string(s.Name)); err != nil {
		return nil, err
	}
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	srv := &Server{Name: s.Name, Dir: dir, Address: address, Authority: s.Authority, Binary: s.Binary}
	public := s.Public
	if public == "" {
		public = address
	}
	transport := ""
	if s.Transport != "" {
		transport = "  transport: " + s.Transport + "\n"
	}
	yaml := fmt.Sprintf(`server:
  name: %s
  data_dir: %q
  public_url: https://%s
organisation:
  name: Test run
  country: AT
  contact: https://%s
listen:
  addresses: [%q]
tls:
  cert_file: tls/cert.pem
  key_file: tls/key.pem
federation:
  ca_file: tls/ca.pem
%slog:
  level: warn
%s`, s.Name, data, public, s.Name, address, transport, s.Extra)
	return srv, os.WriteFile(srv.ConfigPath(), []byte(yaml), 0o600)
}

func newKey(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	key, err := config.NewKeyFile(random)
	if err != nil {
		return err
	}
	return os.WriteFile(path, key, 0o600)
}

// ConfigPath is the server's configuration file.
func (s *Server) ConfigPath() string { return filepath.Join(s.Dir, "config.yaml") }

// LogPath is where the output of the processes goes.
func (s *Server) LogPath() string { return filepath.Join(s.Dir, "log.txt") }

// Config reads the configuration as the server does.
func (s *Server) Config() (*config.Config, error) {
	loaded, err := config.Load(s.ConfigPath(), config.Options{})
	if err != nil {
		return nil, err
	}
	return loaded.Config, nil
}

// Start executes the server and returns at once.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return errors.New("rig: the server runs already")
	}
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	binary, err := filepath.Abs(s.Binary)
	if err != nil {
		return err
	}
	args := append(append([]string{}, s.Wrap...), binary, "serve", "--config", s.ConfigPath())
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.SysProcAttr = dieWithParent()
	s.started = time.Now()
	if err := cmd.Start(); err != nil {
		log.Close()
		return fmt.Errorf("start the server: %w", err)
	}
	s.cmd, s.log, s.exited = cmd, log, make(chan struct{})
	go func(done chan struct{}) {
		cmd.Wait() // the exit status of a killed process says nothing
		close(done)
	}(s.exited)
	return nil
}

// Ready waits until the server says so and gives the time since Start. The
// error has the end of the log.
func (s *Server) Ready(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if s.check == nil {
		s.check = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: s.ClientTLS()}}
	}
	for {
		if s.listening() && s.ask() {
			took := time.Since(s.started)
			s.check.CloseIdleConnections()
			return took, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s is not ready: %w\n%s", s.Name, ctx.Err(), s.LogTail())
		case <-s.exited:
			return 0, fmt.Errorf("%s ended by itself\n%s", s.Name, s.LogTail())
		case <-time.After(time.Millisecond):
		}
	}
}

// listening is a cheap look before the dear one.
func (s *Server) listening() bool {
	c, err := net.DialTimeout("tcp", s.Address, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func (s *Server) ask() bool {
	res, err := s.check.Get("https://" + s.Address + "/readyz")
	if err != nil {
		return false
	}
	io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16))
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// StartReady is Start and Ready; it stops the process when that fails.
func (s *Server) StartReady(ctx context.Context) (time.Duration, error) {
	if err := s.Start(); err != nil {
		return 0, err
	}
	took, err := s.Ready(ctx)
	if err != nil {
		s.Kill()
	}
	return took, err
}

// Running tells whether there is a process.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil
}

// PID of the process; 0 without one. With Wrap it is the wrapper's.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Kill ends the process with SIGKILL and waits for its end.
func (s *Server) Kill() { s.end(syscall.SIGKILL, 10*time.Second) }

// Stop ends the process with SIGTERM, and with SIGKILL when it takes longer
// than 30 seconds. It tells whether the process ended by itself.
func (s *Server) Stop() bool { return s.end(syscall.SIGTERM, 30*time.Second) }

func (s *Server) end(sig os.Signal, patience time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return true
	}
	polite := true
	s.signal(sig)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.exited:
	case <-timer.C:
		polite = false
		s.signal(syscall.SIGKILL)
		<-s.exited
	}
	s.log.Close()
	s.cmd = nil
	return polite
}

// Signal sends a signal to the process, if there is one.
func (s *Server) Signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		s.signal(sig)
	}
}

// signal reaches the server itself, also below a wrapper, which then ends.
func (s *Server) signal(sig os.Signal) {
	if len(s.Wrap) > 0 {
		if children := tree(s.cmd.Process.Pid)[1:]; len(children) > 0 {
			for _, pid := range children {
				if p, err := os.FindProcess(pid); err == nil {
					p.Signal(sig)
				}
			}
			return
		}
	}
	s.cmd.Process.Signal(sig)
}

// LogTail is the end of the server's output.
func (s *Server) LogTail() string {
	data, err := os.ReadFile(s.LogPath())
	if err != nil {
		return err.Error()
	}
	if len(data) > 4096 {
		data = data[len(data)-4096:]
	}
	return string(bytes.TrimSpace(data))
}

// ClientTLS is what every client here uses: TLS 1.3, the run's own authority.
func (s *Server) ClientTLS() *tls.Config {
	return &tls.Config{RootCAs: s.Authority.Pool(), MinVersion: tls.VersionTLS13, ServerName: string(s.Name)}
}

// Command runs an admin command of the binary against this server and gives
// its standard output.
func (s *Server) Command(ctx context.Context, args ...string) ([]byte, error) {
	binary, err := filepath.Abs(s.Binary)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--config", s.ConfigPath())...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("clearbox %s: %w: %s", args[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	return out, nil
}
