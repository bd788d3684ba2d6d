package core_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/vault"
)

// secured makes a recovery key for p.
func (p *person) secured() vault.RecoveryKey {
	p.t.Helper()
	var key vault.RecoveryKey
	err := p.brain.SetUpRecovery(ctx, func(text string) (err error) {
		key, err = vault.ParseRecoveryKey(text)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

// recover makes a blank computer a device of p's account again.
func (p *person) recovered(key vault.RecoveryKey) (*person, core.Recovered, error) {
	fresh := p.blank()
	out, err := fresh.brain.Recover(ctx, core.Recovery{
		Server: p.name.Server, Handle: p.name.Handle, Password: "secret", Key: key, DeviceName: "new laptop",
	})
	return fresh, out, err
}

func (p *person) backup() core.Backup {
	p.t.Helper()
	st, err := p.brain.Backup(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return st
}

// TestRecovery: all devices are lost; password and recovery key give account,
// contacts and history back, what was archived minutes ago included.
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(5 * time.Second)
		bob.send(ada, "re: one")
		settle(5 * time.Second)
		if st := bob.backup(); st.On {
			t.Errorf("backed up from the start: %+v", st)
		}
		key := bob.secured()
		if st := bob.backup(); !st.On || st.At == 0 || st.Pending != 0 {
			t.Errorf("after the setup: %+v", st)
		}
		two := core.Ref{ID: ada.send(bob, "two"), Author: ada.user}
		settle(3 * time.Second)
		if err := errors.Join(bob.brain.Pin(ctx, two, true), bob.brain.SetDraft(ctx, core.With(ada.user), "re: two")); err != nil {
			t.Fatal(err)
		}
		settle(3 * time.Minute)
		if st := bob.backup(); st.Pending != 0 {
			t.Errorf("three minutes later: %+v", st)
		}
		bob.stop()
		back, out, err := bob.recovered(key)
		if err != nil || out.Missing || out.Messages != 3 || out.Device != 2 {
			t.Fatalf("%+v, %v", out, err)
		}
		want(t, "what came back", back.all(ada), []string{"one", "me: re: one", "two"})
		if c, err := back.brain.Conversation(ctx, core.With(ada.user)); err != nil || !slices.Equal(c.Pins, []core.Ref{two}) || c.Draft != "re: two" {
			t.Errorf("the conversation came back as %+v, %v", c, err)
		}
		back.start()
		settle(2 * time.Second)
		ada.send(bob, "three")
		settle(5 * time.Second)
		back.send(ada, "re: three")
		settle(3 * time.Minute)
		want(t, "what is there then", back.all(ada), []string{"one", "me: re: one", "two", "three", "me: re: three"})
		want(t, "ada heard", ada.heard(bob), []string{"re: one", "<devices_changed>", "re: three"})
		// The new device archives on, and the old one is taken off the list.
		if st := back.backup(); !st.On || st.Pending != 0 {
			t.Errorf("the new device: %+v", st)
		}
		if err := back.brain.RemoveDevice(ctx, 1); err != nil {
			t.Fatal(err)
		}
		again, out, err := bob.recovered(key)
		if err != nil || out.Missing {
			t.Fatalf("once more: %+v, %v", out, err)
		}
		if n := len(again.all(ada)); n != 5 {
			t.Errorf("%d lines the second time", n)
		}
		ada.stop()
		back.stop()
		_ = w
	})
}

// TestRecoveryIsRefused: a wrong key, a wrong password.
func TestRecoveryIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, bob := pair(t)
		key := bob.secured()
		key[0] ^= 1
		if fresh, _, err := bob.recovered(key); !errors.Is(err, core.ErrNothingArchived) || fresh.brain.HasAccount() {
			t.Errorf("another key: %v", err)
		}
		key[0] ^= 1
		fresh := bob.blank()
		_, err := fresh.brain.Recover(ctx, core.Recovery{Server: "b.test", Handle: "bob", Password: "guess", Key: key, DeviceName: "x"})
		if clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
			t.Errorf("another password: %v", err)
		}
		before := key
		key = bob.secured() // a new key takes the place of the one before
		if _, _, err := bob.recovered(before); !errors.Is(err, core.ErrNothingArchived) {
			t.Errorf("the key before: %v", err)
		}
		if _, out, err := bob.recovered(key); err != nil || out.Missing {
			t.Errorf("the new key: %+v, %v", out, err)
		}
	})
}

