package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
)

// maxSocketPath is what fits into a Unix socket address on every system we build for.
const maxSocketPath = 103

// report adds a mistake in a value, wherever the value came from.
func (p *parsing) report(path, text, hint string) {
	if p.bad[path] {
		return
	}
	p.bad[path] = true
	p.add(p.problemAt(path, text, hint))
}

func (p *parsing) problemAt(path, text, hint string) Problem {
	key, _, _ := strings.Cut(path, "[")
	if o := p.origins[key]; o.Kind == "env" || o.Kind == "flag" {
		return Problem{Where: o.Where, Key: path, Text: text, Hint: hint}
	}
	for at := path; at != ""; {
		if pos, ok := p.values[at]; ok && at == path {
			return p.src.at(pos, path, text, hint)
		}
		if pos, ok := p.names[at]; ok {
			return p.src.at(pos, path, text, hint)
		}
		at = at[:max(0, strings.LastIndexAny(at, ".["))]
	}
	return p.src.nowhere(path, text, hint)
}

func (p *parsing) warn(path, text, hint string) {
	p.warnings = append(p.warnings, p.problemAt(path, text, hint))
}

// check judges values that are well-formed by themselves.
func (p *parsing) check() {
	c := p.config
	if c.Server.PublicURL != "" {
		p.checkBase("server.public_url", c.Server.PublicURL)
	}
	p.checkCountry("organisation.country", c.Organisation.Country)
	for i, country := range c.Organisation.Jurisdictions {
		p.checkCountry(fmt.Sprintf("organisation.jurisdictions[%d]", i), country)
	}
	p.checkListen()
	if len(c.AdminSocket()) > maxSocketPath && !p.bad["listen.admin_socket"] {
		p.report("listen.admin_socket", fmt.Sprintf("the socket's path is longer than %d bytes", maxSocketPath), "set listen.admin_socket to a shorter path")
	}
	if c.TLS.Min == "1.2" {
		p.warn("tls.min", "clients may use TLS 1.2", "set it to \"1.3\" when no old client is left")
	}
	p.checkNotice()
	p.atMost("retention.outbox", c.Retention.Outbox, "retention.idempotency", c.Retention.Idempotency, "so a repeated message could be sent twice")
	p.atMost("federation.delayed_after", c.Federation.DelayedAfter, "retention.outbox", c.Retention.Outbox, "so nobody would be told in time")
	if !c.Log.Privacy {
		p.warn("log.privacy", "names and network addresses may appear in the log", "set it to true")
	}
	p.checkFederation()
}

// atMost demands that one duration is no longer than another, and reports at
// the one that was set, since the other has its default.
func (p *parsing) atMost(short string, a time.Duration, long string, b time.Duration, why string) {
	if a <= b || p.bad[short] || p.bad[long] {
		return
	}
	if _, set := p.origins[long]; set {
		p.report(long, "is shorter than "+short+", "+why, "make it at least "+FormatDuration(a))
		return
	}
	p.report(short, "is longer than "+long+", "+why, "make it at most "+FormatDuration(b))
}

func (p *parsing) checkListen() {
	c := p.config
	if len(c.Listen.Addresses) == 0 {
		p.report("listen.addresses", "the list is empty", "for example [\":443\"]")
	}
	seen := map[string]bool{}
	for i, a := range c.Listen.Addresses {
		path := fmt.Sprintf("listen.addresses[%d]", i)
		if what := hostPort(a); what != "" {
			p.report(path, what, "for example \":443\" or \"192.0.2.1:8443\"")
		} else if seen[a] && !strings.HasSuffix(a, ":0") {
			p.report(path, "appears twice", "keep one")
		}
		seen[a] = true
	}
	p.checkMetrics()
	for i, a := range c.Listen.TrustedProxies {
		path := fmt.Sprintf("listen.trusted_proxies[%d]", i)
		prefix, err := netip.ParsePrefix(a)
		if addr, err2 := netip.ParseAddr(a); err2 == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		switch {
		case err != nil:
			p.report(path, fmt.Sprintf("expected an IP address or a prefix, found %q", shorten(a)), "for example \"10.0.0.0/8\"")
		case prefix.Bits() == 0:
			p.report(path, "trusts the whole internet", "name your proxies only")
		case prefix != prefix.Masked():
			p.report(path, "the prefix has bits beyond its length", fmt.Sprintf("write %s", prefix.Masked()))
		}
	}
}

// checkMetrics keeps the figures on this machine unless the operator insists.
func (p *parsing) checkMetrics() {
	const path = "listen.metrics"
	l := p.config.Listen
	if l.Metrics == "" {
		return
	}
	if what := hostPort(l.Metrics); what != "" {
		p.report(path, what, "for example \"127.0.0.1:9464\"")
		return
	}
	host, _, err := net.SplitHostPort(l.Metrics)
	addr, notIP := netip.ParseAddr(host)
	switch {
	case err == nil && (host == "localhost" || notIP == nil && addr.IsLoopback()):
	case !l.MetricsAnywhere:
		p.report(path, "is no loopback address, and what is read there is not encrypted", "for example \"127.0.0.1:9464\", or set listen.metrics_anywhere to true")
	default:
		p.warn(path, "whoever reaches this address reads the server's figures", "let a firewall keep others away")
	}
}

