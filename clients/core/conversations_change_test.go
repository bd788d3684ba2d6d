package core_test

import (
	"slices"
	"time"
)

// change is one change of who is there, in a calm moment.
func (c *crowd) change() {
	c.changes++
	who := c.draw.IntN(len(c.people))
	devices := c.people[who]
	p := pick(c, devices)
	switch what := c.draw.IntN(8); {
	case what < 3 && len(devices) < 3:
		c.link(who, p)
	case what == 3 && len(devices) > 1:
		c.unlink(who)
	case what < 5 && slices.Contains(c.members, who) && who != 0:
		c.part(who, c.draw.IntN(2) == 0)
	case what < 6 && !slices.Contains(c.members, who):
		c.join(who)
	case c.copies[p] != nil:
		c.rewind(p)
	default:
		c.note("%s is copied", c.label(p))
		c.copies[p] = c.snapshot(p)
	}
}

func (c *crowd) snapshot(p *person) *snapshot {
	s := &snapshot{store: p.store.Clone(), n: len(c.said), edits: map[*told]string{}}
	for _, m := range c.said {
		s.edits[m] = m.text
	}
	return s
}

// rewind lets p go on from its older copy: what was said since then it need not
// have, but what is said from now on.
func (c *crowd) rewind(p *person) {
	s := c.copies[p]
	delete(c.copies, p)
	c.note("%s goes on from the copy of when %d messages were said", c.label(p), s.n)
	c.stops[p]()
	p.store = s.store
	p.reopen()
	for _, m := range c.said {
		if m.n >= s.n && m.sees[p] {
			delete(m.sees, p)
			m.may[p] = true
		}
		if m.text != s.edits[m] {
			m.blurs[p] = true
		}
	}
	c.stops[p] = p.supervise()
}

func (c *crowd) link(who int, p *person) {
	fresh := p.blank()
	c.ever = append(c.ever, fresh)
	c.note("%s links %s", c.label(p), c.label(fresh))
	c.stops[p]()
	if _, _, err := p.linking(fresh, true); err != nil {
		c.t.Fatalf("link %s: %v", c.label(p), err)
	}
	c.people[who] = append(c.people[who], fresh)
	for _, m := range c.said {
		if m.sees[p] {
			m.sees[fresh] = true
		}
		if m.may[p] {
			m.may[fresh] = true
		}
		if m.blurs[p] {
			m.blurs[fresh] = true
		}
	}
	c.stops[p], c.stops[fresh] = p.supervise(), fresh.supervise()
}

func (c *crowd) unlink(who int) {
	devices := c.people[who]
	i := c.draw.IntN(len(devices))
	gone, by := devices[i], devices[(i+1)%len(devices)]
	c.note("%s removes %s", c.label(by), c.label(gone))
	id := gone.profile().Device
	if err := by.current().RemoveDevice(ctx, id); err != nil {
		c.t.Fatalf("remove %s: %v", c.label(gone), err)
	}
	c.stops[gone]()
	delete(c.stops, gone)
	delete(c.copies, gone)
	c.people[who] = slices.Delete(devices, i, i+1)
	for _, m := range c.said { // its network is gone: what it has it has
		if m.sees[gone] {
			m.blurs[gone] = true
		}
	}
}

// join invites somebody, who accepts.
func (c *crowd) join(who int) {
	host, guest := pick(c, c.people[0]), pick(c, c.people[who])
	c.note("%s invites %s", c.label(host), c.label(guest))
	if err := host.current().InviteToGroup(ctx, c.group, guest.user, false); err != nil {
		c.t.Fatalf("invite %s: %v", c.label(guest), err)
	}
	settle(time.Minute)
	if err := guest.current().AcceptGroup(ctx, c.group); err != nil {
		c.t.Fatalf("%s accepts: %v", c.label(guest), err)
	}
	settle(time.Minute)
	c.members = append(c.members, who)
}

// part ends a membership, by the member's will or by the owner's.
func (c *crowd) part(who int, own bool) {
	p := pick(c, c.people[who])
	c.note("%s leaves the group, of its own will %v", c.label(p), own)
	var err error
	if own {
		err = p.current().LeaveGroup(ctx, c.group)
	} else {
		err = pick(c, c.people[0]).current().RemoveFromGroup(ctx, c.group, p.user)
	}
	if err != nil {
		c.t.Fatalf("%s leaves: %v", c.label(p), err)
	}
	c.members = slices.DeleteFunc(c.members, func(i int) bool { return i == who })
	for _, m := range c.said { // edits do not reach it any more
		for _, d := range c.people[who] {
			if !m.in.Group.IsZero() && m.sees[d] {
				m.blurs[d] = true
			}
		}
	}
}
