package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// clean makes text from elsewhere harmless for a terminal: control characters
// and the marks that turn the direction of writing become visible. Line ends
// and tabs stay.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r), r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f:
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// indented is clean with every line but the first set in, so that no message can
// look like the beginning of another one.
func indented(s string) string { return strings.ReplaceAll(clean(s), "\n", "\n        ") }

// messageLine is a message in JSON.
type messageLine struct {
	Type        string             `json:"type"`  // message
	Order       uint64             `json:"order"` // rises; the same message always has the same one
	ID          clearbox.MessageID `json:"id"`
	From        string             `json:"from"` // name@server, or the user id while the name is not confirmed
	FromUser    clearbox.UserID    `json:"from_user"`
	With        clearbox.UserID    `json:"with"` // the other side of the conversation
	Kind        core.MessageKind   `json:"kind"`
	Text        string             `json:"text,omitempty"`
	Sent        clearbox.Millis    `json:"sent"`
	Stored      clearbox.Millis    `json:"stored"`
	State       core.State         `json:"state"`
	Reason      clearbox.Code      `json:"reason,omitempty"`
	Explanation string             `json:"explanation,omitempty"` // of Reason, a sentence
	Delayed     bool               `json:"delayed,omitempty"`
	Asked       bool               `json:"asked,omitempty"` // it could not be read, and was asked for again
}

// sentLine is the state of an own message in JSON.
type sentLine struct {
	Type        string             `json:"type"` // sent
	ID          clearbox.MessageID `json:"id"`
	To          string             `json:"to"`
	State       core.State         `json:"state"`
	Reason      clearbox.Code      `json:"reason,omitempty"`
	Explanation string             `json:"explanation,omitempty"` // of Reason, a sentence
	Delayed     bool               `json:"delayed,omitempty"`
	TheirServer *serverLine        `json:"their_server,omitempty"` // why it waits at the own server
	Text        string             `json:"text,omitempty"`         // where it was written earlier
	Sent        clearbox.Millis    `json:"sent,omitempty"`         // likewise
}

// name is what a contact is called on screen.
func (p *profile) name(ctx context.Context, user clearbox.UserID) string {
	if who, err := p.brain.Profile(); err == nil && who.User == user {
		return who.Address.String()
	}
	if c, err := p.brain.Known(ctx, user.String()); err == nil && c.Address != "" {
		return c.Address
	}
	return user.String()
}

// clock is a moment as a person reads it: the day where it is not today.
func (a *app) clock(at clearbox.Millis) string {
	t := time.UnixMilli(int64(at))
	if now := a.now(); t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// show prints one line of a conversation; an own one with how far it came,
// unless it arrived.
func (a *app) show(ctx context.Context, p *profile, m *core.Message) {
	from := p.name(ctx, m.Sender)
	if a.JSON {
		a.line(a.stdout, messageLine{
			Type: "message", Order: m.Order, ID: m.ID, From: from, FromUser: m.Sender, With: m.Conversation,
			Kind: m.Kind, Text: m.Text, Sent: m.Sent, Stored: m.Stored, State: m.State,
			Reason: m.Reason, Explanation: explanation(m), Delayed: m.Delayed, Asked: m.Asked,
		})
		return
	}
	at := a.clock(m.Sent)
	switch {
	case m.Kind == core.MessageText && m.Outgoing && m.State != core.StateDelivered:
		fmt.Fprintf(a.stdout, "%s %s: %s  [%s]\n", at, from, indented(m.Text), stateText(m))
	case m.Kind == core.MessageText:
		fmt.Fprintf(a.stdout, "%s %s: %s\n", at, from, indented(m.Text))
	case m.Kind == core.MessageUndecryptable && m.Asked:
		fmt.Fprintf(a.stdout, "%s %s: (a message could not be read; asked for it again)\n", at, from)
	case m.Kind == core.MessageUndecryptable:
		fmt.Fprintf(a.stdout, "%s %s: (a message could not be decrypted: %s; ask for it again)\n", at, from, because(m))
	case m.Kind == core.MessageIdentityChanged:
		fmt.Fprintf(a.stdout, "%s * the safety number with %s changed: cbx safety-number %s\n", at, from, from)
	default:
		fmt.Fprintf(a.stdout, "%s %s: (something that this version does not know; update cbx to see it)\n", at, from)
	}
}

// showFate prints what became of an own message that was written earlier.
func (a *app) showFate(ctx context.Context, p *profile, m *core.Message) {
	to := p.name(ctx, m.Conversation)
	if a.JSON {
		a.line(a.stdout, sentLine{
			Type: "sent", ID: m.ID, To: to, State: m.State, Reason: m.Reason, Explanation: explanation(m), Text: m.Text, Sent: m.Sent,
		})
		return
	}
	if m.State == core.StateFailed {
		fmt.Fprintf(a.stdout, "%s * not delivered to %s: \"%s\" (%s)\n", a.clock(m.Sent), to, firstWords(m.Text), because(m))
		return
	}
	fmt.Fprintf(a.stdout, "%s * delivered to %s after all: \"%s\"\n", a.clock(m.Sent), to, firstWords(m.Text))
}

// firstWords recalls a message by its beginning.
func firstWords(s string) string {
	s = strings.ReplaceAll(clean(s), "\n", " ")
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// lines gives in line by line, without line ends. In the place of a line that
// is too long for a message comes an error with CodeTooLarge, and reading goes
// on behind it; any other error is the last.
func lines(in io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		r := bufio.NewReader(in)
		for number := 1; ; number++ {
			var line []byte
			size := 0
			for {
				part, err := r.ReadSlice('\n')
				if size += len(part); size <= core.MaxText+2 { // with its line end
					line = append(line, part...)
				}
				if err == nil {
					break
				}
				if errors.Is(err, bufio.ErrBufferFull) {
					continue
				}
				if err != io.EOF {
					yield("", err)
				} else if text, err := checkLine(line, size, number); size > 0 {
					yield(text, err)
				}
				return
			}
			if !yield(checkLine(line, size, number)) {
				return
			}
		}
	}
}

func checkLine(line []byte, size, number int) (string, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	if size > core.MaxText+2 || len(text) > core.MaxText {
		return "", clearbox.Errorf(clearbox.CodeTooLarge, "line %d is too long and was not sent: a message has at most %d bytes", number, core.MaxText)
	}
	return text, nil
}
