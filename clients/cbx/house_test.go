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
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
)

type townKey struct{}

// town is a script's homeservers by name. They share one certificate.
type town map[string]*homeserver

// homeserver is the real one, on loopback.
type homeserver struct {
	name    string
	dir     string
	address string // kept over restarts
	stop    func()
}

// server start|stop [NAME] runs a homeserver (a.test) in this process, with its
// data in the script's folder. Starting sets SERVER_URL and CBX_CA.
func scriptServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: server start|stop [NAME]")
	}
	name := "a.test"
	if len(args) == 2 {
		name = args[1]
	}
	if args[0] == "stop" {
		house(ts, name).stop()
		return
	}
	all := ts.Value(townKey{}).(town)
	if all[name] == nil {
		all[name] = &homeserver{name: name, dir: ts.MkAbs(name)}
	}
	all[name].start(ts)
	ts.Setenv("SERVER_URL", "https://"+all[name].address)
	ts.Setenv("CBX_CA", certificate(ts))
}

func house(ts *testscript.TestScript, name string) *homeserver {
	h := ts.Value(townKey{}).(town)[name]
	if h == nil {
		ts.Fatalf("there is no server %s", name)
	}
	return h
}

// certificate gives the path of the certificate of every server.
func certificate(ts *testscript.TestScript) string {
	dir := ts.MkAbs("house")
	path := filepath.Join(dir, "cert.pem")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(writeCertificate(dir))
	return path
}

func (h *homeserver) start(ts *testscript.TestScript) {
	if h.address == "" {
		// The address is known before the server listens: it tells peers of it.
		free, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		h.address = free.Addr().String()
		ts.Check(free.Close())
		ts.Check(os.MkdirAll(h.dir, 0o700))
		for _, name := range []string{"root.key", "identity.key"} {
			key, err := config.NewKeyFile(rand.Reader)
			ts.Check(err)
			ts.Check(os.WriteFile(filepath.Join(h.dir, name), key, 0o600))
		}
	}
	cert := certificate(ts)
	c := config.Default()
	c.Server.Name, c.Server.DataDir = clearbox.ServerName(h.name), filepath.Join(h.dir, "data")
	c.Server.PublicURL = "https://" + h.address
	c.Listen.Addresses, c.Listen.AdminSocket = []string{h.address}, h.socket()
	c.TLS.CertFile, c.TLS.KeyFile = cert, filepath.Join(filepath.Dir(cert), "key.pem")
	c.Keys.RootKeyFile, c.Keys.IdentityKeyFile = filepath.Join(h.dir, "root.key"), filepath.Join(h.dir, "identity.key")
	c.Registration.Mode = "open"
	c.Federation.CAFile = cert
	c.Passwords.Memory, c.Passwords.Iterations = 8<<20, 1
	started := make(chan struct{})
	s, err := server.New(context.Background(), c, server.Options{Started: func() { close(started) }})
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

func (h *homeserver) socket() string { return filepath.Join(h.dir, "admin.sock") }

// admin does what an administrator does on the server's machine.
func (h *homeserver) admin(ts *testscript.TestScript, method, path string, body, answer any) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		ts.Check(err)
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, "http://clearbox"+path, payload)
	ts.Check(err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.socket())
		},
		DisableKeepAlives: true,
	}}
	res, err := client.Do(req)
	ts.Check(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	ts.Check(err)
	if res.StatusCode >= 300 {
		ts.Fatalf("%s %s: %s", method, path, b)
	}
	if answer != nil {
		ts.Check(json.Unmarshal(b, answer))
	}
}

// peer A B peers two servers by invitation.
func scriptPeer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: peer A B")
	}
	var invited wire.AdminPeerInvited
	house(ts, args[0]).admin(ts, "POST", "/admin/peers/invite",
		&wire.AdminPeerInvite{Server: clearbox.ServerName(args[1]), Country: "AT", AllowPrivate: true}, &invited)
	house(ts, args[1]).admin(ts, "POST", "/admin/peers/accept",
		&wire.AdminPeerAccept{Token: invited.Token, Country: "AT", AllowPrivate: true}, nil)
}

// admin SERVER ban|unban|reset|unpeer|suspend|resume|retry NAME does as clearbox
// would; reset sets CODE.
func scriptAdmin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: admin SERVER ban|unban|reset|unpeer|suspend|resume|retry NAME")
	}
	h, name := house(ts, args[0]), args[2]
	switch args[1] {
	case "reset":
		var made wire.AdminReset
		h.admin(ts, "POST", "/admin/users/"+name+"/reset", nil, &made)
		ts.Setenv("CODE", made.Code)
	case "unpeer":
		h.admin(ts, "DELETE", "/admin/peers/"+name, nil, nil)
	case "suspend", "resume":
		h.admin(ts, "POST", "/admin/peers/"+name+"/"+args[1], nil, nil)
	case "retry":
		h.admin(ts, "POST", "/admin/fed/retry", &wire.AdminFedRetry{Server: clearbox.ServerName(name)}, nil)
	default:
		h.admin(ts, "POST", "/admin/users/"+name+"/"+args[1], &wire.AdminReason{}, nil)
	}
}

// settled SERVER waits until nothing waits for peers any more.
func scriptSettled(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: settled SERVER")
	}
	h := house(ts, args[0])
	for deadline := time.Now().Add(20 * time.Second); ; {
		var status wire.AdminStatus
		h.admin(ts, "GET", "/admin/status", nil, &status)
		if status.Queued == 0 {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%d items wait still", status.Queued)
		}
		time.Sleep(20 * time.Millisecond)
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