func (p *parsing) checkNotice() {
	n := p.config.Notice
	if n.File != "" && n.Text != "" {
		p.report("notice.text", "is set together with notice.file", "keep one")
	}
	if strings.Trim(n.Version, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || len(n.Version) > 64 {
		p.report("notice.version", "expected up to 64 letters, digits, dots, hyphens and underscores", "")
	}
	for _, part := range strings.Split(n.Language, "-") {
		if part == "" || len(part) > 8 || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			p.report("notice.language", fmt.Sprintf("expected a language tag, found %q", shorten(n.Language)), "for example en or de-AT")
			break
		}
	}
}

func (p *parsing) checkFederation() {
	f := p.config.Federation
	for i, a := range f.Authorities {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			host, port = a, "443"
		}
		if !plausibleHost(host) || !plausiblePort(port) || a != strings.ToLower(a) {
			p.report(fmt.Sprintf("federation.authorities[%d]", i), fmt.Sprintf("expected a lower-case host or host:port, found %q", shorten(a)), "")
		}
	}
	if f.Mode == "closed" && len(f.Peers) > 0 {
		p.warn("federation.peers", "has no effect while federation.mode is closed", "")
	}
	p.checkOpen()
	seen := map[string]int{}
	for i, peer := range f.Peers {
		path := fmt.Sprintf("federation.peers[%d]", i)
		if peer.Server != "" {
			if first, twice := seen[string(peer.Server)]; twice {
				p.report(path+".server", fmt.Sprintf("is also item %d of the list", first+1), "keep one")
			}
			seen[string(peer.Server)] = i
			if peer.Server == p.config.Server.Name {
				p.report(path+".server", "is this server itself", "remove the item")
			}
		}
		p.checkCountry(path+".country", peer.Country)
		for j, feature := range peer.Features {
			if feature != "presence" && feature != "typing" {
				p.report(fmt.Sprintf("%s.features[%d]", path, j), fmt.Sprintf("expected presence or typing, found %q", shorten(feature)), "")
			}
		}
		if peer.Pin != "" && (len(peer.Pin) != 64 || strings.Trim(peer.Pin, "0123456789abcdef") != "") {
			p.report(path+".pin", "expected 64 lower-case hexadecimal digits", "the peer's admin sees it with `clearbox status`")
		}
		for j, e := range peer.Endpoints {
			at := fmt.Sprintf("%s.endpoints[%d]", path, j)
			u := p.checkBase(at, e)
			if u == nil || peer.AllowPrivate {
				continue
			}
			if _, err := netip.ParseAddr(u.Hostname()); err == nil {
				p.report(at, "is an IP address", "use a name, or set allow_private: true for a test")
			}
		}
	}
}

// checkOpen demands what mode open needs before it starts.
func (p *parsing) checkOpen() {
	f := p.config.Federation
	for i, country := range f.Open.Countries {
		p.checkCountry(fmt.Sprintf("federation.open.countries[%d]", i), country)
	}
	if f.Mode != ModeOpen {
		return
	}
	if strings.TrimSpace(f.Open.LegalBasis) == "" {
		p.report("federation.open.legal_basis", "is required while federation.mode is open: servers that nobody here agreed with send and get personal data",
			"say on what legal basis (GDPR, Art. 6 and 44 to 49) that happens, or set federation.mode to allowlist")
	}
	if len(f.Open.LegalBasis) > maxLegalBasis {
		p.report("federation.open.legal_basis", fmt.Sprintf("is longer than %d bytes", maxLegalBasis), "refer to a document")
	}
	if len(f.Open.Countries) == 0 {
		p.warn("federation.open.countries", "servers of every country may become peers", "list the countries to which data may go")
	}
}

const maxLegalBasis = 1000 // bytes

func (p *parsing) checkCountry(path, c string) {
	switch {
	case c == "" || clearbox.ValidCountry(c):
	case len(c) != 2 || strings.Trim(c, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		p.report(path, fmt.Sprintf("expected a country as two capital letters, found %q", shorten(c)), "for example AT")
	default:
		p.report(path, fmt.Sprintf("there is no country %q", c), "the two letters of ISO 3166-1, for example AT")
	}
}

// checkBase accepts https://host[:port] and returns it parsed, or nil.
func (p *parsing) checkBase(path, text string) *url.URL {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" || !plausibleHost(u.Hostname()) || u.Port() != "" && !plausiblePort(u.Port()):
		p.report(path, fmt.Sprintf("expected an address such as https://clearbox.example.org, found %q", shorten(text)), "")
		return nil
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Path != "" && u.Path != "/":
		p.report(path, "has more than a scheme, a host and a port", fmt.Sprintf("write https://%s", u.Host))
		return nil
	}
	return u
}

func hostPort(a string) string {
	host, port, err := net.SplitHostPort(a)
	if err != nil || !plausiblePort(port) && port != "0" || host != "" && !plausibleHost(host) {
		return fmt.Sprintf("expected host:port, found %q", shorten(a))
	}
	return ""
}

func plausiblePort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// plausibleHost accepts IP addresses and names; whether they exist is for the doctor.
func plausibleHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return s != "" && len(s) <= 253 && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789.-") == "" &&
		s[0] != '.' && s[0] != '-'
}
