package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// change has Alice react to a message of Bob's and Bob correct it.
func (d *demo) change(ctx context.Context) error {
	d.say("\nA reaction, and an edit")
	const wrong, better, emoji = "The posters hang until Fryday.", "The posters hang until Friday.", "👍"
	id, err := d.bob.send(ctx, "peer", d.alice, wrong)
	if err != nil {
		return err
	}
	if err := d.alice.receive(ctx, d.bob, 1); err != nil {
		return err
	}
	if _, err := d.alice.cbx(ctx, "react", id, emoji); err != nil {
		return err
	}
	if _, err := d.bob.cbx(ctx, "edit", id, better); err != nil {
		return err
	}
	i := slices.Index(d.spoken, wrong)
	d.elsewhere = append(d.elsewhere, wrong)
	d.spoken[i] = better
	l, err := d.bob.until(ctx, d.alice.address, id, func(l *demoLine) bool { return len(l.Reactions) == 1 && l.Reactions[0].Emoji == emoji })
	if err != nil {
		return err
	}
	d.say("  %-24s < %s reacts with %s", d.bob.address, l.Reactions[0].From, emoji)
	if l, err = d.alice.until(ctx, d.bob.address, id, func(l *demoLine) bool { return l.Text == better }); err != nil {
		return err
	}
	d.say("  %-24s < %s (edited)", d.alice.address, l.Text)
	return nil
}

// until fetches what is new until a message of the conversation with is as
// right wants it.
func (p *demoPerson) until(ctx context.Context, with, id string, right func(*demoLine) bool) (*demoLine, error) {
	for range 50 {
		if _, err := p.cbx(ctx, "recv"); err != nil {
			return nil, err
		}
		l, err := p.find(ctx, with, id)
		if err != nil {
			return nil, err
		}
		if right(l) {
			return l, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s does not have what changed about a message", p.address)
}

// find gives one message of a conversation as the vault has it.
func (p *demoPerson) find(ctx context.Context, with, id string) (*demoLine, error) {
	out, err := p.cbx(ctx, "history", with)
	if err != nil {
		return nil, err
	}
	lines, err := parseLines(out)
	if err != nil {
		return nil, err
	}
	for i := range lines {
		if lines[i].ID == id {
			return &lines[i], nil
		}
	}
	return nil, fmt.Errorf("%s does not have the message", p.address)
}

// link gives Alice a second device, which then shows what was said before it
// existed.
func (d *demo) link(ctx context.Context) error {
	d.say("\nAlice links a second device")
	before, err := d.alice.lines(ctx, d.bob)
	if err != nil {
		return err
	}
	tablet := *d.alice
	tablet.vault, tablet.keyFile = filepath.Join(d.dir, "alice.tablet.vault"), filepath.Join(d.dir, "alice.tablet.key")
	code := filepath.Join(d.dir, "link.code")
	linked := make(chan error, 1) // capacity 1: the device never waits for who asks
	go func() {
		_, err := tablet.cbx(ctx, "link", "--server", d.a.name, "--server-url", d.a.url, "--code-file", code, "--device-name", "tablet")
		linked <- err
	}()
	out, err := d.alice.cbx(ctx, "link", "--accept-file", code, "--yes")
	if err != nil {
		return errors.Join(err, <-linked)
	}
	if err := <-linked; err != nil {
		return err
	}
	if err := os.Remove(code); err != nil {
		return err
	}
	var done struct {
		Type     string `json:"type"`
		Digits   string `json:"digits"`
		Messages int    `json:"messages"`
	}
	digits := ""
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		if err := dec.Decode(&done); err != nil {
			return err
		}
		if done.Type == "link_confirmation" {
			digits = done.Digits
		}
	}
	d.say("  both devices show %s", digits)
	after, err := tablet.lines(ctx, d.bob)
	if err != nil {
		return err
	}
	if len(after) != len(before) {
		return fmt.Errorf("the new device shows %d of %d messages", len(after), len(before))
	}
	for i := range after {
		if after[i].ID != before[i].ID || after[i].Text != before[i].Text {
			return errors.New("the new device shows another history")
		}
	}
	group, err := tablet.groupLines(ctx, demoGroup)
	if err != nil {
		return err
	}
	if len(group) < 3 {
		return fmt.Errorf("the new device shows %d messages of the group", len(group))
	}
	d.say("  %-24s * the tablet shows all %d messages and the group; the first is %q", d.alice.address, len(after), after[0].Text)
	d.tablet = &tablet
	return nil
}
