package main

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// disk models what a folder may look like after a power cut: writes and
// truncations of a file are certain once the file was synced; the making,
// removing and renaming of names are certain once the folder was synced. Until
// then each may have happened or not.
type disk struct {
	root    string
	live    map[string]*file // names as the process sees them
	durable map[string]*file // names that are certain
	names   []change         // changes of names that are not, oldest first

	// deaf, when set, names files whose syncs count for nothing: the control
	// that shows that the method finds what it looks for.
	deaf func(path string) bool
}

type file struct {
	certain []byte
	pending []patch // oldest first
}

// patch is a write, or a truncation when data is nil.
type patch struct {
	off  int64
	data []byte
}

// change is one change of a name: f is nil for a removal.
type change struct {
	path string
	f    *file
	from string // the old name of a rename
}

// newDisk takes over a folder whose files are at rest.
func newDisk(root string) (*disk, error) {
	d := &disk{root: root, live: map[string]*file{}, durable: map[string]*file{}}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		f := &file{certain: data}
		d.live[p], d.durable[p] = f, f
		return err
	})
	return d, err
}

// apply takes one event into account. Events of other folders are not ours.
func (d *disk) apply(e *event) error {
	if e.port != 0 || !strings.HasPrefix(e.path, d.root) {
		return nil
	}
	e.path = strings.TrimSuffix(e.path, " (deleted)")
	switch e.call {
	case "openat":
		d.open(e)
	case "write", "pwrite64":
		f := d.live[e.path]
		if f == nil {
			return fmt.Errorf("a write to %s, which was not opened", filepath.Base(e.path))
		}
		off := e.off
		if off < 0 {
			off = f.size()
		}
		f.pending = append(f.pending, patch{off, e.data})
	case "ftruncate":
		if f := d.live[e.path]; f != nil {
			f.pending = append(f.pending, patch{off: e.size})
		}
	case "fsync", "fdatasync":
		d.sync(e.path)
	case "unlink":
		if d.live[e.path] != nil {
			delete(d.live, e.path)
			d.names = append(d.names, change{path: e.path})
		}
	case "rename":
		f := d.live[e.path]
		if f == nil {
			return nil
		}
		delete(d.live, e.path)
		d.live[e.to] = f
		d.names = append(d.names, change{path: e.to, f: f, from: e.path})
	default:
		return fmt.Errorf("the model does not know %s", e.call)
	}
	return nil
}

func (d *disk) open(e *event) {
	if !strings.Contains(e.flag, "O_CREAT") && !strings.Contains(e.flag, "O_TRUNC") {
		return
	}
	f := d.live[e.path]
	if f == nil {
		f = &file{}
		d.live[e.path] = f
		d.names = append(d.names, change{path: e.path, f: f})
	} else if strings.Contains(e.flag, "O_TRUNC") {
		f.pending = append(f.pending, patch{})
	}
}

func (d *disk) sync(path string) {
	if d.deaf != nil && d.deaf(path) {
		return
	}
	if f := d.live[path]; f != nil {
		for _, p := range f.pending {
			f.certain = p.onto(f.certain)
		}
		f.pending = nil
		return
	}
	kept := d.names[:0]
	for _, c := range d.names {
		if filepath.Dir(c.path) == path {
			c.onto(d.durable)
		} else {
			kept = append(kept, c)
		}
	}
	d.names = kept
}

// size is what the process sees.
func (f *file) size() int64 {
	n := int64(len(f.certain))
	for _, p := range f.pending {
		if p.data == nil {
			n = p.off
		} else {
			n = max(n, p.off+int64(len(p.data)))
		}
	}
	return n
}

// onto changes a file's bytes, in place where they are long enough.
func (p patch) onto(b []byte) []byte {
	if p.data == nil {
		if int64(len(b)) > p.off {
			return b[:p.off]
		}
		return append(b, make([]byte, p.off-int64(len(b)))...)
	}
	if end := p.off + int64(len(p.data)); int64(len(b)) < end {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[p.off:], p.data)
	return b
}

func (c change) onto(names map[string]*file) {
	switch {
	case c.f == nil:
		delete(names, c.path)
	case c.from != "":
		delete(names, c.from)
		names[c.path] = c.f
	default:
		names[c.path] = c.f
	}
}

// image writes what may be left into folder. With keep nil nothing that was
// not synced is left; else a random prefix of each file's writes and of the
// changes of names, the last write cut at a random sector. SQLite's shared
// index is never synced, since it is built anew: it is left out, or garbage.
func (d *disk) image(folder string, keep *rand.Rand) error {
	names := maps.Clone(d.durable)
	if keep != nil {
		for _, c := range d.names[:keep.IntN(len(d.names)+1)] {
			c.onto(names)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(names)) { // sorted: the same seed draws the same
		f := names[p]
		rel, err := filepath.Rel(d.root, p)
		if err != nil {
			return err
		}
		data := f.certain
		switch {
		case strings.HasSuffix(p, "-shm"):
			if keep == nil {
				continue
			}
			data = make([]byte, 32<<10)
			for i := range data {
				data[i] = byte(keep.Uint32())
			}
		case keep != nil:
			data = f.some(keep)
		}
		to := filepath.Join(folder, rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

const sector = 512

// some is the file with a random prefix of its pending writes.
func (f *file) some(r *rand.Rand) []byte {
	if len(f.pending) == 0 {
		return f.certain
	}
	data := slices.Clone(f.certain)
	n := r.IntN(len(f.pending) + 1)
	for i, p := range f.pending[:n] {
		if i == n-1 && len(p.data) > sector { // torn
			p.data = p.data[:sector*(1+r.IntN(len(p.data)/sector))]
		}
		data = p.onto(data)
	}
	return data
}
