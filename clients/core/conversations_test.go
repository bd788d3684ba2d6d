package core_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// TestConversationsModel lets six people of three organisations, with up to three
// devices each, write to each other and in a group, and edit, while networks come
// and go, requests and answers get lost and processes die; between that, devices
// are linked, removed and put back from an older copy, and people join the group,
// leave it and are removed. The model says which devices are to see a message:
// each of these sees it once, as its author left it, in the order of the device
// that wrote it; no other device ever does.
//
// It prints one JSON line. CLEARBOX_SEEDS is how many seeds are tried, and
// CLEARBOX_SEED the first of them.
func TestConversationsModel(t *testing.T) {
	first, seeds := number("CLEARBOX_SEED", 1), number("CLEARBOX_SEEDS", uint64(rounds(3, 1)))
	var sum tally
	for seed := first; seed < first+seeds && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			c := newCrowd(t, seed)
			for range rounds(6, 2) {
				c.talk(12)
				c.calm()
				c.change()
				c.calm()
			}
			c.talk(8)
			c.calm()
			c.leave()
			c.check()
			sum.add(c.tally)
			if t.Failed() {
				t.Logf("seed %d:\n%s", seed, strings.Join(c.log, "\n"))
			}
		})
	}
	fmt.Printf(`{"test":"conversations","seeds":%d,"messages":%d,"edits":%d,"devices":%d,"changes":%d,"views":%d,"lost":%d,"duplicated":%d,"reordered":%d,"leaked":%d}`+"\n",
		seeds, sum.messages, sum.edits, sum.devices, sum.changes, sum.views, sum.lost, sum.duplicated, sum.reordered, sum.leaked)
}

func number(name string, otherwise uint64) uint64 {
	n, err := strconv.ParseUint(os.Getenv(name), 10, 64)
	if err != nil {
		return otherwise
	}
	return n
}

// tally is what happened, and what should not have.
type tally struct{ messages, edits, devices, changes, views, lost, duplicated, reordered, leaked int }

func (a *tally) add(b tally) {
	a.messages, a.edits, a.devices, a.changes, a.views = a.messages+b.messages, a.edits+b.edits, a.devices+b.devices, a.changes+b.changes, a.views+b.views
	a.lost, a.duplicated, a.reordered, a.leaked = a.lost+b.lost, a.duplicated+b.duplicated, a.reordered+b.reordered, a.leaked+b.leaked
}

// told is one message in the model.
type told struct {
	n     int // place among all
	in    core.ConversationID
	with  [2]int // who talk, where it is not the group
	from  *person
	text  string
	sees  map[*person]bool // devices that are to show it
	may   map[*person]bool // devices that may
	blurs map[*person]bool // devices that may have missed an edit
}

// crowd is people with their devices, and the model of what they said.
type crowd struct {
	tally
	t      *testing.T
	w      *world
	draw   *rand.Rand
	log    []string
	people [][]*person // devices in use, by person
	ever   []*person
	stops  map[*person]func()
	faults int // of the next requests; guarded by faultMu

	group   clearbox.GroupID
	members []int
	said    []*told
	known   map[core.Ref]*told
	copies  map[*person]*snapshot
}

// snapshot is an older copy of a device's memory.
type snapshot struct {
	store *memvault.Vault
	n     int // messages that had been said
	edits map[*told]string
}

