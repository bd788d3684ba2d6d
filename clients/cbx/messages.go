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

// oneLine is clean for what stands within a line of ours.
func oneLine(s string) string { return strings.Join(strings.Fields(clean(s)), " ") }

// indented is clean with every line but the first set in, so that no message can
// look like the beginning of another one.
func indented(s string) string { return strings.ReplaceAll(clean(s), "\n", "\n        ") }

// messageLine is a message in JSON.
type messageLine struct {
	Type        string             `json:"type"`  // message
	Order       uint64             `json:"order"` // rises; the same message always has the same one
	ID          clearbox.MessageID `json:"id"`
	From        string             `json:"from"` // name@server, or the user id while the name is not confirmed
	FromUser    clearbox.UserID    `json:"from_user,omitzero"`
	With        clearbox.UserID    `json:"with,omitzero"`  // the other side of the conversation
	Group       clearbox.GroupID   `json:"group,omitzero"` // or the group
	GroupName   string             `json:"group_name,omitempty"`
	Event       *groupEventLine    `json:"event,omitempty"` // of kind group: what became of it
	Kind        core.MessageKind   `json:"kind"`
	Text        string             `json:"text,omitempty"`
	Sent        clearbox.Millis    `json:"sent"`
	Stored      clearbox.Millis    `json:"stored"`
	State       core.State         `json:"state"`
	Reason      clearbox.Code      `json:"reason,omitempty"`
	Explanation string             `json:"explanation,omitempty"` // of Reason, a sentence
	Delayed     bool               `json:"delayed,omitempty"`
	Asked       bool               `json:"asked,omitempty"` // it could not be read, and was asked for again
	ReplyTo     *refLine           `json:"reply_to,omitempty"`
	Mentions    []mentionLine      `json:"mentions,omitempty"`
	Edited      clearbox.Millis    `json:"edited,omitempty"`
	Reactions   []reactionLine     `json:"reactions,omitempty"`
	Expires     uint32             `json:"expires,omitempty"`       // seconds; of kind timer, those of what follows
	Disappears  clearbox.Millis    `json:"disappears,omitempty"`    // when it does, once that is known
	Unsent      clearbox.Code      `json:"change_failed,omitempty"` // why the last change to it did not go out
	File        *fileLine          `json:"file,omitempty"`
	Unproven    bool               `json:"unproven,omitempty"` // nothing proves who wrote it, so it cannot be reported
	Muted       bool               `json:"muted,omitempty"`    // nobody wants a noise about it
	Receipts    *receiptsLine      `json:"receipts,omitempty"`
}

// receiptsLine is in JSON how far an own message to a group came with its members.
type receiptsLine struct {
	Of        int           `json:"of"`        // people whom it was for
	Delivered int           `json:"delivered"` // of those, who have it, as far as they tell
	Read      int           `json:"read"`
	Failed    int           `json:"failed"`
	Members   []receiptLine `json:"members,omitempty"` // those of whom something is known
}

// receiptLine is how far an own message came with one person in JSON.
type receiptLine struct {
	Address     string          `json:"address"`
	User        clearbox.UserID `json:"user"`
	State       core.State      `json:"state"` // delivered, read or failed
	Reason      clearbox.Code   `json:"reason,omitempty"`
	Explanation string          `json:"explanation,omitempty"` // of Reason, a sentence
}

func receiptsOf(m *core.Message) *receiptsLine {
	if r := m.Reach; r != nil && r.Of > 0 {
		return &receiptsLine{Of: r.Of, Delivered: r.Delivered, Read: r.Read, Failed: r.Failed}
	}
	return nil
}

// toMember is a message as it went to one member, of whom SERVER in a sentence is.
func toMember(user clearbox.UserID, state core.State, why clearbox.Code) *core.Message {
	return &core.Message{Conversation: user, State: state, Reason: why}
}

// groupEventLine is what became of a group in JSON.
type groupEventLine struct {
	Event core.GroupEventKind `json:"event"`
	About []clearbox.UserID   `json:"about,omitempty"`
	Role  string              `json:"role,omitempty"`
	Name  string              `json:"name,omitempty"`
	Alarm core.Alarm          `json:"alarm,omitempty"`
}

// refLine names a message in JSON.
type refLine struct {
	ID     clearbox.MessageID `json:"id"`
	Author clearbox.UserID    `json:"author_user"`
}

// mentionLine says in JSON that the bytes from..to of a text name somebody.
type mentionLine struct {
	User clearbox.UserID `json:"user"`
	From int             `json:"from"`
	To   int             `json:"to"`
}

// reactionLine is a reaction in JSON.
type reactionLine struct {
	From  string          `json:"from"`
	User  clearbox.UserID `json:"from_user"`
	Emoji string          `json:"emoji"`
}

// fileLine is an attachment in JSON, without its keys.
type fileLine struct {
	Origin clearbox.ServerName `json:"origin"`
	Size   int64               `json:"size"`
	Mime   string              `json:"mime,omitempty"`
	Name   string              `json:"name,omitempty"`
	Width  int                 `json:"width,omitempty"`
	Height int                 `json:"height,omitempty"`
}

