// Package identity keeps the homeserver's identity key: its file and what lies
// beside it during a rotation, the encrypted export with which it goes offline
// and comes back, and what an administrator does with it. It signs nothing;
// package federation does.
package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
)

// Files are the identity key's file and its neighbours:
//
//	PATH            the key
//	PATH.previous   the key before a rotation, and until when it signs
//	PATH.next       a rotation that is under way
//	PATH.offline    the public key, while the key is not on this machine
//
// One process at a time changes them.
type Files struct {
	Path  string
	Fault func(step string) error // for tests: called before each step that lasts
}

// State is what the files say.
type State struct {
	federation.Identity
	Public ed25519.PublicKey // also while the key is away
}

// Offline tells that the key is not on this machine.
func (s *State) Offline() bool { return s.Key == nil }

func (f Files) previous() string { return f.Path + ".previous" }
func (f Files) next() string     { return f.Path + ".next" }

// Load reads the files and ends a rotation that was interrupted: one whose
// previous key was written goes on, an earlier one is taken back. A previous
// key whose time is over is removed, and so is what going offline or coming back
// left when it was interrupted. Without a key and without the mark that it
// is offline, the error is the one of reading the key.
func (f Files) Load(now time.Time) (State, error) {
	if err := f.settle(); err != nil {
		return State{}, err
	}
	s, err := f.Read()
	if err != nil {
		return s, err
	}
	leftover := config.OfflineMark(f.Path) // the key is here
	if s.Offline() {
		leftover = f.previous()
	}
	if err := os.Remove(leftover); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if s.Previous != nil && int64(s.PreviousUntil) <= now.UnixMilli() {
		s.Previous, s.PreviousUntil = nil, 0
		return s, os.Remove(f.previous())
	}
	return s, nil
}

// settle ends an interrupted rotation.
func (f Files) settle() error {
	next, err := config.ReadKey(f.next())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	key, keyErr := config.ReadKey(f.Path)
	previous, _, previousErr := f.readPrevious()
	if err == nil && keyErr == nil && previousErr == nil && previous == key && next != key {
		return f.promote()
	}
	if keyErr != nil {
		return keyErr // the new key may be all that is left: nothing is removed
	}
	return os.Remove(f.next())
}

// Read reads the files and changes nothing.
func (f Files) Read() (State, error) {
	seed, err := config.ReadKey(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		if public, markErr := f.readMark(); markErr == nil {
			return State{Public: public}, nil
		}
	}
	if err != nil {
		return State{}, err
	}
	s := State{Identity: federation.Identity{Key: ed25519.NewKeyFromSeed(seed[:])}}
	s.Public = s.Key.Public().(ed25519.PublicKey)
	old, until, err := f.readPrevious()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return State{}, err
	case old != seed:
		s.Previous, s.PreviousUntil = ed25519.NewKeyFromSeed(old[:]), until
	}
	return s, nil
}

func (f Files) readPrevious() (seed [32]byte, until clearbox.Millis, err error) {
	data, err := config.ReadSecret(f.previous())
	if err != nil {
		return seed, 0, err
	}
	bad := &config.SecretError{Path: f.previous(), Text: "is not a key file of a rotation", Hint: "move it away; peers that did not follow the rotation must pin the new identity by hand"}
	first, rest, ok := strings.Cut(string(data), "\n")
	raw, err := hex.DecodeString(first)
	if !ok || err != nil || len(raw) != len(seed) {
		return seed, 0, bad
	}
	ms, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(rest, "until "), "\n"), 10, 64)
	if err != nil || ms <= 0 {
		return seed, 0, bad
	}
	copy(seed[:], raw)
	return seed, clearbox.Millis(ms), nil
}

func (f Files) readMark() (ed25519.PublicKey, error) {
	data, err := os.ReadFile(config.OfflineMark(f.Path))
	if err != nil {
		return nil, err
	}
	public, err := hex.DecodeString(string(bytes.TrimSuffix(data, []byte("\n"))))
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%s does not hold a public key", config.OfflineMark(f.Path))
	}
	return public, nil
}

// keyText is the content of a key file.
func keyText(key ed25519.PrivateKey) []byte { return []byte(hex.EncodeToString(key.Seed()) + "\n") }

func previousText(key ed25519.PrivateKey, until clearbox.Millis) []byte {
	return append(keyText(key), "until "+strconv.FormatInt(int64(until), 10)+"\n"...)
}

// Rotate draws a new key and makes it the current one; the old one signs along
// until then. Everything is durable when it returns. After a kill at any step
// Load finds either the old state or the new one.
func (f Files) Rotate(random io.Reader, until clearbox.Millis) (federation.Identity, error) {
	s, err := f.Read()
	if err != nil {
		return federation.Identity{}, err
	}
	text, err := config.NewKeyFile(random)
	if err != nil {
		return federation.Identity{}, err
	}
	if err := f.write(f.next(), text, "next"); err != nil {
		return federation.Identity{}, err
	}
	if err := f.replace(f.previous(), previousText(s.Key, until), "previous"); err != nil {
		return federation.Identity{}, err
	}
	if err := f.promote(); err != nil {
		return federation.Identity{}, err
	}
	s, err = f.Read()
	return s.Identity, err
}

func (f Files) promote() error {
	if err := f.step("promote"); err != nil {
		return err
	}
	if err := os.Rename(f.next(), f.Path); err != nil {
		return err
	}
	return syncDir(f.Path)
}

// Put writes an identity that comes back. It overwrites no key.
func (f Files) Put(id federation.Identity) error {
	if id.Previous != nil {
		if err := f.replace(f.previous(), previousText(id.Previous, id.PreviousUntil), "previous"); err != nil {
			return err
		}
	}
	if err := f.write(f.Path, keyText(id.Key), "key"); err != nil {
		return err
	}
	if err := os.Remove(config.OfflineMark(f.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(f.Path)
}

// Remove leaves the mark that the key is offline and removes the key and its
// predecessor. Their bytes may still be on the medium: overwriting is not done,
// because most media do not overwrite in place.
func (f Files) Remove(public ed25519.PublicKey) error {
	if err := f.replace(config.OfflineMark(f.Path), []byte(hex.EncodeToString(public)+"\n"), "mark"); err != nil {
		return err
	}
	for _, path := range []string{f.Path, f.previous()} {
		if err := f.step("remove"); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(f.Path)
}

func (f Files) step(name string) error {
	if f.Fault == nil {
		return nil
	}
	return f.Fault(name)
}

// write makes a new file, readable by its owner only; what is there is an error.
func (f Files) write(path string, data []byte, step string) error {
	if err := f.step(step); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	return syncDir(path)
}

// replace puts a whole file in the place of another, or of none.
func (f Files) replace(path string, data []byte, step string) error {
	if err := f.step(step); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := (Files{}).write(temporary, data, ""); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(path)
}

// syncDir makes names last through a power cut.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Dir(path), err)
	}
	return nil
}