func newCrowd(t *testing.T, seed uint64) *crowd {
	c := &crowd{t: t, w: newWorld(t), draw: rand.New(rand.NewPCG(seed, 4)), stops: map[*person]func(){}, known: map[core.Ref]*told{}, copies: map[*person]*snapshot{}}
	names := []string{"ada@a.test", "abe@a.test", "bea@b.test", "bob@b.test", "cat@c.test", "col@c.test"}
	for _, name := range names {
		p := newPerson(t, c.w, name).join()
		// A session that ends, as it does when an answer is lost, begins anew.
		p.opts.Password = func(context.Context) (string, error) { return "secret", nil }
		p.open()
		c.people, c.ever = append(c.people, []*person{p}), append(c.ever, p)
	}
	for _, p := range c.ever {
		for _, name := range names {
			if name != p.name.String() {
				p.contact(name)
			}
		}
	}
	for _, p := range c.ever {
		c.stops[p] = p.supervise()
	}
	c.w.setFault(func(_, path string) string {
		if c.faults > 0 && path != "/auth/refresh" {
			c.faults--
			return []string{"lost", "unheard"}[c.faults%2]
		}
		return ""
	})
	settle(time.Minute)
	for i, p := range c.ever { // whoever wrote and was answered is accepted, and asked for what cannot be read
		for k, other := range c.ever {
			if i != k {
				c.say(p, core.With(other.user), [2]int{i, k})
			}
		}
	}
	settle(time.Minute)
	g, err := c.ever[0].brain.CreateGroup(ctx, "the crew", "")
	if err != nil {
		t.Fatal(err)
	}
	c.group, c.members = g.ID, []int{0}
	c.join(1)
	c.join(2)
	return c
}

func (c *crowd) note(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf(format, args...))
}

// label names a device in the log.
func (c *crowd) label(p *person) string {
	return fmt.Sprintf("%s#%d", p.name.Handle, slices.Index(c.ever, p))
}

func pick[T any](c *crowd, from []T) T { return from[c.draw.IntN(len(from))] }

// talk is n steps of conversation and trouble.
func (c *crowd) talk(n int) {
	for range n {
		who := c.draw.IntN(len(c.people))
		p := pick(c, c.people[who])
		switch c.draw.IntN(12) {
		case 0, 1, 2:
			other := (who + 1 + c.draw.IntN(len(c.people)-1)) % len(c.people)
			c.say(p, core.With(c.people[other][0].user), [2]int{who, other})
		case 3, 4, 5:
			who = pick(c, c.members)
			c.say(pick(c, c.people[who]), core.In(c.group), [2]int{})
		case 6:
			c.edit(p)
		case 7:
			away := c.draw.IntN(2) == 0
			c.note("%s away %v", c.label(p), away)
			p.net.setAway(away)
		case 8:
			c.w.faultMu.Lock()
			c.faults = 1 + c.draw.IntN(10)
			c.w.faultMu.Unlock()
			c.note("faults")
		case 9, 10:
			c.crash(p)
		case 11:
			settle(time.Duration(c.draw.IntN(200)) * time.Second)
		}
		settle(time.Duration(c.draw.IntN(2000)) * time.Millisecond)
	}
}

// crash restarts p as a process that dies at one of its next writes.
func (c *crowd) crash(p *person) {
	c.stops[p]()
	at := 1 + c.draw.IntN(12)
	c.note("%s dies at write %d", c.label(p), at)
	p.vault = &crashVault{inner: p.store, at: at, after: at%2 == 0}
	restartMu.Lock()
	p.open()
	restartMu.Unlock()
	c.stops[p] = p.supervise()
}

// calm ends all trouble and lets everything that waits arrive.
func (c *crowd) calm() {
	c.w.faultMu.Lock()
	c.faults = 0
	c.w.faultMu.Unlock()
	for _, devices := range c.people {
		for _, p := range devices {
			p.net.setAway(false)
			if v, ok := p.vault.(*crashVault); ok {
				v.mu.Lock()
				v.at = 0
				v.mu.Unlock()
			}
		}
	}
	settle(10 * time.Minute)
}

// say writes until that is in the vault, as a person does who looks at the screen
// after a crash.
func (c *crowd) say(p *person, in core.ConversationID, with [2]int) {
	m := &told{n: len(c.said), in: in, with: with, from: p, text: fmt.Sprint("text ", len(c.said)), sees: map[*person]bool{}, may: map[*person]bool{}, blurs: map[*person]bool{}}
	c.note("%s says %d in %v", c.label(p), m.n, with)
	c.messages++
	for {
		out, err := p.current().Post(ctx, in, core.Post{Text: m.text})
		if err == nil {
			c.keep(m, out.Ref())
			return
		}
		if !errors.Is(err, core.ErrVaultBroken) {
			c.t.Errorf("%s: %v", c.label(p), err)
			return
		}
		settle(time.Second)
		if lines, err := p.current().Lines(ctx, in, 0, 0); err == nil {
			if i := slices.IndexFunc(lines, func(l core.Message) bool { return l.Text == m.text }); i >= 0 {
				c.keep(m, lines[i].Ref())
				return
			}
		}
	}
}

