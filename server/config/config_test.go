package config_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/server/config"
)

var update = flag.Bool("update", false, "write golden files")

const required = `
server:
  name: chat.example.org
tls:
  cert_file: tls/cert.pem
  key_file: tls/key.pem
`

func mustParse(t *testing.T, text string, opt config.Options) *config.Loaded {
	t.Helper()
	l, err := config.Parse("clearbox.yaml", []byte(text), opt)
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return l
}

func TestExampleFileIsRendered(t *testing.T) {
	const path = "../../config.example.yaml"
	want := config.Example()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from the struct's comments; run: go test ./server/config -update", path)
	}
}

// The lines behind a # are the defaults: taking the # away changes nothing.
func TestExampleShowsTheDefaults(t *testing.T) {
	plain := mustParse(t, string(config.Example()), config.Options{}).Config
	text := string(config.Example())
	for _, k := range config.Schema() {
		if k.Default == "" && !k.Required && k.Kind != config.KindSection {
			name := k.Path[strings.LastIndexByte(k.Path, '.')+1:]
			text = regexp.MustCompile(`(?m)^ *#`+name+`:.*(\n *#  .*)*$`).ReplaceAllString(text, "")
		}
	}
	text = regexp.MustCompile(`(?m)^( *)#([a-z_]+: )`).ReplaceAllString(text, "$1$2")
	set := mustParse(t, text, config.Options{})
	if diff := config.Diff(plain, set.Config); len(diff) > 0 {
		t.Errorf("the example's comments are not the defaults: %+v", diff)
	}
	if n := len(set.Origins); n < 40 {
		t.Errorf("only %d keys were uncommented: the test does not test", n)
	}
}

// Examples of keys without a default are valid too.
func TestExamplesAreValid(t *testing.T) {
	text := string(config.Example())
	text = regexp.MustCompile(`(?m)^ *#text: .*$`).ReplaceAllString(text, "") // excludes notice.file
	text = regexp.MustCompile(`(?m)^( *)#(  (?:- |  )?[a-z_]+: |[a-z_]+:)`).ReplaceAllString(text, "$1$2")
	text = regexp.MustCompile(`(?m)^( *)#( {4}# )`).ReplaceAllString(text, "$1$2")
	l := mustParse(t, text, config.Options{})
	if len(l.Config.Federation.Peers) != 1 || len(l.Config.Listen.TrustedProxies) != 1 || l.Config.Notice.File == "" {
		t.Errorf("examples were not read: %+v", l.Config)
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	for _, k := range config.Schema() {
		if k.Doc == "" {
			t.Errorf("%s has no comment", k.Path)
		}
		if k.Default == "" && k.Example == "" && k.Kind != config.KindSection && k.Kind != config.KindSections {
			t.Errorf("%s has neither default nor example", k.Path)
		}
		if page, ok := config.Explain(k.Path); !ok || !strings.HasPrefix(page, k.Path+" (") {
			t.Errorf("Explain(%s) = %q, %v", k.Path, page, ok)
		}
		if strings.HasSuffix(k.Path, "_file") && !k.File {
			t.Errorf("%s is not marked as a path", k.Path)
		}
	}
	if _, ok := config.Explain("tokens.acess"); ok {
		t.Error("Explain knows tokens.acess")
	}
	for given, want := range map[string]string{"tokens.acess": "tokens.access", "domain": "server.name", "level": "log.level", "qqqqqqq": ""} {
		if got := config.Nearest(given); got != want {
			t.Errorf("Nearest(%s) = %q, want %q", given, got, want)
		}
	}
}

func TestRenderReadsBack(t *testing.T) {
	c := mustParse(t, required+`
organisation: {name: "Klinik \"Süd\"\t#1", country: AT}
listen: {addresses: ["127.0.0.1:0", "[::1]:8443"], trusted_proxies: [10.0.0.0/8, 192.0.2.7]}
notice: {text: "line one\nline two: x", version: "2", language: de-AT}
tokens: {access: 90s, refresh: 1h30m}
limits: {mailbox_size: 1536KiB, connections: 0}
log: {privacy: false, format: json}
federation:
  mode: closed
  peers:
  - server: partner.example
    endpoints: ["https://127.0.0.1:8443"]
    pin: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    country: "NO"
    allow_private: true
  - server: other.example
`, config.Options{})
	var b bytes.Buffer
	if err := config.Render(&b, c.Config); err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, b.String(), config.Options{})
	if !reflect.DeepEqual(again.Config, c.Config) {
		t.Errorf("read back:\n%+v\nwant\n%+v\nfrom\n%s", again.Config, c.Config, b.String())
	}
	if c.Config.Tokens.Refresh != 90*time.Minute || c.Config.Federation.Peers[0].Country != "NO" {
		t.Errorf("values: %+v", c.Config)
	}
	if len(c.Warnings) != 2 { // closed with peers; privacy off
		t.Errorf("warnings: %v", c.Warnings)
	}
}

