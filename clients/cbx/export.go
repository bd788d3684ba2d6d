package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/argon2"

	"github.com/clearbox-im/clearbox"
	secret "github.com/clearbox-im/clearbox/crypto/vault"
)

// The hint of an exported file says how its secret is made. Numbers are big-endian.
//
//	1  the secret of the recovery key for exports
//	2  Argon2id of a passphrase: 4 passes | 4 KiB | 1 lanes | 16 salt
const (
	hintRecovery   = 1
	hintPassphrase = 2
	hintSize       = 1 + 4 + 4 + 1 + 16
)

// Costs of the passphrase of a file, RFC 9106, 4: the second recommended option,
// with more passes.
const (
	exportPasses = 4
	exportKiB    = 64 << 10
	exportLanes  = 4
	mostPasses   = 64
	mostKiB      = 1 << 20
)

type exportCommand struct {
	File         string `arg:"" help:"The file to make; it must not be there."`
	FilePassFile string `help:"File with the passphrase of the export. Without it, it is asked for." placeholder:"FILE" name:"file-passphrase-file"`
	RecoveryFile string `help:"Lock it with the recovery key in this file instead." placeholder:"FILE"`
}

// Help is the long help.
func (exportCommand) Help() string {
	return `Writes your contacts, settings and all conversations to one encrypted file, in the format that docs/devices.md has. It holds no keys of your account: who has the file and its passphrase can read your messages, and cannot write as you. cbx import takes it in again.`
}

// Run exports.
func (c *exportCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		key, hint, err := c.lock(ctx, a)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return usage("the file cannot be made: %s", err)
		}
		w := bufio.NewWriterSize(f, 1<<20)
		n, err := p.brain.Export(ctx, w, key, hint)
		if err == nil {
			err = w.Flush()
		}
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return errors.Join(err, os.Remove(c.File))
		}
		a.say(map[string]any{"type": "exported", "file": c.File, "messages": n}, "%d messages are in %s, encrypted.", n, c.File)
		return nil
	})
}

// lock gives the secret of a new file, and how to come by it again.
func (c *exportCommand) lock(ctx context.Context, a *app) (key, hint []byte, err error) {
	if c.RecoveryFile != "" {
		key, err := recoverySecret(a, c.RecoveryFile)
		return key, []byte{hintRecovery}, err
	}
	passphrase, err := a.filePassphrase(ctx, c.FilePassFile, true)
	if err != nil {
		return nil, nil, err
	}
	hint = append(make([]byte, 0, hintSize), hintPassphrase)
	hint = binary.BigEndian.AppendUint32(hint, exportPasses)
	hint = binary.BigEndian.AppendUint32(hint, exportKiB)
	hint = append(hint, exportLanes)
	hint = hint[:hintSize]
	if _, err := io.ReadFull(a.random, hint[hintSize-16:]); err != nil {
		return nil, nil, err
	}
	return passphraseSecret(passphrase, hint), hint, nil
}

func recoverySecret(a *app, file string) ([]byte, error) {
	text, err := a.secretFile(file, "recovery key")
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, err
	}
	derived := key.Derive(secret.PurposeExport)
	return derived[:], nil
}

func (a *app) filePassphrase(ctx context.Context, file string, twice bool) (string, error) {
	if file != "" {
		return a.secretFile(file, "passphrase")
	}
	if !a.asker.interactive() {
		return "", usage("nobody can be asked for the file's passphrase: use --file-passphrase-file")
	}
	return a.askSecret(ctx, "Passphrase of the file", twice)
}

// passphraseSecret follows a hint that was checked.
func passphraseSecret(passphrase string, hint []byte) []byte {
	return argon2.IDKey([]byte(passphrase), hint[hintSize-16:], binary.BigEndian.Uint32(hint[1:]), binary.BigEndian.Uint32(hint[5:]), hint[9], 32)
}

// checkHint refuses a hint that asks for what no computer should do, or is none.
func checkHint(hint []byte) error {
	switch {
	case len(hint) == 1 && hint[0] == hintRecovery:
		return nil
	case len(hint) == hintSize && hint[0] == hintPassphrase:
		passes, kib := binary.BigEndian.Uint32(hint[1:]), binary.BigEndian.Uint32(hint[5:])
		if passes >= 1 && passes <= mostPasses && kib >= 8 && kib <= mostKiB && hint[9] >= 1 {
			return nil
		}
	}
	return clearbox.Errorf(clearbox.CodeBadRequest, "the file is locked in a way that this version does not know")
}

type importCommand struct {
	File         string `arg:"" help:"A file that cbx export made."`
	FilePassFile string `help:"File with the passphrase of the export. Without it, it is asked for." placeholder:"FILE" name:"file-passphrase-file"`
	RecoveryFile string `help:"File with the recovery key, where the export is locked with it." placeholder:"FILE"`
}

// Help is the long help.
func (importCommand) Help() string {
	return `Takes contacts and messages of the same account in from a file. What is here already stays as it is, so it may be repeated.`
}

// Run imports.
func (c *importCommand) Run(ctx context.Context, a *app) error {
	f, err := os.Open(c.File)
	if err != nil {
		return usage("the file cannot be read: %s", err)
	}
	defer f.Close()
	return a.with(ctx, func(p *profile) error {
		n, err := p.brain.Import(ctx, bufio.NewReaderSize(f, 1<<20), func(hint []byte) ([]byte, error) { return c.unlock(ctx, a, hint) })
		if clearbox.CodeOf(err) == clearbox.CodeBadCredentials {
			return advise(err, "Give the passphrase, or the recovery key, that it was exported with.")
		}
		if err != nil {
			return err
		}
		a.say(map[string]any{"type": "imported", "messages": n}, "%d messages came back; what was here stays.", n)
		return nil
	})
}

func (c *importCommand) unlock(ctx context.Context, a *app, hint []byte) ([]byte, error) {
	if err := checkHint(hint); err != nil {
		return nil, err
	}
	if hint[0] == hintRecovery {
		if c.RecoveryFile == "" {
			return nil, usage("the file is locked with a recovery key: use --recovery-file")
		}
		return recoverySecret(a, c.RecoveryFile)
	}
	passphrase, err := a.filePassphrase(ctx, c.FilePassFile, false)
	if err != nil {
		return nil, fmt.Errorf("the file's passphrase: %w", err)
	}
	return passphraseSecret(passphrase, hint), nil
}
