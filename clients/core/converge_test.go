package core_test

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// TestChangesConverge lets two people write, edit, take back and react through
// networks that come and go, requests and answers that get lost and processes
// that die at any write. At the end both see the same, and each author's last
// word stands.
func TestChangesConverge(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue { // a run is long; ask for more by the flag
		if err := f.Value.Set(fmt.Sprint(rounds(25, 2))); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		type step struct{ who, what, n int }
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{rapid.IntRange(0, 1).Draw(t, "who"), rapid.IntRange(0, 8).Draw(t, "what"), rapid.IntRange(0, 20).Draw(t, "n")}
		}), 3, 30).Draw(rt, "steps")
		problem := ""
		synctest.Test(t, func(t *testing.T) {
			w, ada, bob := pair(t)
			ada.contact("bob@b.test")
			bob.contact("ada@a.test")
			people := []*person{ada, bob}
			stops := []func(){ada.supervise(), bob.supervise()}
			faults := 0
			w.setFault(func(_, path string) string {
				if faults > 0 && path != "/auth/refresh" {
					faults--
					return []string{"lost", "unheard"}[faults%2]
				}
				return ""
			})
			last := map[core.Ref]string{} // what each text is to say in the end
			for i, s := range steps {
				p, other := people[s.who], people[1-s.who]
				switch s.what {
				case 0, 1:
					text := fmt.Sprint(i)
					p.say(other, text)
					last[p.find(other, text)] = text
				case 2, 3, 4:
					p.change(other, s.what, s.n, i, last)
				case 5:
					p.net.setAway(s.n%2 == 0)
				case 6:
					w.faultMu.Lock()
					faults = s.n % 8
					w.faultMu.Unlock()
				case 7: // a process that will die at its n-th write from now on
					stops[s.who]()
					p.vault = &crashVault{inner: p.store, at: s.n, after: s.n%2 == 0}
					restartMu.Lock()
					p.open()
					restartMu.Unlock()
					stops[s.who] = p.supervise()
				case 8:
					settle(time.Duration(s.n*s.n) * time.Second)
				}
			}
			for _, p := range people {
				p.net.setAway(false)
			}
			settle(10 * time.Minute)
			for i, p := range people {
				stops[i]()
				p.reopen()
			}
			seen := [2]map[core.Ref]string{ada.said(bob), bob.said(ada)}
			for ref, want := range last {
				for i := range people {
					if got, _, _ := cut(seen[i][ref]); got != want {
						problem = fmt.Sprintf("%s sees %q where %q is the last word", people[i].name, got, want)
					}
				}
			}
			for ref, one := range seen[0] {
				if seen[1][ref] != one {
					problem = fmt.Sprintf("ada sees %q, bob %q", one, seen[1][ref])
				}
			}
			if len(seen[0]) != len(seen[1]) {
				problem = fmt.Sprintf("ada sees %d messages, bob %d", len(seen[0]), len(seen[1]))
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// cut separates what a message says from what stands beside it.
func cut(s string) (text, beside string, ok bool) {
	for i := range s {
		if s[i] == '|' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// said is p's view of the conversation by message.
func (p *person) said(other *person) map[core.Ref]string {
	p.t.Helper()
	lines, err := p.brain.Messages(ctx, other.user, 0, 0)
	p.must(err)
	out := map[core.Ref]string{}
	for _, m := range lines {
		text := m.Text
		if m.Kind != core.MessageText {
			text, m.Edited = "<"+string(m.Kind)+">", 0
		}
		var beside []string
		for _, r := range m.Shown() {
			beside = append(beside, r.User.String()+r.Emoji)
		}
		slices.Sort(beside)
		out[m.Ref()] = fmt.Sprint(text, "|", beside, m.Edited)
	}
	return out
}

// find gives the own message that says text.
func (p *person) find(other *person, text string) core.Ref {
	for {
		lines, err := p.current().Messages(ctx, other.user, 0, 0)
		if err == nil {
			for _, m := range lines {
				if m.Outgoing && m.Text == text {
					return m.Ref()
				}
			}
			p.t.Errorf("%q was said and is not there", text)
			return core.Ref{}
		}
		settle(time.Second) // it has died a moment ago
	}
}

// change edits, takes back or reacts to some message until that is in the vault,
// as a person does who looks at the screen after a crash.
func (p *person) change(other *person, what, n, step int, last map[core.Ref]string) {
	text := fmt.Sprint("edit ", step)
	for {
		lines, err := p.current().Messages(ctx, other.user, 0, 0)
		if err != nil { // it has died a moment ago
			settle(time.Second)
			continue
		}
		if what == 2 && slices.ContainsFunc(lines, func(m core.Message) bool { return m.Text == text }) {
			return // that was done before it died
		}
		lines = slices.DeleteFunc(lines, func(m core.Message) bool {
			return m.Kind != core.MessageText || what != 4 && !m.Outgoing
		})
		if len(lines) == 0 {
			return
		}
		ref := lines[n%len(lines)].Ref()
		switch what {
		case 2:
			last[ref] = text
			err = p.current().Edit(ctx, ref, text)
		case 3:
			last[ref] = "<deleted>"
			err = p.current().Delete(ctx, ref)
		case 4:
			err = p.current().React(ctx, ref, []string{"👍", "🎉", ""}[n%3])
		}
		switch {
		case err == nil:
			return
		case clearbox.CodeOf(err) == clearbox.CodeForbidden: // it was taken back a moment ago
			return
		case !errors.Is(err, core.ErrVaultBroken):
			p.t.Error(err)
			return
		}
		settle(time.Second)
		if m, err := p.current().Line(ctx, ref); what == 3 && err == nil && m.Kind == core.MessageDeleted {
			return
		}
	}
}
