package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

type peerCommands struct {
	Invite  peerInvite  `cmd:"" help:"Make a token for the other server's administrator."`
	Accept  peerAccept  `cmd:"" help:"Accept the token of the other server's administrator."`
	List    peerList    `cmd:"" help:"List peers."`
	Test    peerTest    `cmd:"" help:"Try the way to a peer, step by step."`
	Suspend peerSuspend `cmd:"" help:"Stop all traffic with a peer for now."`
	Resume  peerResume  `cmd:"" help:"End a suspension."`
	Repin   peerRepin   `cmd:"" help:"Pin a peer's new identity, by its words."`
	Remove  peerRemove  `cmd:"" help:"End the peering; what waits is reported to its senders."`

	Defederate peerDefederate `cmd:"" help:"End the peering step by step, and show how far it has come."`
	Set        peerSet        `cmd:"" help:"Change what a peering allows: direction, features, quotas; at once."`
	Block      peerBlock      `cmd:"" help:"Exchange nothing with a server or a whole domain."`
	Unblock    peerUnblock    `cmd:"" help:"End a block."`
	Blocks     peerBlocks     `cmd:"" help:"List what is blocked."`
	Alerts     peerAlerts     `cmd:"" help:"Show what somebody must look at."`
}

type peerInvite struct {
	Server       string `arg:"" help:"The peer's domain."`
	Country      string `placeholder:"XX" help:"The country it is in, two letters (ISO 3166-1). Asked for if not given."`
	Expires      string `placeholder:"72h" help:"How long the token is valid."`
	AllowPrivate bool   `help:"Allow private and loopback addresses; for tests."`
}

func (c *peerInvite) Run(x *call) error {
	ttl, err := seconds(c.Expires)
	if err != nil {
		return err
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	country, err := x.country(c.Country, c.Server)
	if err != nil {
		return err
	}
	var made wire.AdminPeerInvited
	body := &wire.AdminPeerInvite{Server: clearbox.ServerName(c.Server), Country: country, TTL: ttl, AllowPrivate: c.AllowPrivate}
	if err := s.do(http.MethodPost, "/admin/peers/invite", body, &made); err != nil {
		return err
	}
	x.show(made, func() {
		x.printf("Give this token to the administrator of %s, on a way that you trust; it is valid until %s, for one use:\n\n  %s\n\n", made.Server, when(made.Expires), made.Token)
		x.printf("There: clearbox peer accept %s\nRead these words to each other; they are this server's:\n\n  %s\n", made.Token, strings.Join(made.Words, " "))
	})
	return nil
}

// country is the flag's value, or what the person answers.
func (x *call) country(given, server string) (string, error) {
	if given == "" {
		whose := "the peer"
		if server != "" {
			whose = server
		}
		fmt.Fprintf(x.err, "In which country is %s (two letters, such as AT)? ", whose)
		line, err := bufio.NewReader(io.LimitReader(x.in, 100)).ReadString('\n')
		if given = strings.TrimSpace(line); given == "" {
			fmt.Fprintln(x.err)
			_ = err // whatever ended the input, there is no answer
			return "", usage("the peer's country is needed: --country XX")
		}
	}
	given = strings.ToUpper(given)
	if len(given) != 2 || strings.Trim(given, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", usage("%q is not a country of two letters, such as AT", given)
	}
	if !clearbox.ValidCountry(given) {
		return "", usage("there is no country %s; it has two letters of ISO 3166-1, such as AT", given)
	}
	return given, nil
}

type peerAccept struct {
	Token        string `arg:"" help:"The token."`
	Country      string `placeholder:"XX" help:"The country the peer is in, two letters (ISO 3166-1). Asked for if not given."`
	AllowPrivate bool   `help:"Allow private and loopback addresses; for tests."`
}

func (c *peerAccept) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	country, err := x.country(c.Country, "")
	if err != nil {
		return err
	}
	var made wire.AdminPeerAccepted
	body := &wire.AdminPeerAccept{Token: c.Token, Country: country, AllowPrivate: c.AllowPrivate}
	if err := s.do(http.MethodPost, "/admin/peers/accept", body, &made); err != nil {
		return err
	}
	x.show(made, func() {
		x.printf("%s is %s.\n\nRead these words to each other:\n  theirs: %s\n  ours:   %s\n\nIf they differ: clearbox peer remove %s --yes%s\nThen: clearbox peer test %s%s\n",
			made.Peer.Server, made.Peer.State, strings.Join(made.Peer.Words, " "), strings.Join(made.Own, " "),
			made.Peer.Server, x.mention(), made.Peer.Server, x.mention())
	})
	return nil
}

