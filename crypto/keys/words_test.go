package keys_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/keys"
)

func TestFingerprintWords(t *testing.T) {
	// SHA-256 of "abc" begins with ba7816bf8f01cfea (FIPS 180-2, B.1).
	got := keys.FingerprintWords([]byte("abc"))
	list := keys.WordList()
	var want []string
	for _, i := range []byte{0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea} {
		want = append(want, list[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	golden(t, "words.txt", []byte(strings.Join(list, "\n")+"\n"))
}

// A misheard word must not be another word of the list.
func TestWordsAreDistinct(t *testing.T) {
	list := keys.WordList()
	form := regexp.MustCompile(`^[a-z]{4,9}$`)
	for i, a := range list {
		if !form.MatchString(a) {
			t.Errorf("%q", a)
		}
		for _, b := range list[i+1:] {
			if a[:3] == b[:3] || distance(a, b) < 3 {
				t.Errorf("%q and %q are too alike", a, b)
			}
		}
	}
}

// distance counts the letters to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
