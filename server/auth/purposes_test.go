package auth_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/server/auth"
)

// TestPurposeTexts: nobody consents to a bare name, in either language.
func TestPurposeTexts(t *testing.T) {
	seen := map[string]auth.Purpose{}
	for _, p := range auth.Purposes() {
		for _, language := range []string{"en", "de-AT"} {
			text := p.Text(language)
			if other := seen[text]; other != "" {
				t.Errorf("%s and %s have the same text", p, other)
			}
			seen[text] = p
			says := map[string]string{"en": "Without it ", "de-AT": "Ohne Einwilligung "}[language]
			if !strings.HasSuffix(text, ".") || !strings.Contains(text, says) {
				t.Errorf("%s in %s does not say what a no means: %q", p, language, text)
			}
		}
		if p.Text("fr") != p.Text("en") || p.Text("") != p.Text("en-GB") || p.Text("DE") != p.Text("de") {
			t.Errorf("%s: the wrong language", p)
		}
	}
}

// TestNoticeHash: what is recorded with a consent proves every word that was
// shown. If this hash changes, so did a sentence: does it ask for more than
// before? Then the default notice needs another version.
func TestNoticeHash(t *testing.T) {
	n := auth.NewNotice("1", "de", "Wir speichern wenig.")
	shown := n.Text
	for _, p := range auth.Purposes() {
		shown += "\n" + string(p) + ": " + p.Text("de")
	}
	sum := sha256.Sum256([]byte(shown))
	if n.Hash != hex.EncodeToString(sum[:]) {
		t.Errorf("hash %s is not of what is shown", n.Hash)
	}
	for language, want := range map[string]string{
		"en": "15d03e8947b3a0c56df80d2b485e70892c52a65a51656b068b76ec51ceb36827",
		"de": "24319437a5a7bfd2ba3b0fdf907cf60f129553e1aa0b9ea572f87a5cb381a2aa",
	} {
		if got := auth.NewNotice("1", language, "").Hash; got != want {
			t.Errorf("the sentences in %s changed: %s", language, got)
		}
	}
}
