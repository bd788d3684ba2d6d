package servertest_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/servertest"
)

func fileBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i>>7 + i)
	}
	return b
}

func upload(all []byte) *core.Upload {
	return &core.Upload{Data: bytes.NewReader(all), Size: int64(len(all)), Name: "plan.pdf", Mime: "application/pdf"}
}

// stored gives the files of attachments at a house.
func stored(h *servertest.House) (paths []string) {
	filepath.WalkDir(h.Conf.MediaPath(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	return paths
}

// sendFile sends a file and gives it as the recipient has it.
func sendFile(w *servertest.World, from, to *servertest.Person, u *core.Upload) (*core.File, error) {
	w.T.Helper()
	c, err := from.Brain.Contact(w.T.Context(), to.Name)
	if err != nil {
		w.T.Fatal(err)
	}
	m, err := from.Brain.SendFile(w.T.Context(), core.With(c.User), core.Post{}, u)
	if err != nil {
		return nil, err
	}
	var f *core.File
	w.Wait("the file's message", time.Minute, func() bool {
		lines, err := to.Brain.Messages(context.Background(), from.User, 0, 100)
		for _, l := range lines {
			if err == nil && l.ID == m.ID {
				f = l.File
			}
		}
		return f != nil
	})
	return f, nil
}

func TestFilesBetweenHouses(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test", "b.test"}, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		w.Secret("plan.pdf")
		for _, size := range []int{0, 1, 4096, 65_536, 3_000_000} {
			all := fileBytes(size)
			f, err := sendFile(w, alice, bob, upload(all))
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			var done, total int64
			if err := bob.Brain.Fetch(w.T.Context(), f, &got, func(d, n int64) { done, total = d, n }); err != nil || !bytes.Equal(got.Bytes(), all) {
				t.Errorf("%d bytes: %d came, %v", size, got.Len(), err)
			}
			if f.Name != "plan.pdf" || f.Mime != "application/pdf" || f.Size != int64(size) || f.Origin != "a.test" || done != total || total < f.Padded {
				t.Errorf("%d bytes: %+v, %d of %d", size, f, done, total)
			}
		}
		if n := len(stored(w.House("b.test"))); n != 0 {
			t.Errorf("the reader's server keeps %d files", n)
		}
		for _, path := range stored(w.House("a.test")) {
			if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, fileBytes(3_000_000)[1000:1100]) {
				t.Errorf("a file in the clear: %v", err)
			}
		}
	})
}

// An upload that is stopped goes on where it was, also from the vault of a
// process that died.
func TestUploadGoesOn(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test"}, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@a.test")
		all := fileBytes(5_000_000)
		c, err := alice.Brain.Contact(w.T.Context(), bob.Name)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(w.T.Context())
		u := upload(all)
		u.Progress = func(done, total int64) {
			if done > total/3 {
				stop()
			}
		}
		if _, err := alice.Brain.SendFile(ctx, core.With(c.User), core.Post{}, u); err == nil {
			t.Fatal("it was not stopped")
		}
		u, first := upload(all), int64(-1)
		u.Progress = func(done, total int64) {
			if first < 0 {
				first = done
			}
		}
		f, err := sendFile(w, alice, bob, u)
		if err != nil {
			t.Fatal(err)
		}
		if first < 1_000_000 {
			t.Errorf("it began again at %d", first)
		}
		var got bytes.Buffer
		if err := bob.Brain.Fetch(w.T.Context(), f, &got, nil); err != nil || !bytes.Equal(got.Bytes(), all) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		if n := len(stored(w.House("a.test"))); n != 1 {
			t.Errorf("%d objects", n)
		}
		// Sent once more it is another object under another key.
		g, err := sendFile(w, alice, bob, upload(all))
		if err != nil || g.Object == f.Object || bytes.Equal(g.Key, f.Key) {
			t.Errorf("the key serves twice: %v", err)
		}
	})
}

// The own server goes away in the middle, for both sides.
func TestFilesOverABadLine(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test"}, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@a.test")
		all := fileBytes(4_000_000)
		cuts := 0
		cut := func(who *servertest.Person) func(done, total int64) {
			return func(done, total int64) {
				if cuts++; cuts%3 == 0 && cuts < 12 {
					w.Partition(who.Name, "a.test")
					go func() {
						time.Sleep(5 * time.Second)
						w.Heal(who.Name, "a.test")
					}()
				}
			}
		}
		u := upload(all)
		u.Progress = cut(alice)
		f, err := sendFile(w, alice, bob, u)
		if err != nil {
			t.Fatal(err)
		}
		cuts = 0
		var got bytes.Buffer
		if err := bob.Brain.Fetch(w.T.Context(), f, &got, cut(bob)); err != nil || !bytes.Equal(got.Bytes(), all) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		time.Sleep(time.Minute)
	})
}

// What a server changes, cuts or mixes is refused, and not one wrong byte comes
// before.
func TestTamperedAttachment(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test", "b.test"}, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		all := fileBytes(300_000)
		f, err := sendFile(w, alice, bob, upload(all))
		if err != nil {
			t.Fatal(err)
		}
		path := stored(w.House("a.test"))[0]
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, change := range map[string]func(b []byte) []byte{
			"first byte": func(b []byte) []byte { b[0] ^= 1; return b },
			"in between": func(b []byte) []byte { b[200_000] ^= 1; return b },
			"last byte":  func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
			"two chunks": func(b []byte) []byte {
				c := bytes.Clone(b[:65_568])
				copy(b, b[65_568:131_136])
				copy(b[65_568:], c)
				return b
			},
			"zeros": func(b []byte) []byte { clear(b[100_000:]); return b },
		} {
			if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := bob.Brain.Fetch(w.T.Context(), f, &got, nil); clearbox.CodeOf(err) != clearbox.CodeBadSignature {
				t.Errorf("%s: %v", what, err)
			}
			if !bytes.HasPrefix(all, got.Bytes()) {
				t.Errorf("%s: wrong bytes were given", what)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		for what, change := range map[string]func(f *core.File){
			"another key":    func(f *core.File) { f.Key = bytes.Clone(f.Key); f.Key[40] ^= 1 },
			"another digest": func(f *core.File) { f.Digest = make([]byte, 32) },
			"shorter":        func(f *core.File) { f.Size, f.Padded = 100_000, 100_000 },
			"longer":         func(f *core.File) { f.Size, f.Padded = 600_000, 600_000 },
		} {
			g := *f
			change(&g)
			if err := bob.Brain.Fetch(w.T.Context(), &g, io.Discard, nil); err == nil {
				t.Errorf("%s: it was accepted", what)
			}
		}
		if err := bob.Brain.Fetch(w.T.Context(), f, io.Discard, nil); err != nil {
			t.Error(err)
		}
		lines, err := alice.Brain.Messages(w.T.Context(), bob.User, 0, 10)
		if err != nil || len(lines) != 1 {
			t.Fatal(lines, err)
		}
		w.Partition(alice.Name, "a.test") // taking it back is kept until the server can be told
		if err := alice.Brain.Delete(w.T.Context(), lines[0].Ref()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if err := bob.Brain.Fetch(w.T.Context(), f, io.Discard, nil); err != nil {
			t.Error(err)
		}
		w.Heal(alice.Name, "a.test")
		w.Wait("the file's end", 5*time.Minute, func() bool { return len(stored(w.House("a.test"))) == 0 })
		if err := bob.Brain.Fetch(w.T.Context(), f, io.Discard, nil); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Errorf("deleted: %v", err)
		}
	})
}
