package auth_test

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
)

// cheap keeps tests fast; the parameters travel in the hash all the same.
var cheap = auth.Argon{MemoryKiB: 64, Iterations: 1, Lanes: 1}

func TestPasswordRules(t *testing.T) {
	names := auth.ContextWords("alice.miller", "clinic.example")
	cases := []struct {
		name, password string
		ok             bool
	}{
		{"ten characters", "vbz8k2mqpl", true},
		{"a sentence", "the cow jumped over my desk", true},
		{"other scripts", "Straßenbähnchen", true},
		{"1024 bytes", strings.Repeat("k3#x", 255) + "abcd", true},
		{"nine characters", "vbz8k2mqp", false},
		{"nine characters of 18 bytes", "äöüßéèêñç", false},
		{"1025 bytes", strings.Repeat("k3#x", 256) + "a", false},
		{"empty", "", false},
		{"not UTF-8", "vbz8k2mqpl\xff", false},
		{"common", "qwertyuiop", false},
		{"common with digits", "Password123!", false},
		{"one letter", "aaaaaaaaaaaa", false},
		{"one letter in full width", strings.Repeat("ａ", 12), false},
		{"counting", "1234567890", false},
		{"counting down", "9876543210", false},
		{"alphabet", "abcdefghijkl", false},
		{"a part repeated", "abcabcabcabcabc", false},
		{"digits only", "1990010112121", false},
		{"the handle", "alice.miller", false},
		{"the handle and little", "alice.miller1!", false},
		{"half of the handle", "millermiller99", false},
		{"the server", "clinic.example", false},
		{"the program", "ClearBox2026", false},
		{"the handle inside much else", "alice.miller likes tea", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := auth.CheckPassword(c.password, "/password", names...)
			if (err == nil) != c.ok {
				t.Fatalf("%v, want accepted: %t", err, c.ok)
			}
			if err != nil && clearbox.CodeOf(err) != clearbox.CodeBadRequest {
				t.Fatalf("code %s", clearbox.CodeOf(err))
			}
		})
	}
}

func TestPasswordHash(t *testing.T) {
	ctx := t.Context()
	h := auth.NewHasher(cheap, rand.Reader, 1, 1, time.Second)
	phc, err := h.Hash(ctx, "vbz8k2mqpl")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(phc, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatalf("stored form %s", phc)
	}
	other, _ := h.Hash(ctx, "vbz8k2mqpl")
	if other == phc {
		t.Fatal("two hashes of one password are equal: the salt does nothing")
	}
	check := func(name, phc, password string, want, wantOutdated bool) {
		t.Helper()
		ok, outdated, err := h.Verify(ctx, phc, password)
		if err != nil || ok != want || outdated != wantOutdated {
			t.Fatalf("%s: %t, outdated %t, %v", name, ok, outdated, err)
		}
	}
	check("the right one", phc, "vbz8k2mqpl", true, false)
	check("another one", phc, "vbz8k2mqpm", false, false)
	check("empty", phc, "", false, false)
	check("too long", phc, strings.Repeat("x", 1025), false, false)
	check("not UTF-8", phc, "vbz8k2mqpl\xff", false, false)
	check("of nobody", "", "vbz8k2mqpl", false, false)
	check("of nobody, empty", "", "", false, false)

	composed, _ := h.Hash(ctx, "pass\u00e9bcdefg")
	check("the same text in another form", composed, "passe\u0301bcdefg", true, false)

	dearer := auth.NewHasher(auth.Argon{MemoryKiB: 128, Iterations: 2, Lanes: 1}, rand.Reader, 1, 1, time.Second)
	old, _ := dearer.Hash(ctx, "vbz8k2mqpl")
	check("made at another cost", old, "vbz8k2mqpl", true, true)
}

func TestPasswordHashDefaultIsTheRecommendedCost(t *testing.T) {
	h := auth.NewHasher(auth.Argon{}, rand.Reader, 1, 1, time.Minute)
	phc, err := h.Hash(t.Context(), "vbz8k2mqpl")
	if err != nil || !strings.HasPrefix(phc, "$argon2id$v=19$m=65536,t=3,p=4$") {
		t.Fatalf("%s, %v", phc, err)
	}
}

func TestStoredHashThatIsDamaged(t *testing.T) {
	h := auth.NewHasher(cheap, rand.Reader, 1, 1, time.Second)
	good, _ := h.Hash(t.Context(), "vbz8k2mqpl")
	for _, bad := range []string{
		"x", "$argon2i$" + good[9:], strings.Replace(good, "v=19", "v=16", 1), strings.Replace(good, "m=64", "m=064", 1),
		strings.Replace(good, "m=64", "m=99999999", 1), strings.Replace(good, "t=1", "t=0", 1), strings.Replace(good, "p=1", "p=300", 1),
		good[:len(good)-4], good + "=", good + strings.Repeat("A", 300), strings.Replace(good, ",p=1", "", 1),
	} {
		if ok, _, err := h.Verify(t.Context(), bad, "vbz8k2mqpl"); err == nil || ok {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func FuzzStoredHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=64,t=1,p=1$MTIzNDU2Nzg$MTIzNDU2NzgxMjM0NTY3ODEyMzQ1Njc4MTIzNDU2Nzg")
	f.Add("$argon2id$v=19$m=,t=1,p=1$$")
	f.Add("$argon2id$v=19$m=64,t=1,p=1$MTIzNDU2Nzg$MTIzNDU2NzgxMjM0NTY3O\n\nDEyMzQ1Njc4MTIzNDU2Nzg")
	f.Fuzz(func(t *testing.T, s string) {
		if again, err := auth.ReprintPHC(s); err == nil && again != s {
			t.Fatalf("%q became %q", s, again)
		}
	})
}

// The gate lets so many hashes run and so many wait, and tells the rest when to
// come back.
func TestGateIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := auth.NewHasher(cheap, rand.Reader, 1, 2, 3*time.Second)
		leave, err := h.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := h.Enter(t.Context())
				waiting <- err
			}()
		}
		synctest.Wait()
		_, err = h.Enter(t.Context())
		if after, ok := throttle.RetryAfter(err); clearbox.CodeOf(err) != clearbox.CodeRateLimited || !ok || after != 3*time.Second {
			t.Fatalf("the one too many: %v, after %v", err, after)
		}
		leave()
		if err := <-waiting; err != nil {
			t.Fatalf("the first in the queue: %v", err)
		}
		err = <-waiting // nobody leaves any more
		if _, ok := throttle.RetryAfter(err); clearbox.CodeOf(err) != clearbox.CodeUnavailable || !ok {
			t.Fatalf("the second in the queue: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.Enter(ctx); clearbox.CodeOf(err) != clearbox.CodeUnavailable {
			t.Fatalf("a request that was given up: %v", err)
		}
	})
}
