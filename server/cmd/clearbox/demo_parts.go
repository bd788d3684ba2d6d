package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
)

// demoCA signs the certificates of the demo's servers. Nothing else trusts it.
type demoCA struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time
	pool *x509.CertPool
	rand io.Reader
}

func newDemoCA(dir string, now time.Time, random io.Reader) (*demoCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ClearBox demo"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
	}
	raw, err := x509.CreateCertificate(random, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	ca := &demoCA{file: filepath.Join(dir, "ca.pem"), key: key, now: now, pool: x509.NewCertPool(), rand: random}
	if ca.cert, err = x509.ParseCertificate(raw); err != nil {
		return nil, err
	}
	ca.pool.AddCert(ca.cert)
	return ca, os.WriteFile(ca.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600)
}

func (ca *demoCA) issue(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), ca.rand)
	if err != nil {
		return err
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(ca.rand, serial); err != nil {
		return err
	}
	serial[0] &= 0x7f
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: ca.now.Add(-time.Hour), NotAfter: ca.now.Add(30 * 24 * time.Hour),
	}
	raw, err := x509.CreateCertificate(ca.rand, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// demoHouse is one homeserver as a process of its own.
type demoHouse struct {
	d                      *demo
	name, url, dir, config string
	organisation, country  string
	log                    string
	http                   *http.Client
	took                   time.Duration

	process *exec.Cmd
	ended   chan struct{}
}

func (d *demo) newHouse(name, organisation, country string, ca *demoCA) (*demoHouse, error) {
	h := &demoHouse{d: d, name: name, dir: filepath.Join(d.dir, name), organisation: organisation, country: country}
	h.config, h.log = filepath.Join(h.dir, "clearbox.yaml"), filepath.Join(h.dir, "clearbox.log")
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		return nil, err
	}
	// The port is free now; whoever takes it before the server does makes the start fail, and it says so.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	l.Close()
	if err != nil {
		return nil, err
	}
	h.url = "https://localhost:" + port
	c := config.Default()
	c.Server.Name, c.Server.DataDir, c.Server.PublicURL = clearbox.ServerName(name), filepath.Join(h.dir, "data"), h.url
	c.Organisation = config.Organisation{Name: organisation, Country: country}
	c.Listen.Addresses = []string{"127.0.0.1:" + port}
	c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem")
	c.Keys.RootKeyFile, c.Keys.IdentityKeyFile = filepath.Join(h.dir, "root.key"), filepath.Join(h.dir, "identity.key")
	c.Federation.CAFile = ca.file
	c.Log.Level = "debug" // so that the search has everything to look at
	if err := ca.issue(c.TLS.CertFile, c.TLS.KeyFile); err != nil {
		return nil, err
	}
	for _, path := range []string{c.Keys.RootKeyFile, c.Keys.IdentityKeyFile} {
		key, err := config.NewKeyFile(d.x.Random)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, key, 0o600); err != nil {
			return nil, err
		}
	}
	var yaml bytes.Buffer
	if err := config.Render(&yaml, c); err != nil {
		return nil, err
	}
	h.http = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS13}}}
	return h, os.WriteFile(h.config, yaml.Bytes(), 0o600)
}

