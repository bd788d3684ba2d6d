package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/identity"
	"github.com/clearbox-im/clearbox/server/wire"
)

type identityCommands struct {
	Show      identityShow   `cmd:"" help:"Show the fingerprint, the document and the operational keys."`
	Export    identityExport `cmd:"" help:"Write the identity key into an encrypted file; with --offline remove it from this machine."`
	Import    identityImport `cmd:"" help:"Bring the identity key back from such a file."`
	Rotate    identityRotate `cmd:"" help:"Change the identity; the old one signs along for 30 days."`
	RevokeKey revokeKey      `cmd:"" name:"revoke-key" help:"Drop an operational key that may be stolen, at once."`
}

type identityShow struct{}

func (c *identityShow) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var id wire.AdminIdentity
	if err := s.do(http.MethodGet, "/admin/identity", nil, &id); err != nil {
		return err
	}
	x.show(id, func() { x.printIdentity(id) })
	return nil
}

func (x *call) printIdentity(id wire.AdminIdentity) {
	x.printf("server    %s\nwords     %s\npin       %s\n", id.Server, strings.Join(id.Words, " "), id.Pin)
	x.printf("document  %d, until %s\n", id.Seq, when(id.Expires))
	if id.Offline {
		x.printf("key       offline; documents are signed until %s\n", when(id.OfflineUntil))
	} else {
		x.printf("key       on this machine\n")
	}
	if id.Stale {
		x.printf("          the documents cannot say what the configuration says now\n          next: clearbox identity import FILE%s\n", x.mention())
	}
	if id.PreviousUntil != 0 {
		x.printf("before    %s signs along until %s\n", strings.Join(id.PreviousWords, " "), when(id.PreviousUntil))
	}
	x.printf("\n")
	rows := [][]string{{"KEY", "PURPOSE", "FROM", "UNTIL", "IN USE"}}
	for _, k := range id.Keys {
		use := "-"
		if k.InUse {
			use = "yes"
		}
		rows = append(rows, []string{k.ID, k.Purpose, when(k.NotBefore), when(k.Expires), use})
	}
	x.table(rows)
}

type identityExport struct {
	File           string `arg:"" help:"The file to write; nothing is overwritten."`
	Recipient      string `placeholder:"AGE1..." help:"Encrypt for this age recipient."`
	IdentityFile   string `placeholder:"AGEKEY" help:"The recipient's age key file, to prove that the export opens."`
	PassphraseFile string `placeholder:"FILE" help:"Encrypt with the passphrase in the first line of this file."`
	Offline        string `placeholder:"90d" help:"Sign the server's documents for this time in advance and remove the key from this machine."`
}

// jsonExport is what `identity export --json` prints.
type jsonExport struct {
	File         string          `json:"file"`
	Pin          string          `json:"pin"`
	Words        []string        `json:"words"`
	Proven       bool            `json:"proven"` // it was opened with what will open it later
	OfflineUntil clearbox.Millis `json:"offline_until,omitempty"`
}

