package keys_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

func safetyNumber(t testing.TB, a, b string) *keys.Fingerprint {
	t.Helper()
	f, err := keys.SafetyNumber(keys.DefaultIterations, []byte(a), identity(t, a).Public(), []byte(b), identity(t, b).Public())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSafetyNumberPeerVectors reads safety numbers made by
// @signalapp/libsignal-client 0.103.0 through its public interface.
func TestSafetyNumberPeerVectors(t *testing.T) {
	b, err := os.ReadFile("../testdata/vectors/safety_number_peer.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Iterations int    `json:"iterations"`
		Version    uint64 `json:"version"`
		LocalID    string `json:"local_id"`
		LocalKey   string `json:"local_key"`
		RemoteID   string `json:"remote_id"`
		RemoteKey  string `json:"remote_key"`
		Digits     string `json:"digits"`
		Scannable  string `json:"scannable"`
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 8 {
		t.Fatalf("%d vectors", len(vectors))
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key := func(s string) curve.PublicKey {
		k, err := curve.ParsePublicKey(unhex(s))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for i, v := range vectors {
		f, err := keys.SafetyNumber(v.Iterations, unhex(v.LocalID), key(v.LocalKey), unhex(v.RemoteID), key(v.RemoteKey))
		if err != nil {
			t.Fatal(err)
		}
		if f.Digits() != v.Digits {
			t.Errorf("vector %d: %s, want %s", i, f.Digits(), v.Digits)
		}
		mirror, err := keys.SafetyNumber(v.Iterations, unhex(v.RemoteID), key(v.RemoteKey), unhex(v.LocalID), key(v.LocalKey))
		if err != nil {
			t.Fatal(err)
		}
		if mirror.Digits() != v.Digits {
			t.Errorf("vector %d: the other party sees %s", i, mirror.Digits())
		}
		same, err := mirror.Compare(unhex(v.Scannable))
		if v.Version != keys.ScannableVersion {
			var version *keys.ScannableVersionError
			if !errors.As(err, &version) || version.Scanned != v.Version || same {
				t.Errorf("vector %d, version %d: %v, %v", i, v.Version, same, err)
			}
			continue
		}
		if got := f.Scannable(); !bytes.Equal(got, unhex(v.Scannable)) {
			t.Errorf("vector %d: scannable %x, want %s", i, got, v.Scannable)
		}
		if err != nil || !same {
			t.Errorf("vector %d: compared as %v, %v", i, same, err)
		}
	}
}

func TestSafetyNumberCompare(t *testing.T) {
	alice, bob := safetyNumber(t, "alice", "bob"), safetyNumber(t, "bob", "alice")
	golden(t, "safety_number.txt", []byte(alice.Digits()+"\n"+hex.EncodeToString(alice.Scannable())+"\n"))
	if alice.Digits() != bob.Digits() || len(alice.Digits()) != 60 {
		t.Errorf("%s and %s", alice.Digits(), bob.Digits())
	}
	if same, err := alice.Compare(bob.Scannable()); err != nil || !same {
		t.Errorf("the same keys: %v, %v", same, err)
	}
	for name, other := range map[string]*keys.Fingerprint{
		"own screen":     alice,
		"another peer":   safetyNumber(t, "bob", "mallory"),
		"another person": safetyNumber(t, "mallory", "alice"),
	} {
		if same, err := alice.Compare(other.Scannable()); err != nil || same {
			t.Errorf("%s: %v, %v", name, same, err)
		}
		if name != "own screen" && alice.Digits() == other.Digits() {
			t.Errorf("%s has the same digits", name)
		}
	}
}

func TestScannableIsStrict(t *testing.T) {
	alice, good := safetyNumber(t, "alice", "bob"), safetyNumber(t, "bob", "alice").Scannable()
	version, local, remote := good[:2], good[2:38], good[38:]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, bad := range map[string][]byte{
		"empty":           nil,
		"no version":      join(local, remote),
		"no local":        join(version, remote),
		"no remote":       join(version, local),
		"version twice":   join(version, version, local, remote),
		"local twice":     join(version, local, local, remote),
		"unknown field":   join(good, []byte{0x20, 1}),
		"field 0":         join(good, []byte{0x00, 1}),
		"version as text": join([]byte{0x0a, 1, '2'}, local, remote),
		"local as number": join(version, []byte{0x10, 1}, remote),
		"31 bytes":        join(version, []byte{0x12, 33, 0x0a, 31}, local[4:35], remote),
		"inner field 2":   join(version, []byte{0x12, 34, 0x12, 32}, local[4:], remote),
		"inner trailer":   join(version, []byte{0x12, 36, 0x0a, 32}, local[4:], []byte{0x10, 0}, remote),
		"inner empty":     join(version, []byte{0x12, 0}, remote),
		"huge":            join(good, bytes.Repeat([]byte{0x20, 1}, 1000)),
		"not protobuf":    []byte("https://example.org/"),
	} {
		if same, err := alice.Compare(bad); !errors.Is(err, keys.ErrScannable) || same {
			t.Errorf("%s: %v, %v", name, same, err)
		}
	}
	for n := range len(good) {
		if _, err := alice.Compare(good[:n]); err == nil {
			t.Errorf("the first %d bytes were accepted", n)
		}
	}
	// Another version may look otherwise, and says so all the same.
	for name, b := range map[string][]byte{
		"older":                   join([]byte{0x08, 1}, local, remote),
		"newer, same fields":      join([]byte{0x08, 3}, local, remote),
		"newer, with other parts": join([]byte{0x08, 3}, []byte{0x22, 2, 1, 2}),
	} {
		var version *keys.ScannableVersionError
		if same, err := alice.Compare(b); !errors.As(err, &version) || same {
			t.Errorf("%s: %v, %v", name, same, err)
		}
	}
}

func TestSafetyNumberLimits(t *testing.T) {
	k := identity(t, "alice").Public()
	for _, c := range []struct {
		name       string
		iterations int
		id         []byte
		want       error
	}{
		{"fewest iterations", 2, []byte("id"), nil},
		{"no iterations", 0, []byte("id"), keys.ErrIterations},
		{"one iteration", 1, []byte("id"), keys.ErrIterations},
		{"negative iterations", -1, []byte("id"), keys.ErrIterations},
		{"too many iterations", 1_000_001, []byte("id"), keys.ErrIterations},
		{"longest id", 2, make([]byte, keys.MaxSafetyID), nil},
		{"empty id", 2, nil, keys.ErrSafetyID},
		{"id too long", 2, make([]byte, keys.MaxSafetyID+1), keys.ErrSafetyID},
	} {
		if _, err := keys.SafetyNumber(c.iterations, c.id, k, []byte("other"), k); !errors.Is(err, c.want) {
			t.Errorf("%s as local: %v", c.name, err)
		}
		if _, err := keys.SafetyNumber(c.iterations, []byte("other"), k, c.id, k); !errors.Is(err, c.want) {
			t.Errorf("%s as remote: %v", c.name, err)
		}
	}
}

// The id of an account covers its root: a homeserver that shows another root
// shows another safety number.
func TestSafetyIDCoversRoot(t *testing.T) {
	l, _ := newList(t)
	id := l.SafetyID()
	service := keys.AccountServiceID(l.Account)
	if !bytes.Equal(id[:17], service[:]) || !bytes.Equal(id[17:], l.Root) || len(id) != 49 {
		t.Errorf("%x", id)
	}
}

func FuzzCompare(f *testing.F) {
	alice, bob := safetyNumber(f, "alice", "bob"), safetyNumber(f, "bob", "alice")
	f.Add(bob.Scannable())
	f.Add(alice.Scannable())
	f.Add([]byte{0x08, 0x03})
	f.Fuzz(func(t *testing.T, b []byte) {
		same, err := alice.Compare(b)
		if err != nil {
			var version *keys.ScannableVersionError
			if same || !errors.Is(err, keys.ErrScannable) && !errors.As(err, &version) {
				t.Fatalf("%v, %v", same, err)
			}
		}
		if same && !bytes.Contains(b, bob.Scannable()[6:38]) {
			t.Fatal("the same without the fingerprint in it")
		}
	})
}

func BenchmarkSafetyNumber(b *testing.B) {
	k := identity(b, "alice").Public()
	for b.Loop() {
		if _, err := keys.SafetyNumber(keys.DefaultIterations, []byte("a"), k, []byte("b"), k); err != nil {
			b.Fatal(err)
		}
	}
}
