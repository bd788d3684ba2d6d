package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox/server/wire"
)

// acquaint has Alice ask to write to Bob, who agreed to nothing when he joined.
// Her text stays on her device until he accepts her.
func (d *demo) acquaint(ctx context.Context) error {
	d.say("\nThey are strangers: Alice's server knocks at Bob's, and her text waits")
	id, err := d.alice.send(ctx, "server", d.bob, "Good morning Bob, may the clinic write to you?")
	if err != nil {
		return err
	}
	asks, err := d.bob.asked(ctx)
	if err != nil {
		return err
	}
	if asks.Address != d.alice.address || asks.Controller != d.a.organisation || asks.Country != d.a.country {
		return errors.New("the request does not say who asks")
	}
	d.say("  %-24s * %s (%s, %s) asks to write to you", d.bob.address, asks.Address, asks.Controller, asks.Country)
	if _, err := d.bob.cbx(ctx, "accept", asks.Address); err != nil {
		return err
	}
	d.say("  %-24s * accepts", d.bob.address)
	if err := d.alice.sentBy(ctx, d.bob, id); err != nil {
		return err
	}
	return d.bob.receive(ctx, d.alice, 1)
}

// play is the conversation: both ways, with Bob away, with Bob's server killed,
// with the peering suspended and at last ended.
func (d *demo) play(ctx context.Context) error {
	d.say("\nThe conversation")
	if _, err := d.alice.send(ctx, "peer", d.bob, "Is the vaccination room free on Tuesday?"); err != nil {
		return err
	}
	if err := d.bob.receive(ctx, d.alice, 1); err != nil {
		return err
	}
	if _, err := d.bob.send(ctx, "peer", d.alice, "Hello Alice, it is, from nine to twelve."); err != nil {
		return err
	}
	if err := d.alice.receive(ctx, d.bob, 1); err != nil {
		return err
	}
	if err := d.carry(ctx); err != nil {
		return err
	}
	waiting, err := d.outages(ctx)
	if err != nil {
		return err
	}
	if _, err := d.bob.send(ctx, "peer", d.alice, "Nothing was lost."); err != nil {
		return err
	}
	if err := d.alice.receive(ctx, d.bob, 1); err != nil {
		return err
	}
	if err := d.alice.delivered(ctx, d.bob, waiting); err != nil {
		return err
	}
	d.say("")
	for _, scene := range []func(context.Context) error{d.protocols, d.change, d.gather, d.link, d.suspended, d.part} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	if err := d.alice.transcript(ctx, d.bob); err != nil {
		return err
	}
	return d.search(ctx)
}

// outages has Alice write while Bob is away, and while his server is. It gives
// what has to reach him all the same.
func (d *demo) outages(ctx context.Context) (waiting []string, err error) {
	d.say("\nBob goes offline; Alice goes on writing")
	for _, text := range []string{"Then I take it for the whole morning.", "And please leave the key at the porter's."} {
		id, err := d.alice.send(ctx, "peer", d.bob, text)
		if err != nil {
			return nil, err
		}
		waiting = append(waiting, id)
	}
	d.say("Bob returns")
	if err := d.bob.receive(ctx, d.alice, 2); err != nil {
		return nil, err
	}

	d.say("\nBob's server is killed with -9; Alice writes; the server returns")
	d.b.kill()
	id, err := d.alice.send(ctx, "server", d.bob, "Are you still there?")
	if err != nil {
		return nil, err
	}
	if err := d.b.start(ctx); err != nil {
		return nil, err
	}
	d.say("  %s is ready again after %v", d.b.name, d.b.took.Round(time.Millisecond))
	return append(waiting, id), d.bob.receive(ctx, d.alice, 1)
}

// suspended has the town hall stop the traffic for a while: Alice is told why
// her message waits, and it arrives when the traffic goes on.
func (d *demo) suspended(ctx context.Context) error {
	d.say("\nThe town hall suspends the peering; Alice writes; the town hall resumes it")
	if err := d.b.admin(ctx, &wire.AdminPeer{}, "peer", "suspend", d.a.name); err != nil {
		return err
	}
	if _, err := d.alice.send(ctx, "server", d.bob, "Until when may the posters hang?"); err != nil {
		return err
	}
	if err := d.alice.standing(ctx, "suspended"); err != nil {
		return err
	}
	if err := d.b.admin(ctx, &wire.AdminPeer{}, "peer", "resume", d.a.name); err != nil {
		return err
	}
	// The clinic asks by itself within the hour, and at once when its administrator says so.
	if err := d.a.admin(ctx, &wire.AdminFedRetried{}, "fed", "retry", d.b.name); err != nil {
		return err
	}
	return d.bob.receive(ctx, d.alice, 1)
}