func (c *identityExport) Run(x *call) error {
	loaded, err := x.load(true)
	if err != nil {
		return err
	}
	var life int64
	if c.Offline != "" {
		if life, err = seconds(c.Offline); err != nil {
			return err
		}
		if life < 24*3600 || time.Duration(life)*time.Second > federation.MaxOffline {
			return usage("--offline is 1 to %d days, such as 90d", federation.MaxOffline/(24*time.Hour))
		}
	}
	lock, err := c.lock()
	if err != nil {
		return err
	}
	if life > 0 && !lock.Proven {
		return usage("before the key is removed, the export must be opened with the recipient's key: --identity-file AGEKEY (or use --passphrase-file)")
	}
	state, err := (identity.Files{Path: loaded.Config.Keys.IdentityKeyFile}).Read()
	if err != nil {
		return &failure{code: exitFailed, text: fmt.Sprintf("the identity cannot be read: %v", err), next: "clearbox doctor identity" + x.mention()}
	}
	if state.Offline() {
		return &failure{code: exitFailed, text: "the identity is offline already; there is nothing to export", next: "clearbox identity show" + x.mention()}
	}
	var s *socket
	if life > 0 { // who cannot be asked is asked before a file is written
		if s, err = x.dial(); err != nil {
			return err
		}
		if err := s.do(http.MethodGet, "/admin/identity", nil, &wire.AdminIdentity{}); err != nil {
			return err
		}
	}
	export := &identity.Export{Server: loaded.Config.Server.Name, Made: clearbox.Millis(x.Now().UnixMilli()), Identity: state.Identity}
	if err := lock.Write(c.File, export); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &failure{code: exitFailed, text: c.File + " exists; nothing is overwritten", next: "choose another name"}
		}
		return &failure{code: exitFailed, text: fmt.Sprintf("%s: %v", c.File, err)}
	}
	out := jsonExport{File: c.File, Pin: pinText(state.Public), Words: keys.FingerprintWords(state.Public), Proven: lock.Proven}
	if life > 0 {
		var id wire.AdminIdentity
		if err := s.do(http.MethodPost, "/admin/identity/offline", &wire.AdminIdentityOffline{TTL: life, Pin: out.Pin}, &id); err != nil {
			f := asFailure(err)
			f.text = c.File + " is written and opens; but: " + f.text
			return f
		}
		out.OfflineUntil = id.OfflineUntil
	}
	x.show(out, func() { c.print(x, out) })
	return nil
}

func (c *identityExport) print(x *call, out jsonExport) {
	x.printf("%s holds the identity %s and was opened again.\n", out.File, strings.Join(out.Words, " "))
	if !out.Proven {
		x.printf("Whether the recipient's key opens it was not tried: clearbox identity import %s --check --identity-file AGEKEY%s\n", out.File, x.mention())
	}
	if out.OfflineUntil == 0 {
		return
	}
	x.printf("The key was removed from this machine; its documents are signed until %s. Move %s away, in two copies.\n", when(out.OfflineUntil), out.File)
	x.printf("Endpoints, words about the organisation and features cannot change until then.\nTo bring it back: clearbox identity import %s%s\n", out.File, x.mention())
}

func (c *identityExport) lock() (*identity.Lock, error) {
	if (c.Recipient == "") == (c.PassphraseFile == "") {
		return nil, usage("say for whom to encrypt: --recipient AGE1... or --passphrase-file FILE")
	}
	if c.PassphraseFile != "" {
		return passphraseLock(c.PassphraseFile)
	}
	var key []byte
	if c.IdentityFile != "" {
		var err error
		if key, err = readSecret(c.IdentityFile); err != nil {
			return nil, err
		}
	}
	l, err := identity.Recipient(c.Recipient, key)
	if err != nil {
		return nil, usage("%v", err)
	}
	return l, nil
}

