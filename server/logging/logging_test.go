package logging_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/logging"
)

const (
	uid   = clearbox.UID("abcdefghijklmnopqrstuvwxya")
	token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
)

var (
	start = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	user  = clearbox.UserID{UID: uid, Server: "a.test"}
)

func newLogs(t *testing.T, format string, privacy bool) (*logging.Logs, *bytes.Buffer, *time.Time) {
	t.Helper()
	var out bytes.Buffer
	now := start
	l, err := logging.New(&out, logging.Options{Format: format, Privacy: privacy, Now: func() time.Time { return now }, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return l, &out, &now
}

// line logs one attribute and gives what was written.
func line(l *logging.Logs, out *bytes.Buffer, key string, value any) string {
	out.Reset()
	l.Log().Info("event", key, value)
	return out.String()
}

type talkative struct{ Secret string }

func (t talkative) LogValue() slog.Value { return slog.GroupValue(slog.String("password", t.Secret)) }

// Whatever a careless line holds, in whatever form, the canaries stay inside.
func TestCanary(t *testing.T) {
	const canary = "kanarienvogel"
	handle, address := clearbox.Handle(canary), clearbox.Address{Handle: canary, Server: "a.test"}
	for _, format := range []string{"json", "text"} {
		for _, privacy := range []bool{true, false} {
			l, out, _ := newLogs(t, format, privacy)
			log := l.Log()
			log.Info("name", "name", handle, "peer", address, "error", errors.New("no mailbox of "+canary+"@a.test"))
			log.Info("to "+canary+"@a.test", "path", "/users/"+canary+"@a.test")
			log.Info("secret keys", "password", canary, "token", canary, "authorization", canary, "body", canary, "handle", canary, "user", canary, "ticket", canary, "session", canary)
			log.Info("unlisted", "whatever", canary)
			log.Info("shapes", "error", struct{ S string }{canary}, "name", []string{canary}, "file", map[string]string{"x": canary}, "line", []byte(canary), "row", &struct{ S string }{canary})
			log.Info("lazy", "name", talkative{canary})
			log.With("token", canary).WithGroup("request").Info("grouped", "password", canary, slog.Group("more", "secret", canary))
			log.Info("tokens", "url", "wss://a.test/ws?token="+token, "error", fmt.Errorf("GET /ws?token=%s: refused", token), "reason", "Bearer "+token)
			log.Info("bare token "+token, "error", errors.New("the token "+token+" is bad"))
			log.Info("url", "url", &url.URL{Scheme: "https", Host: "a.test", Path: "/ws", RawQuery: "token=" + canary, User: url.UserPassword(canary, canary)})
			log.Info("key", "error", errors.New("bad key 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"), "reason", "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
			l.Std(slog.LevelWarn).Printf("http: error for %s@a.test token=%s", canary, token)
			text := out.String()
			for _, bad := range []string{canary, token, "c2lnbmF0dXJl", "9f86d081", "MCowBQYDK2"} {
				if i := strings.Index(text, bad); i >= 0 {
					t.Errorf("%s, privacy %v: %q was logged: ...%s...", format, privacy, bad, text[max(0, i-80):min(len(text), i+60)])
				}
			}
		}
	}
}

func TestPrivacyMode(t *testing.T) {
	l, out, now := newLogs(t, "text", true)
	for _, v := range []any{user, &user, uid, clearbox.Device{User: user, ID: 2}, "for " + user.String(), errors.New("uid " + string(uid) + " is gone")} {
		got := line(l, out, "error", v)
		if strings.Contains(got, string(uid)) || !strings.Contains(got, "id-") {
			t.Errorf("%T: %s", v, got)
		}
	}
	first, second := line(l, out, "name", user), line(l, out, "name", user)
	if first != second {
		t.Errorf("one person has two names on one day: %s %s", first, second)
	}
	*now = start.Add(25 * time.Hour)
	if third := line(l, out, "name", user); strings.Contains(third, first[strings.Index(first, "id-"):len(first)-1]) {
		t.Errorf("the name is the same on the next day: %s", third)
	}
	for _, c := range []struct {
		value any
		want  string
	}{
		{netip.MustParseAddr("192.0.2.77"), "192.0.2.0/24"},
		{netip.MustParseAddrPort("192.0.2.77:4711"), "192.0.2.0/24"},
		{net.ParseIP("192.0.2.77"), "192.0.2.0/24"},
		{&net.TCPAddr{IP: net.ParseIP("2001:db8:1:2::3"), Port: 1}, "2001:db8:1::/48"},
		{"192.0.2.77:4711", "192.0.2.0/24"},
		{"dial tcp [2001:db8:1:2::3]:443: refused", "dial tcp 2001:db8:1::/48: refused"},
		{"from 2001:db8:1:2:3:4:5:6 at once", "from 2001:db8:1::/48 at once"},
		{"from 2001:db8:1:2::9", "from 2001:db8:1::/48"},
		{"2001:db8:1:2::9: refused", "2001:db8:1::/48: refused"},
		{"net 2001:db8:1::", "net 2001:db8:1::/48"},
		{"192.0.2.77: refused", "192.0.2.0/24: refused"},
		{"127.0.0.1:8443", "127.0.0.1"},
		{"version 1.2.3", "version 1.2.3"},
		{"10:20:30", "10:20:30"},
	} {
		got := line(l, out, "address", c.value)
		value := strings.TrimSuffix(got[strings.Index(got, "address=")+8:], "\n")
		if strings.Trim(value, `"`) != c.want {
			t.Errorf("%v is shown as %s, want %s", c.value, value, c.want)
		}
	}
	if err := l.Set("info", false); err != nil {
		t.Fatal(err)
	}
	if got := line(l, out, "name", user) + line(l, out, "address", netip.MustParseAddr("192.0.2.77")); !strings.Contains(got, user.String()) || !strings.Contains(got, "192.0.2.77") {
		t.Errorf("without privacy mode: %s", got)
	}
}

func TestOrdinaryValuesAreShown(t *testing.T) {
	l, out, _ := newLogs(t, "json", true)
	for _, c := range []struct {
		key   string
		value any
		want  string
	}{
		{"peer", clearbox.ServerName("b.test"), `"peer":"b.test"`},
		{"code", clearbox.CodeClockSkew, `"code":"clock_skew"`},
		{"took_ms", 12, `"took_ms":12`},
		{"ready", true, `"ready":true`},
		{"delay", 3 * time.Second, `"delay":3000000000`},
		{"error", fmt.Errorf("open the store: %w", errors.New("disk full")), `"error":"open the store: disk full"`},
		{"path", "/var/lib/clearbox/a-rather-long-folder/clearbox.db", `"path":"/var/lib/clearbox/a-rather-long-folder/clearbox.db"`},
		{"oldest", clearbox.Millis(1_790_000_000_000), `"oldest":"2026-09-21T`},
		{"request_id", "abcdefghijklmnopqrstuvwxya", `"request_id":"abcdefghijklmnopqrstuvwxya"`},
		{"peers", []clearbox.ServerName{"a.test", "b.test"}, `"peers":"a.test b.test"`},
		{"expires", start, `"expires":"2026-11-23T10:00:00Z"`},
		{"reason", "the-peer-answered-with-something-odd", `"reason":"the-peer-answered-with-something-odd"`},
		{"error", nil, `"error":""`},
	} {
		if got := line(l, out, c.key, c.value); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s lacks %s", c.key, got, c.want)
		}
	}
	if got := line(l, out, "error", strings.Repeat("long ", 1000)); len(got) > 2200 {
		t.Errorf("a line of %d bytes", len(got))
	}
}

func TestLevelsAndTime(t *testing.T) {
	l, out, now := newLogs(t, "json", true)
	l.Log().Debug("quiet")
	if out.Len() > 0 {
		t.Errorf("debug at level info: %s", out)
	}
	if err := l.Set("debug", true); err != nil {
		t.Fatal(err)
	}
	*now = start.Add(time.Hour)
	l.Log().DebugContext(context.Background(), "loud")
	if !strings.Contains(out.String(), `"time":"2026-11-23T11:00:00Z"`) || !strings.Contains(out.String(), `"msg":"loud"`) {
		t.Errorf("line: %s", out)
	}
	if err := l.Set("loud", false); err == nil {
		t.Error("level loud was accepted")
	}
	if _, err := logging.New(out, logging.Options{Format: "xml", Now: time.Now, Random: rand.Reader}); err == nil {
		t.Error("format xml was accepted")
	}
	if _, err := logging.New(out, logging.Options{Now: time.Now, Random: strings.NewReader("")}); err == nil {
		t.Error("no randomness was accepted")
	}
}
