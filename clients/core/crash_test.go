package core_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// crashVault dies at its at-th Update, before or after it was carried out, as
// a process does that is killed there: nothing works afterwards.
type crashVault struct {
	inner *memvault.Vault
	at    int
	after bool

	mu   sync.Mutex // guards the rest
	n    int
	dead bool
}

var errCrash = fmt.Errorf("crashed: %w", core.ErrVaultBroken)

func (v *crashVault) View(ctx context.Context, fn func(core.Reader) error) error {
	v.mu.Lock()
	dead := v.dead
	v.mu.Unlock()
	if dead {
		return errCrash
	}
	return v.inner.View(ctx, fn)
}

func (v *crashVault) Update(ctx context.Context, fn func(core.Tx) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dead {
		return errCrash
	}
	if v.n++; v.n == v.at {
		v.dead = true
		if v.after {
			if err := v.inner.Update(ctx, fn); err != nil {
				return err
			}
		}
		return errCrash
	}
	return v.inner.Update(ctx, fn)
}

func (v *crashVault) Forget(ctx context.Context) error {
	v.mu.Lock()
	dead := v.dead
	v.mu.Unlock()
	if dead {
		return errCrash
	}
	return v.inner.Forget(ctx)
}

func (v *crashVault) hasCrashed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.dead
}

// supervise runs p and starts it again, over an intact vault, whenever it
// crashes.
func (p *person) supervise() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			err := p.current().Run(ctx)
			if ctx.Err() != nil {
				return
			}
			if !errors.Is(err, core.ErrVaultBroken) {
				p.t.Errorf("%s: Run = %v", p.name, err)
				return
			}
			p.reopen()
		}
	}()
	return func() { cancel(); <-done }
}

// restartMu guards brain in tests that replace it while others use it.
var restartMu sync.Mutex

func (p *person) current() *core.Brain {
	restartMu.Lock()
	defer restartMu.Unlock()
	return p.brain
}

func (p *person) reopen() {
	restartMu.Lock()
	defer restartMu.Unlock()
	p.vault = p.store
	p.open()
}

// say sends until the message is in the vault exactly once, as a person does
// who looks at the screen after a crash.
func (p *person) say(to *person, text string) {
	for {
		_, err := p.current().Send(ctx, to.user, text)
		if err == nil {
			return
		}
		if !errors.Is(err, core.ErrVaultBroken) {
			p.t.Error(err)
			return
		}
		settle(time.Second)
		lines, err := p.current().Messages(ctx, to.user, 0, 0)
		if err == nil && slices.ContainsFunc(lines, func(m core.Message) bool { return m.Outgoing && m.Text == text }) {
			return
		}
	}
}

// TestCrashAtEveryWrite kills either side at each write to its vault in turn,
// before and after the write took effect, in the middle of a conversation.
// Whatever happens: every message arrives, once, in order, and its sender
// learns of it.
func TestCrashAtEveryWrite(t *testing.T) {
	texts := []string{"one", "two"}
	for _, victim := range []string{"ada", "bob"} {
		for _, after := range []bool{false, true} {
			for at := 1; ; at += rounds(1, 11) {
				crashed := false
				synctest.Test(t, func(t *testing.T) {
					_, ada, bob := pair(t)
					ada.contact("bob@b.test")
					bob.contact("ada@a.test")
					p := map[string]*person{"ada": ada, "bob": bob}[victim]
					v := &crashVault{inner: p.store, at: at, after: after}
					p.vault = v
					p.open()
					stopAda, stopBob := ada.supervise(), bob.supervise()
					for _, text := range texts {
						ada.say(bob, text)
						bob.say(ada, "re: "+text)
						settle(time.Second)
					}
					settle(2 * time.Minute)
					name := fmt.Sprintf("%s at write %d, after %v", victim, at, after)
					want(t, name+": bob heard", bob.heard(ada), texts)
					want(t, name+": ada heard", ada.heard(bob), []string{"re: one", "re: two"})
					for _, one := range []struct{ p, other *person }{{ada, bob}, {bob, ada}} {
						lines, err := one.p.brain.Messages(ctx, one.other.user, 0, 0)
						if err != nil {
							t.Fatal(err)
						}
						for _, m := range lines {
							if m.Outgoing && m.State != core.StateDelivered {
								t.Errorf("%s: %q is %s (%s)", name, m.Text, m.State, m.Reason)
							}
						}
						if st, err := one.p.brain.Status(ctx); err != nil || st.Queued != 0 {
							t.Errorf("%s: %+v, %v", name, st, err)
						}
					}
					stopAda()
					stopBob()
					crashed = v.hasCrashed()
				})
				if !crashed {
					if at < 10 {
						t.Errorf("%s writes only %d times", victim, at-1)
					}
					break
				}
				if t.Failed() {
					return
				}
			}
		}
	}
}

