package api

import (
	"net/http"
	"strconv"

	"github.com/clearbox-im/clearbox/server/reports"
	"github.com/clearbox-im/clearbox/server/wire"
)

func report(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	var in wire.Report
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.api.parts.Reports.Submit(c.ctx(), c.who, reports.Report(in)); err != nil {
		return err
	}
	return c.done()
}

// number is the row of the path; 0, which is none, if it is no number.
func (c *call) number() int64 {
	no, err := strconv.ParseInt(c.param("no"), 10, 64)
	if err != nil {
		return 0
	}
	return no
}

func adminReport(c *call) error {
	out, err := c.api.parts.Admin.Report(c.ctx(), c.actor(), c.number())
	return c.replyOr(err, http.StatusOK, out)
}

func adminCloseReport(c *call) error {
	var in wire.AdminReportClose
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.api.parts.Admin.CloseReport(c.ctx(), c.actor(), c.number(), in); err != nil {
		return err
	}
	return c.done()
}

func adminReports(c *call) error {
	if err := c.knownQuery("after", "limit"); err != nil {
		return err
	}
	query := c.r.URL.Query()
	after, limit, err := wire.AdminPage(query.Get("after"), query.Get("limit"))
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Reports(c.ctx(), c.actor(), after, limit)
	return c.replyOr(err, http.StatusOK, out)
}
