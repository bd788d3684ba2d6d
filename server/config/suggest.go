package config

import (
	"fmt"
	"strings"
)

// renamedKey is a name that people write, and the key that it became.
type renamedKey struct{ old, new string }

// renamedKeys are names of other versions and other servers. A renamed key is
// an error that names the new one; it is never silently accepted or ignored.
func renamedKeys() []renamedKey {
	return []renamedKey{
		{"domain", "server.name"},
		{"server.domain", "server.name"},
		{"server_name", "server.name"},
		{"server.database", "server.data_dir"},
		{"database", "server.data_dir"},
		{"data_dir", "server.data_dir"},
		{"listen.port", "listen.addresses"},
		{"listen.bind", "listen.addresses"},
		{"tls.cert", "tls.cert_file"},
		{"tls.certificate", "tls.cert_file"},
		{"tls.key", "tls.key_file"},
		{"tls.min_version", "tls.min"},
		{"log_level", "log.level"},
		{"logging", "log"},
		{"peers", "federation.peers"},
		{"federation.policy", "federation.mode"},
		{"federation.allow", "federation.peers"},
		{"registration.enabled", "registration.mode"},
		{"quotas", "limits"},
		{"organization", "organisation"},
	}
}

// unknown says what is wrong with a key that does not exist, and what was
// probably meant: a renamed key, a near name in the same section, or a key of
// this name in another section.
func (s schemaIndex) unknown(section, name string) (text, hint string) {
	full := join(section, name)
	for _, r := range renamedKeys() {
		if r.old == full {
			return "is not the name of a key any more", fmt.Sprintf("it is called %s", r.new)
		}
	}
	if near := nearest(name, s.children(section)); near != "" {
		return "unknown key", fmt.Sprintf("did you mean %s?", join(section, near))
	}
	for _, k := range s.keys {
		if strings.HasSuffix(k.Path, "."+name) && !strings.Contains(k.Path, "[]") {
			return "unknown key", fmt.Sprintf("did you mean %s?", k.Path)
		}
	}
	return "unknown key", "known here: " + strings.Join(s.children(section), ", ")
}

// Nearest is the known key that is most like the given one, or "".
func Nearest(key string) string {
	var paths []string
	for _, k := range Schema() {
		paths = append(paths, k.Path)
	}
	for _, r := range renamedKeys() {
		if r.old == key {
			return r.new
		}
	}
	if near := nearest(key, paths); near != "" {
		return near
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "."+key) {
			return path
		}
	}
	return ""
}

// nearest is the candidate with the smallest edit distance, at most a third of
// the name's length; the first of equals.
func nearest(name string, candidates []string) string {
	if len(name) > 100 {
		return ""
	}
	best, bound := "", max(1, len(name)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d < bound {
			best, bound = c, d
		}
	}
	return best
}

// distance counts insertions, deletions, substitutions and swaps of neighbours.
func distance(a, b string) int {
	prev2, prev, row := []int(nil), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, make([]int, len(b)+1)
	}
	return prev[len(b)]
}