// TestCrashWhileRegistering kills the first steps of an account, with the
// server's answer lost or not.
func TestCrashWhileRegistering(t *testing.T) {
	for _, unheard := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			for at := 1; ; at++ {
				w := newWorld(t)
				w.setFault(func(_, path string) string {
					if unheard && path == "/auth/register" {
						unheard = false
						return "unheard"
					}
					return ""
				})
				ada := newPerson(t, w, "ada@a.test")
				v := &crashVault{inner: ada.store, at: at, after: after}
				ada.vault = v
				ada.open()
				var err error
				for range 4 {
					if err = ada.brain.Register(ctx, ada.registration()); err == nil {
						break
					}
					if v.hasCrashed() {
						ada.reopen()
						if _, noAccount := ada.brain.Profile(); noAccount == nil {
							err = nil
							break
						}
					}
				}
				if err != nil {
					t.Fatalf("crash at %d: %v", at, err)
				}
				ada.reopen()
				ada.user = ada.profile().User
				if len(w.accounts) != 1 || w.names["ada@a.test"] != ada.user {
					t.Fatalf("crash at %d: %d accounts", at, len(w.accounts))
				}
				// The account's keys work.
				bob := newPerson(t, w, "bob@b.test").join()
				bob.contact("ada@a.test")
				if !v.hasCrashed() {
					break
				}
			}
		}
	}
}

// TestRefreshAcrossCrash: the new refresh token is in the vault before anything
// uses it, so a crash right after it keeps the session.
func TestRefreshAcrossCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		settle(20 * time.Minute)
		v := &crashVault{inner: ada.store, at: 1, after: true}
		ada.vault = v
		ada.open()
		if _, err := ada.brain.Contact(ctx, "bob@b.test"); !errors.Is(err, core.ErrVaultBroken) {
			t.Fatalf("Contact = %v", err)
		}
		ada.reopen()
		ada.send(bob, "still here")
		settle(20 * time.Minute)
		ada.contact(bob.user.String())
		// A lost answer does end the session, and the password begins a new one.
		ada.w.setFault(func(_, path string) string {
			if path == "/auth/refresh" {
				return "unheard"
			}
			return ""
		})
		if _, err := ada.brain.Devices(ctx); clearbox.CodeOf(err) != clearbox.CodeUnavailable {
			t.Fatalf("Devices = %v", err)
		}
		ada.w.setFault(nil)
		if _, err := ada.brain.Devices(ctx); !errors.Is(err, core.ErrLoginRequired) {
			t.Fatalf("Devices = %v", err)
		}
		if err := ada.brain.Run(ctx); !errors.Is(err, core.ErrLoginRequired) {
			t.Fatalf("Run = %v", err)
		}
		if err := ada.brain.Login(ctx, "wrong"); clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
			t.Fatalf("Login = %v", err)
		}
		if err := ada.brain.Login(ctx, "secret"); err != nil {
			t.Fatal(err)
		}
		ada.start()
		bob.start()
		settle(5 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"still here"})
		ada.stop()
		bob.stop()
	})
}
