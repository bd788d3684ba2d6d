package core

import (
	"context"
	"errors"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
)

// Post is a message as a person writes it.
type Post struct {
	Text     string
	Reply    *Ref // what it answers, in the same conversation; its author is named
	Mentions []Mention
	// File is an attachment that is at the own server already; Text may be empty
	// beside it.
	File *File
}

func (p *Post) check() error {
	switch {
	case p.Text == "" && p.File == nil:
		return clearbox.Errorf(clearbox.CodeBadRequest, "the message is empty")
	case p.File != nil && p.File.check() != nil:
		return clearbox.Errorf(clearbox.CodeBadRequest, "the attachment is incomplete")
	case !validMentions(p.Text, p.Mentions):
		return clearbox.Errorf(clearbox.CodeBadRequest, "a mention lies outside of the text")
	}
	return checkText(p.Text)
}

// checkText refuses what cannot be the text of a message.
func checkText(text string) error {
	switch {
	case len(text) > MaxText:
		return clearbox.Errorf(clearbox.CodeTooLarge, "a message has at most %d bytes", MaxText)
	case !utf8.ValidString(text):
		return clearbox.Errorf(clearbox.CodeBadRequest, "the message is not valid UTF-8")
	}
	return nil
}

// Send writes text to a contact; see Post.
func (b *Brain) Send(ctx context.Context, to clearbox.UserID, text string) (*Message, error) {
	return b.Post(ctx, With(to), Post{Text: text})
}