func readSecret(path string) ([]byte, error) {
	data, err := config.ReadSecret(path)
	var se *config.SecretError
	if errors.As(err, &se) {
		return nil, &failure{code: exitFailed, text: se.Error(), next: se.Hint}
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	if err != nil {
		return nil, &failure{code: exitFailed, text: fmt.Sprintf("%s, which holds the secret, cannot be read: %v", path, err),
			next: "write it into a file that only you can read (chmod 600), and name that"}
	}
	return data, nil
}

func passphraseLock(path string) (*identity.Lock, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	l, err := identity.Passphrase(text)
	if err != nil {
		return nil, usage("%s: %v", path, err)
	}
	return l, nil
}

func pinText(public ed25519.PublicKey) string {
	pin := sha256.Sum256(public)
	return hex.EncodeToString(pin[:])
}

type identityImport struct {
	File           string `arg:"" help:"The encrypted file."`
	IdentityFile   string `placeholder:"AGEKEY" help:"The age key file that opens it."`
	PassphraseFile string `placeholder:"FILE" help:"The passphrase that opens it, in the first line of this file."`
	Check          bool   `help:"Only try whether it opens and whose identity it is."`
}

// jsonImport is what `identity import --json` prints.
type jsonImport struct {
	Server  clearbox.ServerName `json:"server"`
	Made    clearbox.Millis     `json:"made"`
	Pin     string              `json:"pin"`
	Words   []string            `json:"words"`
	Written bool                `json:"written"` // the key is on this machine now
	Online  bool                `json:"online"`  // the running server uses it
}

func (c *identityImport) Run(x *call) error {
	loaded, err := x.load(true)
	if err != nil {
		return err
	}
	export, err := c.open()
	if err != nil {
		return err
	}
	public := export.Key.Public().(ed25519.PublicKey)
	out := jsonImport{Server: export.Server, Made: export.Made, Pin: pinText(public), Words: keys.FingerprintWords(public)}
	if export.Server != loaded.Config.Server.Name {
		return &failure{code: exitFailed, text: fmt.Sprintf("this is the identity of %s; this server is %s", export.Server, loaded.Config.Server.Name)}
	}
	if c.Check {
		x.show(out, func() {
			x.printf("%s opens: the identity of %s, exported %s: %s\n", c.File, out.Server, when(out.Made), strings.Join(out.Words, " "))
		})
		return nil
	}
	files := identity.Files{Path: loaded.Config.Keys.IdentityKeyFile}
	if err := c.put(x, files, export, public); err != nil {
		return err
	}
	out.Written = true
	s, err := x.dial()
	if err != nil {
		return err
	}
	err = s.do(http.MethodPost, "/admin/identity/online", nil, &wire.AdminIdentity{})
	if err != nil {
		if f := asFailure(err); f.code != exitUnreachable {
			f.text = "the key is on this machine again; but: " + f.text
			return f
		}
	}
	out.Online = err == nil
	x.show(out, func() {
		if out.Online {
			x.printf("The identity %s is back; a new document was issued and peers are told.\n", strings.Join(out.Words, " "))
		} else {
			x.printf("The identity %s is on this machine again; the server takes it over when it starts.\n", strings.Join(out.Words, " "))
		}
	})
	return nil
}

func (c *identityImport) open() (*identity.Export, error) {
	if (c.IdentityFile == "") == (c.PassphraseFile == "") {
		return nil, usage("say what opens the file: --identity-file AGEKEY or --passphrase-file FILE")
	}
	var lock *identity.Lock
	if c.PassphraseFile != "" {
		var err error
		if lock, err = passphraseLock(c.PassphraseFile); err != nil {
			return nil, err
		}
	} else {
		key, err := readSecret(c.IdentityFile)
		if err != nil {
			return nil, err
		}
		if lock, err = identity.Keys(key); err != nil {
			return nil, usage("%s: %v", c.IdentityFile, err)
		}
	}
	export, err := lock.Read(c.File)
	if err != nil {
		return nil, &failure{code: exitFailed, text: fmt.Sprintf("%s does not open: %v", c.File, err)}
	}
	return export, nil
}

// put writes the key unless the same one is there.
func (c *identityImport) put(x *call, files identity.Files, export *identity.Export, public ed25519.PublicKey) error {
	state, err := files.Read()
	switch {
	case err == nil && !public.Equal(state.Public):
		return &failure{code: exitFailed, text: fmt.Sprintf("this server has another identity (%s) than the export (%s); nothing was changed",
			strings.Join(keys.FingerprintWords(state.Public), " "), strings.Join(keys.FingerprintWords(public), " "))}
	case err == nil && !state.Offline():
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return &failure{code: exitFailed, text: err.Error()}
	}
	id := federation.Identity{Key: export.Key}
	if export.Previous != nil && int64(export.PreviousUntil) > x.Now().UnixMilli() {
		id.Previous, id.PreviousUntil = export.Previous, export.PreviousUntil
	}
	if err := files.Put(id); err != nil {
		return &failure{code: exitFailed, text: fmt.Sprintf("the key cannot be written: %v", err)}
	}
	return nil
}

type identityRotate struct {
	Yes bool `help:"Do it; without this the command only says what would happen."`
}

func (c *identityRotate) Run(x *call) error {
	if !c.Yes {
		return &failure{code: exitUsage, text: "a new identity is signed by the old one for 30 days; peers that are not reached in that time, and people who wrote the words down, must compare them anew",
			next: "clearbox identity rotate --yes" + x.mention()}
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	var id wire.AdminIdentity
	if err := s.do(http.MethodPost, "/admin/identity/rotate", nil, &id); err != nil {
		return err
	}
	x.show(id, func() {
		x.printf("The identity of %s is now: %s\nPeers that fetch its document until %s follow by themselves. For others: clearbox peer repin %s --words \"%s\" there.\n",
			id.Server, strings.Join(id.Words, " "), when(id.PreviousUntil), id.Server, strings.Join(id.Words, " "))
		x.printf("Earlier exports do not hold it: clearbox identity export FILE%s\n", x.mention())
	})
	return nil
}

type revokeKey struct {
	Key string `arg:"" help:"The key's id, as in: clearbox identity show."`
}

func (c *revokeKey) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var id wire.AdminIdentity
	if err := s.do(http.MethodPost, "/admin/identity/keys/"+segment(c.Key)+"/revoke", nil, &id); err != nil {
		return err
	}
	x.show(id, func() {
		x.printf("%s is revoked; a new document (%d) was issued and every peer is greeted.\n\n", c.Key, id.Seq)
		x.printIdentity(id)
	})
	return nil
}

type peerRepin struct {
	Server string `arg:"" help:"The peer's domain."`
	Words  string `required:"" placeholder:"\"W1 ... W8\"" help:"The eight words that the peer's administrator reads out."`
}

func (c *peerRepin) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var p wire.AdminPeer
	if err := s.do(http.MethodPost, "/admin/peers/"+segment(c.Server)+"/repin", &wire.AdminPeerRepin{Words: strings.Fields(c.Words)}, &p); err != nil {
		return err
	}
	x.show(p, func() {
		x.printf("%s is pinned to: %s\nThen: clearbox peer test %s\n", p.Server, strings.Join(p.Words, " "), p.Server)
	})
	return nil
}

