package storage_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"path/filepath"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	ks, err := keystore.Open(ctx, filepath.Join(dir, "keys.db"), bytes.Repeat([]byte{7}, 32), keystore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ks.Close()
	s, err := storage.Open(ctx, storage.Options{Path: filepath.Join(dir, "a.db"), Sealer: ks, Index: ks.Index})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	key, err := ks.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := clearbox.NewUID(rand.Reader)
	u := storage.User{UID: uid, Key: key, Handle: "alice", Role: storage.RoleMember}
	var d storage.DeviceRecord
	err = s.Update(ctx, func(tx *storage.Tx) error {
		if err := tx.CreateUser(&u); err != nil {
			return err
		}
		d = storage.DeviceRecord{UserNo: u.No, ID: 1, Registration: 5, Key: []byte("k"), Name: "phone"}
		if err := tx.AddDevice(&d); err != nil {
			return err
		}
		_, err := tx.PutMail(d.No, storage.Sealed{Payload: []byte("p"), Wrapped: []byte("w")}, 99)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(ctx, func(tx *storage.Tx) error {
		got, err := tx.UserByHandle("alice")
		if err != nil {
			return err
		}
		ms, err := tx.MailAfter(d.No, 0, 10, 1000)
		t.Log(got, ms)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
