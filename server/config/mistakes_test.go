package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/server/config"
)

// One row per class of mistake. text is added to a configuration that is right
// and has 6 lines, unless whole is set. want is the first line of the message.
func TestMistakes(t *testing.T) {
	const x64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		name, text string
		whole      bool
		env        string
		set        string
		want       []string
	}{
		{name: "unknown key", text: "tokens:\n  acess: 15m\n", want: []string{"x:8:3: tokens.acess: unknown key; did you mean tokens.access?"}},
		{name: "unknown section", text: "tokenz: {}\n", want: []string{"x:7:1: tokenz: unknown key; did you mean tokens?"}},
		{name: "unknown and like nothing", text: "tls2x: 1\nlog:\n  colour: red\n", want: []string{
			"x:7:1: tls2x: unknown key; known here: server, organisation, listen, tls, keys, registration, notice, passwords, tokens, retention, limits, federation, privacy, log",
			"x:9:3: log.colour: unknown key; known here: format, level, privacy"}},
		{name: "key of another section", text: "level: debug\n", want: []string{"x:7:1: level: unknown key; did you mean log.level?"}},
		{name: "renamed key", text: "log_level: debug\n", want: []string{"x:7:1: log_level: is not the name of a key any more; it is called log.level"}},
		{name: "number as key", text: "1: 2\n", want: []string{"x:7:1: 1: unknown key; known here: server, organisation, listen, tls, keys, registration, notice, passwords, tokens, retention, limits, federation, privacy, log"}},
		{name: "duplicate key", text: "log:\n  level: info\n  level: debug\n", want: []string{"x:9:3: log.level: appears twice; the first is in line 8; keep one"}},
		{name: "duplicate section", text: "log: {}\nlog: {}\n", want: []string{"x:8:1: log: appears twice; the first is in line 7; keep one"}},
		{name: "required missing", whole: true, text: "server:\n  data_dir: d\n", want: []string{
			"x:1:1: server.name: is required and missing; for example name: chat.example.org",
			"x:1:1: tls.cert_file: is required and missing; for example cert_file: tls/cert.pem",
			"x:1:1: tls.key_file: is required and missing; for example key_file: tls/key.pem"}},
		{name: "empty file", whole: true, text: "", want: []string{
			"x:1:1: server.name: is required and missing; for example name: chat.example.org",
			"x:1:1: tls.cert_file: is required and missing; for example cert_file: tls/cert.pem",
			"x:1:1: tls.key_file: is required and missing; for example key_file: tls/key.pem"}},
		{name: "number for text", text: "notice: {version: 2}\n", want: []string{`x:7:19: notice.version: expected text, found the number 2; put it in quotes: "2"`}},
		{name: "boolean for text", text: "organisation: {name: true}\n", want: []string{`x:7:22: organisation.name: expected text, found true; put it in quotes: "true"`}},
		{name: "list for text", text: "organisation:\n  name: [a]\n", want: []string{"x:8:9: organisation.name: expected text, found a list"}},
		{name: "section for text", text: "organisation:\n  name:\n    de: a\n", want: []string{"x:9:5: organisation.name: expected text, found a section"}},
		{name: "empty text", text: "organisation: {name: \"\"}\n", want: []string{"x:7:22: organisation.name: is empty; give it a value, or remove the line"}},
		{name: "text for section", text: "log: debug\n", want: []string{`x:7:6: log: a section holds lines such as key: value, found the text "debug"`}},
		{name: "text for number", text: "limits:\n  connections: many\n", want: []string{`x:8:16: limits.connections: expected a whole number, found the text "many"`}},
		{name: "fraction for number", text: "limits: {connections: 1.5}\n", want: []string{"x:7:23: limits.connections: expected a whole number, found the number 1.5"}},
		{name: "odd number", text: "limits:\n  connections: 0x10\n  archive_items: 007\n  mailbox_envelopes: 1_000\n", want: []string{
			`x:8:16: limits.connections: expected a whole number in decimal digits, found "0x10"`,
			`x:9:18: limits.archive_items: expected a whole number in decimal digits, found "007"`,
			`x:10:22: limits.mailbox_envelopes: expected a whole number in decimal digits, found "1_000"`}},
		{name: "number too small", text: "limits: {connections: -1}\n", want: []string{"x:7:23: limits.connections: is too small; the least is 0"}},
		{name: "number too large", text: "passwords: {concurrency: 1000}\n", want: []string{"x:7:26: passwords.concurrency: is too large; the most is 256"}},
		{name: "yes for boolean", text: "log: {privacy: yes}\n", want: []string{`x:7:16: log.privacy: expected true or false, found the text "yes"`}},
		{name: "duration without unit", text: "tokens: {access: 15}\n", want: []string{"x:7:18: tokens.access: 15 has no unit; expected a duration with a unit, such as 15m (ms, s, m, h, d)"}},
		{name: "duration in words", text: "tokens: {access: 15 minutes}\n", want: []string{"x:7:18: tokens.access: expected a duration with a unit, such as 15m (ms, s, m, h, d)"}},
		{name: "boolean for duration", text: "tokens: {access: true}\n", want: []string{"x:7:18: tokens.access: expected a duration with a unit, such as 15m, found true"}},
		{name: "duration too short", text: "tokens: {access: 1s}\n", want: []string{"x:7:18: tokens.access: is too small; the least is 1m"}},
		{name: "size without unit", text: "limits: {mailbox_size: 1000}\n", want: []string{"x:7:24: limits.mailbox_size: 1000 has no unit; expected a size with a unit, such as 256MiB (B, KiB, MiB, GiB, TiB)"}},
		{name: "ambiguous size", text: "limits: {mailbox_size: 256MB}\n", want: []string{`x:7:24: limits.mailbox_size: the unit "MB" is ambiguous; write 256MiB`}},
		{name: "unknown unit", text: "limits: {mailbox_size: 256parsec}\n", want: []string{`x:7:24: limits.mailbox_size: unknown unit "parsec"; expected a size with a unit, such as 256MiB (B, KiB, MiB, GiB, TiB)`}},
		{name: "null", text: "limits:\n  connections:\n", want: []string{"x:8:15: limits.connections: has no value; remove the line for the default, 20000"}},
		{name: "null without default", text: "organisation: {name: ~}\n", want: []string{"x:7:22: organisation.name: has no value; give it one, or remove the line"}},
		{name: "enum", text: "log: {level: inof}\n", want: []string{`x:7:14: log.level: expected "debug", "info", "warn" or "error", found "inof"; did you mean "info"?`}},
		{name: "open without a legal basis", text: "federation: {mode: open}\n", want: []string{
			`x:7:1: federation.open.legal_basis: is required while federation.mode is open: servers that nobody here agreed with send and get personal data; say on what legal basis (GDPR, Art. 6 and 44 to 49) that happens, or set federation.mode to allowlist`}},
		{name: "unknown values", text: "federation: {mode: opn, transport: h4, open: {countries: [Austria]}, peers: [{server: a.test, direction: up, features: [video]}]}\n", want: []string{
			`x:7:20: federation.mode: expected "allowlist", "closed" or "open", found "opn"; did you mean "open"?`,
			`x:7:36: federation.transport: expected "auto", "h2" or "h3", found "h4"; did you mean "h2"?`,
			`x:7:59: federation.open.countries[0]: expected a country as two capital letters, found "Austria"; for example AT`,
			`x:7:106: federation.peers[0].direction: expected "both", "in" or "out", found "up"`,
			`x:7:121: federation.peers[0].features[0]: expected presence or typing, found "video"`}},
		{name: "text for list", text: "listen: {addresses: \":443\"}\n", want: []string{`x:7:21: listen.addresses: expected a list of texts, found the text ":443"; write it as [":443"]`}},
		{name: "number in list", text: "listen: {addresses: [443]}\n", want: []string{`x:7:22: listen.addresses[0]: expected text, found the number 443; put it in quotes: "443"`}},
		{name: "empty list", text: "listen: {addresses: []}\n", want: []string{`x:7:21: listen.addresses: the list is empty; for example [":443"]`}},
		{name: "figures for everybody", text: "listen: {metrics: \":9464\"}\n", want: []string{
			`x:7:19: listen.metrics: is no loopback address, and what is read there is not encrypted; for example "127.0.0.1:9464", or set listen.metrics_anywhere to true`}},
		{name: "figures nowhere", text: "listen: {metrics: here}\n", want: []string{`x:7:19: listen.metrics: expected host:port, found "here"; for example "127.0.0.1:9464"`}},
		{name: "bad address", text: "listen: {addresses: [\":443\", \"443\", \"a:b\", \"x y:1\", \":443\"]}\n", want: []string{
			`x:7:30: listen.addresses[1]: expected host:port, found "443"; for example ":443" or "192.0.2.1:8443"`,
			`x:7:37: listen.addresses[2]: expected host:port, found "a:b"; for example ":443" or "192.0.2.1:8443"`,
			`x:7:44: listen.addresses[3]: expected host:port, found "x y:1"; for example ":443" or "192.0.2.1:8443"`,
			`x:7:53: listen.addresses[4]: appears twice; keep one`}},
		{name: "proxies", text: "listen: {trusted_proxies: [proxy, 0.0.0.0/0, 10.1.0.0/8]}\n", want: []string{
			`x:7:28: listen.trusted_proxies[0]: expected an IP address or a prefix, found "proxy"; for example "10.0.0.0/8"`,
			`x:7:35: listen.trusted_proxies[1]: trusts the whole internet; name your proxies only`,
			`x:7:46: listen.trusted_proxies[2]: the prefix has bits beyond its length; write 10.0.0.0/8`}},
		{name: "socket path", text: "listen:\n  admin_socket: /" + strings.Repeat("a", 120) + "\n", want: []string{"x:8:17: listen.admin_socket: the socket's path is longer than 103 bytes; set listen.admin_socket to a shorter path"}},
		{name: "server name", whole: true, text: "server: {name: Example.org}\ntls: {cert_file: a, key_file: b}\n", want: []string{"x:1:16: server.name: a server name is a lower-case domain such as clinic.example"}},
		{name: "public url", whole: true, text: "server: {name: a.example, public_url: \"http://a.example\"}\ntls: {cert_file: a, key_file: b}\n", want: []string{
			`x:1:39: server.public_url: expected an address such as https://clearbox.example.org, found "http://a.example"`}},
		{name: "public url with path", whole: true, text: "server: {name: a.example, public_url: \"https://a.example/chat\"}\ntls: {cert_file: a, key_file: b}\n", want: []string{
			`x:1:39: server.public_url: has more than a scheme, a host and a port; write https://a.example`}},
		{name: "country", text: "organisation: {country: Austria}\n", want: []string{`x:7:25: organisation.country: expected a country as two capital letters, found "Austria"; for example AT`}},
		{name: "notice twice", text: "notice:\n  file: a\n  text: b\n", want: []string{"x:9:9: notice.text: is set together with notice.file; keep one"}},
		{name: "notice language", text: "notice: {language: \"de_AT\"}\n", want: []string{`x:7:20: notice.language: expected a language tag, found "de_AT"; for example en or de-AT`}},
		{name: "notice version", text: "notice: {version: \"a b\"}\n", want: []string{`x:7:19: notice.version: expected up to 64 letters, digits, dots, hyphens and underscores`}},
		{name: "retention", text: "retention: {idempotency: 2d}\n", want: []string{"x:7:26: retention.idempotency: is shorter than retention.outbox, so a repeated message could be sent twice; make it at least 14d"}},
		{name: "outbox", text: "retention: {outbox: 1h}\n", want: []string{"x:7:21: retention.outbox: is shorter than federation.delayed_after, so nobody would be told in time; make it at least 4h"}},
		{name: "delayed after", text: "federation: {delayed_after: 14d}\nretention:\n  outbox: 10d\n", want: []string{"x:9:11: retention.outbox: is shorter than federation.delayed_after, so nobody would be told in time; make it at least 14d"}},
		{name: "outbox longer than idempotency", text: "retention: {outbox: 30d, idempotency: 29d}\n", want: []string{"x:7:39: retention.idempotency: is shorter than retention.outbox, so a repeated message could be sent twice; make it at least 30d"}},
		{name: "authorities", text: "federation: {authorities: [\"https://a.example\"]}\n", want: []string{`x:7:28: federation.authorities[0]: expected a lower-case host or host:port, found "https://a.example"`}},
		{name: "peers not a list", text: "federation:\n  peers: partner.example\n", want: []string{`x:8:10: federation.peers: expected a list, found the text "partner.example"; begin each item with a hyphen`}},
		{name: "peers of text", text: "federation:\n  peers: [partner.example]\n", want: []string{`x:8:11: federation.peers[0]: a section holds lines such as key: value, found the text "partner.example"`}},
		{name: "peer", text: "federation:\n  peers:\n  - server: chat.example.org\n    pin: ABC\n    county: DE\n  - country: de\n  - server: b.example\n    endpoints: [\"https://127.0.0.1\"]\n  - server: b.example\n", want: []string{
			"x:9:13: federation.peers[0].server: is this server itself; remove the item",
			"x:10:10: federation.peers[0].pin: expected 64 lower-case hexadecimal digits; the peer's admin sees it with `clearbox status`",
			"x:11:5: federation.peers[0].county: unknown key; did you mean federation.peers[].country?",
			"x:12:5: federation.peers[1].server: is required and missing; for example partner.example",
			`x:12:14: federation.peers[1].country: expected a country as two capital letters, found "de"; for example AT`,
			"x:14:17: federation.peers[2].endpoints[0]: is an IP address; use a name, or set allow_private: true for a test",
			"x:15:13: federation.peers[3].server: is also item 3 of the list; keep one"}},
		{name: "tab", whole: true, text: "server:\n\tname: a.example\n", want: []string{"x:2:1: not valid YAML: found character '\t' that cannot start any token; the rest of the file was not checked"}},
		{name: "open bracket", whole: true, text: "a: [1, 2\nb: 3\n", want: []string{"x:2:1: not valid YAML: ',' or ']' must be specified; the rest of the file was not checked"}},
		{name: "bad indentation", whole: true, text: "a:\n  b: 1\n c: 2\n", want: []string{"x:3:2: not valid YAML: value is not allowed in this context; the rest of the file was not checked"}},
		{name: "a list", whole: true, text: "- a\n", want: []string{"x:1:1: the file holds lines such as key: value, found a list"}},
		{name: "two documents", text: "---\nlog: {}\n", want: []string{"x:8:1: the file has a second document; remove the line with --- above and what follows"}},
		{name: "directive", whole: true, text: "%YAML 1.2\n---\na: 1\n", want: []string{"x:1:1: YAML directives are not used here; remove the line"}},
		{name: "anchor", text: "log: &a {}\n", want: []string{"x:7:6: log: anchors, aliases and tags are not used here; write the value out"}},
		{name: "tag", text: "log: {level: !!str info}\n", want: []string{"x:7:14: log.level: anchors, aliases and tags are not used here; write the value out"}},
		{name: "merge key", text: "log:\n  <<: {level: info}\n", want: []string{"x:8:3: log: merge keys, anchors, aliases, tags and complex keys are not used here; write the key out"}},
		{name: "complex key", text: "? log\n: {}\n", want: []string{"x:7:1: merge keys, anchors, aliases, tags and complex keys are not used here; write the key out"}},
		{name: "not UTF-8", text: "log: {level: \xff}\n", want: []string{"x:7:14: the file is not UTF-8 text; save it as UTF-8"}},
		{name: "NUL", whole: true, text: "a\x00b", want: []string{"x:1:2: the file is not UTF-8 text; save it as UTF-8"}},
		{name: "nesting", text: "log: " + strings.Repeat("[", 10_000) + "\n", want: []string{"x:7:71: too many nested brackets"}},
		{name: "size of the file", text: strings.Repeat("# filler\n", 40_000), want: []string{"x:1:1: the file has more than 256KiB; is this a configuration file?"}},
		{name: "environment, unknown", env: "CLEARBOX_LOG_LEVL=debug", want: []string{"CLEARBOX_LOG_LEVL: this environment variable belongs to no key; did you mean CLEARBOX_LOG_LEVEL?"}},
		{name: "environment, value", env: "CLEARBOX_TOKENS_ACCESS=15", want: []string{"CLEARBOX_TOKENS_ACCESS: tokens.access: 15 has no unit; expected a duration with a unit, such as 15m (ms, s, m, h, d)"}},
		{name: "environment, meaning", env: "CLEARBOX_LISTEN_ADDRESSES=443", want: []string{`CLEARBOX_LISTEN_ADDRESSES: listen.addresses[0]: expected host:port, found "443"; for example ":443" or "192.0.2.1:8443"`}},
		{name: "too many keys", text: strings.Repeat("a: 1\n", 10_000), want: []string{"x:1:1: the file has too many keys; is this a configuration file?"}},
		{name: "colon in a list", text: "federation: {authorities: [a.test:443]}\n", want: []string{"x:7:28: federation.authorities[0]: expected text, found a section; put texts with a colon in quotes"}},
		{name: "flag, form", set: "log.level", want: []string{`--set: expected key=value, found "log.level"`}},
		{name: "flag, unknown", set: "log.levle=debug", want: []string{"--set: log.levle: unknown key; did you mean log.level?"}},
		{name: "flag, value", set: "log.level=loud", want: []string{`--set: log.level: expected "debug", "info", "warn" or "error", found "loud"`}},
		{name: "flag, section", set: "federation.peers=x", want: []string{"--set: federation.peers: a list of sections can only be set in the file"}},
		{name: "pin in quotes is fine, server missing", text: "federation: {peers: [{pin: \"" + x64 + "\"}]}\n", want: []string{"x:7:22: federation.peers[0].server: is required and missing; for example partner.example"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := required + c.text
			if c.whole {
				text = c.text
			}
			opt := config.Options{}
			if c.env != "" {
				opt.Env = []string{c.env}
			}
			if c.set != "" {
				opt.Set = []string{c.set}
			}
			l, err := config.Parse("x", []byte(text), opt)
			var e *config.Errors
			if !errors.As(err, &e) || l != nil {
				t.Fatalf("Parse = %v, %v: want a refusal", l, err)
			}
			var got []string
			for _, p := range e.Problems {
				first, _, _ := strings.Cut(p.String(), "\n")
				got = append(got, first)
				if p.Line > 0 && p.Excerpt != "" && !strings.HasSuffix(p.String(), "^") {
					t.Errorf("no caret in\n%s", p)
				}
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// The caret stands below the value, behind wide and odd characters too.
func TestExcerpt(t *testing.T) {
	_, err := config.Parse("x", []byte(required+"organisation: {name: \"Süd ☺\", country: Xx}\r\n"), config.Options{})
	want := "x:7:40: organisation.country: expected a country as two capital letters, found \"Xx\"; for example AT\n" +
		"     7 | organisation: {name: \"Süd ☺\", country: Xx}\n" +
		"       |                                        ^"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	long := "organisation: {name: \"" + strings.Repeat("é", 300) + "\", country: Xx}\n"
	_, err = config.Parse("x", []byte(required+long), config.Options{})
	lines := strings.Split(err.Error(), "\n")
	if len([]rune(lines[1])) > 120 || []rune(lines[1])[len([]rune(lines[2]))-1] != 'X' {
		t.Errorf("long line:\n%v", err)
	}
}