// part ends the peering while a message waits: its sender is told so, and why.
func (d *demo) part(ctx context.Context) error {
	d.say("\nThe town hall suspends it again, Alice writes, and the clinic ends the peering")
	if err := d.b.admin(ctx, &wire.AdminPeer{}, "peer", "suspend", d.a.name); err != nil {
		return err
	}
	id, err := d.alice.send(ctx, "server", d.bob, "Does the room have a second door?")
	if err != nil {
		return err
	}
	if err := d.alice.standing(ctx, "suspended"); err != nil {
		return err
	}
	var left wire.AdminPeer
	if err := d.a.admin(ctx, &left, "peer", "defederate", d.b.name, "--yes"); err != nil {
		return err
	}
	d.say("  %-24s * the peering with %s is %s", d.a.name, left.Server, left.State)
	if err := d.alice.bounced(ctx, d.bob, id); err != nil {
		return err
	}
	return d.alice.refused(ctx, d.bob, "Then I shall telephone.")
}

// standing waits until the own server knows how the other one is, as cbx status
// says it.
func (p *demoPerson) standing(ctx context.Context, state string) error {
	for range 50 {
		out, err := p.cbx(ctx, "status")
		if err != nil {
			return err
		}
		var st struct {
			Servers []struct {
				State       string `json:"state"`
				Explanation string `json:"explanation"`
			} `json:"servers"`
		}
		if err := json.Unmarshal(out, &st); err != nil {
			return err
		}
		for _, s := range st.Servers {
			if s.State == state {
				p.d.say("  %-24s * %s", p.address, s.Explanation)
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s was not told that the other server is %s", p.address, state)
}

// refused says something that cannot be sent any more, and demands the reason.
func (p *demoPerson) refused(ctx context.Context, to *demoPerson, text string) error {
	p.d.spoken = append(p.d.spoken, text)
	out, err := p.cbx(ctx, "send", to.address, text)
	if err == nil {
		return errors.New("a message was sent to a server that is no peer")
	}
	lines, bad := parseLines(out)
	if bad != nil || len(lines) != 1 || lines[0].State != "failed" || lines[0].Explanation == "" {
		return errors.Join(err, bad)
	}
	p.d.say("  %-24s > %-50s [%s]", p.address, text, lines[0].progress())
	return nil
}

// demoRequest is a request as cbx prints it.
type demoRequest struct {
	Address    string `json:"address"`
	Controller string `json:"controller"`
	Country    string `json:"country"`
}

// asked waits for somebody's request to write.
func (p *demoPerson) asked(ctx context.Context) (*demoRequest, error) {
	for range 50 {
		out, err := p.cbx(ctx, "requests")
		if err != nil {
			return nil, err
		}
		if len(out) > 0 {
			var r demoRequest
			return &r, json.Unmarshal(out, &r)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("nobody asked %s", p.address)
}

// sentBy fetches the answer to a request, after which what waited for it goes out.
func (p *demoPerson) sentBy(ctx context.Context, with *demoPerson, id string) error {
	for range 50 {
		if _, err := p.cbx(ctx, "recv"); err != nil {
			return err
		}
		lines, err := p.lines(ctx, with)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if l.ID == id && l.State != "queued" {
				p.d.say("  %-24s * is accepted, and the text goes out", p.address)
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the answer to the request did not come")
}

// bounced demands that a message comes back with its reason.
func (p *demoPerson) bounced(ctx context.Context, to *demoPerson, id string) error {
	for range 50 {
		out, err := p.cbx(ctx, "recv")
		if err != nil {
			return err
		}
		lines, err := parseLines(out)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if l.ID == id && l.State == "failed" {
				p.d.say("  %-24s * not delivered to %s: %q\n  %-24s   because %s", p.address, to.address, l.Text, "", l.Explanation)
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("nobody told that the message was not delivered")
}
