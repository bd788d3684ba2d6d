package core

import (
	"context"
	"sort"
	"strings"

	"github.com/clearbox-im/clearbox"
)

// Search says what Brain.Search looks for.
type Search struct {
	Words string          // all of them occur, anywhere and in any case
	In    *ConversationID // nil: everywhere
	Limit int             // 0 is 100
}

// Search gives the newest lines that have all words, newest first. It reads every
// line of what is searched, about 40 ms for 10,000 messages in a vault that is in
// memory: there is no index to keep, to encrypt and to forget things from.
func (b *Brain) Search(ctx context.Context, q Search) (out []Message, err error) {
	words := strings.Fields(strings.ToLower(q.Words))
	if len(words) == 0 {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "there is nothing to look for")
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		prefix := prefixMsg
		if q.In != nil {
			real, err := q.In.real(r)
			if err != nil {
				return err
			}
			prefix += real.key() + "/"
		}
		entries, err := r.List(Range{Prefix: prefix})
		if err != nil {
			return err
		}
		now := b.now()
		for _, e := range entries {
			m, err := parse[Message](e.Value)
			if err != nil {
				return err
			}
			if m.written() && !m.goneBy(now) && m.has(words) {
				out = append(out, *m)
			}
		}
		sort.Slice(out, func(i, j int) bool { return out[i].Order > out[j].Order })
		out = out[:min(len(out), q.Limit)]
		return nil
	})
	return out, err
}

// has tells whether all words, in lower case, are in the message.
func (m *Message) has(words []string) bool {
	text := strings.ToLower(m.Text)
	if m.File != nil {
		text += "\n" + strings.ToLower(m.File.Name)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
