package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clearbox-im/clearbox/server/config"
)

// The scripts run the program as a process of its own, without network: names
// come from the table below.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"clearbox": func() {
			main := &Main{Version: "v0.0.0-test", Now: time.Now, Random: rand.Reader, Lookup: lookup, UDPBuffer: bufferOfScript,
				Start: func(*config.Config, StartOptions) (Homeserver, error) {
					return nil, errors.New("no server in the scripts")
				}}
			os.Exit(main.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
		},
	})
}

// bufferOfScript is what the script says that the system allows.
func bufferOfScript() (int64, bool) {
	n, err := strconv.ParseInt(os.Getenv("UDP_BUFFER"), 10, 64)
	return n, err == nil
}

func lookup(_ context.Context, host string) ([]string, error) {
	switch host {
	case "chat.example.org", "clearbox.example.org":
		return []string{"192.0.2.10", "2001:db8::10"}, nil
	case "slow.example.org":
		return nil, &net.DNSError{Err: "timeout", Name: host, IsTimeout: true}
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Values[housesKey{}] = houses{}
			e.Setenv("GORACE", "atexit_sleep_ms=50") // each process would linger for a second under the race detector
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":       scriptServe,
			"halt":        scriptStop, // "stop" is testscript's own and ends the script there
			"people":      scriptPeople,
			"reported":    scriptReported,
			"address":     scriptAddress,
			"trust":       scriptTrust,
			"field":       scriptField,
			"signingkey":  scriptSigningKey,
			"certificate": scriptCertificate,
			"touch":       scriptTouch,
			"listen":      scriptListen,
		},
	})
}

// certificate CERT KEY HOST DAYS writes a self-signed certificate that is valid
// for so many days from yesterday on.
func scriptCertificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: certificate CERT KEY HOST DAYS")
	}
	days, err := time.ParseDuration(args[3] + "h")
	ts.Check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[2]}, DNSNames: []string{args[2]}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(24*days + time.Minute),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	ts.Check(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for path, block := range map[string]*pem.Block{args[0]: {Type: "CERTIFICATE", Bytes: der}, args[1]: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		path = ts.MkAbs(path)
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o700))
		ts.Check(os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	}
}

// touch FILE HOURS sets a file's time to so many hours from now.
func scriptTouch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: touch FILE HOURS")
	}
	d, err := time.ParseDuration(args[1] + "h")
	ts.Check(err)
	at := time.Now().Add(d)
	ts.Check(os.Chtimes(ts.MkAbs(args[0]), at, at))
}

// listen VARIABLE takes a port of the loopback interface for the rest of the
// script and sets the variable to its address.
func scriptListen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listen VARIABLE")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], ln.Addr().String())
}

// run is one command in this process.
func run(t *testing.T, m *Main, env []string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = m.Run(context.Background(), args, bytes.NewReader(nil), &o, &e, env)
	return code, o.String(), e.String()
}
