package logging

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

// What stands in place of a value.
const (
	hidden       = "[hidden]"       // a value of a type that is not logged
	hiddenSecret = "[secret]"       // the key says that it is one
	hiddenKey    = "[unlisted key]" // see keyClass
)

// clean is the filter. It sees every attribute after LogValue was resolved, and
// the members of groups one by one; a group's own name is no attribute here.
func (l *Logs) clean(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 {
		switch a.Key {
		case slog.TimeKey, slog.LevelKey, slog.SourceKey:
			return a
		case slog.MessageKey:
			return slog.String(a.Key, l.scrub(a.Value.String()))
		}
	}
	if personal, ok := l.personal(a.Value); ok {
		return slog.String(a.Key, personal)
	}
	if secretKey(a.Key) {
		return slog.String(a.Key, hiddenSecret)
	}
	c := keyClass(a.Key)
	if c == unlisted {
		return slog.String(a.Key, hiddenKey)
	}
	switch a.Value.Kind() {
	case slog.KindBool, slog.KindInt64, slog.KindUint64, slog.KindFloat64, slog.KindDuration, slog.KindTime:
		return a
	case slog.KindString:
		switch c {
		case opaque:
			return slog.String(a.Key, bounded(a.Value.String()))
		case pseudonym:
			return slog.String(a.Key, l.id(true, a.Value.String()))
		}
		return slog.String(a.Key, l.scrub(a.Value.String()))
	}
	return slog.String(a.Key, l.any(a.Value.Any()))
}

// personal replaces values whose type says that they are about a person,
// whatever key they stand under.
func (l *Logs) personal(v slog.Value) (string, bool) {
	if v.Kind() != slog.KindAny {
		return "", false
	}
	private := l.privacy.Load()
	switch v := v.Any().(type) {
	case clearbox.Handle, clearbox.Address, *clearbox.Address:
		return hidden, true // the names of people, never
	case clearbox.UserID:
		return l.id(private, v.String()), true
	case *clearbox.UserID:
		if v == nil {
			return "", true
		}
		return l.id(private, v.String()), true
	case clearbox.UID:
		return l.id(private, string(v)), true
	case clearbox.Device:
		return l.id(private, v.User.String()) + fmt.Sprintf("/%d", v.ID), true
	case clearbox.MessageID:
		return l.id(private, v.String()), true
	case netip.Addr:
		return cutAddr(private, v), true
	case netip.AddrPort:
		return cutAddr(private, v.Addr()), true
	case net.IP:
		addr, _ := netip.AddrFromSlice(v)
		return cutAddr(private, addr), true
	case net.Addr:
		if ap, err := netip.ParseAddrPort(v.String()); err == nil {
			return cutAddr(private, ap.Addr()), true
		}
		return hidden, true
	}
	return "", false
}

func (l *Logs) id(private bool, id string) string {
	if !private || id == "" {
		return id
	}
	return l.names.of(id, l.now())
}

// any shows the few types that are texts in disguise; structs, slices, maps and
// bytes may hold anything and are not shown.
func (l *Logs) any(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case error:
		return l.scrub(v.Error())
	case clearbox.ServerName:
		return string(v)
	case []clearbox.ServerName:
		names := make([]string, min(len(v), 20))
		for i := range names {
			names[i] = string(v[i])
		}
		return strings.Join(names, " ")
	case clearbox.Code:
		return string(v)
	case clearbox.Millis:
		return time.UnixMilli(int64(v)).UTC().Format(time.RFC3339)
	case clearbox.DeviceID:
		return fmt.Sprint(uint8(v))
	case slog.Level:
		return v.String()
	case *url.URL:
		if v == nil {
			return ""
		}
		return l.scrub(v.Scheme + "://" + v.Host + v.Path) // never the query
	}
	return hidden
}

const maxText = 2000 // bytes of one value

func bounded(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "..."
	}
	return s
}

// patterns finds what looks like a secret or like a person in free text, for
// error texts of other packages. Order matters: secrets first.
type patterns struct {
	query, bearer, jwt, blob, userID, address, uid, ip *regexp.Regexp
}

