package franking_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/clearbox-im/clearbox/crypto/franking"
)

var key = bytes.Repeat([]byte{7}, franking.KeySize)

// They were computed by hand from the description, with another language's HMAC.
const (
	want      = "84926d42f1bd47cc307bd9ae6cc4c861"
	wantAgain = "01020304a9e5a4612b6aca98d680dd88"
)

func said() franking.Revealed {
	return franking.Revealed{Kind: 1, Sent: 1_764_000_000_000, From: "abc@a.test", Text: "hello"}
}

func TestWhatIsShownMustBeWhatWasSaid(t *testing.T) {
	r := said()
	id, err := franking.Commit(key, &r)
	if err != nil {
		t.Fatal(err)
	}
	if !franking.Verify(key, &r, id) {
		t.Fatal("the truth was refused")
	}
	for name, alter := range map[string]func(*franking.Revealed){
		"kind":           func(r *franking.Revealed) { r.Kind++ },
		"time":           func(r *franking.Revealed) { r.Sent++ },
		"sender":         func(r *franking.Revealed) { r.From = "abd@a.test" },
		"server":         func(r *franking.Revealed) { r.From = "abc@b.test" },
		"text":           func(r *franking.Revealed) { r.Text = "hellp" },
		"boundary":       func(r *franking.Revealed) { r.From, r.Text = r.From+r.Text[:1], r.Text[1:] },
		"file":           func(r *franking.Revealed) { r.File = franking.FileDigest([]byte{1}, []byte{2}) },
		"text too long":  func(r *franking.Revealed) { r.Text = strings.Repeat("x", franking.MaxText+1) },
		"sender so long": func(r *franking.Revealed) { r.From = strings.Repeat("x", franking.MaxFrom+1) },
	} {
		r := said()
		alter(&r)
		if franking.Verify(key, &r, id) {
			t.Errorf("%s: a lie was believed", name)
		}
	}
	other := bytes.Clone(key)
	other[31]++
	if franking.Verify(other, &r, id) || franking.Verify(key[:31], &r, id) || franking.Verify(nil, &r, id) {
		t.Error("another key was believed")
	}
	id[15]++
	if franking.Verify(key, &r, id) {
		t.Error("another id was believed")
	}
}

// The format is for ever: ids that were sent must stay provable.
func TestFormat(t *testing.T) {
	r := said()
	r.File = franking.FileDigest(bytes.Repeat([]byte{1}, 64), bytes.Repeat([]byte{2}, 32))
	id, err := franking.Commit(key, &r)
	if got := hex.EncodeToString(id[:]); err != nil || got != want {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestFileDigestFixesBothParts(t *testing.T) {
	a := franking.FileDigest([]byte{1, 2}, []byte{3})
	if a == franking.FileDigest([]byte{1}, []byte{2, 3}) || a == franking.FileDigest([]byte{1, 2}, []byte{4}) {
		t.Error("two attachments have one digest")
	}
}

func TestNewKey(t *testing.T) {
	k, err := franking.NewKey(rand.Reader)
	if err != nil || len(k) != franking.KeySize {
		t.Fatal(len(k), err)
	}
	broken := errors.New("no randomness")
	if _, err := franking.NewKey(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := franking.Commit(k[:5], new(franking.Revealed)); !errors.Is(err, franking.ErrSize) {
		t.Error(err)
	}
}

func TestAgainCommitsToTheMessage(t *testing.T) {
	r := said()
	id, err := franking.Commit(key, &r)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := franking.Again(key, id, [4]byte{1, 2, 3, 4})
	if got := hex.EncodeToString(outer[:]); err != nil || got != wantAgain {
		t.Errorf("got %s, %v", got, err) // for ever, too
	}
	if !franking.Carries(key, outer, id) || !franking.Carries(key, id, id) {
		t.Error("the truth was refused")
	}
	for i := range outer {
		lie := outer
		lie[i] ^= 1
		if franking.Carries(key, lie, id) || franking.Carries(key, outer, lie) {
			t.Error("a lie was believed", i)
		}
	}
	if franking.Carries(bytes.Repeat([]byte{8}, franking.KeySize), outer, id) || franking.Carries(nil, outer, id) {
		t.Error("another key was believed")
	}
}
