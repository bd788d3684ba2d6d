package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/picture"
	"github.com/clearbox-im/clearbox/clients/core"
)

// Of the small picture that goes with a picture.
const (
	thumbnailSide  = 240      // pixels
	thumbnailBytes = 12 << 10 // at most core.MaxThumbnail
)

// sendFile uploads the file and writes its message.
func (c *sendCommand) sendFile(ctx context.Context, a *app, p *profile, to core.ConversationID, answers *core.Ref) (clearbox.MessageID, error) {
	u, done, err := c.upload(a)
	if err != nil {
		return clearbox.MessageID{}, err
	}
	defer done()
	bar := a.progress("sending")
	u.Progress = bar.tell
	m, err := p.brain.SendFile(ctx, to, core.Post{Text: c.Text, Reply: answers, Mentions: p.mentions(ctx, c.Text)}, u)
	bar.end()
	if err != nil {
		switch clearbox.CodeOf(err) {
		case clearbox.CodeUnavailable:
			err = advise(clearbox.Wrap(clearbox.CodeUnavailable, err.Error()+"; the file was not sent", err), "Send it again later: it goes on where it ended.")
		case clearbox.CodeQuota:
			err = advise(err, "cbx delete takes an earlier file of yours back, and frees its space.")
		}
		return clearbox.MessageID{}, err
	}
	return m.ID, nil
}

// upload opens what --file names. done lets it go.
func (c *sendCommand) upload(a *app) (_ *core.Upload, done func(), err error) {
	var f *os.File
	name := c.Name
	if c.File == "-" {
		f, err = spool(a.stdin)
	} else {
		f, err = openRegular(c.File)
		if name == "" {
			name = filepath.Base(c.File)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	done = func() { f.Close() }
	defer func() {
		if err != nil {
			done()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, nil, fmt.Errorf("read the file: %w", err)
	}
	u := &core.Upload{Data: f, Size: fi.Size(), Name: fileName(name), Mime: http.DetectContentType(head[:n])}
	if picture.Kind(head[:n]) == "" {
		return u, done, nil
	}
	return u, done, c.preparePicture(u)
}

// preparePicture takes out of a picture what does not show, and adds a small one.
func (c *sendCommand) preparePicture(u *core.Upload) error {
	const advice = "--keep-metadata sends it as it is."
	if u.Size > picture.MaxFile {
		if c.KeepMetadata {
			return nil
		}
		return advise(clearbox.Errorf(clearbox.CodeTooLarge, "this picture is too large to take place, time and device out of it"), advice)
	}
	b := make([]byte, u.Size)
	if _, err := io.ReadFull(io.NewSectionReader(u.Data, 0, u.Size), b); err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	look := picture.Look(b, thumbnailSide, thumbnailBytes)
	u.Mime, u.Width, u.Height, u.Thumbnail = look.Mime, look.Width, look.Height, look.Thumbnail
	if c.KeepMetadata {
		return nil
	}
	bare, err := picture.Strip(b)
	if err != nil {
		return advise(clearbox.Wrap(clearbox.CodeBadRequest, "this picture is damaged: it cannot be told what else is in it", err), advice)
	}
	u.Data, u.Size = bytes.NewReader(bare), int64(len(bare))
	return nil
}

func openRegular(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("the file cannot be read: %s", clean(err.Error()))
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, usage("%s is no file; standard input is --file -", clean(path))
	}
	return f, nil
}

// spool keeps standard input in a file without a name, since a file is read more
// than once.
func spool(r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp("", "cbx-*")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name()) // where that is not possible, the system clears its folder
	n, err := io.Copy(f, io.LimitReader(r, core.MaxFile+1))
	if err == nil && n > core.MaxFile {
		err = clearbox.Errorf(clearbox.CodeTooLarge, "a file has at most %d bytes", int64(core.MaxFile))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// maxSavedName is the longest name that a file is saved under, in bytes; file
// systems have 255.
const maxSavedName = 200

// fileName makes a name from elsewhere one that means nothing but a file: no
// folder, nothing hidden, nothing that a terminal or another system reads as
// something else.
func fileName(s string) string {
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), strings.ContainsRune(`<>:"|?*`, r):
			return '_'
		case unicode.IsSpace(r):
			return ' '
		}
		return r
	}, s)
	for len(s) > maxSavedName {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	s = strings.TrimRight(strings.TrimLeft(s, ". "), ". ")
	if stem, _, _ := strings.Cut(strings.ToUpper(s), "."); reservedNames[stem] {
		s = "_" + s
	}
	if s == "" {
		return "file"
	}
	return s
}

