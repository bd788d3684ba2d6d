package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/identity"
)

type initCommand struct {
	Domain       string   `arg:"" help:"The organisation's domain, the part behind the @ of addresses."`
	Dir          string   `default:"." placeholder:"FOLDER" help:"Where everything goes."`
	Admin        string   `placeholder:"NAME" help:"Name or address of the first administrator."`
	Organisation string   `placeholder:"TEXT" help:"The organisation's name, as in the privacy notice."`
	Country      string   `placeholder:"XX" help:"The organisation's country, two letters (ISO 3166-1)."`
	Contact      string   `placeholder:"TEXT" help:"Where questions about privacy go."`
	Listen       []string `placeholder:"ADDRESS" help:"Address to listen on, such as :8443; may be repeated."`
	PublicURL    string   `name:"public-url" placeholder:"URL" help:"Where people reach the server, if not https://DOMAIN."`
	Cert         string   `placeholder:"FILE" help:"Certificate with its chain, PEM."`
	Key          string   `placeholder:"FILE" help:"The certificate's private key, PEM."`
	Registration string   `default:"invite" enum:"invite,open,closed" help:"Who may register: invite, open or closed."`
	DryRun       bool     `help:"Check and show, but write nothing."`
	SkipDNS      bool     `name:"skip-dns" help:"Do not look the domain up."`
}

// jsonInit is what `init --json` prints.
type jsonInit struct {
	Domain  clearbox.ServerName `json:"domain"`
	Checks  []finding           `json:"checks"`
	Written []string            `json:"written"`
	Next    []string            `json:"next"`
	DryRun  bool                `json:"dry_run,omitempty"`
	Already bool                `json:"already,omitempty"` // it was set up before; nothing was written
}

func (c *initCommand) Run(x *call) error {
	cfg, err := c.configuration()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := config.Render(&text, cfg); err != nil {
		return err
	}
	path := filepath.Join(c.Dir, "clearbox.yaml")
	if _, err := config.Parse(path, text.Bytes(), config.Options{Dir: c.Dir}); err != nil {
		return err // a flag's value is wrong; the message names its key
	}
	admin, err := c.admin(cfg.Server.Name)
	if err != nil {
		return err
	}
	result := jsonInit{Domain: cfg.Server.Name, DryRun: c.DryRun, Written: []string{}}
	already, found := x.existing(path, cfg)
	result.Checks = append(result.Checks, found)
	if already {
		result.Already = true
		if l, err := config.Load(path, config.Options{SkipFiles: true}); err == nil && exists(l.Config.TLS.CertFile) {
			cfg.TLS.CertFile = l.Config.TLS.CertFile
		}
		result.Next = x.nextSteps(path, cfg, admin)
		c.print(x, result, "")
		return nil
	}
	result.Checks = append(result.Checks, x.checkClock(), checkDisk(c.Dir, cfg.Limits.DiskReserve), checkBind(cfg.Listen.Addresses).soft())
	if c.Cert != "" {
		next := "put the certificate and its key into " + c.Cert + " and " + c.Key
		result.Checks = append(result.Checks, checkCertificate(&cfg.TLS, hostOf(cfg.PublicURL()), x.Now(), next).soft())
	}
	if !c.SkipDNS {
		u, err := url.Parse(cfg.PublicURL())
		if err != nil {
			return err
		}
		result.Checks = append(result.Checks, x.checkDNS(u.Hostname()).soft())
	}
	for _, f := range result.Checks {
		if f.Status == statusFail {
			c.print(x, result, "")
			return &failure{code: exitFailed, text: "nothing was written: " + f.Text, next: f.Next}
		}
	}
	files, err := x.newFiles(c.Dir, text.Bytes())
	if err != nil {
		return err
	}
	for _, f := range files {
		result.Written = append(result.Written, f.path)
	}
	result.Next = x.nextSteps(path, cfg, admin)
	if c.DryRun {
		c.print(x, result, text.String())
		return nil
	}
	if err := writeAll(c.Dir, files); err != nil {
		return &failure{code: exitFailed, text: fmt.Sprintf("%v; what was written has been removed", err)}
	}
	c.print(x, result, "")
	return nil
}

// soft turns a failure into a warning: it can be mended after init.
func (f finding) soft() finding {
	if f.Status == statusFail {
		f.Status = statusWarn
	}
	return f
}

