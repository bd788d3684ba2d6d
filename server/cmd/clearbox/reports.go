package main

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/clearbox-im/clearbox/server/wire"
)

type reportCommands struct {
	List  reportList  `cmd:"" help:"List messages of people here that a recipient reported; not what they say."`
	Show  reportShow  `cmd:"" help:"Read one; that you did goes into the audit log."`
	Close reportClose `cmd:"" help:"Say what became of one."`
}

type reportList struct {
	Open bool `help:"Only those that nobody closed."`
}

func (c *reportList) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	all := wire.AdminReports{Reports: []wire.AdminReport{}}
	for after := ""; ; {
		query := url.Values{"limit": {strconv.Itoa(wire.MaxAdminPage)}}
		if after != "" {
			query.Set("after", after)
		}
		var page wire.AdminReports
		if err := s.do(http.MethodGet, "/admin/reports?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, r := range page.Reports {
			if !c.Open || r.State == "open" {
				all.Reports = append(all.Reports, r)
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	x.show(all, func() {
		if len(all.Reports) == 0 {
			x.printf("There are no such reports.\n")
			return
		}
		rows := [][]string{{"ID", "ABOUT", "FROM", "STATE", "STRIKES", "RECEIVED"}}
		for _, r := range all.Reports {
			rows = append(rows, []string{strconv.FormatInt(r.No, 10), string(r.Handle), string(r.Peer), r.State, strconv.FormatInt(r.Strikes, 10), when(r.Received)})
		}
		x.table(rows)
	})
	return nil
}

type reportShow struct {
	ID int64 `arg:"" help:"Its number in the list."`
}

func (c *reportShow) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var r wire.AdminReport
	if err := s.do(http.MethodGet, "/admin/reports/"+strconv.FormatInt(c.ID, 10), nil, &r); err != nil {
		return err
	}
	x.show(r, func() {
		x.printf("about      %s\nstrikes    %d\nfrom       somebody at %s\nstate      %s\nreceived   %s\nkept until %s\n",
			r.Handle, r.Strikes, r.Peer, r.State, when(r.Received), when(r.Until))
		if r.Shown != nil {
			x.printf("sent       %s\nfile       %t\nreason     %q\ntext       %q\n", when(r.Shown.Sent), r.Shown.File, r.Shown.Reason, r.Shown.Text)
		}
		if r.State == "open" {
			x.printf("To close it: clearbox report close %d%s --upheld, or --dismissed\n", r.No, x.mention())
		}
	})
	return nil
}

type reportClose struct {
	ID        int64 `arg:"" help:"Its number in the list."`
	Upheld    bool  `help:"It was abuse: a strike for the account."`
	Dismissed bool  `help:"It was none."`
}

func (c *reportClose) Run(x *call) error {
	if c.Upheld == c.Dismissed {
		return usage("either --upheld or --dismissed is needed")
	}
	state := "dismissed"
	if c.Upheld {
		state = "upheld"
	}
	s, err := x.dial()
	if err != nil {
		return err
	}
	if err := s.do(http.MethodPost, "/admin/reports/"+strconv.FormatInt(c.ID, 10)+"/close", wire.AdminReportClose{State: state}, nil); err != nil {
		return err
	}
	x.show(map[string]any{"no": c.ID, "state": state}, func() {
		x.printf("The report is closed: %s.\n", state)
		if c.Upheld {
			x.printf("To lock the account: clearbox user ban NAME%s\n", x.mention())
		}
	})
	return nil
}
