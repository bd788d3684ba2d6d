package clearbox_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestFloorsUnderCrypto asks the go command for everything that the cryptography
// links, through packages of others as well, and demands that the heavy half of
// the standard library is not among it: a browser loads all of it. Run with
// -count=1, as make check does; the test cache does not see what the command reads.
func TestFloorsUnderCrypto(t *testing.T) {
	out, err := exec.Command("go", "list", "./crypto/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"list", "-deps"}
	for _, pkg := range strings.Fields(string(out)) {
		if !strings.Contains(pkg, "/crypto/interop/") {
			args = append(args, pkg)
		}
	}
	if out, err = exec.Command("go", args...).Output(); err != nil {
		t.Fatal(err)
	}
	all := strings.Fields(string(out))
	for _, never := range []string{"net", "net/http", "crypto/x509", "crypto/tls", "crypto/hpke", "encoding/json", "log", "log/slog", "os/exec", "database/sql"} {
		if slices.Contains(all, never) {
			t.Errorf("crypto reaches %s", never)
		}
	}
	if !slices.Contains(all, "crypto/mlkem") || len(all) < 50 {
		t.Fatalf("only %d packages found", len(all))
	}
}
