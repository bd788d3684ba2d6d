package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

const (
	exportFormat  = "clearbox-identity-1"
	maxExport     = 64 << 10 // bytes of the encrypted file
	minPassphrase = 16       // characters
)

// Export is an identity on its way out of the machine. It is encrypted with age,
// so that `age --decrypt` opens it as well.
type Export struct {
	Server clearbox.ServerName
	Made   clearbox.Millis
	federation.Identity
}

type exportFile struct {
	Format        string              `json:"format"`
	Server        clearbox.ServerName `json:"server"`
	Made          clearbox.Millis     `json:"made"`
	Pin           string              `json:"pin"`      // of the identity, for people who look at it
	Identity      string              `json:"identity"` // hexadecimal seed
	Previous      string              `json:"previous,omitempty"`
	PreviousUntil clearbox.Millis     `json:"previous_until,omitempty"`
}

func (e *Export) encode() ([]byte, error) {
	public := e.Key.Public().(ed25519.PublicKey)
	f := exportFile{
		Format: exportFormat, Server: e.Server, Made: e.Made, Pin: pinOf(public), Identity: hex.EncodeToString(e.Key.Seed()),
	}
	if e.Previous != nil {
		f.Previous, f.PreviousUntil = hex.EncodeToString(e.Previous.Seed()), e.PreviousUntil
	}
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

var errNoExport = errors.New("this is no export of a ClearBox identity")

func decodeExport(b []byte) (*Export, error) {
	var f exportFile
	if err := json.Unmarshal(b, &f); err != nil || f.Format != exportFormat {
		return nil, errNoExport
	}
	server, err := clearbox.ParseServerName(string(f.Server))
	if err != nil {
		return nil, errNoExport
	}
	e := &Export{Server: server, Made: f.Made}
	if e.Key, err = seedOf(f.Identity); err != nil {
		return nil, err
	}
	if f.Previous != "" {
		if e.Previous, err = seedOf(f.Previous); err != nil || f.PreviousUntil <= 0 {
			return nil, errNoExport
		}
		e.PreviousUntil = f.PreviousUntil
	}
	if f.Pin != pinOf(e.Key.Public().(ed25519.PublicKey)) {
		return nil, errNoExport
	}
	return e, nil
}

func seedOf(s string) (ed25519.PrivateKey, error) {
	seed, err := hex.DecodeString(s)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errNoExport
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// Lock closes and opens exports.
type Lock struct {
	recipients []age.Recipient
	identities []age.Identity
	Proven     bool // what opens the file after it was written is what will open it later
}

// Passphrase locks with the first line of text, at least 16 characters.
func Passphrase(text []byte) (*Lock, error) {
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if len([]rune(line)) < minPassphrase {
		return nil, fmt.Errorf("a passphrase has at least %d characters, in the first line of its file", minPassphrase)
	}
	recipient, err := age.NewScryptRecipient(line)
	if err != nil {
		return nil, err
	}
	identity, err := age.NewScryptIdentity(line)
	if err != nil {
		return nil, err
	}
	return &Lock{recipients: []age.Recipient{recipient}, identities: []age.Identity{identity}, Proven: true}, nil
}

// Recipient locks for an age recipient (age1...). keyFile is the recipient's
// own key file, with which the export is opened again to prove that it can be;
// without it a key is drawn that proves the file and is thrown away.
func Recipient(recipient string, keyFile []byte) (*Lock, error) {
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, errors.New("this is no age recipient; one begins with age1")
	}
	if keyFile != nil {
		l, err := Keys(keyFile)
		if err != nil {
			return nil, err
		}
		l.recipients = []age.Recipient{to}
		return l, nil
	}
	once, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	return &Lock{recipients: []age.Recipient{to, once.Recipient()}, identities: []age.Identity{once}}, nil
}

// Keys opens with an age key file.
func Keys(keyFile []byte) (*Lock, error) {
	ids, err := age.ParseIdentities(bytes.NewReader(keyFile))
	if err != nil {
		return nil, errors.New("this is no age key file; one is made with `age-keygen`")
	}
	return &Lock{identities: ids, Proven: true}, nil
}

// Write makes the file, reads it back and opens it. It overwrites nothing; a
// file that cannot be opened is removed.
func (l *Lock) Write(path string, e *Export) (err error) {
	if _, err := os.Lstat(path); err == nil { // a passphrase takes its time
		return fs.ErrExist
	}
	plain, err := e.encode()
	if err != nil {
		return err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, l.recipients...)
	if err != nil {
		return fmt.Errorf("encrypt the identity: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return fmt.Errorf("encrypt the identity: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("encrypt the identity: %w", err)
	}
	if err := (Files{}).write(path, sealed.Bytes(), ""); err != nil {
		return err
	}
	back, err := l.Read(path)
	if err == nil {
		var again []byte
		if again, err = back.encode(); err == nil && !bytes.Equal(again, plain) {
			err = errors.New("another content came back than was written")
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the export does not open again: %w", err), os.Remove(path))
	}
	return nil
}

// Read opens an export.
func (l *Lock) Read(path string) (*Export, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return l.read(io.LimitReader(f, maxExport))
}

func (l *Lock) read(r io.Reader) (*Export, error) {
	plain, err := age.Decrypt(r, l.identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, errors.New("it was encrypted for another key or passphrase")
	}
	if err != nil {
		return nil, fmt.Errorf("it is no age file, or damaged: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(plain, maxExport))
	if err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	return decodeExport(b)
}
