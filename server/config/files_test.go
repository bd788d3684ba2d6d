package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/server/config"
)

// house writes a configuration and its files, as `clearbox init` does.
func house(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	key, err := config.NewKeyFile(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"tls/cert.pem": []byte("x"), "tls/key.pem": []byte("x"), "keys/root.key": key, "keys/identity.key": key,
		"clearbox.yaml": []byte(required),
	} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, filepath.Join(dir, "clearbox.yaml")
}

func TestLoad(t *testing.T) {
	dir, path := house(t)
	l, err := config.Load(path, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if l.Config.TLS.KeyFile != filepath.Join(dir, "tls/key.pem") {
		t.Errorf("key file = %s", l.Config.TLS.KeyFile)
	}
	key, err := config.ReadKey(l.Config.Keys.RootKeyFile)
	if err != nil || key != [32]byte(bytes.Repeat([]byte{7}, 32)) {
		t.Errorf("ReadKey = %x, %v", key, err)
	}
}

func TestLoadFileMistakes(t *testing.T) {
	for _, c := range []struct {
		name   string
		break_ func(dir string) error
		want   []string // parts of the message
	}{
		{"no configuration", func(d string) error { return os.Remove(filepath.Join(d, "clearbox.yaml")) },
			[]string{"clearbox.yaml: the file does not exist; make one with `clearbox init DOMAIN`, or name it with --config"}},
		{"group may read", func(d string) error { return os.Chmod(filepath.Join(d, "keys/root.key"), 0o640) },
			[]string{":1:1: keys.root_key_file: ", "others on this machine can get at this secret (mode 0640)", "run: chmod 600 "}},
		{"world may read", func(d string) error { return os.Chmod(filepath.Join(d, "tls/key.pem"), 0o604) },
			[]string{":6:13: tls.key_file: ", "(mode 0604)"}},
		{"key missing", func(d string) error { return os.Remove(filepath.Join(d, "keys/identity.key")) },
			[]string{"keys.identity_key_file: ", "the file does not exist; keys are made by `clearbox init`"}},
		{"certificate missing", func(d string) error { return os.Remove(filepath.Join(d, "tls/cert.pem")) },
			[]string{":5:14: tls.cert_file: ", "the file does not exist"}},
		{"key is a folder", func(d string) error {
			if err := os.Remove(filepath.Join(d, "tls/key.pem")); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(d, "tls/key.pem"), 0o700)
		}, []string{"tls.key_file: ", "is not a regular file"}},
		{"two at once", func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "tls/cert.pem")), os.Chmod(filepath.Join(d, "tls/key.pem"), 0o644))
		}, []string{"tls.cert_file: ", "tls.key_file: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, path := house(t)
			if err := c.break_(dir); err != nil {
				t.Fatal(err)
			}
			l, err := config.Load(path, config.Options{})
			if err == nil || l != nil {
				t.Fatalf("Load = %v, %v: want a refusal", l, err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("message lacks %q:\n%v", part, err)
				}
			}
			if _, err := config.Load(path, config.Options{SkipFiles: true}); c.name != "no configuration" && err != nil {
				t.Errorf("with SkipFiles: %v", err)
			}
		})
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	canary := strings.Repeat("5eCRe7", 11)[:64]
	for name, content := range map[string]string{
		"short": "00", "upper": strings.Repeat("AB", 32), "not hex": canary, "two lines": strings.Repeat("ab", 32) + "\n\n",
	} {
		_, err := config.ReadKey(write("key", content))
		var se *config.SecretError
		if !errors.As(err, &se) {
			t.Errorf("%s: %v, want a SecretError", name, err)
		} else if strings.Contains(err.Error(), content[:2]+content[2:]) && len(content) > 10 {
			t.Errorf("%s: the message shows the content: %v", name, err)
		}
	}
	if _, err := config.ReadSecret(write("large", strings.Repeat("x", 65<<10))); err == nil {
		t.Error("a large secret was read")
	}
	if _, err := config.NewKeyFile(strings.NewReader("short")); err == nil {
		t.Error("a key was made from too little randomness")
	}
}

func TestPrivacyNoticeFile(t *testing.T) {
	dir, path := house(t)
	notice := filepath.Join(dir, "notice.txt")
	if err := os.WriteFile(path, []byte(required+"notice: {file: notice.txt}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for content, ok := range map[string]bool{"Our notice.\n": true, " \n": false, "\xff": false, strings.Repeat("x", 70<<10): false} {
		if err := os.WriteFile(notice, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		l, err := config.Load(path, config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if text, err := l.Config.PrivacyNotice(); (err == nil) != ok || ok && text != content {
			t.Errorf("notice of %d bytes: %q, %v", len(content), text[:min(len(text), 20)], err)
		}
	}
}
