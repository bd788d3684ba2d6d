package core

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
)

// What is kept of a conversation goes to own devices part by part, so that a draft
// here and a pin there do not undo each other. A timer is a message, which they get
// like all others; it is told only where everything is.
const (
	partMute  = "mute"
	partPins  = "pins"
	partDraft = "draft"
	partTimer = "timer"
)

// convParts are those that are told as they change.
var convParts = []string{partMute, partPins, partDraft}

// timerPart is a timer with its place among those of the conversation.
type timerPart struct {
	Timer uint32             `cbor:"1,keyasint,omitempty"`
	Sent  clearbox.Millis    `cbor:"2,keyasint"`
	ID    clearbox.MessageID `cbor:"3,keyasint"`
}

// partOf cuts a key conv/<conversation>/<part> into the record's and the part.
func partOf(key string) (record, part string, ok bool) {
	if !strings.HasPrefix(key, prefixConv) {
		return "", "", false
	}
	in, part, ok := strings.Cut(key[len(prefixConv):], "/")
	return prefixConv + in, part, ok && in != "" && (part == partTimer || slices.Contains(convParts, part))
}

// part gives one part as own devices are told it; nil if there is nothing.
func (c *conversation) part(name string) ([]byte, error) {
	switch {
	case name == partMute && c.Muted != 0:
		return recordOut.Marshal(c.Muted)
	case name == partPins && len(c.Pins) > 0:
		return recordOut.Marshal(c.Pins)
	case name == partDraft && c.Draft != "":
		return []byte(c.Draft), nil
	case name == partTimer && c.TimerSent != 0:
		return recordOut.Marshal(timerPart{c.Timer, c.TimerSent, c.TimerID})
	}
	return nil, nil
}

// setPart takes what another own device says; false if that makes no sense.
func (c *conversation) setPart(name string, value []byte) bool {
	var next conversation
	var timer timerPart
	var err error
	switch {
	case name == partDraft:
		if len(value) > MaxText || !utf8.Valid(value) {
			return false
		}
		c.Draft = string(value)
		return true
	case value == nil:
	case name == partMute:
		err = recordIn.Unmarshal(value, &next.Muted)
	case name == partPins:
		err = recordIn.Unmarshal(value, &next.Pins)
	case name == partTimer:
		err = recordIn.Unmarshal(value, &timer)
	}
	if err != nil || len(next.Pins) > maxPins {
		return false
	}
	switch name {
	case partMute:
		c.Muted = next.Muted
	case partPins:
		c.Pins = next.Pins
	case partTimer:
		if timer.Sent < c.TimerSent || timer.Sent == c.TimerSent && slices.Compare(timer.ID[:], c.TimerID[:]) <= 0 {
			return false
		}
		c.Timer, c.TimerSent, c.TimerID = timer.Timer, timer.Sent, timer.ID
	}
	return true
}

// addParts adds what changed of the conversation at key.
func (b *Brain) addParts(tx Tx, y *Sync, key string) error {
	c, err := conversationAt(tx, key[len(prefixConv):])
	if err != nil {
		return err
	}
	for _, name := range convParts {
		value, err := c.part(name)
		if err != nil {
			return err
		}
		at := key + "/" + name
		if value == nil {
			if known, err := optional(tx.Get(prefixSynced + at)); err != nil || known == nil {
				if err != nil {
					return err
				}
				continue
			}
		}
		number, err := b.renumber(tx, at, value)
		if err != nil {
			return err
		}
		if number > 0 {
			y.Records = append(y.Records, SyncRecord{at, value, number})
		}
	}
	return nil
}

// takePart applies one part of what is kept of a conversation.
func (b *Brain) takePart(tx Tx, key, name string, value []byte) error {
	c, err := conversationAt(tx, key[len(prefixConv):])
	if err != nil {
		return err
	}
	before := c.Draft
	if !c.setPart(name, value) {
		return nil
	}
	if before != "" && before != c.Draft {
		err = b.mustForget(tx)
	}
	return errors.Join(err, save(tx, key, c), markDirty(tx, []string{key}))
}
