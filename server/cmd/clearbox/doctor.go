package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage/blob"
)

type doctorCommand struct {
	Checks  []string `arg:"" optional:"" help:"Only these: config, dns, tls, clock, ports, udp, store, disk, identity, peers, queue."`
	SkipDNS bool     `name:"skip-dns" help:"Do not look names up."`
}

// examination is one run of the doctor.
type examination struct {
	x      *call
	loaded *config.Loaded // nil when the configuration is broken
	broken error
	sock   *socket // nil when it is not known where
	down   error   // why the server does not answer; nil when it does
}

// jsonDoctor is what `doctor --json` prints.
type jsonDoctor struct {
	Status string    `json:"status"`
	Checks []finding `json:"checks"`
}

func (c *doctorCommand) Run(x *call) error {
	e := &examination{x: x}
	all := []struct {
		name string
		do   func() finding
	}{
		{"config", e.config}, {"dns", e.dns}, {"tls", e.tls}, {"clock", e.clock}, {"ports", e.ports}, {"udp", e.udp},
		{"store", e.store}, {"disk", e.disk}, {"identity", e.identity}, {"peers", e.peers}, {"queue", e.queue}, {"groups", e.groups},
	}
	wanted := map[string]bool{}
	for _, name := range c.Checks {
		known := false
		for _, check := range all {
			known = known || check.name == name
		}
		if !known {
			return usage("there is no check %q; checks are config, dns, tls, clock, ports, udp, store, disk, identity, peers, queue, groups", name)
		}
		wanted[name] = true
	}
	if c.SkipDNS && len(wanted) == 0 {
		for _, check := range all {
			wanted[check.name] = check.name != "dns"
		}
	}
	e.begin()
	result := jsonDoctor{Status: statusOK, Checks: []finding{}}
	code := exitOK
	for _, check := range all {
		if len(wanted) > 0 && !wanted[check.name] {
			continue
		}
		f := check.do()
		result.Checks = append(result.Checks, f)
		switch f.Status {
		case statusFail:
			result.Status, code = statusFail, 2
		case statusWarn:
			if code == exitOK {
				result.Status, code = statusWarn, 1
			}
		}
	}
	x.show(result, func() {
		for _, f := range result.Checks {
			x.printf("%-4s  %-7s %s\n", f.Status, f.Name, strings.ReplaceAll(f.Text, "\n", "\n              "))
			if f.Next != "" {
				x.printf("              next: %s\n", f.Next)
			}
		}
	})
	if code != exitOK {
		return &failure{code: code, silent: true}
	}
	return nil
}

// begin reads the configuration and knocks at the server. When the files that it
// names are what is wrong, the other checks still use it.
func (e *examination) begin() {
	loaded, err := e.x.load(false)
	e.loaded, e.broken = loaded, err
	if err != nil {
		if e.loaded, err = e.x.load(true); err != nil {
			e.loaded = nil
		}
	}
	switch {
	case e.x.global.Socket != "":
		e.sock = e.x.dialPath(e.x.global.Socket)
	case e.loaded != nil:
		e.sock = e.x.dialPath(e.loaded.Config.AdminSocket())
	default:
		e.down = errors.New("where its admin socket is stands in the configuration")
		return
	}
	e.down = e.sock.do(http.MethodGet, "/livez", nil, &wire.Live{})
}

// unknown is the finding of a check that has nothing to look at.
func unknown(name, why string) finding {
	return warn(name, "", "not checked: %s", why)
}

func (e *examination) config() finding {
	const name = "config"
	if e.broken != nil {
		f := asFailure(e.broken)
		all := &config.Errors{Problems: f.problems}
		return bad(name, "clearbox config check"+e.x.mention(), "%s\n%s", f.text, all.Brief(20))
	}
	if len(e.loaded.Warnings) > 0 {
		all := &config.Errors{Problems: e.loaded.Warnings}
		return warn(name, "", "%s", all.Brief(20))
	}
	return ok(name, "%s", e.x.configPath())
}

func (e *examination) dns() finding {
	if e.loaded == nil {
		return unknown("dns", "the configuration is broken")
	}
	return e.x.checkDNS(hostOf(e.loaded.Config.PublicURL()))
}

func (e *examination) tls() finding {
	const name = "tls"
	if e.loaded == nil {
		return unknown(name, "the configuration is broken")
	}
	c := e.loaded.Config.TLS
	next := "put the certificate and its key into " + c.CertFile + " and " + c.KeyFile + ", then: clearbox reload" + e.x.mention()
	return checkCertificate(&c, hostOf(e.loaded.Config.PublicURL()), e.x.Now(), next)
}

// checkCertificate looks whether clients of host take the certificate at now.
func checkCertificate(c *config.TLS, host string, now time.Time, next string) finding {
	const name = "tls"
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return bad(name, next, "%v", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return bad(name, next, "%s: %v", c.CertFile, err)
	}
	left := leaf.NotAfter.Sub(now)
	day := leaf.NotAfter.UTC().Format("2006-01-02")
	switch {
	case left <= 0:
		return bad(name, next, "the certificate has expired on %s", day)
	case now.Before(leaf.NotBefore):
		return bad(name, next, "the certificate is valid only from %s on", leaf.NotBefore.UTC().Format(time.RFC3339))
	case leaf.VerifyHostname(host) != nil:
		return bad(name, next, "the certificate is not for %s but for %s", host, strings.Join(leaf.DNSNames, " "))
	case left < 14*24*time.Hour:
		return warn(name, next, "the certificate expires on %s", day)
	case c.Min == "1.2":
		return warn(name, "set tls.min to \"1.3\" when no old client is left", "clients may use TLS 1.2; the certificate is valid until %s", day)
	}
	return ok(name, "%s until %s, TLS %s", host, day, c.Min)
}

