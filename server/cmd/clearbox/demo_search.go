package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// secrets is what must stand in no file of a server: every text, and what the
// people are called.
func (d *demo) secrets() (texts []string, names []string) {
	for _, p := range []*demoPerson{d.alice, d.bob, d.carol} {
		name, _, _ := strings.Cut(p.address, "@")
		names = append(names, name)
	}
	return append(slices.Clone(d.spoken), d.elsewhere...), names
}

// search looks for every spoken text and both names in every file of both
// servers, their logs included. To show that it would find one, it also looks
// for the servers' names, which do stand there.
func (d *demo) search(ctx context.Context) error {
	d.a.terminate()
	d.b.terminate()
	texts, names := d.secrets()
	hits, controls, files, size := 0, 0, 0, int64(0)
	for _, h := range []*demoHouse{d.a, d.b} {
		err := filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			size += int64(len(data))
			for _, secret := range append(names, texts...) {
				if bytes.Contains(data, []byte(secret)) {
					hits++
					d.say("  FOUND %q in %s", secret, path)
				}
			}
			if bytes.Contains(data, []byte(h.name)) {
				controls++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	d.say("\nSearched %d files of both servers (%d KiB: databases, keys, logs) for the %d spoken texts and the %d names: %d hits",
		files, size>>10, len(texts), len(names), hits)
	if hits > 0 {
		return errors.New("a server's file holds what was said, or who said it")
	}
	if controls == 0 {
		return errors.New("the search did not even find the servers' names: it proves nothing")
	}
	d.say("Done in %v", d.x.Now().Sub(d.begin).Round(100*time.Millisecond))
	return ctx.Err()
}