// reservedNames are devices on Windows, whatever stands behind a dot.
var reservedNames = map[string]bool{
	"CON": true, "PRN": true, "AUX": true, "NUL": true, "COM1": true, "COM2": true, "COM3": true, "COM4": true, "COM5": true, "COM6": true, "COM7": true,
	"COM8": true, "COM9": true, "LPT1": true, "LPT2": true, "LPT3": true, "LPT4": true, "LPT5": true, "LPT6": true, "LPT7": true, "LPT8": true, "LPT9": true,
}

type saveCommand struct {
	ID    string `arg:"" help:"Id of the message with the file, or the beginning of it: cbx recv and cbx history show them."`
	To    string `help:"Where to: a folder, a file, or - for standard output. Without it, the name that the file has, in this folder." placeholder:"PATH"`
	Force bool   `help:"Replace a file that is there."`
}

// Help is the long help.
func (saveCommand) Help() string {
	return `The file comes encrypted through your server and is checked on its way. Nothing of it is there under its name before all of it has come and is what was sent. A file that is there stays, unless --force. Exit codes: 8 the sender or time has deleted it.`
}

// savedLine is a saved file in JSON.
type savedLine struct {
	Type string             `json:"type"` // saved
	ID   clearbox.MessageID `json:"id"`
	Path string             `json:"path"` // - is standard output
	Size int64              `json:"size"`
}

// Run fetches a file.
func (c *saveCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		m, err := p.line(ctx, c.ID)
		if err != nil {
			return err
		}
		if m.File == nil {
			return usage("this message has no file")
		}
		if c.To == "-" {
			return c.print(ctx, a, p, m)
		}
		path := fileName(m.File.Name)
		if c.To != "" {
			path = c.To
			if fi, err := os.Stat(path); err == nil && fi.IsDir() {
				path = filepath.Join(path, fileName(m.File.Name))
			}
		}
		if err := c.save(ctx, a, p, m.File, path); err != nil {
			return err
		}
		a.say(savedLine{"saved", m.ID, path, m.File.Size}, "saved %s (%s)", clean(path), bytesText(m.File.Size))
		return nil
	})
}

// print writes the file to standard output, once all of it is here and right.
func (c *saveCommand) print(ctx context.Context, a *app, p *profile, m *core.Message) error {
	f, err := spool(strings.NewReader(""))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.fetch(ctx, a, p, m.File, f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(a.stdout, f)
	return err
}

func (c *saveCommand) fetch(ctx context.Context, a *app, p *profile, f *core.File, w io.Writer) error {
	bar := a.progress("fetching")
	defer bar.end()
	err := p.brain.Fetch(ctx, f, w, bar.tell)
	if clearbox.CodeOf(err) == clearbox.CodeNotFound {
		err = clearbox.Wrap(clearbox.CodeNotFound, "the file is no longer there: its sender took it back, or its time was over", err)
	}
	return err
}

// save writes beside the place and moves there at the end.
func (c *saveCommand) save(ctx context.Context, a *app, p *profile, f *core.File, path string) error {
	if _, err := os.Lstat(path); err == nil && !c.Force {
		return exists(path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".cbx-*.part")
	if err != nil {
		return usage("there is no place for the file: %s", clean(err.Error()))
	}
	defer os.Remove(tmp.Name())
	err = errors.Join(c.fetch(ctx, a, p, f, tmp), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if c.Force {
		return os.Rename(tmp.Name(), path)
	}
	err = os.Link(tmp.Name(), path) // unlike a renaming it replaces nothing
	if errors.Is(err, fs.ErrExist) {
		return exists(path)
	}
	if err != nil { // a file system without links
		if _, err := os.Lstat(path); err == nil {
			return exists(path)
		}
		return os.Rename(tmp.Name(), path)
	}
	return nil
}

func exists(path string) error {
	return advise(usage("%s is there already", clean(path)), "--to names another place, --force replaces it.")
}

// bar shows on a terminal how far a file is.
type bar struct {
	out   io.Writer // nil shows nothing
	verb  string
	shown int64 // percent, -1 before the first
}

func (a *app) progress(verb string) *bar {
	b := &bar{verb: verb, shown: -1}
	if !a.JSON && a.asker.interactive() {
		b.out = a.stderr
	}
	return b
}

func (b *bar) tell(done, total int64) {
	percent := int64(100)
	if total > 0 {
		percent = done * 100 / total
	}
	if b.out == nil || percent == b.shown {
		return
	}
	b.shown = percent
	const width = 30
	full := int(percent) * width / 100
	fmt.Fprintf(b.out, "\r%s [%s%s] %3d%% of %s", b.verb, strings.Repeat("#", full), strings.Repeat(" ", width-full), percent, bytesText(total))
}

func (b *bar) end() {
	if b.out != nil && b.shown >= 0 {
		fmt.Fprintln(b.out)
	}
}

// bytesText is a size as people read it.
func bytesText(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n/1_000_000)
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%d KB", (n+999)/1000)
}
