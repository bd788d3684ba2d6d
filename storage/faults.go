package storage

import (
	"context"
	"database/sql/driver"
	"strings"
	"sync"
)

// FaultStep names a durable step of the writer.
type FaultStep string

// The steps. A commit is one call to the database: it writes the log and syncs
// it, so a sync that fails is a commit that fails, with its effects on the disk
// or not.
const (
	FaultBegin     FaultStep = "begin"
	FaultStatement FaultStep = "statement"
	FaultSavepoint FaultStep = "savepoint"
	FaultRelease   FaultStep = "release"
	FaultCommit    FaultStep = "commit"
	FaultRollback  FaultStep = "rollback"
	FaultConnect   FaultStep = "connect"
)

// Faults makes steps of the writer fail, in tests. It wraps the driver, so
// everything above it is as shipped.
type Faults struct {
	mu   sync.Mutex // guards hook
	hook func(step FaultStep, after bool, query string) error
}

// Set installs what is asked before (after = false) and after each step. An
// error before keeps the step from happening, one after lets it happen and
// reports a failure. nil takes it away. The hook runs on the writer's goroutine.
func (f *Faults) Set(hook func(step FaultStep, after bool, query string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *Faults) ask(step FaultStep, after bool, query string) error {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(step, after, query)
}

func (f *Faults) wrap(c driver.Connector) driver.Connector { return &faultConnector{c, f} }

type faultConnector struct {
	driver.Connector
	f *Faults
}

func (c *faultConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.f.ask(FaultConnect, false, ""); err != nil {
		return nil, err
	}
	dc, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &faultConn{dc, c.f}, nil
}

type faultConn struct {
	driver.Conn
	f *Faults
}

func (c *faultConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	ds, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	step := FaultStatement
	for prefix, s := range map[string]FaultStep{
		"BEGIN": FaultBegin, "SAVEPOINT": FaultSavepoint, "RELEASE": FaultRelease, "COMMIT": FaultCommit, "ROLLBACK": FaultRollback,
	} {
		if strings.HasPrefix(query, prefix) {
			step = s
		}
	}
	return &faultStmt{ds, c.f, step, query}, nil
}

type faultStmt struct {
	driver.Stmt
	f     *Faults
	step  FaultStep
	query string
}

func (s *faultStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.f.ask(s.step, false, s.query); err != nil {
		return nil, err
	}
	res, err := s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	if err != nil {
		return nil, err
	}
	return res, s.f.ask(s.step, true, s.query)
}

func (s *faultStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.f.ask(s.step, false, s.query); err != nil {
		return nil, err
	}
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	if err := s.f.ask(s.step, true, s.query); err != nil {
		rows.Close()
		return nil, err
	}
	return rows, nil
}
