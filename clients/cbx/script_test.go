package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server"
	"github.com/clearbox-im/clearbox/server/config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cbx": main})
}

// TestScripts runs cbx as a process against a real homeserver.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Values[homeserverKey{}] = &homeserver{}
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=50") // each process would linger for a second under the race detector
			// Secrets must be readable by their owner only; archives make 0666.
			return os.WriteFile(filepath.Join(env.WorkDir, "password"), []byte("a wide blue river at dawn\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": scriptServer, "field": scriptField, "edit": scriptEdit, "secret": scriptSecret,
		},
	})
}

type homeserverKey struct{}

// homeserver is the real one, for a.test, on loopback.
type homeserver struct {
	address string // kept over restarts
	stop    func()
}

// server start|stop runs the homeserver in this process, with its data in the
// script's folder, and sets SERVER_URL and CBX_CA.
func scriptServer(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(homeserverKey{}).(*homeserver)
	switch {
	case neg || len(args) != 1:
		ts.Fatalf("usage: server start|stop")
	case args[0] == "stop":
		h.stop()
	default:
		h.start(ts)
		ts.Setenv("SERVER_URL", "https://"+h.address)
		ts.Setenv("CBX_CA", ts.MkAbs("house/cert.pem"))
	}
}

func (h *homeserver) start(ts *testscript.TestScript) {
	dir := ts.MkAbs("house")
	if h.address == "" {
		h.address = "127.0.0.1:0"
		ts.Check(os.MkdirAll(dir, 0o700))
		for _, name := range []string{"root.key", "identity.key"} {
			key, err := config.NewKeyFile(rand.Reader)
			ts.Check(err)
			ts.Check(os.WriteFile(filepath.Join(dir, name), key, 0o600))
		}
		ts.Check(writeCertificate(dir))
	}
	c := config.Default()
	c.Server.Name, c.Server.DataDir = "a.test", filepath.Join(dir, "data")
	c.Listen.Addresses = []string{h.address}
	c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c.Keys.RootKeyFile, c.Keys.IdentityKeyFile = filepath.Join(dir, "root.key"), filepath.Join(dir, "identity.key")
	c.Registration.Mode = "open"
	c.Federation.Mode = "closed"
	c.Passwords.Memory, c.Passwords.Iterations = 8<<20, 1
	started := make(chan struct{})
	s, err := server.New(context.Background(), c, server.Options{
		Listen: func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			if err == nil && network == "tcp" {
				h.address = l.Addr().String()
			}
			return l, err
		},
		Started: func() { close(started) },
	})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		ts.Check(<-ended)
	})
	ts.Defer(h.stop)
	select {
	case <-started:
	case err := <-ended:
		ts.Fatalf("the server ended: %v", err)
	}
}

// writeCertificate makes a certificate that is its own CA.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"a.test"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// field VARIABLE NAME takes a text out of the JSON that was just printed.
func scriptField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field VARIABLE NAME")
	}
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &object))
	text, ok := object[args[1]].(string)
	if !ok {
		ts.Fatalf("no text %q in %v", args[1], object)
	}
	ts.Setenv(args[0], text)
}

// edit FILE flips a bit in the middle of a file.
func scriptEdit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: edit FILE")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// secret FILE TEXT writes a file that only its owner can read.
func scriptSecret(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: secret FILE TEXT")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(args[1]), 0o600))
}

func TestParseLink(t *testing.T) {
	for link, want := range map[string]invitation{
		"https://chat.a.test/join#abc":              {"https://chat.a.test", "", "abc"},
		"https://chat.a.test:8443/join#a.test.abc":  {"https://chat.a.test:8443", "a.test", "abc"},
		"https://127.0.0.1:8443/join/#clinic.a.q":   {"https://127.0.0.1:8443", "clinic.a", "q"},
		"https://chat.a.test/join":                  {},
		"https://chat.a.test/#abc":                  {},
		"https://chat.a.test/join#.abc":             {},
		"https://chat.a.test/join#a.test.":          {},
		"https://user@chat.a.test/join#abc":         {},
		"https://chat.a.test/join?x=1#a.test.abc":   {},
		"https://chat.a.test/join#A_B.example.code": {},
		"chat.a.test": {},
	} {
		got, err := parseLink(link)
		if (err == nil) != (want != invitation{}) || err == nil && got != want {
			t.Errorf("%s: %+v, %v", link, got, err)
		}
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add("https://chat.a.test/join#a.test.abc")
	f.Add("https://[::1]:1/join#x")
	f.Fuzz(func(t *testing.T, link string) {
		in, err := parseLink(link)
		if err != nil {
			return
		}
		if in.code == "" || in.serverURL == "" {
			t.Fatalf("%q gave %+v", link, in)
		}
		if in.server != "" {
			if _, err := clearbox.ParseServerName(string(in.server)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestClean(t *testing.T) {
	if got := clean("a\x1b[2Jb\u202ec\r\nd\te\u0085"); got != "a\ufffd[2Jb\ufffdc\ufffd\nd\te\ufffd" {
		t.Errorf("%q", got)
	}
}

func TestTerminalQR(t *testing.T) {
	code, err := terminalQR(bytes.Repeat([]byte{0xff, 0, 0x80}, 30))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace([]byte(code)), []byte("\n"))
	if len(lines) < 20 || !bytes.Contains(lines[0], []byte("████████")) {
		t.Errorf("no quiet zone in %d lines", len(lines))
	}
}