// keep adds m to the model: all devices of who is there are to see it.
func (c *crowd) keep(m *told, ref core.Ref) {
	who := m.with[:]
	if !m.in.Group.IsZero() {
		who = c.members
	}
	for _, i := range who {
		for _, p := range c.people[i] {
			m.sees[p] = true
		}
	}
	c.said, c.known[ref] = append(c.said, m), m
}

// edit changes one of the messages that p wrote and has.
func (c *crowd) edit(p *person) {
	var own []core.Ref
	for ref, m := range c.known {
		if m.from == p && m.sees[p] && (m.in.Group.IsZero() || c.isMember(p)) {
			own = append(own, ref)
		}
	}
	if len(own) == 0 {
		return
	}
	slices.SortFunc(own, func(a, b core.Ref) int { return c.known[a].n - c.known[b].n })
	ref := pick(c, own)
	m := c.known[ref]
	c.edits++
	text := fmt.Sprintf("text %d, edit %d", m.n, c.edits)
	c.note("%s edits %d", c.label(p), m.n)
	for {
		err := p.current().Edit(ctx, ref, text)
		if err != nil && !errors.Is(err, core.ErrVaultBroken) {
			c.t.Errorf("%s: edit %d: %v", c.label(p), m.n, err)
			return
		}
		if err == nil {
			break
		}
		settle(time.Second)
		if line, err := p.current().Line(ctx, ref); err == nil && line.Text == text {
			break
		}
	}
	m.text = text
}

func (c *crowd) owner(p *person) int {
	return slices.IndexFunc(c.people, func(devices []*person) bool { return devices[0].user == p.user })
}

func (c *crowd) isMember(p *person) bool { return slices.Contains(c.members, c.owner(p)) }

// leave ends all brains and opens what they left.
func (c *crowd) leave() {
	for _, p := range c.ever {
		if stop := c.stops[p]; stop != nil {
			stop()
		}
		p.reopen()
	}
	c.devices = len(c.ever)
}

// check compares what every device shows with the model.
func (c *crowd) check() {
	for _, p := range c.ever {
		c.checkDevice(p)
	}
}

func (c *crowd) checkDevice(p *person) {
	all, err := p.brain.Conversations(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	seen := map[*told]bool{}
	for _, conversation := range all {
		lines, err := p.brain.Lines(ctx, conversation.In, 0, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		last := map[*person]int{}
		for _, line := range lines {
			switch {
			case line.Kind == core.MessageUndecryptable:
				c.fault(&c.lost, "%s cannot read %v of %v, device %d (%s)", c.label(p), line.ID, line.Sender == p.user, line.SenderDevice, line.Reason)
				continue
			case line.Kind != core.MessageText:
				continue
			}
			m := c.known[line.Ref()]
			if m == nil || !m.sees[p] && !m.may[p] {
				c.fault(&c.leaked, "%s shows %q", c.label(p), line.Text)
				continue
			}
			c.views++
			switch {
			case seen[m]:
				c.fault(&c.duplicated, "%s shows %d twice", c.label(p), m.n)
			case m.n < last[m.from]:
				c.fault(&c.reordered, "%s shows %d after %d", c.label(p), m.n, last[m.from])
			case line.Text != m.text && !m.blurs[p]:
				c.fault(&c.lost, "%s shows %q in place of %q", c.label(p), line.Text, m.text)
			}
			seen[m] = true
			last[m.from] = max(last[m.from], m.n)
		}
	}
	for _, m := range c.said {
		if m.sees[p] && !seen[m] {
			c.fault(&c.lost, "%s does not show %d of %s", c.label(p), m.n, c.label(m.from))
		}
	}
}

func (c *crowd) fault(count *int, format string, args ...any) {
	*count++
	c.t.Errorf(format, args...)
}
