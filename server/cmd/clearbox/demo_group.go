package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const demoGroup = "Vaccination day"

// gather has Alice found a group with people of both organisations, who talk
// in it, until she removes Bob.
func (d *demo) gather(ctx context.Context) error {
	d.say("\nA group across both organisations")
	var err error
	if d.carol, err = d.join(ctx, d.a, "carol.nagy"); err != nil {
		return err
	}
	out, err := d.alice.cbx(ctx, "group", "create", demoGroup, d.bob.address, d.carol.address)
	if err != nil {
		return err
	}
	d.say("  %-24s * founds %q and invites %s and %s", d.alice.address, demoGroup, d.bob.address, d.carol.address)
	var group demoGroupLine
	if err := json.Unmarshal(out, &group); err != nil {
		return err
	}
	for _, p := range []*demoPerson{d.bob, d.carol} {
		if err := p.inGroup(ctx, group.ID, "invited"); err != nil {
			return err
		}
		if _, err := p.cbx(ctx, "group", "accept", group.ID); err != nil {
			return err
		}
		d.say("  %-24s * accepts", p.address)
	}
	if err := d.alice.tell(ctx, "Doctors come at eight.", d.bob, d.carol); err != nil {
		return err
	}
	if err := d.bob.tell(ctx, "The porter opens at half past seven.", d.alice, d.carol); err != nil {
		return err
	}

	d.say("Alice removes Bob")
	if _, err := d.alice.cbx(ctx, "group", "remove", demoGroup, d.bob.address); err != nil {
		return err
	}
	const without = "The list of patients is in the blue folder."
	if err := d.alice.tell(ctx, without, d.carol); err != nil {
		return err
	}
	if err := d.bob.inGroup(ctx, group.ID, "former"); err != nil {
		return err
	}
	lines, err := d.bob.groupLines(ctx, group.ID)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if l.Text == without {
			return errors.New("who was removed from the group read on")
		}
	}
	if _, err := d.bob.cbx(ctx, "send", "--group", group.ID, "Am I still here?"); err == nil {
		return errors.New("who was removed from the group could write to it")
	}
	d.say("  %-24s * has nothing of that, and cannot write there any more", d.bob.address)
	return nil
}

// demoGroupLine is a group as cbx prints it.
type demoGroupLine struct {
	ID    string `json:"id"`
	State string `json:"state"`
}

// inGroup fetches what is new until the group is in a state.
func (p *demoPerson) inGroup(ctx context.Context, id, state string) error {
	for range 50 {
		if _, err := p.cbx(ctx, "recv"); err != nil {
			return err
		}
		out, err := p.cbx(ctx, "group", "show", id)
		if err == nil {
			var g demoGroupLine
			if err := json.Unmarshal(out, &g); err != nil {
				return err
			}
			if g.State == state {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s was not told of the group", p.address)
}

// tell says something in the group and demands that everybody of to has it.
func (p *demoPerson) tell(ctx context.Context, text string, to ...*demoPerson) error {
	p.d.elsewhere = append(p.d.elsewhere, text)
	if _, err := p.cbx(ctx, "send", "--group", demoGroup, text, "--wait", "server"); err != nil {
		return err
	}
	p.d.say("  %-24s > %s", p.address, text)
	for _, reader := range to {
		if err := reader.heard(ctx, text); err != nil {
			return err
		}
		p.d.say("  %-24s < %s", reader.address, text)
	}
	return nil
}

// heard fetches what is new until a text stands in the group.
func (p *demoPerson) heard(ctx context.Context, text string) error {
	for range 50 {
		if _, err := p.cbx(ctx, "recv"); err != nil {
			return err
		}
		lines, err := p.groupLines(ctx, demoGroup)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if l.Text == text {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s did not get what was said in the group", p.address)
}

func (p *demoPerson) groupLines(ctx context.Context, group string) ([]demoLine, error) {
	out, err := p.cbx(ctx, "history", "--group", group)
	if err != nil {
		return nil, err
	}
	return parseLines(out)
}
