package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/reports"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

// houses are the homeservers that run within a script, by folder.
type houses map[string]*house

type house struct {
	signals chan os.Signal
	ended   chan int // the exit code
	log     *log
}

type housesKey struct{}

func running(ts *testscript.TestScript) houses { return ts.Value(housesKey{}).(houses) }

// serve FOLDER runs the real homeserver of FOLDER/clearbox.yaml in this process
// until the script ends, and waits until it listens.
func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve FOLDER")
	}
	h := &house{signals: make(chan os.Signal, 4), ended: make(chan int, 1), log: &log{}}
	started := make(chan struct{})
	m := &Main{Version: "v0.0.0-test", Now: time.Now, Random: rand.Reader, Lookup: lookup, Signals: h.signals,
		Start: func(cfg *config.Config, opt StartOptions) (Homeserver, error) {
			return server.New(context.Background(), cfg, server.Options{
				Logs: opt.Log, Version: opt.Version, Reload: opt.Reload, Started: func() { close(started) },
			})
		}}
	path := ts.MkAbs(filepath.Join(args[0], "clearbox.yaml"))
	go func() {
		h.ended <- m.Run(context.Background(), []string{"serve", "-c", path}, strings.NewReader(""), h.log, h.log, nil)
	}()
	select {
	case <-started:
	case code := <-h.ended:
		ts.Fatalf("the server ended with %d:\n%s", code, h.log)
	}
	running(ts)[args[0]] = h
	ts.Defer(func() {
		if running(ts)[args[0]] == h {
			h.stop()
		}
	})
}

func (h *house) stop() int {
	h.signals <- syscall.SIGTERM
	return <-h.ended
}

// stop FOLDER sends SIGTERM and waits; it fails unless the exit code is 0. The
// log is then in FOLDER/log.
func scriptStop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || running(ts)[args[0]] == nil {
		ts.Fatalf("usage: stop FOLDER")
	}
	h := running(ts)[args[0]]
	delete(running(ts), args[0])
	code := h.stop()
	ts.Check(os.WriteFile(ts.MkAbs(filepath.Join(args[0], "log")), []byte(h.log.String()), 0o600))
	if code != 0 {
		ts.Fatalf("exit code %d:\n%s", code, h.log)
	}
}

// people FOLDER NAME:ROLE... puts accounts into a server's store while it is not
// running: registration itself needs a client with keys.
func scriptPeople(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: people FOLDER NAME:ROLE...")
	}
	ctx := context.Background()
	ks, store := scriptStore(ts, args[0])
	defer ks.Close()
	defer store.Close()
	for _, p := range args[1:] {
		name, role, _ := strings.Cut(p, ":")
		key, err := ks.Create(ctx)
		ts.Check(err)
		uid, err := clearbox.NewUID(rand.Reader)
		ts.Check(err)
		ts.Check(store.Update(ctx, func(tx *storage.Tx) error {
			return tx.CreateUser(&storage.User{UID: uid, Key: key, Handle: clearbox.Handle(name), Role: storage.Role(role), Password: "x"})
		}))
	}
}

// reported FOLDER NAME TEXT puts a report about somebody into such a store.
func scriptReported(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: reported FOLDER NAME TEXT")
	}
	ks, store := scriptStore(ts, args[0])
	defer ks.Close()
	defer store.Close()
	body, err := cbor.Marshal(reports.Shown{Kind: 1, Sent: 1_764_000_000_000, Text: args[2], Reason: "rude"})
	ts.Check(err)
	ts.Check(store.Update(context.Background(), func(tx *storage.Tx) error {
		u, err := tx.UserByHandle(clearbox.Handle(args[1]))
		if err != nil {
			return err
		}
		return tx.PutReport(&storage.Report{UserNo: u.No, Message: clearbox.MessageID{1}, Peer: "b.example", Expires: tx.Now() + 1_000_000_000, Body: body})
	}))
}

// scriptStore opens the store of a server that is not running.
func scriptStore(ts *testscript.TestScript, folder string) (*keystore.Keystore, *storage.Store) {
	ctx := context.Background()
	loaded, err := config.Load(ts.MkAbs(filepath.Join(folder, "clearbox.yaml")), config.Options{})
	ts.Check(err)
	root, err := config.ReadKey(loaded.Config.Keys.RootKeyFile)
	ts.Check(err)
	ks, err := keystore.Open(ctx, loaded.Config.KeystorePath(), root[:], keystore.Options{Now: time.Now, Random: rand.Reader})
	ts.Check(err)
	store, err := storage.Open(ctx, storage.Options{Path: loaded.Config.DatabasePath(), Sealer: ks, Index: ks.Index, Now: time.Now, Random: rand.Reader})
	ts.Check(err)
	return ks, store
}

// address VARIABLE sets the variable to a loopback address that nobody uses now.
func scriptAddress(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: address VARIABLE")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], ln.Addr().String())
	ts.Check(ln.Close())
}

// trust FOLDER OTHER makes the server of FOLDER accept the certificate of OTHER.
func scriptTrust(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: trust FOLDER OTHER")
	}
	path := ts.MkAbs(filepath.Join(args[0], "clearbox.yaml"))
	text := strings.Replace(ts.ReadFile(path), "#ca_file: tls/partners-ca.pem", "ca_file: ../"+args[1]+"/tls/cert.pem", 1)
	ts.Check(os.WriteFile(path, []byte(text), 0o600))
}

// field VARIABLE NAME takes a text out of the JSON that was just printed.
func scriptField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field VARIABLE NAME")
	}
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &object))
	text, ok := object[args[1]].(string)
	if !ok {
		ts.Fatalf("no text %q in %v", args[1], object)
	}
	ts.Setenv(args[0], text)
}

// signingkey VARIABLE sets the variable to the id of the key that signs requests
// now, from the last command's `identity show --json`.
func scriptSigningKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: signingkey VARIABLE")
	}
	var id wire.AdminIdentity
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &id))
	for _, k := range id.Keys {
		if k.Purpose == "fed-sign" && k.InUse {
			ts.Setenv(args[0], k.ID)
			return
		}
	}
	ts.Fatalf("no signing key in %+v", id)
}
