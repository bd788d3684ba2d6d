package main

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

type deadCommands struct {
	List    deadList    `cmd:"" help:"List what peers did not get: metadata only, for 14 days."`
	Show    deadShow    `cmd:"" help:"Show one."`
	Requeue deadRequeue `cmd:"" help:"Ask the senders to send it again."`
	Drop    deadDrop    `cmd:"" help:"Forget it now."`
}

type deadList struct {
	Peer string `placeholder:"NAME" help:"Only of this peer."`
	Code string `placeholder:"CODE" help:"Only for this reason."`
}

func (c *deadList) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	all := wire.AdminDeadLetters{Letters: []wire.AdminDeadLetter{}}
	for after := ""; ; after = all.Next {
		query := url.Values{"limit": {strconv.Itoa(wire.MaxAdminPage)}}
		for key, v := range map[string]string{"peer": c.Peer, "code": c.Code, "after": after} {
			if v != "" {
				query.Set(key, v)
			}
		}
		var page wire.AdminDeadLetters
		if err := s.do(http.MethodGet, "/admin/fed/dead?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		page.Letters = append(all.Letters, page.Letters...)
		if all = page; all.Next == "" {
			break
		}
	}
	x.show(all, func() {
		if len(all.Counts) == 0 {
			x.printf("Nothing was given up in the last 14 days.\n")
			return
		}
		counts := [][]string{{"PEER", "CODE", "COUNT"}}
		for _, n := range all.Counts {
			counts = append(counts, []string{string(n.Peer), string(n.Code), strconv.FormatInt(n.Count, 10)})
		}
		x.table(counts)
		rows := [][]string{{"ID", "PEER", "CODE", "ACCEPTED", "LAST TRY", "ATTEMPTS", "GIVEN UP"}}
		for _, d := range all.Letters {
			rows = append(rows, []string{strconv.FormatInt(d.No, 10), string(d.Peer), string(d.Code), when(d.Accepted), when(d.LastTry),
				strconv.Itoa(d.Attempts), when(d.Died)})
		}
		x.printf("\n")
		x.table(rows)
	})
	return nil
}

type deadShow struct {
	ID int64 `arg:"" help:"Its number in the list."`
}

func (c *deadShow) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var d wire.AdminDeadLetter
	if err := s.do(http.MethodGet, "/admin/fed/dead/"+strconv.FormatInt(c.ID, 10), nil, &d); err != nil {
		return err
	}
	x.show(d, func() {
		sender := "account " + strconv.FormatInt(d.SenderNo, 10)
		if d.SenderNo == 0 {
			sender = "this server (a report)"
		}
		x.printf("message    %s\npeer       %s\nclass      %s\nreason     %s\nsender     %s\n", d.Message, d.Peer, d.Class, d.Code, sender)
		x.printf("accepted   %s\nfirst try  %s\nlast try   %s\nattempts   %d\ngiven up   %s\nkept until %s\n",
			when(d.Accepted), when(d.FirstTry), when(d.LastTry), d.Attempts, when(d.Died), when(d.Until))
		if d.Known {
			x.printf("To have it sent again: clearbox fed dead requeue %d%s\n", d.No, x.mention())
		} else {
			x.printf("Nobody can be asked for it again.\n")
		}
	})
	return nil
}

// deadPick chooses dead letters on the command line.
type deadPick struct {
	ID   int64  `arg:"" optional:"" help:"Its number in the list."`
	Peer string `placeholder:"NAME" help:"All of this peer."`
	Code string `placeholder:"CODE" help:"With --peer: only those for this reason."`
}

func (c *deadPick) body() (*wire.AdminDeadPick, error) {
	switch {
	case (c.ID == 0) == (c.Peer == ""):
		return nil, usage("either an ID of `clearbox fed dead list` or --peer NAME is needed")
	case c.Code != "" && c.Peer == "":
		return nil, usage("--code goes with --peer")
	}
	return &wire.AdminDeadPick{No: c.ID, Peer: clearbox.ServerName(c.Peer), Code: clearbox.Code(c.Code)}, nil
}

// again is what was picked, for another command.
func (c *deadPick) again() string {
	if c.ID != 0 {
		return " " + strconv.FormatInt(c.ID, 10)
	}
	out := " --peer " + shellWord(c.Peer)
	if c.Code != "" {
		out += " --code " + shellWord(c.Code)
	}
	return out
}

type deadRequeue struct{ deadPick }

func (c *deadRequeue) Run(x *call) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	if body.Peer != "" && body.Code == "" {
		return usage("--code CODE is needed with --peer, so that nothing is sent again that was refused for good; see `clearbox fed dead list`")
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	var done wire.AdminDeadRequeued
	if err := s.do(http.MethodPost, "/admin/fed/dead/requeue", body, &done); err != nil {
		return err
	}
	x.show(done, func() {
		x.printf("%d asked for again; their senders' devices send them when they are next online.\n", done.Asked)
		if done.Left > 0 {
			x.printf("%d stay: nobody can be asked for them. To forget them: clearbox fed dead drop%s%s\n", done.Left, c.again(), x.mention())
		}
	})
	return nil
}

type deadDrop struct{ deadPick }

func (c *deadDrop) Run(x *call) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	var done wire.AdminDeadDropped
	if err := s.do(http.MethodPost, "/admin/fed/dead/drop", body, &done); err != nil {
		return err
	}
	x.show(done, func() { x.printf("%d forgotten.\n", done.Dropped) })
	return nil
}
