package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const demoFileSize = 20_000_000 // bytes

// carry sends a large file from Alice to Bob, who saves it.
func (d *demo) carry(ctx context.Context) error {
	path, saved := filepath.Join(d.dir, "scan.raw"), filepath.Join(d.dir, "saved.raw")
	sent, err := d.random(path, demoFileSize)
	if err != nil {
		return err
	}
	const text = "Here is the scan."
	d.spoken = append(d.spoken, text)
	began := time.Now()
	out, err := d.alice.cbx(ctx, "send", d.bob.address, text, "--file", path, "--wait", "peer")
	if err != nil {
		return err
	}
	lines, err := parseLines(out)
	if err != nil || len(lines) == 0 {
		return errors.Join(errors.New("cbx send told nothing"), err)
	}
	d.say("  %-24s > %-50s [%s]", d.alice.address, text+" (a file of 20 MB)", lines[0].progress())
	if err := d.bob.receive(ctx, d.alice, 1); err != nil {
		return err
	}
	if _, err := d.bob.cbx(ctx, "save", lines[0].ID, "--to", saved); err != nil {
		return err
	}
	took := time.Since(began)
	got, err := sum(saved)
	if err != nil {
		return err
	}
	if got != sent {
		return errors.New("the file that was saved is not the one that was sent")
	}
	kept := 0
	err = filepath.WalkDir(filepath.Join(d.b.dir, "data", "media"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			kept++
		}
		return err
	})
	if err != nil {
		return err
	}
	if kept > 0 {
		return errors.New("the reader's server kept something of the file")
	}
	d.say("  %-24s * saved it, byte for byte, %s after she began; his server kept nothing of it", d.bob.address, took.Round(10*time.Millisecond))
	return nil
}

// random writes a file of n random bytes and gives its SHA-256.
func (d *demo) random(path string, n int64) (s [sha256.Size]byte, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return s, err
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, h), rand.Reader, n)
	return [sha256.Size]byte(h.Sum(nil)), errors.Join(err, f.Close())
}

func sum(path string) (s [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), err
}
