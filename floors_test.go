package clearbox_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/clearbox-im/clearbox"

// floors gives every package its height. An import of ours points to a lower
// number, never to the same or a higher one, so there are no cycles to hide and
// a reader can start at the bottom. docs/architecture.md draws the same house.
var floors = map[string]int{
	"":                              0,
	"crypto/internal/cbc":           1,
	"crypto/internal/pack":          1,
	"crypto/internal/hpke":          2,
	"crypto/curve":                  1,
	"crypto/keys":                   2,
	"crypto/ratchet/internal/kem":   3,
	"crypto/ratchet/internal/spqr":  4,
	"crypto/ratchet":                10,
	"crypto/ratchet/ratchettest":    11,
	"crypto/chain":                  2,
	"crypto/franking":               1,
	"crypto/fanout/field":           2,
	"crypto/fanout/certificate":     3,
	"crypto/fanout":                 3,
	"crypto/sealed/internal/gcmsiv": 3,
	"crypto/group":                  10,
	"crypto/vault":                  10,
	"crypto/sealed":                 10,
	"crypto/sealed/sealedtest":      11,
	"crypto/interop/peer":           70,
	"crypto/interop/sealedpeer":     70,
	"storage":                       10,
	"storage/keystore":              11,
	"storage/blob":                  11,
	"storage/storagetest":           12,
	"federation":                    10,
	"federation/conformance":        11,
	"federation/transport":          20,
	"server/wire":                   10,
	"server/config":                 10,
	"server/logging":                10,
	"server/presence":               10,
	"server/metrics":                10,
	"server/archive":                20,
	"server/linking":                22,
	"server/auth/throttle":          12,
	"server/auth":                   20,
	"server/auth/authtest":          25,
	"server/identity":               21,
	"server/peering":                21,
	"server/directory/prekeys":      12,
	"server/directory":              22,
	"server/afar":                   22,
	"server/media":                  22,
	"server/delivery":               30,
	"server/groups":                 31,
	"server/reports":                31,
	"server/admin":                  32,
	"server/api":                    40,
	"server":                        50,
	"server/servertest":             60,
	"server/bench/rig":              59,
	"server/bench":                  60,
	"server/bench/reliability":      60,
	"server/cmd/clearbox":           60,
	"clients/core":                  30,
	"clients/core/memvault":         31,
	"clients/cbx/vault":             35,
	"clients/cbx/picture":           35,
	"clients/cbx/network":           35,
	"clients/cbx":                   40,
	"clients/pairs":                 40,
	"clients/web/wasm":              40,
	"clients/web/wasm/pack":         40,
}

// A rule says what some packages never reach, and why.
type rule struct {
	who    []string // folders below the module, "x/..." with all below
	except []string
	never  []string // ours: folders; others: import paths, "x/..." with all below
	direct bool     // direct imports only; otherwise through any chain of ours and, for third parties, through ours alone
	tests  bool     // also in _test.go files
	why    string
}

var rules = []rule{
	{
		who:    []string{"server/...", "storage/...", "federation/..."},
		except: []string{"server/servertest", "server/bench", "server/bench/..."},
		never:  []string{"crypto/ratchet/...", "crypto/group/...", "crypto/sealed/...", "crypto/vault/..."},
		tests:  true,
		why:    "a homeserver cannot read: this line is the privacy promise",
	},
	{
		who:    []string{"crypto/..."},
		except: []string{"crypto/interop/...", "crypto/wycheproof/..."},
		never:  []string{"", "net/...", "os/...", "database/...", "log/...", "encoding/json", "crypto/x509", "crypto/tls"},
		why:    "crypto knows keys and nobody: pure, builds for the browser; time and randomness are arguments",
	},
	{
		who:   []string{"crypto/fanout/...", "crypto/keys", "crypto/chain", "crypto/curve", "crypto/franking"},
		never: []string{"crypto/ratchet/...", "crypto/group/...", "crypto/sealed/...", "crypto/vault/..."},
		why:   "the public half, which homeservers link: it certifies and splits, and cannot open",
	},
	{
		who:   []string{"clients/..."},
		never: []string{"storage/...", "federation/...", "server", "server/api", "server/auth", "server/config", "server/delivery", "server/directory", "server/afar", "server/media", "server/admin", "server/archive", "server/linking", "server/presence", "server/peering", "server/logging"},
		why:   "clients speak, they do not peek",
	},
	{
		who:   []string{"clients/core"},
		never: []string{"net/http", "os", "os/...", "log/slog", "github.com/coder/websocket/..."},
		why:   "WebAssembly budget: 1.5 MB brotli for the whole module; the host owns network and disk",
	},
	{
		who:   []string{"federation/..."},
		never: []string{"storage/...", "server/..."},
		why:   "protocol, not persistence: a second implementer could take this folder",
	},
	{
		who:   []string{"storage/..."},
		never: []string{"crypto/...", "federation/...", "server/...", "clients/..."},
		why:   "the bottom: it knows the nouns and SQL",
	},
	{
		who:    []string{"server/api/..."},
		never:  []string{"storage/...", "federation/..."},
		direct: true,
		why:    "no SQL in handlers",
	},
	{
		who:    []string{"/..."},
		except: []string{"server/servertest", "server/bench", "server/bench/..."},
		never:  []string{"server/servertest"},
		why:    "the test world is not shipped",
	},
	{
		who:    []string{"/..."},
		except: []string{"server/cmd/clearbox", "server/servertest", "server/bench", "server/bench/..."},
		never:  []string{"server"},
		why:    "only the command and the test world start a homeserver",
	},
}