func TestOverridesAndOrigins(t *testing.T) {
	l := mustParse(t, required+"log:\n  level: warn\n  format: json\n", config.Options{
		Env: []string{"PATH=/bin", "CLEARBOX_CONFIG=/x", "CLEARBOX_LOG_LEVEL=debug", "CLEARBOX_TOKENS_ACCESS=5m",
			"CLEARBOX_LISTEN_ADDRESSES=127.0.0.1:1, 127.0.0.1:2", "CLEARBOX_SERVICE_HOST=10.0.0.1", "CLEARBOX_PORT_443_TCP=x"},
		Set: []string{"log.level=error", "limits.connections=7"},
	})
	c := l.Config
	if c.Log.Level != "error" || c.Tokens.Access != 5*time.Minute || c.Limits.Connections != 7 || len(c.Listen.Addresses) != 2 {
		t.Errorf("values: %+v", c)
	}
	for key, want := range map[string]config.Origin{
		"log.level":        {Kind: "flag", Where: "--set"},
		"log.format":       {Kind: "file", Where: "clearbox.yaml:9"},
		"tokens.access":    {Kind: "env", Where: "CLEARBOX_TOKENS_ACCESS"},
		"listen.addresses": {Kind: "env", Where: "CLEARBOX_LISTEN_ADDRESSES"},
		"tokens.refresh":   {Kind: "default"},
	} {
		found := false
		for _, s := range l.Effective() {
			if s.Key == key {
				found = true
				if s.Origin != want {
					t.Errorf("origin of %s = %+v, want %+v", key, s.Origin, want)
				}
			}
		}
		if !found {
			t.Errorf("%s is not among the effective settings", key)
		}
	}
}

func TestDiffAndApplied(t *testing.T) {
	old := mustParse(t, required, config.Options{}).Config
	new := mustParse(t, required+"log: {level: debug, format: json}\nlimits: {connections: 5}\nlisten: {addresses: [\":1\"]}\n", config.Options{}).Config
	want := []config.Change{
		{Key: "listen.addresses", Old: `[":443"]`, New: `[":1"]`},
		{Key: "limits.connections", Old: "20000", New: "5"},
		{Key: "log.format", Old: "text", New: "json"},
		{Key: "log.level", Old: "info", New: "debug", Reload: true},
	}
	if got := config.Diff(old, new); !reflect.DeepEqual(got, want) {
		t.Errorf("Diff = %+v, want %+v", got, want)
	}
	merged := config.Applied(old, new)
	if merged.Log.Level != "debug" || merged.Log.Format != "text" || merged.Limits.Connections != 20000 || merged.Listen.Addresses[0] != ":443" {
		t.Errorf("Applied = %+v", merged)
	}
	if old.Log.Level != "info" {
		t.Error("Applied changed its argument")
	}
	for _, name := range config.Reloadable() {
		if strings.HasPrefix(name, "keys.") || name == "server.name" || name == "server.data_dir" {
			t.Errorf("%s must not be reloadable", name)
		}
	}
}

func TestDerived(t *testing.T) {
	l := mustParse(t, required, config.Options{Dir: "/etc/clearbox"})
	c := l.Config
	for _, x := range []struct{ name, got, want string }{
		{"data_dir", c.Server.DataDir, "/etc/clearbox/data"},
		{"cert", c.TLS.CertFile, "/etc/clearbox/tls/cert.pem"},
		{"root", c.Keys.RootKeyFile, "/etc/clearbox/keys/root.key"},
		{"notice", c.Notice.File, ""},
		{"socket", c.AdminSocket(), "/etc/clearbox/data/admin.sock"},
		{"database", c.DatabasePath(), "/etc/clearbox/data/clearbox.db"},
		{"keystore", c.KeystorePath(), "/etc/clearbox/data/keystore.db"},
		{"url", c.PublicURL(), "https://chat.example.org"},
		{"authorities", strings.Join(c.Authorities(), " "), "chat.example.org"},
	} {
		if x.got != x.want {
			t.Errorf("%s = %q, want %q", x.name, x.got, x.want)
		}
	}
	c = mustParse(t, required+"federation: {authorities: [\"a.test:443\", \"b.test:8443\"]}\n", config.Options{}).Config
	if got := strings.Join(c.Authorities(), " "); got != "a.test b.test:8443" {
		t.Errorf("authorities = %q", got)
	}
	text, err := c.PrivacyNotice()
	if err != nil || !strings.Contains(text, "cannot read them") {
		t.Errorf("PrivacyNotice = %q, %v", text, err)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	_, err := config.Parse("x", []byte(strings.Repeat("a: 1\n", 1_000)), config.Options{})
	var e *config.Errors
	if !errors.As(err, &e) {
		t.Fatalf("error %T", err)
	}
	if n := len(e.Problems); n > 101 || !strings.Contains(e.Problems[n-1].Text+e.Problems[0].Text, "more mistakes") {
		t.Errorf("%d problems, last %v", n, e.Problems[n-1])
	}
}