type peerList struct{}

func (c *peerList) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var list wire.AdminPeers
	if err := s.do(http.MethodGet, "/admin/peers", nil, &list); err != nil {
		return err
	}
	x.show(list, func() {
		rows := [][]string{{"SERVER", "STATE", "COUNTRY", "DIRECTION", "LAST SEEN", "PROBLEM", "WORDS"}}
		for _, p := range list.Peers {
			state, problem := p.State, dash(string(p.LastError))
			if p.Blocked != "" {
				state, problem = "blocked", p.Blocked
			}
			rows = append(rows, []string{string(p.Server), state, dash(p.Country), dash(p.Direction), when(p.LastSeen), problem, dash(strings.Join(p.Words, " "))})
		}
		x.table(rows)
		if list.Blocks > 0 {
			x.printf("%d on the block list: clearbox peer blocks%s\n", list.Blocks, x.mention())
		}
	})
	return nil
}

type peerTest struct {
	Server string `arg:"" help:"The peer's domain."`
}

func (c *peerTest) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var t wire.AdminPeerTest
	if err := s.do(http.MethodPost, "/admin/peers/"+segment(c.Server)+"/test", nil, &t); err != nil {
		return err
	}
	x.show(t, func() {
		for _, step := range t.Steps {
			mark, text := "✓", step.Detail
			if !step.OK {
				mark = "✗"
				text = strings.TrimSpace(string(step.Code) + " " + step.Detail)
			}
			x.printf("%s %-12s %5d ms  %s\n", mark, step.Name, step.Took, text)
		}
	})
	if !t.OK {
		f := &failure{code: exitFailed, text: fmt.Sprintf("%s cannot be reached properly", t.Server), next: "clearbox doctor" + x.mention(), silent: x.global.JSON}
		switch t.Stopped {
		case "suspended":
			f.text, f.next = fmt.Sprintf("%s is suspended here, so nothing is exchanged with it", t.Server), "clearbox peer resume "+string(t.Server)+x.mention()
		case "blocked":
			f.text, f.next = fmt.Sprintf("%s is on the block list, so nothing is exchanged with it", t.Server), "clearbox peer blocks"+x.mention()
		}
		return f
	}
	return nil
}

type peerSuspend struct {
	Server string `arg:"" help:"The peer's domain."`
}

func (c *peerSuspend) Run(x *call) error {
	return x.changePeer(c.Server, "suspend", "Traffic with %s is stopped: what waits stays, new messages to it are refused. To go on: clearbox peer resume %[1]s%[2]s\n")
}

type peerResume struct {
	Server string `arg:"" help:"The peer's domain."`
}

func (c *peerResume) Run(x *call) error {
	return x.changePeer(c.Server, "resume", "Traffic with %[1]s goes on. To look at it: clearbox peer test %[1]s%[2]s\n")
}

// changePeer does it; done is said of the peer (1), with the configuration (2).
func (x *call) changePeer(server, verb, done string) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var p wire.AdminPeer
	if err := s.do(http.MethodPost, "/admin/peers/"+segment(server)+"/"+verb, nil, &p); err != nil {
		return err
	}
	x.show(p, func() { x.printf(done, p.Server, x.mention()) })
	return nil
}

type peerRemove struct {
	Server string `arg:"" help:"The peer's domain."`
	Yes    bool   `help:"Do it; without this the command only says what would happen."`
}