// rooms names the one place that may import a heavy dependency directly.
var rooms = map[string][]string{
	"github.com/go-chi/chi/...":           {"server/api"},
	"github.com/lestrrat-go/jwx/...":      {"server/auth"},
	"github.com/quic-go/quic-go/...":      {"federation/transport", "server", "server/servertest"},
	"github.com/rabbitmq/amqp091-go/...":  {"storage/rabbit"},
	"modernc.org/...":                     {"storage", "storage/keystore"},
	"github.com/jackc/pgx/...":            {"storage", "storage/keystore"},
	"github.com/pressly/goose/...":        {"storage", "storage/keystore"},
	"github.com/redis/go-redis/...":       {"server/presence"},
	"github.com/prometheus/...":           {"server/metrics"},
	"github.com/coder/websocket/...":      {"server/api", "clients/cbx", "server/bench", "server/servertest"},
	"github.com/goccy/go-yaml/...":        {"server/config"},
	"github.com/alecthomas/kong/...":      {"server/cmd/clearbox", "clients/cbx"},
	"filippo.io/age/...":                  {"server/identity"},
	"github.com/cloudflare/circl/...":     {"crypto/curve", "crypto/ratchet"},
	"github.com/dunglas/httpsfv/...":      {"federation"},
	"google.golang.org/protobuf/...":      {"crypto/keys", "crypto/ratchet", "crypto/ratchet/internal/spqr", "crypto/fanout"},
	"filippo.io/edwards25519/...":         {"crypto/curve"},
	"rsc.io/qr/...":                       {"clients/cbx", "server/cmd/clearbox"},
	"github.com/getkin/kin-openapi/...":   {},
	"github.com/rogpeppe/go-internal/...": {},
	"pgregory.net/rapid/...":              {},
	"go.uber.org/goleak/...":              {},
}

// house is what the source files say: package folder to its imports.
type house struct {
	imports map[string][]string // without tests
	tests   map[string][]string // of _test.go files only
}

// readHouse parses every Go file of this module. It reads files rather than
// asking the go command: a test that shells out passes from the test cache
// while the rule is already broken.
func readHouse(root string) (*house, error) {
	h := &house{imports: map[string][]string{}, tests: map[string][]string{}}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin" || name == "dist") {
				return filepath.SkipDir
			}
			if p != root {
				if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
					return filepath.SkipDir // a module of its own is not shipped
				}
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		if pkg == "." {
			pkg = ""
		}
		into := h.imports
		if strings.HasSuffix(name, "_test.go") {
			into = h.tests
		} else if into[pkg] == nil {
			into[pkg] = []string{}
		}
		for _, imp := range f.Imports {
			target, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			if !slices.Contains(into[pkg], target) {
				into[pkg] = append(into[pkg], target)
			}
		}
		return nil
	})
	return h, err
}

// ours cuts the module path off; ok is false for a foreign import.
func ours(imp string) (folder string, ok bool) {
	if imp == module {
		return "", true
	}
	return strings.CutPrefix(imp, module+"/")
}

// covers matches a folder or import path with a pattern; "x/..." covers x too.
func covers(pattern, p string) bool {
	if pattern == "/..." {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == base || strings.HasPrefix(p, base+"/")
	}
	return pattern == p
}

func coversAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pat string) bool { return covers(pat, p) })
}

// forbidden tells whether an import falls under the rule. Patterns that begin
// with a folder of ours speak of ours, the others of everyone else's packages.
func (r rule) forbidden(imp string) bool {
	if folder, ok := ours(imp); ok {
		for _, n := range r.never {
			if isOurs(n) && covers(n, folder) {
				return true
			}
		}
		return false
	}
	for _, n := range r.never {
		if !isOurs(n) && covers(n, imp) {
			return true
		}
	}
	return false
}

func isOurs(pattern string) bool {
	top, _, _ := strings.Cut(pattern, "/")
	switch top {
	case "", "server", "storage", "federation", "crypto", "clients":
		return true
	}
	return false
}