// TestHostileArchive: what a server leaves out, puts back or alters is noticed.
func TestHostileArchive(t *testing.T) {
	// archived gives somebody whose archive has three items and an account item,
	// and an older account item that the server should have deleted.
	archived := func(t *testing.T) (*world, *person, vault.RecoveryKey, []byte) {
		w, ada, bob := pair(t)
		key := bob.secured()
		w.mu.Lock()
		list := w.accounts[bob.user].list
		w.mu.Unlock()
		for range 2 {
			if err := core.FillTalk(ctx, bob.brain, ada.user, 10); err != nil {
				t.Fatal(err)
			}
			if err := bob.brain.BackUp(ctx); err != nil {
				t.Fatal(err)
			}
		}
		return w, bob, key, list
	}
	for name, harm := range map[string]func(w *world, a *account){
		"the last item left out": func(_ *world, a *account) {
			a.archive = append(a.archive[:len(a.archive)-2], a.archive[len(a.archive)-1])
		},
		"the first left out": func(_ *world, a *account) { a.archive = a.archive[1:] },
		"one altered":        func(_ *world, a *account) { a.archive[0].Body = altered(a.archive[0].Body) },
		"two exchanged": func(_ *world, a *account) {
			a.archive[0].Body, a.archive[1].Body = a.archive[1].Body, a.archive[0].Body
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, bob, key, _ := archived(t)
				w.mu.Lock()
				harm(w, w.accounts[bob.user])
				w.mu.Unlock()
				if _, out, err := bob.recovered(key); err == nil && !out.Missing {
					t.Errorf("nobody noticed: %+v", out)
				}
			})
		})
	}
	t.Run("put back to an older state", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, bob, key, _ := archived(t)
			w.mu.Lock()
			a := w.accounts[bob.user]
			a.archive = a.archive[:1]
			w.mu.Unlock()
			if err := core.FillTalk(ctx, bob.brain, bob.user, 1); err != nil {
				t.Fatal(err)
			}
			if err := bob.brain.BackUp(ctx); err != nil {
				t.Fatal(err)
			}
			if st := bob.backup(); !st.Lost || st.Pending != 0 {
				t.Errorf("the device: %+v", st)
			}
			if _, out, err := bob.recovered(key); err != nil || out.Messages < 21 {
				t.Errorf("all was uploaded anew: %+v, %v", out, err)
			}
		})
	})
	t.Run("an older list of devices", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, bob, key, list := archived(t)
			bob.linked()
			if err := bob.brain.BackUp(ctx); err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			w.accounts[bob.user].list = list
			w.mu.Unlock()
			if fresh, _, err := bob.recovered(key); clearbox.CodeOf(err) != clearbox.CodeBadSignature || fresh.brain.HasAccount() {
				t.Errorf("the list before: %v", err)
			}
		})
	})
	t.Run("another account's list", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, bob, key, _ := archived(t)
			eve := newPerson(t, w, "eve@b.test").join()
			w.mu.Lock()
			w.accounts[bob.user].list = w.accounts[eve.user].list
			w.mu.Unlock()
			if _, _, err := bob.recovered(key); clearbox.CodeOf(err) != clearbox.CodeBadSignature {
				t.Errorf("a swapped identity: %v", err)
			}
		})
	})
}

// TestBackupSaysWhyNot: consent that was withdrawn stops the archive, and is named.
func TestBackupSaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		bob.secured()
		w.mu.Lock()
		w.accounts[bob.user].archiving = false
		w.mu.Unlock()
		if err := core.FillTalk(ctx, bob.brain, ada.user, 1); err != nil {
			t.Fatal(err)
		}
		if err := bob.brain.BackUp(ctx); clearbox.CodeOf(err) != clearbox.CodeConsentRequired {
			t.Errorf("without consent: %v", err)
		}
		if st := bob.backup(); st.Problem != clearbox.CodeConsentRequired || st.Pending == 0 {
			t.Errorf("%+v", st)
		}
		if err := bob.brain.StopRecovery(ctx); err != nil {
			t.Fatal(err)
		}
		if st := bob.backup(); st.On {
			t.Errorf("%+v", st)
		}
	})
}