// start runs the server and waits until it says that it is ready.
func (h *demoHouse) start(ctx context.Context) error {
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	begin := time.Now()
	h.process = exec.Command(h.d.self, "serve", "--config", h.config)
	h.process.Stdout, h.process.Stderr = log, log
	// Ctrl-C is for this program, which then ends its servers.
	h.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.process.Start(); err != nil {
		return fmt.Errorf("start %s: %w", h.name, err)
	}
	h.ended = make(chan struct{})
	go func(p *exec.Cmd, ended chan struct{}) {
		_ = p.Wait()
		close(ended)
	}(h.process, h.ended)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < 30*time.Second {
		if res, err := h.http.Get(h.url + "/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				h.took = time.Since(begin)
				h.http.CloseIdleConnections()
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-h.ended:
			return fmt.Errorf("%s ended while starting", h.name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("%s is not ready after 30 s", h.name)
}

// kill is kill -9.
func (h *demoHouse) kill() { h.end(syscall.SIGKILL) }

// terminate lets the server drain.
func (h *demoHouse) terminate() { h.end(syscall.SIGTERM) }

func (h *demoHouse) end(sig os.Signal) {
	if h.process == nil {
		return
	}
	_ = h.process.Process.Signal(sig)
	select {
	case <-h.ended:
	case <-time.After(25 * time.Second):
		_ = h.process.Process.Kill()
		<-h.ended
	}
	h.process = nil
}

// admin runs an admin command against the server and reads its JSON.
func (h *demoHouse) admin(ctx context.Context, into any, args ...string) error {
	out, err := execute(ctx, nil, h.d.self, append(args, "--config", h.config, "--json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}

// protocols tells over what the two servers speak, as each of them sees it. The
// peering itself began before either knew what the other can do; within moments
// HTTP/3 takes over.
func (d *demo) protocols(ctx context.Context) error {
	for _, way := range [][2]*demoHouse{{d.a, d.b}, {d.b, d.a}} {
		from, to := way[0], way[1]
		var at wire.AdminFedQueue
		for range 50 {
			if err := from.admin(ctx, &wire.AdminPeerTest{}, "peer", "test", to.name); err != nil {
				return err
			}
			var st wire.AdminFedStatus
			if err := from.admin(ctx, &st, "fed", "status"); err != nil {
				return err
			}
			for _, p := range st.Peers {
				if string(p.Server) == to.name {
					at = p
				}
			}
			if at.Protocol == "h3" {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		d.say("  %-14s speaks %s with %s", from.name, protocol(at), to.name)
	}
	return nil
}

// demoPerson is somebody with a cbx and a vault.
type demoPerson struct {
	d                   *demo
	address             string
	vault, keyFile, pwd string
	ca                  string
}

func (d *demo) join(ctx context.Context, h *demoHouse, name string) (*demoPerson, error) {
	p := &demoPerson{d: d, address: name + "@" + h.name, vault: filepath.Join(d.dir, name+".vault"), ca: filepath.Join(d.dir, "ca.pem")}
	p.keyFile, p.pwd = filepath.Join(d.dir, name+".key"), filepath.Join(d.dir, name+".password")
	secret := make([]byte, 16)
	if _, err := io.ReadFull(d.x.Random, secret); err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.pwd, []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
		return nil, err
	}
	var invite struct {
		Link string `json:"link"`
	}
	if err := h.admin(ctx, &invite, "invite", "create"); err != nil {
		return nil, err
	}
	_, err := p.cbx(ctx, "join", invite.Link, "--name", name, "--accept-notice")
	return p, err
}

func (p *demoPerson) flags() []string {
	return []string{"--vault", p.vault, "--key-file", p.keyFile, "--password-file", p.pwd, "--ca", p.ca}
}

func (p *demoPerson) cbx(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	return execute(ctx, nil, p.d.cbx, append(append(args, p.flags()...), "--json")...)
}

// line is the command as a person types it.
func (p *demoPerson) line(args ...string) string {
	words := append([]string{p.d.cbx}, args...)
	for _, f := range p.flags() {
		words = append(words, quoted(f))
	}
	return strings.Join(words, " ")
}

// demoLine is a message as cbx prints it.
type demoLine struct {
	Type        string `json:"type"`
	ID          string `json:"id"`
	From        string `json:"from"`
	Text        string `json:"text"`
	State       string `json:"state"`
	Explanation string `json:"explanation"`
	Reactions   []struct {
		From  string `json:"from"`
		Emoji string `json:"emoji"`
	} `json:"reactions"`
}

// progress is how far a message is, and why no further.
func (l *demoLine) progress() string {
	if l.Explanation == "" {
		return l.State
	}
	return l.State + ": " + l.Explanation
}

// send says something; cbx returns once the message is as far as wait says.
func (p *demoPerson) send(ctx context.Context, wait string, to *demoPerson, text string) (id string, err error) {
	p.d.spoken = append(p.d.spoken, text)
	out, err := p.cbx(ctx, "send", to.address, text, "--wait", wait)
	if err != nil {
		return "", err
	}
	lines, err := parseLines(out)
	if err != nil || len(lines) == 0 {
		return "", errors.Join(errors.New("cbx send told nothing"), err)
	}
	p.d.say("  %-24s > %-50s [%s]", p.address, text, lines[0].progress())
	return lines[0].ID, nil
}

// receive shows n new messages and demands that they are the oldest unheard
// ones of from.
func (p *demoPerson) receive(ctx context.Context, from *demoPerson, n int) error {
	out, err := p.cbx(ctx, "recv", "--count", fmt.Sprint(n), "--timeout", "30s")
	if err != nil {
		return err
	}
	lines, err := parseLines(out)
	if err != nil {
		return err
	}
	if len(lines) != n {
		return fmt.Errorf("%s got %d messages of %d", p.address, len(lines), n)
	}
	for _, l := range lines {
		if !slices.Contains(p.d.spoken, l.Text) {
			return fmt.Errorf("%s got a text that nobody said", p.address)
		}
		p.d.say("  %-24s < %s", p.address, l.Text)
	}
	return nil
}

// delivered demands that the messages reached the other's device.
func (p *demoPerson) delivered(ctx context.Context, with *demoPerson, ids []string) error {
	for range 20 {
		lines, err := p.lines(ctx, with)
		if err != nil {
			return err
		}
		done := 0
		for _, l := range lines {
			if slices.Contains(ids, l.ID) && l.State == "delivered" {
				done++
			}
		}
		if done == len(ids) {
			return nil
		}
		if _, err := with.cbx(ctx, "recv", "--timeout", "2s"); err != nil { // receipts go out batched
			return err
		}
	}
	return errors.New("a message was not confirmed by the recipient's device")
}

// lines is the whole conversation as the vault has it now. chat with no input
// shows the history, fetches what is new, and ends.
func (p *demoPerson) lines(ctx context.Context, with *demoPerson) ([]demoLine, error) {
	out, err := p.cbx(ctx, "chat", with.address, "--history", "100")
	if err != nil {
		return nil, err
	}
	return parseLines(out)
}

// transcript prints the conversation with the state of each message.
func (p *demoPerson) transcript(ctx context.Context, with *demoPerson) error {
	lines, err := p.lines(ctx, with)
	if err != nil {
		return err
	}
	p.d.say("\nThe transcript at %s", p.address)
	for _, l := range lines {
		p.d.say("  %-24s %-50s [%s]", l.From, l.Text, l.progress())
	}
	if len(lines) != len(p.d.spoken) {
		return fmt.Errorf("%d lines in the transcript, %d were spoken", len(lines), len(p.d.spoken))
	}
	return nil
}

func parseLines(out []byte) ([]demoLine, error) {
	var lines []demoLine
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var l demoLine
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read what cbx printed: %w", err)
		}
		if l.Type == "message" || l.Type == "sent" {
			lines = append(lines, l)
		}
	}
}
