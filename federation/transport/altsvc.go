package transport

import (
	"strconv"
	"strings"
	"time"
)

const (
	maxAltSvc     = 1 << 10 // bytes of the header that are looked at
	defaultAltSvc = 24 * time.Hour
)

// ParseAltSvc reads an Alt-Svc header (RFC 7838, 3) and tells for how long it
// offers HTTP/3 at the very authority whose port is given; 0 for not at all.
// Other hosts and other ports are ignored: what is not signed leads nowhere new.
func ParseAltSvc(header, port string) time.Duration {
	if len(header) > maxAltSvc {
		return 0
	}
	for _, value := range strings.Split(header, ",") {
		fields := strings.Split(value, ";")
		id, authority, _ := strings.Cut(strings.TrimSpace(fields[0]), "=")
		if id != "h3" || strings.Trim(authority, `"`) != ":"+port {
			continue
		}
		fresh := defaultAltSvc
		for _, f := range fields[1:] {
			name, value, _ := strings.Cut(strings.TrimSpace(f), "=")
			if name != "ma" {
				continue
			}
			s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return 0
			}
			fresh = min(time.Duration(s)*time.Second, 7*24*time.Hour)
		}
		return fresh
	}
	return 0
}