// identity looks at the identity key and at what was signed in advance.
func (e *examination) identity() finding {
	const name = "identity"
	if e.down != nil {
		return e.identityFiles()
	}
	var id wire.AdminIdentity
	if err := e.sock.do(http.MethodGet, "/admin/identity", nil, &id); err != nil {
		if f := asFailure(err); f.slug == clearbox.CodeUnavailable {
			return ok(name, "%s", f.text)
		}
		return bad(name, "look into the server's log", "%v", err)
	}
	next := "clearbox identity import FILE" + e.x.mention()
	left := time.UnixMilli(int64(id.OfflineUntil)).Sub(e.x.Now())
	switch {
	case id.Offline && left <= 0:
		return bad(name, next, "the identity is offline and its documents ended %s: nothing is exchanged with peers", when(id.OfflineUntil))
	case id.Expires <= clearbox.Millis(e.x.Now().UnixMilli()):
		return bad(name, "look into the server's log", "the server's document ended %s and could not be renewed: nothing is exchanged with peers", when(id.Expires))
	case id.Offline && left < identity.RunsOut:
		return warn(name, next, "the identity is offline and its documents end %s; then nothing is exchanged with peers", when(id.OfflineUntil))
	case id.Stale:
		return warn(name, next, "the configuration says something about this server (addresses, organisation, features) that its documents, signed in advance, do not")
	case id.Offline:
		return ok(name, "offline; documents are signed until %s", when(id.OfflineUntil))
	case id.PreviousUntil != 0:
		return ok(name, "changed; the one before it signs along until %s", when(id.PreviousUntil))
	}
	return ok(name, "%s", strings.Join(id.Words, " "))
}

func (e *examination) identityFiles() finding {
	const name = "identity"
	if e.loaded == nil {
		return unknown(name, "the configuration is broken")
	}
	state, err := (identity.Files{Path: e.loaded.Config.Keys.IdentityKeyFile}).Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad(name, "restore it from your backup, or: clearbox identity import FILE"+e.x.mention(), "%s does not exist", e.loaded.Config.Keys.IdentityKeyFile)
	case err != nil:
		return bad(name, "restore it from your backup", "%v", err)
	case state.Offline():
		return ok(name, "offline; the server is not running")
	}
	if _, err := os.Stat(config.OfflineMark(e.loaded.Config.Keys.IdentityKeyFile)); err == nil {
		return warn(name, "clearbox identity import FILE"+e.x.mention(), "the key is here although it was taken offline; going offline was interrupted")
	}
	return ok(name, "%s", strings.Join(keys.FingerprintWords(state.Public), " "))
}