var find = sync.OnceValue(func() patterns {
	return patterns{
		query:   regexp.MustCompile(`([?&;]|\b)(token|ticket|code|key|secret|password|passphrase|access|refresh)=[^\s&"']+`),
		bearer:  regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`),
		jwt:     regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){0,2}`),
		blob:    regexp.MustCompile(`[A-Za-z0-9+/_-]{32,}={0,2}`),
		userID:  regexp.MustCompile(`\b[a-z2-7]{26}@[a-z0-9][a-z0-9.-]*[a-z0-9]`),
		address: regexp.MustCompile(`\b[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+`),
		uid:     regexp.MustCompile(`\b[a-z2-7]{26}\b`),
		ip: regexp.MustCompile(`\[[0-9A-Fa-f:.]+(%\w+)?\](:\d{1,5}\b)?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|` +
			`\b\d{1,3}(\.\d{1,3}){3}\b(:\d{1,5}\b)?`),
	}
})

// scrub hides what looks like a secret at any time, and what looks like a
// person or a network address in privacy mode (people's addresses always).
func (l *Logs) scrub(s string) string {
	s = bounded(s)
	if s == "" {
		return s
	}
	p := find()
	s = p.query.ReplaceAllString(s, "$1$2="+hiddenSecret)
	s = p.bearer.ReplaceAllString(s, "$1 "+hiddenSecret)
	s = p.jwt.ReplaceAllString(s, hiddenSecret)
	private := l.privacy.Load()
	s = p.userID.ReplaceAllStringFunc(s, func(id string) string { return l.id(private, id) })
	s = p.address.ReplaceAllStringFunc(s, func(a string) string {
		if p.userID.MatchString(a) {
			return a // shown, since privacy mode is off
		}
		return hidden
	})
	s = p.uid.ReplaceAllStringFunc(s, func(id string) string { return l.id(private, id) })
	s = p.blob.ReplaceAllStringFunc(s, func(b string) string {
		if strings.ContainsAny(b, "/_-") && !looksRandom(b) {
			return b // a path or words
		}
		return hidden
	})
	return p.ip.ReplaceAllStringFunc(s, func(text string) string {
		if ap, err := netip.ParseAddrPort(text); err == nil {
			return cutAddr(private, ap.Addr())
		}
		bare := strings.TrimRight(text, ":.")
		if strings.HasSuffix(text, "::") {
			bare = text
		}
		if addr, err := netip.ParseAddr(strings.Trim(bare, "[]")); err == nil {
			return cutAddr(private, addr) + text[len(bare):]
		}
		return text
	})
}

// looksRandom tells keys and tokens in base64 from file paths and compound
// words: in the latter each part is short or of one kind of character.
func looksRandom(s string) bool {
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == '/' || r == '-' || r == '_' || r == '+' }) {
		upper := strings.ContainsAny(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
		lower := strings.ContainsAny(part, "abcdefghijklmnopqrstuvwxyz")
		digit := strings.ContainsAny(part, "0123456789")
		if len(part) >= 32 || len(part) >= 8 && upper && lower && digit {
			return true
		}
	}
	return false
}

// cutAddr keeps the network of an address: /24 and /48. Loopback is nobody.
func cutAddr(private bool, a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return hidden
	}
	if !private || a.IsLoopback() || a.IsUnspecified() {
		return a.String()
	}
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return hidden
	}
	return p.String()
}

// pseudonyms gives an id the same short name for a day, and another one after
// that: enough to follow one person's trouble, too little to follow a person.
type pseudonyms struct {
	now    func() time.Time
	random io.Reader

	mu    sync.Mutex
	key   [32]byte  // guarded by mu
	until time.Time // guarded by mu; the key's end
}

func (p *pseudonyms) rotate(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rotateLocked(now)
}

func (p *pseudonyms) rotateLocked(now time.Time) error {
	if _, err := io.ReadFull(p.random, p.key[:]); err != nil {
		return fmt.Errorf("draw the key of the log's pseudonyms: %w", err)
	}
	p.until = now.Add(24 * time.Hour)
	return nil
}

func (p *pseudonyms) of(id string, now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.After(p.until) {
		if p.rotateLocked(now) != nil {
			return hidden
		}
	}
	mac := hmac.New(sha256.New, p.key[:])
	mac.Write([]byte(id))
	return "id-" + strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil)[:5]))
}
