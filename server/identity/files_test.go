package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/identity"
)

var (
	now   = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	until = clearbox.Millis(now.Add(30 * 24 * time.Hour).UnixMilli())
)

func key(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// disk is a folder with an identity.
func disk(t *testing.T) identity.Files {
	t.Helper()
	f := identity.Files{Path: filepath.Join(t.TempDir(), "identity.key")}
	must(t, os.WriteFile(f.Path, []byte(hex.EncodeToString(key(1).Seed())+"\n"), 0o600))
	return f
}

func (c *crash) list(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(c.files.Path))
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// crash stops the files' work before its n-th step.
type crash struct {
	files identity.Files
	left  int
	steps []string
}

var errKilled = errors.New("killed")

func crashing(t *testing.T, n int) *crash {
	c := &crash{files: disk(t), left: n}
	c.files.Fault = func(step string) error {
		c.steps = append(c.steps, step)
		if c.left--; c.left < 0 {
			return errKilled
		}
		return nil
	}
	return c
}

func TestRotate(t *testing.T) {
	f := disk(t)
	id, err := f.Rotate(rand.Reader, until)
	must(t, err)
	if !id.Previous.Equal(key(1)) || id.Key.Equal(key(1)) || id.PreviousUntil != until {
		t.Errorf("%+v", id)
	}
	s, err := f.Load(now)
	must(t, err)
	if !s.Key.Equal(id.Key) || !s.Previous.Equal(key(1)) || s.PreviousUntil != until {
		t.Errorf("loaded: %+v", s)
	}
	s, err = f.Load(now.Add(31 * 24 * time.Hour))
	must(t, err)
	if _, err := os.Stat(f.Path + ".previous"); s.Previous != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Error("the former key is still there after its time")
	}
}

// A kill at each step of a rotation leaves the old identity, or the new one
// with the old one beside it, and a second Load finds the same.
func TestRotateKilledAtEachStep(t *testing.T) {
	for n := 0; ; n++ {
		c := crashing(t, n)
		_, err := c.files.Rotate(rand.Reader, until)
		c.files.Fault = nil
		s, loadErr := c.files.Load(now)
		must(t, loadErr)
		again, loadErr := c.files.Load(now)
		must(t, loadErr)
		rotated := !s.Key.Equal(key(1))
		switch {
		case err == nil && !rotated:
			t.Error("the rotation was lost")
		case rotated && (!s.Previous.Equal(key(1)) || s.PreviousUntil != until):
			t.Errorf("killed before step %d (%v): nobody vouches for the new identity", n, c.steps)
		case !rotated && s.Previous != nil:
			t.Errorf("killed before step %d: the old identity vouches for itself", n)
		case !again.Key.Equal(s.Key):
			t.Errorf("killed before step %d: another identity the second time", n)
		}
		if _, err := os.Stat(c.files.Path + ".next"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("killed before step %d: a key is left over", n)
		}
		if err == nil {
			if n != 3 {
				t.Errorf("%d steps", n)
			}
			return
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		// The administrator repeats the command.
		if !rotated {
			if _, err := c.files.Rotate(rand.Reader, until); err != nil {
				t.Errorf("killed before step %d, repeated: %v", n, err)
			}
		}
	}
}

// The same for going offline: the key is there, or only the mark.
func TestRemoveKilledAtEachStep(t *testing.T) {
	public := key(1).Public().(ed25519.PublicKey)
	for n := 0; ; n++ {
		c := crashing(t, n)
		must(t, os.WriteFile(c.files.Path+".previous", []byte(hex.EncodeToString(key(2).Seed())+"\nuntil 1893456000000\n"), 0o600))
		err := c.files.Remove(public)
		c.files.Fault = nil
		s, loadErr := c.files.Load(now)
		must(t, loadErr)
		if !s.Public.Equal(public) {
			t.Errorf("killed before step %d: the public key is lost", n)
		}
		if names := c.list(t); s.Offline() && (len(names) != 1 || names[0] != "identity.key.offline") {
			t.Errorf("killed before step %d: %v is left", n, names)
		} else if !s.Offline() && (len(names) != 2 || s.Previous == nil) {
			t.Errorf("killed before step %d: %v", n, names)
		}
		if err == nil {
			if !s.Offline() || n != 3 {
				t.Errorf("after %d steps: %+v", n, s)
			}
			return
		}
	}
}

// And for coming back.
func TestPutKilledAtEachStep(t *testing.T) {
	back := federation.Identity{Key: key(1), Previous: key(2), PreviousUntil: until}
	for n := 0; ; n++ {
		c := crashing(t, 1000)
		must(t, c.files.Remove(key(1).Public().(ed25519.PublicKey)))
		c.left = n
		err := c.files.Put(back)
		c.files.Fault = nil
		s, loadErr := c.files.Load(now)
		must(t, loadErr)
		if !s.Offline() && (!s.Key.Equal(key(1)) || !s.Previous.Equal(key(2))) {
			t.Errorf("killed before step %d: %+v", n, s)
		}
		if err == nil {
			if s.Offline() {
				t.Error("the key did not come back")
			}
			if err := c.files.Put(back); !errors.Is(err, fs.ErrExist) {
				t.Errorf("a key was overwritten: %v", err)
			}
			return
		}
		must(t, c.files.Put(back)) // repeated
		if s, err := c.files.Load(now); err != nil || s.Offline() {
			t.Errorf("killed before step %d, repeated: %v", n, err)
		}
	}
}

func TestFilesRefused(t *testing.T) {
	f := disk(t)
	must(t, os.Remove(f.Path))
	if _, err := f.Load(now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key and no mark: %v", err)
	}
	must(t, os.WriteFile(config.OfflineMark(f.Path), []byte("zz\n"), 0o600))
	if _, err := f.Load(now); err == nil {
		t.Error("a mark without a key in it")
	}
	f = disk(t)
	for _, text := range []string{"", "xy\nuntil 5\n", hex.EncodeToString(key(2).Seed()) + "\n", hex.EncodeToString(key(2).Seed()) + "\nuntil never\n"} {
		must(t, os.WriteFile(f.Path+".previous", []byte(text), 0o600))
		if _, err := f.Load(now); err == nil {
			t.Errorf("%q is taken for a former key", text)
		}
	}
	must(t, os.Chmod(f.Path, 0o644))
	if _, err := f.Read(); err == nil {
		t.Error("others may read the key")
	}
}
