package core_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

func file() *core.File {
	return &core.File{
		Object: "obj", Origin: "a.test", Key: make([]byte, 64), Digest: make([]byte, 32), Size: 10, Padded: 16,
		Mime: "image/png", Name: "cat.png", Width: 4, Height: 3, Thumbnail: []byte{1},
	}
}

// everyKind has one content of each kind, as small as they usually are.
func everyKind() map[string]func(*core.Content) {
	target := func(c *core.Content) { c.Target = &core.Ref{ID: clearbox.MessageID{2}} }
	return map[string]func(*core.Content){
		"text":    func(c *core.Content) {},
		"mention": func(c *core.Content) { c.Text, c.Mentions = "@bob!", []core.Mention{{User: c.To, From: 0, To: 4}} },
		"reply":   func(c *core.Content) { c.Target = &core.Ref{ID: clearbox.MessageID{2}, Author: c.To} },
		"expires": func(c *core.Content) { c.Expires = 60 },
		"receipt": func(c *core.Content) { c.Kind, c.Text, c.Read = core.KindReceipt, "", []clearbox.MessageID{{3}} },
		"edit":    func(c *core.Content) { c.Kind, c.Text = core.KindEdit, "other"; target(c) },
		"delete":  func(c *core.Content) { c.Kind, c.Text = core.KindDelete, ""; target(c) },
		"timer":   func(c *core.Content) { c.Kind, c.Text, c.Timer = core.KindTimer, "", 3600 },
		"reaction": func(c *core.Content) {
			c.Kind, c.Text, c.Emoji = core.KindReaction, "", "👍"
			c.Target = &core.Ref{ID: clearbox.MessageID{2}, Author: c.To}
		},
		"unset": func(c *core.Content) { c.Kind, c.Text = core.KindReaction, ""; target(c) },
		"profile": func(c *core.Content) {
			c.Kind, c.Text, c.Profile = core.KindProfile, "", &core.SealedProfile{Key: make([]byte, 32), Sealed: make([]byte, 60)}
		},
		"file":  func(c *core.Content) { c.Kind, c.File = core.KindFile, file() },
		"group": func(c *core.Content) { c.Group = &core.GroupContext{ID: [32]byte{1}, Epoch: 2, Head: [32]byte{3}} },
	}
}

func TestContentOfEveryKind(t *testing.T) {
	for name, make := range everyKind() {
		c := sample()
		make(c)
		b, err := core.EncodeContent(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := core.DecodeContent(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := core.EncodeContent(got)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: what was read is written otherwise: %v", name, err)
		}
		if got.Kind.String() == "" || !got.Kind.Known() {
			t.Errorf("%s: kind %d", name, got.Kind)
		}
	}
}

// TestSmallContentsLookAlike: whoever sees sizes cannot tell a reaction, a
// receipt or a deletion from a short text, in a conversation of two.
func TestSmallContentsLookAlike(t *testing.T) {
	for name, make := range everyKind() {
		if name == "file" || name == "group" || name == "profile" {
			continue
		}
		c := sample()
		c.Token = bytes.Repeat([]byte{1}, 16) // as between servers, where it is longest
		make(c)
		b, err := core.EncodeContent(c)
		if err != nil || len(b) != 320 {
			t.Errorf("%s has %d bytes: %v", name, len(b), err)
		}
	}
	c := sample()
	c.Kind, c.Text, c.Address = core.KindTyping, "", ""
	if b, err := core.EncodeContent(c); err != nil || len(b) != 160 {
		t.Errorf("a signal has %d bytes: %v", len(b), err)
	}
}

// TestPartsRefused: contents that were decrypted, and are not what their kind
// asks for.
func TestPartsRefused(t *testing.T) {
	kinds := everyKind()
	for name, edit := range map[string]func(*core.Content){
		"edit/no target":        func(c *core.Content) { c.Target = nil },
		"edit/no text":          func(c *core.Content) { c.Text = "" },
		"edit/no id":            func(c *core.Content) { c.Target.ID = clearbox.MessageID{} },
		"delete/no target":      func(c *core.Content) { c.Target = nil },
		"reaction/no target":    func(c *core.Content) { c.Target = nil },
		"reaction/long":         func(c *core.Content) { c.Emoji = strings.Repeat("x", core.MaxEmoji+1) },
		"reaction/two words":    func(c *core.Content) { c.Emoji = "a b" },
		"reaction/escape":       func(c *core.Content) { c.Emoji = "\x1b" },
		"timer/years":           func(c *core.Content) { c.Timer = core.MaxTimer + 1 },
		"expires/years":         func(c *core.Content) { c.Expires = core.MaxTimer + 1 },
		"mention/outside":       func(c *core.Content) { c.Mentions[0].To = 6 },
		"mention/empty":         func(c *core.Content) { c.Mentions[0].To = 0 },
		"mention/negative":      func(c *core.Content) { c.Mentions[0].From = -1 },
		"mention/inside a rune": func(c *core.Content) { c.Text = "ä!!!!"; c.Mentions[0].From = 1 },
		"mention/nobody":        func(c *core.Content) { c.Mentions[0].User = clearbox.UserID{} },
		"mention/overlapping":   func(c *core.Content) { c.Mentions = append(c.Mentions, c.Mentions[0]) },
		"mention/many":          func(c *core.Content) { c.Mentions = make([]core.Mention, 65) },
		"profile/none":          func(c *core.Content) { c.Profile = nil },
		"profile/short key":     func(c *core.Content) { c.Profile.Key = c.Profile.Key[1:] },
		"profile/long":          func(c *core.Content) { c.Profile.Sealed = make([]byte, 1025) },
		"file/none":             func(c *core.Content) { c.File = nil },
		"file/no place":         func(c *core.Content) { c.File.Object = "" },
		"file/bad server":       func(c *core.Content) { c.File.Origin = "A..test" },
		"file/short key":        func(c *core.Content) { c.File.Key = c.File.Key[1:] },
		"file/short digest":     func(c *core.Content) { c.File.Digest = nil },
		"file/padded to less":   func(c *core.Content) { c.File.Padded = 9 },
		"file/negative":         func(c *core.Content) { c.File.Size = -1 },
		"file/wide":             func(c *core.Content) { c.File.Width = 1<<20 + 1 },
		"file/long name":        func(c *core.Content) { c.File.Name = strings.Repeat("x", core.MaxFileName+1) },
		"file/large thumbnail":  func(c *core.Content) { c.File.Thumbnail = make([]byte, core.MaxThumbnail+1) },
		"receipt/too many read": func(c *core.Content) { c.Read = make([]clearbox.MessageID, 257) },
	} {
		kind, _, _ := strings.Cut(name, "/")
		c := sample()
		kinds[kind](c)
		edit(c)
		b, err := core.EncodeContent(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := core.DecodeContent(b); !errors.Is(err, core.ErrContent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
