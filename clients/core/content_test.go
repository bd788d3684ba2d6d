package core_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

func sample() *core.Content {
	user := func(c string) clearbox.UserID {
		return clearbox.UserID{UID: clearbox.UID(strings.Repeat(c, 25) + "a"), Server: "a.test"}
	}
	return &core.Content{Kind: core.KindText, ID: clearbox.MessageID{1}, Sent: 1, From: user("b"), To: user("c"), Address: "ada@a.test", Text: "hi"}
}

func TestContentBuckets(t *testing.T) {
	sizes := map[int]bool{}
	for _, n := range []int{1, 100, 500, 4000, core.MaxText} {
		c := sample()
		c.Text = strings.Repeat("x", n)
		b, err := core.EncodeContent(c)
		if err != nil {
			t.Fatal(err)
		}
		sizes[len(b)] = true
		for size := 320; size != len(b); size *= 2 {
			if size > len(b) {
				t.Fatalf("%d bytes are no bucket", len(b))
			}
		}
		if len(b)+2000 > clearbox.MaxContent {
			t.Errorf("a text of %d bytes does not fit into an envelope", n)
		}
		got, err := core.DecodeContent(b)
		if err != nil || got.Text != c.Text || got.From != c.From || got.ID != c.ID {
			t.Fatalf("%d: %+v, %v", n, got, err)
		}
	}
	one, _ := core.EncodeContent(sample())
	c := sample()
	c.Text = "a little longer"
	two, _ := core.EncodeContent(c)
	if len(one) != len(two) {
		t.Error("short texts can be told apart by their size")
	}
	c.Text = strings.Repeat("x", core.MaxText+20000)
	if _, err := core.EncodeContent(c); clearbox.CodeOf(err) != clearbox.CodeTooLarge {
		t.Errorf("a text that is too long: %v", err)
	}
}

func TestContentRefused(t *testing.T) {
	good, err := core.EncodeContent(sample())
	if err != nil {
		t.Fatal(err)
	}
	edit := func(fn func([]byte) []byte) []byte { return fn(bytes.Clone(good)) }
	for name, b := range map[string][]byte{
		"empty":        {},
		"version":      edit(func(b []byte) []byte { b[0] = 2; return b }),
		"length":       edit(func(b []byte) []byte { b[1] = 0xff; return b }),
		"padding":      edit(func(b []byte) []byte { b[len(b)-1] = 1; return b }),
		"cut":          good[:20],
		"not CBOR":     edit(func(b []byte) []byte { b[4] = 0xff; return b }),
		"only padding": make([]byte, 160),
	} {
		if _, err := core.DecodeContent(b); !errors.Is(err, core.ErrContent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, edit := range map[string]func(*core.Content){
		"no kind": func(c *core.Content) { c.Kind = 0 }, "no id": func(c *core.Content) { c.ID = clearbox.MessageID{} },
		"no text": func(c *core.Content) { c.Text = "" }, "no sender": func(c *core.Content) { c.From = clearbox.UserID{} },
	} {
		c := sample()
		edit(c)
		b, err := core.EncodeContent(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.DecodeContent(b); !errors.Is(err, core.ErrContent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := sample()
	c.Kind, c.Text = 99, ""
	b, _ := core.EncodeContent(c)
	if got, err := core.DecodeContent(b); err != nil || got.Kind.Known() {
		t.Errorf("a kind of the future: %+v, %v", got, err)
	}
}

func FuzzDecodeContent(f *testing.F) {
	good, err := core.EncodeContent(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:5])
	for _, make := range everyKind() {
		c := sample()
		make(c)
		b, err := core.EncodeContent(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := core.DecodeContent(b)
		if err != nil {
			if !errors.Is(err, core.ErrContent) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		again, err := core.EncodeContent(c)
		if err != nil {
			if clearbox.CodeOf(err) != clearbox.CodeTooLarge {
				t.Fatal(err)
			}
			return
		}
		if _, err := core.DecodeContent(again); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}
