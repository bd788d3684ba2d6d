package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// Load reads the file at path and everything that Parse reads. Relative paths
// in it become absolute against its folder, and unless opt.SkipFiles is set the
// files that it names must be there, with secrets readable by their owner only.
// The error is *Errors.
func Load(path string, opt Options) (*Loaded, error) {
	data, err := readLimited(path, MaxFile+1)
	if err != nil {
		return nil, &Errors{Problems: []Problem{{Where: path, Text: reason(err), Hint: "make one with `clearbox init DOMAIN`, or name it with --config"}}}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &Errors{Problems: []Problem{{Where: path, Text: reason(err)}}}
	}
	opt.Dir = filepath.Dir(abs)
	p := parse(path, data, opt)
	if !opt.SkipFiles {
		p.checkFiles()
	}
	if err := p.errs.orNil(); err != nil {
		return nil, err
	}
	return p.loaded(), nil
}

// resolve makes paths absolute. Only texts that were assigned are touched, so
// mistakes elsewhere do not matter.
func (p *parsing) resolve(dir string) {
	for _, k := range p.schema.keys {
		if !k.File || strings.Contains(k.Path, "[]") {
			continue
		}
		v := reflect.ValueOf(p.config).Elem().FieldByIndex(k.index)
		if s := v.String(); s != "" && !filepath.IsAbs(s) {
			v.SetString(filepath.Join(dir, s))
		}
	}
	if len(p.config.AdminSocket()) > maxSocketPath {
		p.report("listen.admin_socket", fmt.Sprintf("the socket's path is longer than %d bytes", maxSocketPath), "set listen.admin_socket to a shorter path")
	}
}

func (p *parsing) checkFiles() {
	for _, k := range p.schema.keys {
		if !k.File || strings.Contains(k.Path, "[]") || p.bad[k.Path] || k.Path == "server.data_dir" || k.Path == "listen.admin_socket" {
			continue
		}
		path := reflect.ValueOf(p.config).Elem().FieldByIndex(k.index).String()
		if path == "" {
			continue
		}
		err := checkReadable(path)
		if k.Secret {
			_, err = ReadSecret(path)
		}
		var se *SecretError
		switch {
		case err == nil:
		case errors.As(err, &se):
			p.report(k.Path, se.Error(), se.Hint)
		case errors.Is(err, fs.ErrNotExist) && k.Path == "keys.identity_key_file" && checkReadable(OfflineMark(path)) == nil:
		case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(k.Path, "keys."):
			p.report(k.Path, path+": "+reason(err), "keys are made by `clearbox init`; if there was one, restore it from your backup")
		default:
			p.report(k.Path, path+": "+reason(err), "")
		}
	}
}

func checkReadable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// reason is the error without the operation and the path, which stand elsewhere.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "the file does not exist"
	}
	return err.Error()
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

const maxSecret = 64 << 10

// SecretError says why a secret file is refused.
type SecretError struct{ Path, Text, Hint string }

// Error names the file and the reason.
func (e *SecretError) Error() string { return e.Path + ": " + e.Text }

// ReadSecret reads a file that holds a secret, at most 64 KiB. It refuses files
// that are not regular and files that the group or others may read or write,
// with a *SecretError.
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &SecretError{Path: path, Text: "is not a regular file"}
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, &SecretError{Path: path, Text: fmt.Sprintf("others on this machine can get at this secret (mode %04o)", perm), Hint: "run: chmod 600 " + path}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSecret {
		return nil, &SecretError{Path: path, Text: "is larger than 64 KiB"}
	}
	return data, nil
}

// ReadKey reads a key file: 32 bytes as 64 lower-case hexadecimal digits and a
// line end. The error never shows the content.
func ReadKey(path string) ([32]byte, error) {
	var key [32]byte
	data, err := ReadSecret(path)
	if err != nil {
		return key, err
	}
	text := strings.TrimSuffix(string(data), "\n")
	if raw, err := hex.DecodeString(text); err != nil || len(raw) != len(key) || text != strings.ToLower(text) {
		return key, &SecretError{Path: path, Text: "is not a key file", Hint: "a key file holds 64 hexadecimal digits; restore it from your backup"}
	} else {
		copy(key[:], raw)
	}
	return key, nil
}

// OfflineMark is the file that stands for an identity key at path while the key
// is not on this machine.
func OfflineMark(path string) string { return path + ".offline" }

// NewKeyFile is the content of a new key file, drawn from random.
func NewKeyFile(random io.Reader) ([]byte, error) {
	var key [32]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	return []byte(hex.EncodeToString(key[:]) + "\n"), nil
}

// DatabasePath is where the store's database lies.
func (c *Config) DatabasePath() string { return filepath.Join(c.Server.DataDir, "clearbox.db") }

// KeystorePath is where the key store lies.
func (c *Config) KeystorePath() string { return filepath.Join(c.Server.DataDir, "keystore.db") }

// MediaPath is the folder of the attachments' files.
func (c *Config) MediaPath() string { return filepath.Join(c.Server.DataDir, "media") }

// AdminSocket is the path of the admin commands' socket.
func (c *Config) AdminSocket() string {
	if c.Listen.AdminSocket != "" {
		return c.Listen.AdminSocket
	}
	return filepath.Join(c.Server.DataDir, "admin.sock")
}

// PublicURL is the base address without a slash at its end.
func (c *Config) PublicURL() string {
	if c.Server.PublicURL != "" {
		return strings.TrimSuffix(c.Server.PublicURL, "/")
	}
	return "https://" + string(c.Server.Name)
}

// Authorities are the names under which peers may address this server, lower
// case, without :443.
func (c *Config) Authorities() []string {
	names := c.Federation.Authorities
	if len(names) == 0 {
		if u, err := url.Parse(c.PublicURL()); err == nil {
			names = []string{strings.ToLower(u.Host)}
		}
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.TrimSuffix(n, ":443")
	}
	return out
}

const maxNotice = 64 << 10

// PrivacyNotice is the text that people acknowledge: from the file, from the
// configuration, or a short one that is true for every server.
func (c *Config) PrivacyNotice() (string, error) {
	if c.Notice.Text != "" {
		return c.Notice.Text, nil
	}
	if c.Notice.File != "" {
		data, err := readLimited(c.Notice.File, maxNotice+1)
		if err != nil {
			return "", fmt.Errorf("read the privacy notice: %w", err)
		}
		if len(data) > maxNotice || strings.TrimSpace(string(data)) == "" || strings.ToValidUTF8(string(data), "") != string(data) {
			return "", fmt.Errorf("%s: a privacy notice is UTF-8 text of at most 64 KiB", c.Notice.File)
		}
		return string(data), nil
	}
	return defaultNotice, nil
}

const defaultNotice = `Your messages are encrypted between the devices of the people in a conversation; this server stores and forwards them and cannot read them.
The server does see who sends to whom and when, keeps messages that were not fetched for a limited time, and its administrators can create, suspend and remove accounts.
Your account lives at this organisation. Messages to people at other organisations are handed, still encrypted, to their servers.
`
