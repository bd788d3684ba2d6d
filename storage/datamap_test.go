package storage_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// TestDatamapIsComplete reads the live schema: every column has a fate, and
// every fate a column.
func TestDatamapIsComplete(t *testing.T) {
	w := open(t)
	var live, mapped []string
	w.view(func(tx *storage.Tx) (err error) {
		live, err = tx.LiveColumns()
		return err
	})
	for _, c := range storage.Datamap() {
		mapped = append(mapped, c.Table+"."+c.Column)
		if c.Personal == "" || c.Purpose == "" || c.Basis == "" || c.Export == "" || c.Erase == "" || c.Retention == "" {
			t.Errorf("%s.%s: an answer is missing: %+v", c.Table, c.Column, c)
		}
		if (c.Personal == storage.SealedData || c.Personal == storage.PlainData) && c.Basis == storage.BasisNone {
			t.Errorf("%s.%s is personal and has no legal basis", c.Table, c.Column)
		}
		if c.Personal != storage.NotPersonal && c.Erase == storage.EraseNothing {
			t.Errorf("%s.%s is personal and is not erased", c.Table, c.Column)
		}
	}
	slices.Sort(live)
	slices.Sort(mapped)
	for _, c := range live {
		if !slices.Contains(mapped, c) {
			t.Errorf("%s has no fate in the data map", c)
		}
	}
	for i, c := range mapped {
		if !slices.Contains(live, c) {
			t.Errorf("the data map lists %s, which does not exist", c)
		}
		if i > 0 && mapped[i-1] == c {
			t.Errorf("the data map lists %s twice", c)
		}
	}
	if len(live) < 100 {
		t.Errorf("only %d columns were read", len(live))
	}
}

// TestSealedColumnsAreSealed stores marked values everywhere and searches the
// files; then the key is destroyed and the values read as empty.
func TestSealedColumnsAreSealed(t *testing.T) {
	const mark = "kanarienvogel"
	w := open(t)
	u, d := w.user(mark)
	w.update(func(tx *storage.Tx) error {
		must(t, tx.SetPassword(u.No, "$"+mark))
		must(t, tx.SetDeviceList(u.No, []byte("list "+mark), 2))
		must(t, tx.CreateInvite(&storage.Invite{ID: "i", Hash: []byte("h"), For: mark, Expires: testStart * 2}))
		must(t, tx.AddArchive(u.No, []storage.ArchiveItem{{ID: "a", Conversation: []byte("with " + mark), Body: []byte("body " + mark)}}))
		must(t, tx.PutSigningKey(storage.SigningKey{ID: "k", Private: []byte("private " + mark)}))
		return tx.PutRemoteUser(&storage.RemoteUser{
			User:   clearbox.UserID{UID: clearbox.UID("remote" + mark), Server: "b.test"},
			Handle: "remote" + mark, DeviceList: []byte("remote list " + mark),
		})
	})
	var read []string
	look := func() {
		read = nil
		w.view(func(tx *storage.Tx) error {
			got, err := tx.UserByNo(u.No)
			must(t, err)
			dev, err := tx.Device(u.No, d.ID)
			must(t, err)
			items, err := tx.Archive(u.No, 0, 10, true)
			must(t, err)
			read = append(read, string(got.Handle), got.Password, string(got.DeviceList), dev.Name, string(items[0].Conversation), string(items[0].Body))
			return nil
		})
	}
	look()
	if want := []string{mark, "$" + mark, "list " + mark, "phone of " + mark, "with " + mark, "body " + mark}; !slices.Equal(read, want) {
		t.Errorf("read %q", read)
	}
	w.reopen() // everything is in the files now
	err := filepath.WalkDir(filepath.Dir(w.path), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(mark)) {
			t.Errorf("%s holds a personal value in the clear", filepath.Base(path))
		}
		return err
	})
	must(t, err)
	must(t, w.keys.Destroy(t.Context(), u.Key))
	look()
	if !slices.Equal(read, make([]string, 6)) {
		t.Errorf("after the key was destroyed: %q", read)
	}
}