// broken lists every breach, each with the reason for the rule.
func (h *house) broken() []string {
	var out []string
	for pkg, imps := range h.imports {
		floor, known := floors[pkg]
		if !known {
			out = append(out, fmt.Sprintf("%q has no floor: give it one in floors_test.go", pkg))
			continue
		}
		for _, imp := range imps {
			if target, ok := ours(imp); ok {
				if below, known := floors[target]; known && below >= floor {
					out = append(out, fmt.Sprintf("%s (floor %d) imports %s (floor %d): imports point down only", pkg, floor, target, below))
				}
			}
			for dep, allowed := range rooms {
				if covers(dep, imp) && !slices.ContainsFunc(allowed, func(room string) bool { return pkg == room || strings.HasPrefix(pkg, room+"/") }) {
					out = append(out, fmt.Sprintf("%s imports %s: that dependency lives in %v only", pkg, imp, allowed))
				}
			}
		}
	}
	for _, r := range rules {
		for pkg := range h.imports {
			if !coversAny(r.who, pkg) || coversAny(r.except, pkg) {
				continue
			}
			if chain := h.reach(pkg, r, map[string]bool{}); chain != nil {
				out = append(out, fmt.Sprintf("%s: %s", strings.Join(chain, " -> "), r.why))
			}
			if r.tests {
				for _, imp := range h.tests[pkg] {
					if r.forbidden(imp) {
						out = append(out, fmt.Sprintf("%s (test) -> %s: %s", pkg, imp, r.why))
					}
				}
			}
		}
	}
	sort.Strings(out)
	return out
}

// reach finds a chain from pkg to something forbidden, or nil.
func (h *house) reach(pkg string, r rule, seen map[string]bool) []string {
	if seen[pkg] {
		return nil
	}
	seen[pkg] = true
	for _, imp := range h.imports[pkg] {
		if r.forbidden(imp) {
			return []string{path.Join("/", pkg), imp}
		}
		if next, ok := ours(imp); ok && !r.direct {
			// Rules on standard packages are about direct imports: a foreign
			// package may use os without our package touching a file.
			if chain := h.reach(next, r, seen); chain != nil {
				return append([]string{path.Join("/", pkg)}, chain...)
			}
		}
	}
	return nil
}

func TestFloors(t *testing.T) {
	h, err := readHouse(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range h.broken() {
		t.Error(b)
	}
	for pkg := range floors {
		if _, ok := h.imports[pkg]; !ok {
			t.Errorf("floors names %q, which does not exist", pkg)
		}
	}
	for _, r := range rules {
		for _, who := range r.who {
			if !slices.ContainsFunc(keysOf(h.imports), func(p string) bool { return covers(who, p) }) {
				t.Errorf("a rule speaks of %q, which does not exist", who)
			}
		}
	}
}

// TestFloorsCatchPlants plants one forbidden import per rule and demands that
// the check names it: a check that cannot fail proves nothing.
func TestFloorsCatchPlants(t *testing.T) {
	plants := []struct{ pkg, imp, want string }{
		{"server/delivery", module + "/crypto/ratchet", "cannot read"},
		{"storage", module + "/crypto/vault", "cannot read"},
		{"server/delivery", module + "/crypto/sealed", "cannot read"},
		{"federation", module + "/crypto/sealed/internal/gcmsiv", "cannot read"},
		{"crypto/fanout", module + "/crypto/sealed", "cannot open"},
		{"crypto/fanout/certificate", module + "/crypto/ratchet", "cannot open"},
		{"crypto/ratchet", "net", "pure"},
		{"crypto/keys", module, "pure"},
		{"clients/cbx", module + "/storage", "do not peek"},
		{"clients/core", "net/http", "WebAssembly"},
		{"federation", module + "/storage", "not persistence"},
		{"storage", module + "/federation", "the bottom"},
		{"server/api", module + "/storage", "no SQL in handlers"},
		{"server/api", module + "/server/servertest", "not shipped"},
		{"server/directory", "github.com/go-chi/chi/v5", "lives in"},
		{"server/auth", module + "/server/delivery", "point down only"},
	}
	for _, p := range plants {
		h, err := readHouse(".")
		if err != nil {
			t.Fatal(err)
		}
		h.imports[p.pkg] = append(h.imports[p.pkg], p.imp)
		found := slices.ContainsFunc(h.broken(), func(b string) bool {
			return strings.Contains(b, p.want) && strings.Contains(b, strings.TrimPrefix(p.pkg, "/"))
		})
		if !found {
			t.Errorf("%s importing %s was not caught (%q)", p.pkg, p.imp, p.want)
		}
	}
}

func keysOf(m map[string][]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}