func (c *peerRemove) Run(x *call) error {
	if !c.Yes {
		return x.unsure("nothing is exchanged with "+c.Server+" any more, and what waits for it is reported to its senders; to begin again needs a token of one of the administrators",
			"peer remove "+c.Server)
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	if err := s.do(http.MethodDelete, "/admin/peers/"+segment(c.Server), nil, nil); err != nil {
		return err
	}
	x.show(map[string]string{"removed": c.Server}, func() {
		x.printf("%s is no peer any more. What waited for it is reported to its senders.\n", c.Server)
	})
	return nil
}

// unsure says what a command would do, and the command that does it.
func (x *call) unsure(would, command string) error {
	return &failure{code: exitUsage, text: "nothing was done yet: " + would, next: "clearbox " + command + " --yes" + x.mention()}
}

type fedCommands struct {
	Status      fedStatus      `cmd:"" help:"Show what waits for each peer."`
	Retry       fedRetry       `cmd:"" help:"Try now, instead of when the backoff ends."`
	Dead        deadCommands   `cmd:"" help:"What peers did not get."`
	Conformance fedConformance `cmd:"" help:"Ask a peer whether it keeps the protocol; nothing is changed there."`
}

type fedStatus struct{}

func (c *fedStatus) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var st wire.AdminFedStatus
	if err := s.do(http.MethodGet, "/admin/fed/status", nil, &st); err != nil {
		return err
	}
	x.show(st, func() {
		x.printf("Federation: %s\n", st.Mode)
		rows := [][]string{{"SERVER", "STATE", "QUEUED", "BYTES", "OLDEST", "FAILURES", "NEXT TRY", "OVER", "PROBLEM"}}
		for _, p := range st.Peers {
			rows = append(rows, []string{string(p.Server), p.State, strconv.FormatInt(p.Queued, 10), strconv.FormatInt(p.Bytes, 10),
				when(p.Oldest), strconv.Itoa(p.Failures), when(p.NextTry), protocol(p), dash(string(p.LastError))})
		}
		x.table(rows)
		for i := range st.Peers {
			if s := peerTrouble(&st.Peers[i], time.Now()); s != "" {
				x.printf("%s\n", s)
			}
			if s := circuitTrouble(&st.Peers[i], time.Now()); s != "" {
				x.printf("%s\n", s)
			}
		}
		if len(st.Alerts) > 0 {
			x.printAlerts(st.Alerts)
		}
	})
	return nil
}

// protocol is how the peer is reached now, for people.
func protocol(p wire.AdminFedQueue) string {
	switch {
	case p.Protocol == "h3":
		return "HTTP/3"
	case p.Protocol == "h2" && p.H3BrokenUntil != 0:
		return "HTTP/2, UDP blocked"
	case p.Protocol == "h2":
		return "HTTP/2"
	}
	return "-"
}

type fedRetry struct {
	Server string `arg:"" optional:"" help:"The peer's domain; all peers if not given."`
}

func (c *fedRetry) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var r wire.AdminFedRetried
	if err := s.do(http.MethodPost, "/admin/fed/retry", &wire.AdminFedRetry{Server: clearbox.ServerName(c.Server)}, &r); err != nil {
		return err
	}
	x.show(r, func() {
		if len(r.Servers) == 0 {
			x.printf("There is no active peer to try; see `clearbox peer list`.\n")
		}
		for _, name := range r.Servers {
			x.printf("%s is tried now.\n", name)
		}
	})
	return nil
}

type statusCommand struct{}

func (c *statusCommand) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var st wire.AdminStatus
	if err := s.do(http.MethodGet, "/admin/status", nil, &st); err != nil {
		return err
	}
	x.show(st, func() {
		x.printf("server    %s, version %s, since %s (%s)\n", st.Server, st.Version.Version, when(st.Started),
			(time.Duration(st.Now-st.Started) * time.Millisecond).Round(time.Second))
		x.printf("accounts  %d\npeers     %d active, %d items waiting for them\n", st.Users, st.Peers, st.Queued)
		for _, c := range st.Checks {
			mark := "ok"
			if !c.OK {
				mark = string(c.Code)
			}
			x.printf("%-9s %s\n", c.Name, mark)
		}
		x.printf("words     %s\npin       %s\n", strings.Join(st.Words, " "), st.Pin)
	})
	if !st.Ready {
		return &failure{code: exitFailed, text: "the server is not ready", next: "clearbox doctor" + x.mention(), silent: x.global.JSON}
	}
	return nil
}

type reloadCommand struct{}

func (c *reloadCommand) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var r wire.AdminReload
	if err := s.do(http.MethodPost, "/admin/reload", nil, &r); err != nil {
		return err
	}
	x.show(r, func() {
		if len(r.Applied)+len(r.Restart) == 0 {
			x.printf("Nothing has changed.\n")
		}
		for _, k := range r.Applied {
			x.printf("%s is in force\n", k)
		}
		for _, k := range r.Restart {
			x.printf("%s waits for a restart\n", k)
		}
	})
	return nil
}
