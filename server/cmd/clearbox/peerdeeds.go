package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
)

type peerSet struct {
	Server             string  `arg:"" help:"The peer's domain."`
	Direction          *string `placeholder:"both|in|out" help:"Who may write to whom; in: its people to ours only, out: ours to its only."`
	Features           *string `placeholder:"LIST" help:"What is exchanged beyond messages: presence, typing, both with a comma, or none."`
	EnvelopesPerSecond *int64  `placeholder:"N" help:"Envelopes that it may bring in a second; 0: as all peers."`
	BytesPerSecond     *string `placeholder:"SIZE" help:"Bytes that it may bring in a second, such as 2MiB; 0B: as all peers."`
	Country            *string `placeholder:"XX" help:"The country it is in, two letters (ISO 3166-1)."`
	Listed             bool    `help:"A peer of the first contact becomes one like all others."`
}

func (c *peerSet) Run(x *call) error {
	body := &wire.AdminPeerSet{Direction: c.Direction, Envelopes: c.EnvelopesPerSecond, Listed: c.Listed}
	if c.Features != nil {
		list := []string{}
		if *c.Features != "none" {
			list = strings.Split(*c.Features, ",")
		}
		body.Features = &list
	}
	if c.BytesPerSecond != nil {
		size, err := config.ParseSize(*c.BytesPerSecond)
		if err != nil {
			return usage("--bytes-per-second: %v", err)
		}
		n := int64(size)
		body.Bytes = &n
	}
	if c.Country != nil {
		country, err := x.country(*c.Country, c.Server)
		if err != nil {
			return err
		}
		body.Country = &country
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	var p wire.AdminPeer
	if err := s.do(http.MethodPost, "/admin/peers/"+segment(c.Server)+"/set", body, &p); err != nil {
		return err
	}
	x.show(p, func() { x.printPeer(&p) })
	return nil
}

// printPeer shows what a peering allows.
func (x *call) printPeer(p *wire.AdminPeer) {
	x.printf("server     %s, %s, %s\ndirection  %s\nfeatures   %s\nquota      %s\n", p.Server, p.State, dash(p.Country), p.Direction,
		dash(strings.Join(p.Features, " ")), quotaWords(p))
	if p.ProbationUntil != 0 {
		x.printf("probation  until %s\n", when(p.ProbationUntil))
	}
}

func quotaWords(p *wire.AdminPeer) string {
	var said []string
	if p.Envelopes > 0 {
		said = append(said, strconv.FormatInt(p.Envelopes, 10)+" envelopes/s")
	}
	if p.Bytes > 0 {
		said = append(said, config.Size(p.Bytes).String()+"/s")
	}
	if len(said) == 0 {
		return "as all peers"
	}
	return strings.Join(said, ", ")
}

type peerBlock struct {
	Name    string `arg:"" help:"A server, or *.DOMAIN for a registered domain and all below it."`
	Reason  string `required:"" placeholder:"CODE" help:"Why, as a word, such as spam, abuse or policy."`
	Expires string `placeholder:"30d" help:"When the block ends; for good if not given."`
	Yes     bool   `help:"Do it; without this the command only says what would happen."`
}

func (c *peerBlock) Run(x *call) error {
	ttl, err := seconds(c.Expires)
	if err != nil {
		return err
	}
	if !c.Yes {
		again := "peer block " + shellWord(c.Name) + " --reason " + shellWord(c.Reason)
		if c.Expires != "" {
			again += " --expires " + shellWord(c.Expires)
		}
		return x.unsure("nothing is exchanged with "+c.Name+" while it is blocked, and what waits for it is reported to its senders", again)
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	var b wire.AdminBlock
	if err := s.do(http.MethodPost, "/admin/fed/blocks", &wire.AdminBlockSet{Name: c.Name, Reason: c.Reason, TTL: ttl}, &b); err != nil {
		return err
	}
	x.show(b, func() {
		end := "for good"
		if b.Expires != 0 {
			end = "until " + when(b.Expires)
		}
		x.printf("Nothing is exchanged with %s, %s. What waited is reported to its senders.\nTo end it: clearbox peer unblock %s%s\n", b.Name, end, shellWord(b.Name), x.mention())
	})
	return nil
}

// shellWord is a word as a shell takes it: with quotes where there is something
// in it that shells look at.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/:") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

type peerUnblock struct {
	Name string `arg:"" help:"As it was blocked."`
}

func (c *peerUnblock) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	if err := s.do(http.MethodPost, "/admin/fed/unblock", &wire.AdminUnblock{Name: c.Name}, nil); err != nil {
		return err
	}
	x.show(map[string]string{"unblocked": c.Name}, func() { x.printf("%s is not blocked any more.\n", c.Name) })
	return nil
}

type peerBlocks struct{}

func (c *peerBlocks) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var list wire.AdminBlocks
	if err := s.do(http.MethodGet, "/admin/fed/blocks", nil, &list); err != nil {
		return err
	}
	x.show(list, func() {
		rows := [][]string{{"NAME", "REASON", "SINCE", "UNTIL"}}
		for _, b := range list.Blocks {
			rows = append(rows, []string{b.Name, b.Reason, when(b.Created), when(b.Expires)})
		}
		x.table(rows)
	})
	return nil
}

