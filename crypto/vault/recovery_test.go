package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/vault"
)

func recoveryKey(t testing.TB, seed byte) vault.RecoveryKey {
	t.Helper()
	k, err := vault.NewRecoveryKey(source(seed))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRecoveryKeyText(t *testing.T) {
	// The form is a protocol: what was written down must be read for ever.
	fixed := vault.RecoveryKey{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff, 0xfe, 0x80, 0x7f, 0x55}
	const want = "000GD-40R4S-0M308-E209Z-185GK-R38ES-ZZZ81-0ZTNH"
	if got := fixed.Text(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for seed := range byte(50) {
		k := recoveryKey(t, seed)
		text := k.Text()
		for _, form := range []string{
			text, strings.ToLower(text), strings.ReplaceAll(text, "-", ""), strings.ReplaceAll(text, "-", " "), " " + text + "\n",
			strings.NewReplacer("0", "o", "1", "l").Replace(text), strings.ReplaceAll(text, "-", "\u2013"),
		} {
			if got, err := vault.ParseRecoveryKey(form); err != nil || got != k {
				t.Fatalf("%q: %v", form, err)
			}
		}
	}
}

// problem returns the group and kind of a refusal.
func problem(t *testing.T, text string) (int, vault.TypingProblem) {
	t.Helper()
	k, err := vault.ParseRecoveryKey(text)
	var typing *vault.TypingError
	if !errors.As(err, &typing) || k != (vault.RecoveryKey{}) {
		t.Fatalf("%q: %v", text, err)
	}
	return typing.Group, typing.Problem
}

func TestRecoveryKeyTypingErrors(t *testing.T) {
	text := recoveryKey(t, 3).Text()
	const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	for i := range text {
		if text[i] == '-' {
			continue
		}
		// Every wrong character, and every two exchanged ones of a group.
		for _, c := range alphabet {
			if byte(c) == text[i] {
				continue
			}
			if g, p := problem(t, text[:i]+string(c)+text[i+1:]); g != i/6+1 || p != vault.TypingCheck {
				t.Fatalf("character %d: group %d, %d", i, g, p)
			}
		}
		for j := i + 1; j < i/6*6+5; j++ {
			if text[i] == text[j] {
				continue
			}
			b := []byte(text)
			b[i], b[j] = b[j], b[i]
			if g, p := problem(t, string(b)); g != i/6+1 || p != vault.TypingCheck {
				t.Fatalf("characters %d and %d: group %d, %d", i, j, g, p)
			}
		}
		if g, p := problem(t, text[:i]+"U"+text[i+1:]); g != i/6+1 || p != vault.TypingCharacter {
			t.Fatalf("U at %d: group %d, %d", i, g, p)
		}
		if g, p := problem(t, text[:i]+text[i+1:]); g != i/6+1 || p != vault.TypingLength {
			t.Fatalf("without %d: group %d, %d", i, g, p)
		}
	}
	// Two groups exchanged.
	groups := strings.Split(text, "-")
	for i := range groups {
		for j := range i {
			swapped := append([]string{}, groups...)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			if g, p := problem(t, strings.Join(swapped, "-")); g != j+1 || p != vault.TypingCheck {
				t.Fatalf("groups %d and %d: group %d, %d", i, j, g, p)
			}
		}
	}
	for _, s := range []string{"", text[:41], text + "-00000", strings.ReplaceAll(text, "-", "") + "0", strings.Repeat(text, 9), strings.Repeat("é", 40)} {
		if g, p := problem(t, s); g != 0 || p != vault.TypingLength {
			t.Errorf("%q: group %d, %d", s, g, p)
		}
	}
}

func TestRecoveryKeyPurposes(t *testing.T) {
	k, other := recoveryKey(t, 1), recoveryKey(t, 2)
	seen := map[[32]byte]bool{}
	for _, p := range []vault.Purpose{vault.PurposeArchive, vault.PurposeAccount, vault.PurposeAccess, vault.PurposeExport} {
		for _, k := range []vault.RecoveryKey{k, other} {
			if s := k.Derive(p); seen[s] || s != k.Derive(p) {
				t.Fatal(p)
			} else {
				seen[s] = true
			}
		}
	}
	if s := fmt.Sprintf("%v %s %x %+v", k, k, k, k); strings.Contains(s, fmt.Sprintf("%x", k[:3])) || !strings.Contains(s, "secret") {
		t.Fatal("the key was printed")
	}
}

// A wrong recovery key is told from a damaged backup.
func TestWrongRecoveryKey(t *testing.T) {
	right, wrong := recoveryKey(t, 1).Derive(vault.PurposeArchive), recoveryKey(t, 2).Derive(vault.PurposeArchive)
	var b bytes.Buffer
	w, err := vault.NewWriter(&b, source(1), right[:], vault.Header{Kind: vault.KindArchive}, context)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.WriteFrame([]byte("history")), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := read(bytes.NewReader(b.Bytes()), wrong[:], context); err != vault.ErrSecret {
		t.Fatal(err)
	}
	if frames, err := read(bytes.NewReader(b.Bytes()), right[:], context); err != nil || len(frames) != 1 {
		t.Fatal(err)
	}
}

func FuzzParseRecoveryKey(f *testing.F) {
	f.Add(recoveryKey(f, 1).Text())
	f.Add("00000 00000 00000 00000 00000 00000 00000 00000")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := vault.ParseRecoveryKey(text)
		if err != nil {
			return
		}
		if again, err := vault.ParseRecoveryKey(k.Text()); err != nil || again != k {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
