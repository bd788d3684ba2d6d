package identity_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/identity"
)

func export() *identity.Export {
	return &identity.Export{Server: "a.test", Made: 1793534400000, Identity: federation.Identity{Key: key(1), Previous: key(2), PreviousUntil: until}}
}

func ageKey(t *testing.T) (recipient string, file []byte) {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	must(t, err)
	return k.Recipient().String(), []byte("# a comment\n" + k.String() + "\n")
}

func TestExport(t *testing.T) {
	recipient, file := ageKey(t)
	_, other := ageKey(t)
	proven, err := identity.Recipient(recipient, file)
	must(t, err)
	unproven, err := identity.Recipient(recipient, nil)
	must(t, err)
	pass, err := identity.Passphrase([]byte("correct horse battery staple\nnot read\n"))
	must(t, err)
	pass.Weaken()
	opener, err := identity.Keys(file)
	must(t, err)
	stranger, err := identity.Keys(other)
	must(t, err)
	wrong, err := identity.Passphrase([]byte("incorrect horse battery staple"))
	must(t, err)
	if !proven.Proven || !pass.Proven || unproven.Proven {
		t.Error("what was proven is not told")
	}
	for name, c := range map[string]struct{ write, open, not *identity.Lock }{
		"with the recipient's key": {proven, opener, stranger}, "without it": {unproven, opener, stranger}, "by passphrase": {pass, pass, wrong},
	} {
		path := filepath.Join(t.TempDir(), "identity.age")
		must(t, c.write.Write(path, export()))
		raw, err := os.ReadFile(path)
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != 0o600 || !bytes.HasPrefix(raw, []byte("age-encryption.org/v1\n")) || bytes.Contains(raw, []byte("0101")) {
			t.Errorf("%s: mode %v, %q", name, info.Mode(), raw[:22])
		}
		got, err := c.open.Read(path)
		must(t, err)
		if got.Server != "a.test" || !got.Key.Equal(key(1)) || !got.Previous.Equal(key(2)) || got.PreviousUntil != until || got.Made != export().Made {
			t.Errorf("%s: %+v", name, got)
		}
		if _, err := c.not.Read(path); err == nil || !strings.Contains(err.Error(), "another key or passphrase") {
			t.Errorf("%s: another key: %v", name, err)
		}
		if err := c.write.Write(path, export()); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: overwritten: %v", name, err)
		}
		for i := range raw {
			if i%37 != 0 {
				continue
			}
			bent := bytes.Clone(raw)
			bent[i] ^= 4
			must(t, os.WriteFile(path, bent, 0o600))
			if _, err := c.open.Read(path); err == nil {
				t.Fatalf("%s: a bit of byte %d makes no difference", name, i)
			}
		}
	}
}

// What does not open again is no export, and leaves nothing behind.
func TestExportForAnotherKeyThanTheProof(t *testing.T) {
	recipient, _ := ageKey(t)
	_, other := ageKey(t)
	lock, err := identity.Recipient(recipient, other)
	must(t, err)
	path := filepath.Join(t.TempDir(), "identity.age")
	if err := lock.Write(path, export()); err == nil || !strings.Contains(err.Error(), "does not open again") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the file is still there")
	}
}

func TestLocksRefused(t *testing.T) {
	for _, text := range []string{"", "short", "fifteen letters\nbut a long second line", strings.Repeat("é", 15)} {
		if _, err := identity.Passphrase([]byte(text)); err == nil {
			t.Errorf("%q is taken for a passphrase", text)
		}
	}
	if _, err := identity.Recipient("age1nonsense", nil); err == nil {
		t.Error("no recipient")
	}
	if _, err := identity.Keys([]byte("# nothing\n")); err == nil {
		t.Error("no key")
	}
	recipient, file := ageKey(t)
	to, err := age.ParseX25519Recipient(recipient)
	must(t, err)
	opener, err := identity.Keys(file)
	must(t, err)
	for _, plain := range []string{"", "{}", `{"format":"clearbox-identity-1","server":"a.test","identity":"00"}`, `{"format":"other"}`, strings.Repeat("x", 1000)} {
		var b bytes.Buffer
		w, err := age.Encrypt(&b, to)
		must(t, err)
		_, err = w.Write([]byte(plain))
		must(t, err)
		must(t, w.Close())
		path := filepath.Join(t.TempDir(), "x")
		must(t, os.WriteFile(path, b.Bytes(), 0o600))
		if _, err := opener.Read(path); err == nil {
			t.Errorf("%q is an export", plain)
		}
	}
}