func (e *examination) clock() finding {
	if e.loaded == nil {
		return e.x.checkClock()
	}
	c := e.loaded.Config
	f := e.x.checkClock(c.DatabasePath(), c.KeystorePath())
	if f.Status != statusOK || e.down != nil {
		return f
	}
	// Peers' clocks are the only others that the server sees.
	var st wire.AdminFedStatus
	if err := e.sock.do(http.MethodGet, "/admin/fed/status", nil, &st); err != nil {
		return f
	}
	off, seen := 0, 0
	for _, p := range st.Peers {
		if p.LastSeen != 0 {
			seen++
			if p.ClockOffset > 30_000 || p.ClockOffset < -30_000 {
				off++
			}
		}
	}
	if off > 0 && 2*off >= seen {
		return warn("clock", "set up time synchronisation, such as systemd-timesyncd or chrony", "%d of %d peers have another time than this server", off, seen)
	}
	return f
}

func (e *examination) ports() finding {
	const name = "ports"
	switch {
	case e.loaded == nil:
		return unknown(name, "the configuration is broken")
	case e.down != nil:
		f := checkBind(e.loaded.Config.Listen.Addresses)
		if f.Status == statusOK {
			return warn(name, "clearbox serve"+e.x.mention(), "the server is not running; %s", f.Text)
		}
		return f
	}
	for _, a := range e.loaded.Config.Listen.Addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil || port == "0" {
			continue // checked by config; port 0 is chosen at the start
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "localhost"
		}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), 3*time.Second)
		if err != nil {
			return bad(name, "restart the server; look into its log", "the server runs, but %s does not answer: %v", a, plain(err))
		}
		if err := conn.Close(); err != nil {
			return bad(name, "", "%s: %v", a, plain(err))
		}
	}
	return ok(name, "the server answers at %s", strings.Join(e.loaded.Config.Listen.Addresses, " "))
}

func (e *examination) store() finding {
	const name = "store"
	if e.down == nil {
		var r wire.Ready
		err := e.sock.do(http.MethodGet, "/readyz", nil, &r)
		var f *failure
		if errors.As(err, &f) && f.code == exitUnreachable {
			return bad(name, "look into the server's log", "%v", err)
		}
		for _, c := range r.Checks {
			if !c.OK {
				return bad(name, "look into the server's log", "the server is not ready: %s: %s", c.Name, c.Code)
			}
		}
		if err != nil {
			return bad(name, "look into the server's log", "the server is not ready: %v", err)
		}
		return ok(name, "the server reads and writes it")
	}
	if e.loaded == nil {
		return unknown(name, "the configuration is broken")
	}
	c := e.loaded.Config
	for _, path := range []string{c.DatabasePath(), c.KeystorePath()} {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return warn(name, "clearbox serve"+e.x.mention(), "%s does not exist; it is made at the first start", path)
		case err != nil:
			return bad(name, "run this command as the user that runs the server", "%v", err)
		case info.Mode().Perm()&0o077 != 0:
			return warn(name, "chmod 600 "+path, "others on this machine may read %s", path)
		}
		if err := looksLikeSQLite(path); err != nil {
			return bad(name, "restore it from your backup", "%v", err)
		}
	}
	return ok(name, "%s is there; the server is not running", c.DatabasePath())
}

// looksLikeSQLite reads a database's first bytes only: the files belong to the server.
func looksLikeSQLite(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	if n, _ := f.Read(head); n > 0 && string(head[:n]) != magic {
		return fmt.Errorf("%s is not a database", path)
	}
	return nil
}

func (e *examination) disk() finding {
	if e.loaded == nil {
		return unknown("disk", "the configuration is broken")
	}
	c := e.loaded.Config
	f := checkDisk(c.Server.DataDir, c.Limits.DiskReserve)
	f.Text += attachments(c.MediaPath())
	return f
}

// attachments says how much the attachments of the people here take; nothing when
// there are none, or when they cannot be looked at.
func attachments(folder string) string {
	if _, err := os.Stat(folder); err != nil {
		return ""
	}
	blobs, err := blob.Open(folder, blob.Options{})
	if err != nil {
		return ""
	}
	files, size, err := blobs.Usage()
	switch {
	case err != nil || files == 0:
		return ""
	case files == 1:
		return fmt.Sprintf("; one attachment takes %s", roughly(size))
	}
	return fmt.Sprintf("; %d attachments take %s", files, roughly(size))
}

// roughly is a size without the digits that nobody reads.
func roughly(n int64) string {
	if n < int64(10*config.MiB) {
		return ((config.Size(n) + config.KiB - 1) / config.KiB * config.KiB).String()
	}
	return (config.Size(n) / config.MiB * config.MiB).String()
}

// above tells whether n has reached percent of the limit; a limit of 0 is off.
func above(n, limit, percent int64) bool {
	return limit > 0 && n >= limit/100*percent && n > 0
}