// object is a message in JSON.
func (a *app) object(ctx context.Context, p *profile, m *core.Message) messageLine {
	out := messageLine{
		Type: "message", Order: m.Order, ID: m.ID, From: p.memberName(ctx, m.Sender), FromUser: m.Sender, With: m.Conversation,
		Kind: m.Kind, Text: m.Text, Sent: m.Sent, Stored: m.Stored, State: m.State,
		Reason: m.Reason, Explanation: explanation(m), Delayed: m.Delayed,
		Asked: m.Asked, Edited: m.Edited, Expires: m.Expires, Disappears: m.Gone, Unsent: m.Unsent, Unproven: m.Unproven(),
	}
	if !m.Group.IsZero() {
		out.Group = m.Group
		if g, err := p.brain.Group(ctx, m.Group); err == nil {
			out.GroupName = g.Title
		}
	}
	if out.Receipts = receiptsOf(m); out.Receipts != nil {
		members, _ := p.brain.Members(ctx, m) // the counts stand by themselves
		for _, f := range members {
			out.Receipts.Members = append(out.Receipts.Members, receiptLine{
				p.name(ctx, f.User), f.User, f.State, f.Reason, explanation(toMember(f.User, f.State, f.Reason)),
			})
		}
	}
	if e := m.Event; e != nil {
		out.Event = &groupEventLine{e.Kind, e.About, e.Role, e.Title, e.Alarm}
	}
	if m.Reply != nil {
		out.ReplyTo = &refLine{m.Reply.ID, m.Reply.Author}
	}
	for _, one := range m.Mentions {
		out.Mentions = append(out.Mentions, mentionLine(one))
	}
	for _, r := range m.Shown() {
		out.Reactions = append(out.Reactions, reactionLine{p.name(ctx, r.User), r.User, r.Emoji})
	}
	if f := m.File; f != nil {
		out.File = &fileLine{f.Origin, f.Size, f.Mime, f.Name, f.Width, f.Height}
	}
	if c, err := p.brain.Conversation(ctx, m.In()); err == nil {
		out.Muted = !m.Outgoing && c.Muted > clearbox.Millis(a.now().UnixMilli())
	}
	return out
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
	Receipts    *receiptsLine      `json:"receipts,omitempty"`     // of a message to a group
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
	if a.JSON {
		a.line(a.stdout, a.object(ctx, p, m))
		return
	}
	fmt.Fprintln(a.stdout, a.text(ctx, p, m))
}

// text is a line of a conversation as a person reads it.
func (a *app) text(ctx context.Context, p *profile, m *core.Message) string {
	from, at := p.whereText(ctx, m)+p.memberName(ctx, m.Sender), a.clock(m.Sent)
	switch m.Kind {
	case core.MessageGroup:
		return fmt.Sprintf("%s * %s%s", at, p.whereText(ctx, m), p.happenedInGroup(ctx, m))
	case core.MessageText, core.MessageFile:
		out := fmt.Sprintf("%s %s%s: %s%s", at, from, p.answered(ctx, m), indented(wording(m)), beside(m))
		if m.File != nil && !m.Outgoing {
			out += "  (cbx save " + short(m.ID) + ")"
		}
		return out
	case core.MessageDeleted:
		return fmt.Sprintf("%s %s: (taken back)", at, from)
	case core.MessageTimer:
		if m.Expires == 0 {
			return fmt.Sprintf("%s * %s: messages no longer disappear", at, from)
		}
		return fmt.Sprintf("%s * %s: messages disappear %s after they were read", at, from, time.Duration(m.Expires)*time.Second)
	case core.MessageUndecryptable:
		if m.Asked {
			return fmt.Sprintf("%s %s: (a message could not be read; asked for it again)", at, from)
		}
		return fmt.Sprintf("%s %s: (a message could not be decrypted: %s; ask for it again)", at, from, because(m))
	case core.MessageIdentityChanged:
		return fmt.Sprintf("%s * the safety number with %s changed: cbx safety-number %s", at, from, from)
	case core.MessageDevices:
		return fmt.Sprintf("%s * %s linked a new device", at, from)
	case core.MessageRenewed:
		return fmt.Sprintf("%s * %s renewed their keys, signed by their account", at, from)
	}
	return fmt.Sprintf("%s %s: (something that this version does not know; update cbx to see it)", at, from)
}

// wording is what a message says: its text, or its file.
func wording(m *core.Message) string {
	switch {
	case m.Kind == core.MessageTimer:
		return "(when messages disappear)"
	case m.File == nil:
		return m.Text
	}
	out := fmt.Sprintf("(file %q, %d KB)", m.File.Name, (m.File.Size+999)/1000)
	if m.Text != "" {
		out += " " + m.Text
	}
	return out
}

