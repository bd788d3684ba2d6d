package vault_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/vault"
)

func newLink(t testing.TB, seed byte) *vault.Link {
	t.Helper()
	l, err := vault.NewLink(source(seed), "a.test")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// scan carries the offer as text, as a camera does.
func scan(t testing.TB, l *vault.Link) *vault.Offer {
	t.Helper()
	o, err := vault.ParseOffer(l.Offer().Text())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestLink(t *testing.T) {
	fresh := newLink(t, 1)
	offer := scan(t, fresh)
	if *offer != *fresh.Offer() || offer.Server != "a.test" {
		t.Fatalf("%+v", offer)
	}
	if n := len(fresh.Announcement()); n != vault.AnnouncementSize {
		t.Fatalf("announcement of %d bytes", n)
	}
	old, hello, err := vault.Answer(offer, fresh.Announcement())
	if err != nil || len(hello) != vault.HelloSize {
		t.Fatalf("%d bytes, %v", len(hello), err)
	}
	if _, err := old.Seal([]byte("too early")); err != vault.ErrLinkStep {
		t.Fatal(err)
	}
	if _, err := fresh.Open([]byte("too early")); err != vault.ErrLinkStep {
		t.Fatal(err)
	}
	reveal, mine, err := fresh.Hear(hello)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := old.Reveal(reveal)
	if err != nil || mine != theirs || len(reveal) != vault.RevealSize {
		t.Fatalf("%s and %s, %v", mine.Digits(), theirs.Digits(), err)
	}
	if len(mine.Words()) != 4 || len(mine.Digits()) != 7 {
		t.Fatalf("%s, %v", mine.Digits(), mine.Words())
	}
	secrets := content(vault.MaxProvision)
	sealed, err := old.Seal(secrets)
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.Clone(sealed)
	altered[100] ^= 1
	if _, err := fresh.Open(altered); err != vault.ErrLinkMessage {
		t.Fatal(err)
	}
	got, err := fresh.Open(sealed)
	if err != nil || !bytes.Equal(got, secrets) {
		t.Fatal(err)
	}
	if _, err := old.Seal(append(secrets, 0)); err != vault.ErrSize {
		t.Fatal(err)
	}
	if _, _, err := fresh.Hear(hello); err != vault.ErrLinkStep {
		t.Fatalf("a second hello: %v", err)
	}
}

// A server that puts another key in the place of the offered one is found at once.
func TestLinkSwappedKey(t *testing.T) {
	fresh, attacker := newLink(t, 1), newLink(t, 2)
	offer := scan(t, fresh)
	for name, b := range map[string][]byte{
		"another one":           attacker.Announcement(),
		"own number, their key": append(bytes.Clone(attacker.Announcement()[:vault.AnnouncementSize-32]), fresh.Announcement()[vault.AnnouncementSize-32:]...),
		"own key, their number": append(bytes.Clone(fresh.Announcement()[:vault.AnnouncementSize-32]), attacker.Announcement()[vault.AnnouncementSize-32:]...),
		"nothing":               nil,
		"longer":                append(bytes.Clone(fresh.Announcement()), 0),
	} {
		if _, _, err := vault.Answer(offer, b); err != vault.ErrLinkKey {
			t.Errorf("%s: %v", name, err)
		}
	}
	for at := 0; at < vault.AnnouncementSize; at += 7 {
		b := bytes.Clone(fresh.Announcement())
		b[at] ^= 1
		if _, _, err := vault.Answer(offer, b); err != vault.ErrLinkKey {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	other := *offer
	other.ID[0] ^= 1
	if _, _, err := vault.Answer(&other, fresh.Announcement()); err != vault.ErrLinkKey {
		t.Fatalf("another id: %v", err)
	}
	other = *offer
	other.Server = "b.test"
	if _, _, err := vault.Answer(&other, fresh.Announcement()); err != vault.ErrLinkKey {
		t.Fatalf("another server: %v", err)
	}
}

// Somebody in between, whose offer the person was shown instead: both halves
// work, and the confirmations differ.
func TestLinkInTheMiddle(t *testing.T) {
	fresh, middle := newLink(t, 1), newLink(t, 2)
	old, hello, err := vault.Answer(scan(t, middle), middle.Announcement())
	if err != nil {
		t.Fatal(err)
	}
	number, _, err := middle.Hear(hello)
	if err != nil {
		t.Fatal(err)
	}
	onOld, err := old.Reveal(number)
	if err != nil {
		t.Fatal(err)
	}
	_, forged, err := vault.Answer(scan(t, fresh), fresh.Announcement())
	if err != nil {
		t.Fatal(err)
	}
	_, onNew, err := fresh.Hear(forged)
	if err != nil {
		t.Fatal(err)
	}
	if onOld.Digits() == onNew.Digits() || strings.Join(onOld.Words(), " ") == strings.Join(onNew.Words(), " ") {
		t.Fatal("the confirmations agree")
	}
}

// Every part of what was said counts.
func TestConfirmation(t *testing.T) {
	seen := map[vault.Confirmation]bool{}
	for changed := range 5 {
		parts := [4]string{"bound", "hello", "secret", "number"}
		if changed < 4 {
			parts[changed] = "other"
		}
		seen[vault.ConfirmationOf([]byte(parts[0]), []byte(parts[1]), []byte(parts[2]), []byte(parts[3]))] = true
	}
	if len(seen) != 5 {
		t.Fatalf("%d confirmations", len(seen))
	}
	c := vault.Confirmation{7: 42} // the first eight bytes as a number
	if c.Digits() != "000 042" {
		t.Fatal(c.Digits())
	}
}

// The number was fixed before the hello, so it cannot be chosen to fit.
func TestLinkReveal(t *testing.T) {
	fresh := newLink(t, 1)
	old, hello, err := vault.Answer(scan(t, fresh), fresh.Announcement())
	if err != nil {
		t.Fatal(err)
	}
	reveal, _, err := fresh.Hear(hello)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(reveal)
	other[31] ^= 1
	for _, b := range [][]byte{other, nil, reveal[:31], append(bytes.Clone(reveal), 0)} {
		if _, err := old.Reveal(b); err != vault.ErrLinkMessage {
			t.Fatal(err)
		}
		if _, err := old.Seal(nil); err != vault.ErrLinkStep {
			t.Fatal(err)
		}
	}
}

func TestLinkAlteredHello(t *testing.T) {
	fresh := newLink(t, 1)
	_, hello, err := vault.Answer(scan(t, fresh), fresh.Announcement())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{nil, hello[:len(hello)-1], append(bytes.Clone(hello), 0)} {
		if _, _, err := fresh.Hear(b); err != vault.ErrLinkMessage {
			t.Fatal(err)
		}
	}
	for at := 0; at < len(hello); at += 13 {
		b := bytes.Clone(hello)
		b[at] ^= 1
		if _, _, err := fresh.Hear(b); err != vault.ErrLinkMessage {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	if _, _, err := fresh.Hear(hello); err != nil {
		t.Fatalf("the intact one afterwards: %v", err)
	}
	// The server's hello for another offer.
	other := newLink(t, 2)
	if _, _, err := other.Hear(hello); err != vault.ErrLinkMessage {
		t.Fatal(err)
	}
}

func TestOfferText(t *testing.T) {
	text := newLink(t, 1).Offer().Text()
	if !strings.HasPrefix(text, "clearbox-link:1/a.test/") || len(text) > 120 {
		t.Fatal(text)
	}
	for _, form := range []string{text, strings.ToUpper(text), " " + text + "\n"} {
		if _, err := vault.ParseOffer(form); err != nil {
			t.Errorf("%q: %v", form, err)
		}
	}
	for bad, want := range map[string]error{
		"":                                      vault.ErrOffer,
		"https://a.test":                        vault.ErrOffer,
		text[:len(text)-1]:                      vault.ErrOffer,
		text + "a":                              vault.ErrOffer,
		text + "/x":                             vault.ErrOffer,
		strings.Repeat(text, 9):                 vault.ErrOffer,
		strings.Replace(text, ":1/", ":2/", 1):  vault.ErrLinkVersion,
		strings.Replace(text, ":1/", ":01/", 1): vault.ErrLinkVersion,
		strings.Replace(text, "a.test", "", 1):  vault.ErrOffer,
		strings.Replace(text, "a.test", "a_test", 1):   vault.ErrOffer,
		strings.Replace(text, "a.test", "a@b.test", 1): vault.ErrOffer,
	} {
		if _, err := vault.ParseOffer(bad); err != want {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, server := range []string{"", "A.test", "a b", strings.Repeat("a", 256)} {
		if _, err := vault.NewLink(source(1), server); err != vault.ErrOffer {
			t.Errorf("%q: %v", server, err)
		}
	}
	for n := range 80 {
		if _, err := vault.NewLink(io.LimitReader(source(1), int64(n)), "a.test"); err == nil || errors.Is(err, vault.ErrOffer) {
			t.Fatalf("%d bytes of randomness: %v", n, err)
		}
	}
}

func FuzzParseOffer(f *testing.F) {
	f.Add(newLink(f, 1).Offer().Text())
	f.Add("clearbox-link:1/a.test//")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := vault.ParseOffer(text)
		if err != nil {
			return
		}
		again, err := vault.ParseOffer(o.Text())
		if err != nil || *again != *o {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

// FuzzLinkMessages hands arbitrary bytes to every step.
func FuzzLinkMessages(f *testing.F) {
	fresh := newLink(f, 1)
	offer := fresh.Offer()
	_, hello, err := vault.Answer(offer, fresh.Announcement())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello)
	f.Add(fresh.Announcement())
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := vault.Answer(offer, b); err == nil && !bytes.Equal(b, fresh.Announcement()) {
			t.Fatal("another announcement was answered")
		}
		// Hellos are random, and each process that fuzzes has its own.
		l := *fresh
		if reveal, _, err := l.Hear(b); err != nil && reveal != nil || err == nil && len(b) != vault.HelloSize {
			t.Fatal("no hello was heard")
		}
		old, _, err := vault.Answer(offer, fresh.Announcement())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := old.Reveal(b); err == nil {
			t.Fatal("a number was guessed")
		}
	})
}
