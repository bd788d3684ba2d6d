package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// serverLine is what keeps an organisation's server from taking messages, in JSON.
type serverLine struct {
	Server      clearbox.ServerName `json:"server"`
	State       wire.ServerState    `json:"state"`
	Here        bool                `json:"here,omitempty"`  // suspended by the own server's administrator
	Since       clearbox.Millis     `json:"since,omitempty"` // where it is known
	Explanation string              `json:"explanation"`
}

// serverPatience is how long the own server may take to say how another one is.
const serverPatience = 2 * time.Second

// trouble asks the own server what is wrong with another one; nil if nothing
// is, as far as it knows, or if it does not say.
func (a *app) trouble(ctx context.Context, p *profile, server clearbox.ServerName) *serverLine {
	if who, err := p.brain.Profile(); err != nil || who.User.Server == server || server == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	info, err := p.brain.Server(ctx, server)
	if err != nil {
		return nil
	}
	words, means := map[wire.ServerState]string{
		wire.ServerUnreachable: "%s is unreachable",
		wire.ServerSuspended:   "%s is suspended",
		wire.ServerNotPeered:   "your server does not exchange messages with %s",
	}[info.State], ""
	if words == "" {
		return nil
	}
	if info.State == wire.ServerSuspended {
		means = ", by its administrator: messages to it wait"
		if info.Here {
			means = ", by your administrator: new messages to it are refused until it is resumed"
		}
	}
	out := &serverLine{Server: server, State: info.State, Here: info.Here, Since: info.Since, Explanation: fmt.Sprintf(words, server)}
	if info.Since != 0 {
		out.Explanation += " since " + a.clock(info.Since)
	}
	out.Explanation += means
	return out
}

// maxServers is how many servers status asks about.
const maxServers = 32

// troubles is what is wrong with the servers of the contacts.
func (a *app) troubles(ctx context.Context, p *profile) ([]serverLine, error) {
	all, err := p.brain.Contacts(ctx)
	if err != nil {
		return nil, err
	}
	var names []clearbox.ServerName
	for _, c := range all {
		names = append(names, c.User.Server)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	out := []serverLine{}
	for _, name := range names[:min(len(names), maxServers)] {
		if t := a.trouble(ctx, p, name); t != nil {
			out = append(out, *t)
		}
	}
	return out, nil
}

// progress is an own message's state in words, with what keeps it at the own
// server where that is known.
func progress(m *core.Message, theirs *serverLine) string {
	if m.State == core.StateAtServer && theirs != nil {
		return "at my server; " + theirs.Explanation
	}
	return stateText(m)
}