// answered says what a message answers. It stands before the colon, where no text
// of a sender can.
func (p *profile) answered(ctx context.Context, m *core.Message) string {
	if m.Reply == nil {
		return ""
	}
	to, err := p.brain.Line(ctx, *m.Reply)
	if err != nil || to.In() != m.In() || wording(&to) == "" {
		return ", to a message that is not here"
	}
	return fmt.Sprintf(", to \"%s\"", firstWords(wording(&to)))
}

// beside is what stands behind the text of a message.
func beside(m *core.Message) string {
	out := ""
	if m.Edited > 0 {
		out += "  (edited)"
	}
	for _, r := range m.Shown() {
		out += "  " + clean(r.Emoji)
	}
	if m.Unsent != "" {
		out += "  [your last change did not arrive: " + string(m.Unsent) + "]"
	}
	if m.Unproven() {
		out += "  [without proof of who wrote it: it cannot be reported]"
	}
	if m.Outgoing && !m.State.Arrived() {
		out += "  [" + stateText(m) + "]"
	}
	return out
}

// eventLine is what happened to a message that was shown before, in JSON.
type eventLine struct {
	Type        string              `json:"type"` // edit, delete, reaction, profile, receipt
	Order       uint64              `json:"order"`
	ID          *clearbox.MessageID `json:"id,omitempty"` // of the message
	Author      *clearbox.UserID    `json:"author_user,omitempty"`
	From        string              `json:"from"` // who did it
	User        clearbox.UserID     `json:"from_user"`
	With        clearbox.UserID     `json:"with,omitzero"`
	Group       clearbox.GroupID    `json:"group,omitzero"`
	At          clearbox.Millis     `json:"at"`
	Text        string              `json:"text,omitempty"`  // of an edit: what it says now
	Emoji       *string             `json:"emoji,omitempty"` // of a reaction; empty if it was taken back
	Name        string              `json:"name,omitempty"`  // of a profile
	State       core.State          `json:"state,omitempty"` // of a receipt: delivered, read, or failed in a group
	Reason      clearbox.Code       `json:"reason,omitempty"`
	Explanation string              `json:"explanation,omitempty"` // of Reason, a sentence
	Receipts    *receiptsLine       `json:"receipts,omitempty"`    // of a receipt of a group: how far its message is
}

// happened prints an event.
func (a *app) happened(ctx context.Context, p *profile, e *core.Event) {
	from, name := p.name(ctx, e.Actor), ""
	if c, err := p.brain.Known(ctx, e.Actor.String()); err == nil {
		name = c.Name
	}
	line := eventLine{Type: e.Kind.String(), Order: e.Order, From: from, User: e.Actor, With: e.In.User, Group: e.In.Group, At: e.At}
	text := ""
	switch {
	case e.Kind == core.KindProfile:
		line.Name = name
		text = fmt.Sprintf("calls themselves \"%s\"", firstWords(name))
	case e.Line == nil:
		return // it has disappeared
	case e.Kind == core.KindReceipt:
		to := toMember(e.Actor, e.State, e.Reason)
		line.State, line.Reason, line.Explanation, line.Receipts = e.State, e.Reason, explanation(to), receiptsOf(e.Line)
		if !a.JSON && e.State != core.StateFailed {
			return // the message itself says so where it is shown
		}
		text = fmt.Sprintf("did not get \"%s\" (%s)", firstWords(wording(e.Line)), because(to))
	case e.Kind == core.KindEdit:
		line.Text = e.Line.Text
		text = "changed a message: " + indented(wording(e.Line))
	case e.Kind == core.KindDelete:
		text = "took a message back"
	case e.Emoji == "":
		line.Emoji = &e.Emoji
		text = fmt.Sprintf("took a reaction to \"%s\" back", firstWords(wording(e.Line)))
	default:
		line.Emoji = &e.Emoji
		text = fmt.Sprintf("%s \"%s\"", clean(e.Emoji), firstWords(wording(e.Line)))
	}
	if e.Kind != core.KindProfile {
		line.ID, line.Author = &e.Target.ID, &e.Target.Author
	}
	a.say(line, "%s * %s%s %s", a.clock(e.At), p.whereText(ctx, &core.Message{Group: e.In.Group}), from, text)
}

// showFate prints what became of an own message that was written earlier.
func (a *app) showFate(ctx context.Context, p *profile, m *core.Message) {
	to := p.name(ctx, m.Conversation)
	if !m.Group.IsZero() {
		to = strings.TrimSpace(p.whereText(ctx, m))
	}
	if a.JSON {
		a.line(a.stdout, sentLine{
			Type: "sent", ID: m.ID, To: to, State: m.State, Reason: m.Reason, Explanation: explanation(m), Text: m.Text, Sent: m.Sent, Receipts: receiptsOf(m),
		})
		return
	}
	if m.State == core.StateFailed {
		fmt.Fprintf(a.stdout, "%s * not delivered to %s: \"%s\" (%s)\n", a.clock(m.Sent), to, firstWords(wording(m)), because(m))
		return
	}
	fmt.Fprintf(a.stdout, "%s * delivered to %s after all: \"%s\"\n", a.clock(m.Sent), to, firstWords(wording(m)))
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
