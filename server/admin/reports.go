package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/reports"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// mayJudge refuses everybody but moderators, and whoever runs the machine: what
// people showed is for those alone who were chosen to read it. That an admin made
// somebody a moderator stands in the audit log.
func (a Actor) mayJudge() error {
	if a.local() {
		return nil
	}
	return a.require(auth.RoleModerator)
}

// Reports lists reports about people here, oldest first, without what was shown,
// and without those about the actor.
func (s *Service) Reports(ctx context.Context, a Actor, after string, limit int) (wire.AdminReports, error) {
	page := wire.AdminReports{Reports: []wire.AdminReport{}}
	if err := a.mayJudge(); err != nil {
		return page, err
	}
	from, err := cursor(after)
	if err != nil {
		return page, err
	}
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		rows, err := tx.Reports(from, limit)
		if err != nil {
			return err
		}
		page.Reports, page.Next = page.Reports[:0], ""
		for i := range rows {
			if rows[i].UserNo == a.UserNo {
				continue
			}
			r, err := adminReport(tx, &rows[i])
			if err != nil {
				return err
			}
			page.Reports = append(page.Reports, r)
		}
		if len(rows) == limit {
			page.Next = strconv.FormatInt(rows[limit-1].No, 10)
		}
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("list reports: %w", err)
	}
	return page, nil
}

func adminReport(tx *storage.Tx, r *storage.Report) (wire.AdminReport, error) {
	u, err := tx.UserByNo(r.UserNo)
	if errors.Is(err, storage.ErrNotFound) {
		err = nil // the account is gone
	}
	return wire.AdminReport{
		No: r.No, Handle: u.Handle, Message: r.Message, Peer: r.Peer, Received: r.Received, Until: r.Expires, State: string(r.State), Strikes: r.Strikes,
	}, err
}

// report gives one that the actor may judge: to those that it is about it does not
// exist.
func (a Actor) report(tx *storage.Tx, no int64) (storage.Report, error) {
	r, err := tx.Report(no)
	if err == nil && r.UserNo == a.UserNo {
		return storage.Report{}, storage.ErrNotFound
	}
	return r, err
}

// Report gives one with what was shown. That it was read is written down first.
func (s *Service) Report(ctx context.Context, a Actor, no int64) (out wire.AdminReport, err error) {
	if err := a.mayJudge(); err != nil {
		return out, err
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		r, err := a.report(tx, no)
		if err != nil {
			return err
		}
		if out, err = adminReport(tx, &r); err != nil {
			return err
		}
		shown, err := reports.ReadShown(r.Body)
		if err != nil {
			return err
		}
		out.Shown = &wire.AdminReportShown{Sent: shown.Sent, Text: shown.Text, File: shown.File, Reason: shown.Reason}
		return tx.Audit(a.reportDeed("report.show", &r))
	})
	return out, found(err, errNoReport)
}

// CloseReport says what became of one.
func (s *Service) CloseReport(ctx context.Context, a Actor, no int64, b wire.AdminReportClose) error {
	if err := a.mayJudge(); err != nil {
		return err
	}
	err := s.store.Update(ctx, func(tx *storage.Tx) error {
		r, err := a.report(tx, no)
		if err != nil {
			return err
		}
		if err := tx.CloseReport(no, storage.ReportState(b.State)); err != nil {
			return err
		}
		deed := a.reportDeed("report.close", &r)
		deed.Detail += " " + b.State
		return tx.Audit(deed)
	})
	return found(err, errNoReport)
}

func (a Actor) reportDeed(action string, r *storage.Report) storage.AuditEntry {
	deed := a.deed(action, "")
	deed.ObjectNo, deed.Detail = r.UserNo, "report "+strconv.FormatInt(r.No, 10)
	return deed
}

func errNoReport() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "there is no report with this number; see `clearbox report list`")
}