// configuration is the default with the flags' values.
func (c *initCommand) configuration() (*config.Config, error) {
	cfg := config.Default()
	name, err := clearbox.ParseServerName(c.Domain)
	if err != nil {
		return nil, usage("%v", err)
	}
	cfg.Server.Name = name
	cfg.Server.PublicURL = c.PublicURL
	cfg.Organisation = config.Organisation{Name: c.Organisation, Country: c.Country, Contact: c.Contact}
	cfg.Registration.Mode = c.Registration
	if len(c.Listen) > 0 {
		cfg.Listen.Addresses = c.Listen
	}
	cfg.TLS.CertFile, cfg.TLS.KeyFile = "tls/cert.pem", "tls/key.pem"
	if (c.Cert == "") != (c.Key == "") {
		return nil, usage("--cert and --key belong together")
	}
	if c.Cert != "" {
		if cfg.TLS.CertFile, err = filepath.Abs(c.Cert); err != nil {
			return nil, err
		}
		if cfg.TLS.KeyFile, err = filepath.Abs(c.Key); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// admin is the first administrator's name; "" when none was given.
func (c *initCommand) admin(server clearbox.ServerName) (clearbox.Handle, error) {
	if c.Admin == "" {
		return "", nil
	}
	name, at, isAddress := strings.Cut(c.Admin, "@")
	if isAddress && clearbox.ServerName(at) != server {
		return "", usage("--admin %s: the first administrator is one of %s", c.Admin, server)
	}
	h, err := clearbox.ParseHandle(name)
	if err != nil {
		return "", usage("--admin: %v", err)
	}
	return h, nil
}

// existing looks for an earlier setup. The same one is fine and nothing is to
// be done; anything else that would be overwritten is a failure.
func (x *call) existing(path string, cfg *config.Config) (already bool, f finding) {
	const name = "folder"
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); err == nil {
		l, err := config.Load(path, config.Options{SkipFiles: true})
		if err != nil {
			return false, bad(name, "clearbox config check "+path, "%s exists and has mistakes; nothing is overwritten", path)
		}
		if l.Config.Server.Name != cfg.Server.Name {
			return false, bad(name, "choose another folder with --dir", "%s exists and is for %s; nothing is overwritten", path, l.Config.Server.Name)
		}
		_, err = config.ReadKey(l.Config.Keys.RootKeyFile)
		if err == nil {
			_, err = identity.Files{Path: l.Config.Keys.IdentityKeyFile}.Read()
		}
		if err != nil {
			return false, bad(name, "restore the key from your backup", "%s exists, but its key does not: %v", path, err)
		}
		return true, ok(name, "%s is set up for %s already and stays as it is; flags change nothing, its clearbox.yaml does", dir, cfg.Server.Name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, bad(name, "choose another folder with --dir", "%v", err)
	}
	for _, leftover := range []string{cfg.Keys.RootKeyFile, cfg.Keys.IdentityKeyFile, filepath.Join(cfg.Server.DataDir, "clearbox.db"), filepath.Join(cfg.Server.DataDir, "keystore.db")} {
		if _, err := os.Lstat(filepath.Join(dir, leftover)); err == nil {
			return false, bad(name, "choose another folder with --dir, or restore clearbox.yaml", "%s exists without a clearbox.yaml; nothing is overwritten", filepath.Join(dir, leftover))
		}
	}
	return false, ok(name, "%s is free", dir)
}

// newFile is a file that init makes; a folder when it has no content.
type newFile struct {
	path string
	data []byte
}

// newFiles lists what is made, in order: the configuration comes last, so that
// it is there only when everything is.
func (x *call) newFiles(dir string, text []byte) ([]newFile, error) {
	root, err := config.NewKeyFile(x.Random)
	if err != nil {
		return nil, err
	}
	identity, err := config.NewKeyFile(x.Random)
	if err != nil {
		return nil, err
	}
	return []newFile{
		{path: filepath.Join(dir, "data")},
		{path: filepath.Join(dir, "keys")},
		{path: filepath.Join(dir, "tls")},
		{filepath.Join(dir, "keys", "root.key"), root},
		{filepath.Join(dir, "keys", "identity.key"), identity},
		{filepath.Join(dir, "clearbox.yaml"), text},
	}, nil
}

// writeAll makes the folder and the files in it, readable by their owner only.
// It overwrites nothing; when it fails, what it made is gone again.
func writeAll(dir string, files []newFile) (err error) {
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for i := len(made) - 1; i >= 0; i-- {
			err = errors.Join(err, os.Remove(made[i]))
		}
	}()
	if _, statErr := os.Stat(dir); errors.Is(statErr, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		made = append(made, dir)
	}
	for _, f := range files {
		if f.data == nil {
			switch err := os.Mkdir(f.path, 0o700); {
			case err == nil:
				made = append(made, f.path)
			case !errors.Is(err, fs.ErrExist):
				return err
			default:
				if info, statErr := os.Stat(f.path); statErr != nil || !info.IsDir() {
					return fmt.Errorf("%s is in the way: it is no folder", f.path)
				}
			}
			continue
		}
		out, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		made = append(made, f.path)
		_, err = out.Write(f.data)
		if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return syncDirs(dir, filepath.Join(dir, "keys"))
}

// syncDirs makes the new names last through a power cut.
func syncDirs(dirs ...string) error {
	for _, d := range dirs {
		f, err := os.Open(d)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", d, err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nextSteps are the commands that lead to a running server with an admin.
func (x *call) nextSteps(path string, cfg *config.Config, admin clearbox.Handle) []string {
	var next []string
	if cfg.TLS.CertFile == "tls/cert.pem" {
		next = append(next, fmt.Sprintf("put your certificate for %s into %s and its key (mode 0600) into %s", hostOf(cfg.PublicURL()),
			filepath.Join(filepath.Dir(path), "tls/cert.pem"), filepath.Join(filepath.Dir(path), "tls/key.pem")))
	}
	if admin == "" {
		admin = "NAME"
	}
	return append(next,
		fmt.Sprintf("keep a copy of %s in a safe place", filepath.Join(filepath.Dir(path), "keys")),
		"clearbox doctor --config "+path,
		"clearbox serve --config "+path,
		fmt.Sprintf("clearbox user create %s --role admin --expires 30m --qr --config %s", admin, path),
	)
}

func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	return u.Hostname()
}

func (c *initCommand) print(x *call, r jsonInit, text string) {
	x.show(r, func() {
		for _, f := range r.Checks {
			mark := map[string]string{statusOK: "✓", statusWarn: "!", statusFail: "✗"}[f.Status]
			x.printf("%s %-7s %s\n", mark, f.Name, f.Text)
			if f.Next != "" {
				x.printf("          %s\n", f.Next)
			}
		}
		verb := "wrote"
		if r.DryRun {
			verb = "would write"
		}
		for _, w := range r.Written {
			x.printf("✓ %s %s\n", verb, w)
		}
		if text != "" {
			x.printf("\n%s", text)
		}
		if len(r.Next) > 0 {
			x.printf("\nNext:\n")
			for i, n := range r.Next {
				x.printf("  %d. %s\n", i+1, n)
			}
		}
	})
}
