package core

import (
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/franking"
)

// EditOf is the edit that a message which is sent again says the words of.
type EditOf struct {
	ID   clearbox.MessageID `cbor:"1,keyasint"`
	Sent clearbox.Millis    `cbor:"2,keyasint"`
}

// franked tells whether contents of the kind have ids that commit to what they say.
func (k Kind) franked() bool { return k == KindText || k == KindFile || k == KindEdit }

// said is what can be proven of a content, and the id that commits to it.
func (c *Content) said() (id clearbox.MessageID, r franking.Revealed) {
	id, r = c.ID, franking.Revealed{Kind: uint64(c.Kind), Sent: int64(c.Sent), From: c.From.String(), Text: c.Text}
	switch {
	case c.Edit != nil:
		id, r.Kind, r.Sent = c.Edit.ID, uint64(KindEdit), int64(c.Edit.Sent)
	case c.File != nil:
		r.File = franking.FileDigest(c.File.Key, c.File.Digest)
	}
	return id, r
}

// said is what can be proven of m as it stands: the message, or its last edit.
func (m *Message) said() (id clearbox.MessageID, r franking.Revealed) {
	c := m.content()
	c.From = m.Sender
	return c.said()
}

// frank gives a content that has From, Sent and what it says a key, and the id
// that commits to it.
func (b *Brain) frank(c *Content) (err error) {
	if c.Frank, err = franking.NewKey(b.opts.Random); err != nil {
		return err
	}
	_, said := c.said()
	c.ID, err = franking.Commit(c.Frank, &said)
	return err
}

// checkFrank refuses a content whose id says that it says something else: no
// client writes it but to deny it.
func (c *Content) checkFrank() error {
	switch {
	case c.Frank == nil:
		return nil
	case len(c.Frank) != franking.KeySize:
		return fmt.Errorf("%w: franking key", ErrContent)
	case !c.Kind.franked():
		return nil
	}
	if id, said := c.said(); !franking.Verify(c.Frank, &said, id) {
		return fmt.Errorf("%w: its id does not commit to it", ErrContent)
	}
	return nil
}

// number gives an id for servers, under which a content is sent that has one
// already, or that needs none of its own. It commits to what the content says.
func (b *Brain) number(c *Content) (clearbox.MessageID, error) {
	if !c.Kind.franked() || c.Frank == nil {
		return clearbox.NewMessageID(b.opts.Random)
	}
	var nonce [franking.NonceSize]byte
	if _, err := io.ReadFull(b.opts.Random, nonce[:]); err != nil {
		return clearbox.MessageID{}, err
	}
	id, _ := c.said()
	return franking.Again(c.Frank, id, nonce)
}

// Provable tells whether m, as it stands, can be reported: its id fits what it
// says, and it came under an id that fits its own. Whether its sender's server
// still remembers it, only that server knows.
func (m *Message) Provable() bool {
	if m.Outgoing || !m.written() {
		return false
	}
	id, said := m.said()
	return franking.Verify(m.Frank, &said, id) && franking.Carries(m.Frank, m.carrier(id), id)
}

// Unproven tells whether somebody else wrote m and it cannot be reported.
func (m *Message) Unproven() bool { return !m.Outgoing && m.written() && !m.Provable() }

// carrier is the id under which servers carried what m says.
func (m *Message) carrier(id clearbox.MessageID) clearbox.MessageID {
	if m.Carried != (clearbox.MessageID{}) {
		return m.Carried
	}
	return id
}

// carriedBy is the id of an envelope, for Message.Carried: zero where it is that
// of the content itself.
func (c *Content) carriedBy(envelope clearbox.MessageID) clearbox.MessageID {
	if id, _ := c.said(); envelope == id {
		return clearbox.MessageID{}
	}
	return envelope
}