// TestOwnDevicesShareTheArchive: a key that was made on one device serves all, and
// what each has comes back once.
func TestOwnDevicesShareTheArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		phone := bob.linked()
		ada.start()
		bob.start()
		phone.start()
		settle(5 * time.Second)
		ada.send(bob, "one")
		settle(5 * time.Second)
		key := phone.secured()
		settle(3 * time.Minute)
		for _, d := range []*person{bob, phone} {
			if st := d.backup(); !st.On || st.At == 0 || st.Pending != 0 || st.Lost {
				t.Errorf("%+v", st)
			}
		}
		var texts []string
		for i := range 6 { // either device archives first, now and then
			texts = append(texts, fmt.Sprint("message ", i))
			ada.send(bob, texts[i])
			settle(5 * time.Second)
			if err := []*person{bob, phone}[i%2].brain.BackUp(ctx); err != nil {
				t.Fatal(err)
			}
			settle(time.Second)
		}
		settle(3 * time.Minute)
		back, out, err := bob.recovered(key)
		if err != nil || out.Missing || out.Messages != 7 {
			t.Errorf("%+v, %v", out, err)
		}
		want(t, "what came back", back.all(ada), append([]string{"one"}, texts...))
		ada.stop()
		bob.stop()
		phone.stop()
	})
}

// TestExportImport: a file brings back what was lost, and nothing twice.
func TestExportImport(t *testing.T) {
	_, ada, bob := pair(t)
	if err := core.FillTalk(ctx, bob.brain, ada.user, 100); err != nil {
		t.Fatal(err)
	}
	secret := bytes.Repeat([]byte{7}, 32)
	var file bytes.Buffer
	if n, err := bob.brain.Export(ctx, &file, secret, []byte("hint")); err != nil || n != 100 {
		t.Fatalf("%d, %v", n, err)
	}
	open := func(hint []byte) ([]byte, error) {
		if string(hint) != "hint" {
			t.Errorf("hint %q", hint)
		}
		return secret, nil
	}
	if n, err := bob.brain.Import(ctx, bytes.NewReader(file.Bytes()), open); err != nil || n != 0 {
		t.Errorf("into itself: %d, %v", n, err)
	}
	if err := core.Forget(ctx, bob.brain, ada.user); err != nil {
		t.Fatal(err)
	}
	if n, err := bob.brain.Import(ctx, bytes.NewReader(file.Bytes()), open); err != nil || n != 100 {
		t.Errorf("after a loss: %d, %v", n, err)
	}
	if n := len(bob.all(ada)); n != 100 {
		t.Errorf("%d lines", n)
	}
	_, err := ada.brain.Import(ctx, bytes.NewReader(file.Bytes()), open)
	if clearbox.CodeOf(err) != clearbox.CodeForbidden {
		t.Errorf("somebody else's: %v", err)
	}
	for name, broken := range map[string][]byte{"altered": altered(file.Bytes()), "cut": file.Bytes()[:file.Len()-100]} {
		if _, err := bob.brain.Import(ctx, bytes.NewReader(broken), open); clearbox.CodeOf(err) != clearbox.CodeBadSignature {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = bob.brain.Import(ctx, bytes.NewReader(file.Bytes()), func([]byte) ([]byte, error) { return make([]byte, 32), nil })
	if clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
		t.Errorf("another passphrase: %v", err)
	}
}

// TestArchiveBeginsAnew: a long chain is replaced by a short one, whole.
func TestArchiveBeginsAnew(t *testing.T) {
	const most = 20
	w, ada, bob := pair(t)
	core.SetLimits(bob.brain, most)
	key := bob.secured()
	for range most + 2 {
		if err := core.FillTalk(ctx, bob.brain, ada.user, 1); err != nil {
			t.Fatal(err)
		}
		if err := bob.brain.BackUp(ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.mu.Lock()
	n := len(w.accounts[bob.user].archive)
	w.mu.Unlock()
	if n > 10 {
		t.Errorf("%d items", n)
	}
	if st := bob.backup(); st.Lost || st.Pending != 0 {
		t.Errorf("%+v", st)
	}
	if _, out, err := bob.recovered(key); err != nil || out.Missing || out.Messages != most+2 {
		t.Errorf("%+v, %v", out, err)
	}
}