type peerDefederate struct {
	Server string `arg:"" help:"The peer's domain."`
	Yes    bool   `help:"Do it; without this the command only says what would happen."`
}

func (c *peerDefederate) Run(x *call) error {
	if !c.Yes {
		return x.unsure("the peering with "+c.Server+" ends for good: nothing new goes either way, what waits is reported to its senders, and clients are told",
			"peer defederate "+c.Server)
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	var p wire.AdminPeer
	if err := s.do(http.MethodPost, "/admin/peers/"+segment(c.Server)+"/defederate", nil, &p); err != nil {
		return err
	}
	x.show(p, func() {
		for _, step := range p.Steps {
			mark := "…"
			if step.Done != 0 {
				mark = "✓"
			}
			x.printf("%s %-8s %s\n", mark, step.Name, stepWords[step.Name])
		}
		x.printf("%s is %s.\n", p.Server, p.State)
	})
	if p.State == "leaving" {
		return &failure{code: exitFailed, text: fmt.Sprintf("the peering with %s is not over yet; the server goes on every minute", p.Server),
			next: "clearbox peer defederate " + c.Server + " --yes" + x.mention(), silent: x.global.JSON}
	}
	return nil
}

// stepWords says what each step of the end of a peering does.
var stepWords = map[string]string{
	"traffic": "nothing new goes either way",
	"queue":   "what waited is reported to its senders",
	"close":   "the server is no peer any more, and clients are told so",
}

type peerAlerts struct {
	Server  string `arg:"" optional:"" help:"The peer's domain; all peers if not given."`
	Kind    string `placeholder:"KIND" help:"Only this kind."`
	Resolve bool   `help:"Close them: somebody has looked. What happens again is raised again."`
}

func (c *peerAlerts) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	if c.Resolve {
		var done wire.AdminAlertsResolved
		body := &wire.AdminAlertsResolve{Server: clearbox.ServerName(c.Server), Kind: c.Kind}
		if err := s.do(http.MethodPost, "/admin/fed/alerts/resolve", body, &done); err != nil {
			return err
		}
		x.show(done, func() { x.printf("%d closed.\n", done.Resolved) })
		return nil
	}
	var list wire.AdminPeerAlerts
	if err := s.do(http.MethodGet, "/admin/fed/alerts", nil, &list); err != nil {
		return err
	}
	shown := wire.AdminPeerAlerts{Alerts: []wire.AdminPeerAlert{}}
	for _, a := range list.Alerts {
		if (c.Server == "" || string(a.Server) == c.Server) && (c.Kind == "" || a.Kind == c.Kind) {
			shown.Alerts = append(shown.Alerts, a)
		}
	}
	x.show(shown, func() { x.printAlerts(shown.Alerts) })
	return nil
}

func (x *call) printAlerts(list []wire.AdminPeerAlert) {
	if len(list) == 0 {
		x.printf("There is nothing to look at.\n")
		return
	}
	for _, a := range list {
		x.printf("%s since %s, last %s, %d times: %s\n", a.Server, when(a.Since), when(a.Last), a.Count, fill(ailmentOf(a.Kind).sentence, a.Server))
	}
	x.printf("When you have looked: clearbox peer alerts --resolve%s\n", x.mention())
}
