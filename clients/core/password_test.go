package core_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

func (w *world) giveReset(user clearbox.UserID, code string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accounts[user].reset = code
}

func TestChangePassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, _ := pair(t)
		if err := ada.brain.ChangePassword(ctx, "wrong", "another"); clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
			t.Errorf("with the wrong password: %v", err)
		}
		if err := ada.brain.ChangePassword(ctx, "secret", "another"); err != nil {
			t.Fatal(err)
		}
		if _, err := ada.brain.Devices(ctx); err != nil { // in the new session
			t.Error(err)
		}
		if err := ada.brain.Login(ctx, "secret"); clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
			t.Errorf("the old password: %v", err)
		}
		if err := ada.brain.Login(ctx, "another"); err != nil {
			t.Error(err)
		}
	})
}

func TestResetPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		w.giveReset(ada.user, "code")
		if err := ada.brain.ResetPassword(ctx, "other", "another"); clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
			t.Errorf("with a wrong code: %v", err)
		}
		// The answer is lost: the code is used up, and the same call goes on.
		w.setFault(func(_, path string) string {
			if path == "/auth/reset" {
				return "unheard"
			}
			return ""
		})
		if err := ada.brain.ResetPassword(ctx, "code", "another"); clearbox.CodeOf(err) != clearbox.CodeUnavailable {
			t.Errorf("without an answer: %v", err)
		}
		w.setFault(nil)
		if _, err := ada.brain.Devices(ctx); !errors.Is(err, core.ErrLoginRequired) {
			t.Errorf("the session lives: %v", err)
		}
		if err := ada.brain.ResetPassword(ctx, "code", "another"); err != nil {
			t.Fatal(err)
		}
		if _, err := ada.brain.Devices(ctx); err != nil {
			t.Error(err)
		}
		// The login after it fails: the password is set, and the error says so.
		w.giveReset(ada.user, "second")
		w.setFault(func(_, path string) string {
			if path == "/auth/login" {
				return "lost"
			}
			return ""
		})
		err := ada.brain.ResetPassword(ctx, "second", "a third")
		if clearbox.CodeOf(err) != clearbox.CodeUnavailable || err.Error() != "the new password is set, but there is no session yet: the server cannot be reached" {
			t.Error(err)
		}
		w.setFault(nil)
		if err := ada.brain.Login(ctx, "a third"); err != nil {
			t.Error(err)
		}
		// Somebody else's code changes somebody else's password, and says so.
		w.giveReset(bob.user, "for bob")
		if err := ada.brain.ResetPassword(ctx, "for bob", "a fourth"); clearbox.CodeOf(err) != clearbox.CodeBadCredentials || err.Error() == "bad_credentials" {
			t.Error(err)
		}
	})
}