// Post writes into a conversation. When it returns, the message is in the vault
// and will be sent by Run, now or when there is a network, in the order of the
// calls. Where they have to accept us first, it waits in the vault for that, and
// they are asked. ErrUnknownContact if Lookup never found them;
// CodeIdentityChanged if their keys changed and were not accepted;
// CodeForbidden if they are blocked; ErrNoMessage if it answers nothing.
func (b *Brain) Post(ctx context.Context, in ConversationID, p Post) (*Message, error) {
	s, err := b.me()
	if err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	now := b.now()
	m := &Message{
		Sender: s.User, SenderDevice: s.Device, Outgoing: true,
		Kind: MessageText, Text: p.Text, Reply: p.Reply, Mentions: p.Mentions, File: p.File,
		Sent: now, Stored: now, State: StateQueued,
	}
	if m.File != nil {
		m.Kind = MessageFile
	}
	c := m.content()
	c.From = s.User
	if err := b.frank(c); err != nil {
		return nil, err
	}
	m.ID, m.Frank = c.ID, c.Frank
	err = b.say(ctx, s, in, m, func(tx Tx, conv *conversation) error {
		var err error
		if m.Expires, err = b.timerOf(tx, m.In(), conv); err != nil {
			return err
		}
		if conv.Draft != "" {
			conv.Draft = ""
			if err := errors.Join(b.mustForget(tx), save(tx, prefixConv+m.In().key(), conv)); err != nil {
				return err
			}
		}
		if m.Reply == nil {
			return nil
		}
		answered, _, err := findMessage(tx, uuidOfUser(m.Reply.Author), m.Reply.ID)
		if err == nil && (answered == nil || answered.In() != m.In()) {
			err = ErrNoMessage
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// say puts an own line into a conversation and queues what it is sent as.
// prepare may complete the line, in the transaction and before anything of it is
// written.
func (b *Brain) say(ctx context.Context, s *self, in ConversationID, m *Message, prepare func(Tx, *conversation) error) error {
	return b.talk(ctx, func(tx Tx) (asking bool, err error) {
		to, err := in.real(tx)
		if err != nil {
			return false, err
		}
		m.Conversation, m.Group, m.State, m.Reason = to.User, to.Group, StateQueued, ""
		c, err := b.writable(tx, to)
		if err != nil {
			return false, err
		}
		conv, err := conversationAt(tx, to.key())
		if err != nil {
			return false, err
		}
		if err := prepare(tx, conv); err != nil {
			return false, err
		}
		if err := addMessage(tx, to.key(), s.uuid, m); err != nil {
			return false, err
		}
		if asking, err = b.submitTo(tx, s, c, m.Order, m.content()); asking {
			m.Reason = clearbox.CodeConsentRequired
		}
		return asking, err
	})
}

// talk runs a transaction that queues something for a conversation, and wakes
// whoever brings it on its way. fn tells whether somebody has to be asked first.
func (b *Brain) talk(ctx context.Context, fn func(Tx) (asking bool, err error)) error {
	asking := false
	err := b.vault.Update(ctx, func(tx Tx) (err error) {
		asking, err = fn(tx)
		return err
	})
	if err != nil {
		return err
	}
	if asking {
		wake(b.tasksWake)
	}
	wake(b.queueWake)
	wake(b.receiptWake)
	wake(b.expiryWake)
	b.changed()
	return nil
}

// writable gives the contact behind a conversation that may be written to. Who is
// written to is accepted.
func (b *Brain) writable(tx Tx, in ConversationID) (*contact, error) {
	if !in.Group.IsZero() {
		return nil, b.speakable(tx, in.Group)
	}
	key := contactKey(in.key())
	c, err := load[contact](tx, key)
	switch {
	case err != nil:
		return nil, err
	case c == nil:
		return nil, ErrUnknownContact
	case c.Changed != nil:
		return nil, errHeldBack
	case c.Blocked:
		return nil, clearbox.Errorf(clearbox.CodeForbidden, "they are blocked; unblock them to write to them")
	case !c.Accepted:
		c.Accepted = true
		return c, save(tx, key, c)
	}
	return c, nil
}

// submitTo queues a content for a contact; where they have to accept us first, it
// waits for that and they are asked. order is its place among what goes to them.
func (b *Brain) submitTo(tx Tx, s *self, c *contact, order uint64, content *Content) (asking bool, err error) {
	if content.Group != nil {
		return false, b.queueToGroup(tx, s, content.Group.ID, order, content)
	}
	content.To = c.User
	if !s.elsewhere(c.User) || c.Token != nil {
		return false, b.enqueue(tx, s, order, content)
	}
	it := &outItem{ID: content.ID, To: c.User, Kind: content.Kind, Own: kinds[content.Kind].talk}
	if it.Content, err = b.compose(tx, s, content); err != nil {
		return false, err
	}
	if err := b.park(tx, s, c, it, order); err != nil {
		return false, err
	}
	return true, save(tx, contactKey(uuidOfUser(c.User)), c)
}

// enqueue puts a content for c.To into the queue and, where every session is
// there already, encrypts it at once: one transaction, and ready to go.
func (b *Brain) enqueue(tx Tx, s *self, order uint64, c *Content) error {
	padded, err := b.compose(tx, s, c)
	if err != nil {
		return err
	}
	it := &outItem{ID: c.ID, To: c.To, Kind: c.Kind, Content: padded, Own: kinds[c.Kind].talk}
	if c.Kind == KindAccept {
		it.Pass = c.Knock[:]
	}
	return b.queueItem(tx, s, outKey(uuidOfUser(c.To), order), it)
}

// compose writes a content that is to be sent: from us, and with our token where
// its recipient needs one to write back.
func (b *Brain) compose(tx Tx, s *self, c *Content) ([]byte, error) {
	c.From, c.Address, c.Token = s.User, s.address().String(), nil
	if s.elsewhere(c.To) && c.Group == nil { // fellow members need none
		own, err := b.ownToken(tx)
		if err != nil {
			return nil, err
		}
		c.Token = own.Token
	}
	return EncodeContent(c)
}

// queueItem saves an item, encrypted and sealed as far as that goes without the
// network.
func (b *Brain) queueItem(tx Tx, s *self, key string, it *outItem) error {
	need, err := b.seal(tx, s, it, nil)
	if err == nil && len(need) == 0 {
		err = b.wrap(tx, s, it)
	}
	for _, later := range []error{errNeedsList, errNeedsCertificate, errNeedsUpload, errNeedsConsent} {
		if errors.Is(err, later) {
			err = nil
		}
	}
	if err != nil && clearbox.CodeOf(err) != clearbox.CodeNoDevice {
		return err
	}
	return save(tx, key, it)
}
