package storage

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
)

// conn runs statements on one driver connection. Each query text is prepared
// once and stays bound to the connection. It goes past database/sql, whose
// locking, argument conversion and context watching cost about as much again
// as a small statement (see BenchmarkSubmit), but stands on the same driver
// interfaces, so every database/sql driver fits. Not safe for concurrent use.
type conn struct {
	dc    driver.Conn
	d     dialect
	stmts map[string]*stmt
}

type stmt struct {
	exec  driver.StmtExecContext
	query driver.StmtQueryContext
	close func() error
	args  []driver.NamedValue // reused; values are cleared after each run
	dest  []driver.Value      // reused by rows
	rows  rows                // reused; a statement is read by one reader at a time
	busy  bool
}

// background carries no deadline: a statement that has begun is finished, so
// that its outcome is known. The reads here are bounded by limits instead.
var background = context.Background()

func newConn(dc driver.Conn, d dialect) *conn {
	return &conn{dc: dc, d: d, stmts: make(map[string]*stmt)}
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.close())
	}
	clear(c.stmts)
	return errors.Join(append(errs, c.dc.Close())...)
}

func (c *conn) prepare(query string) (*stmt, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	var ds driver.Stmt
	var err error
	if p, ok := c.dc.(driver.ConnPrepareContext); ok {
		ds, err = p.PrepareContext(background, c.d.rewrite(query))
	} else {
		ds, err = c.dc.Prepare(c.d.rewrite(query))
	}
	if err != nil {
		return nil, c.d.translate(err)
	}
	s := &stmt{close: ds.Close}
	var ok1, ok2 bool
	s.exec, ok1 = ds.(driver.StmtExecContext)
	s.query, ok2 = ds.(driver.StmtQueryContext)
	if !ok1 || !ok2 {
		ds.Close()
		return nil, fmt.Errorf("the database driver %T lacks prepared statements with a context", c.dc)
	}
	c.stmts[query] = s
	return s, nil
}

// bind fills the reused argument slice. Only the driver's own value types are
// taken; a nil byte slice is stored as an empty value, never as NULL.
func (s *stmt) bind(args []any) []driver.NamedValue {
	if cap(s.args) < len(args) {
		s.args = make([]driver.NamedValue, len(args))
		for i := range s.args {
			s.args[i].Ordinal = i + 1
		}
	}
	s.args = s.args[:len(args)]
	for i, a := range args {
		if b, ok := a.([]byte); ok && b == nil {
			a = []byte{}
		}
		s.args[i].Value = a
	}
	return s.args
}

func (s *stmt) unbind() {
	for i := range s.args {
		s.args[i].Value = nil
	}
}

// exec runs a statement and tells how many rows it changed.
func (c *conn) exec(query string, args ...any) (int64, error) {
	s, err := c.prepare(query)
	if err != nil {
		return 0, err
	}
	res, err := s.exec.ExecContext(background, s.bind(args))
	s.unbind()
	if err != nil {
		return 0, c.d.translate(err)
	}
	return res.RowsAffected()
}

// query begins a read. The rows must be closed; until then the same query text
// must not be run again on this connection.
func (c *conn) query(query string, args ...any) (*rows, error) {
	s, err := c.prepare(query)
	if err != nil {
		return nil, err
	}
	if s.busy {
		return nil, errors.New("storage: a statement was run while its rows were open")
	}
	dr, err := s.query.QueryContext(background, s.bind(args))
	if err != nil {
		s.unbind()
		return nil, c.d.translate(err)
	}
	s.busy = true
	if n := len(dr.Columns()); len(s.dest) != n {
		s.dest = make([]driver.Value, n)
	}
	s.rows = rows{s: s, dr: dr, d: c.d}
	return &s.rows, nil
}

// row reads one row into dest and returns ErrNotFound if there is none.
func (c *conn) row(query string, args []any, dest ...any) error {
	r, err := c.query(query, args...)
	if err != nil {
		return err
	}
	if !r.next() {
		if err := r.close(); err != nil {
			return err
		}
		return ErrNotFound
	}
	if err := r.scan(dest...); err != nil {
		r.close()
		return err
	}
	// A statement that changes rows has done so only when it has been read to
	// its end.
	for r.next() {
	}
	return r.close()
}

// rows iterates over a result; see conn.query.
type rows struct {
	s   *stmt
	dr  driver.Rows
	d   dialect
	err error
}

func (r *rows) next() bool {
	if r.err != nil {
		return false
	}
	if err := r.dr.Next(r.s.dest); err != nil {
		if err != io.EOF {
			r.err = r.d.translate(err)
		}
		return false
	}
	return true
}

// close ends the read and reports the first error of the iteration.
func (r *rows) close() error {
	err := r.dr.Close()
	clear(r.s.dest)
	r.s.unbind()
	r.s.busy = false
	if r.err != nil {
		return r.err
	}
	if err != nil {
		return r.d.translate(err)
	}
	return nil
}

// scan copies the current row. Byte slices become the caller's.
func (r *rows) scan(dest ...any) error {
	if len(dest) != len(r.s.dest) {
		return fmt.Errorf("storage: %d columns read into %d variables", len(r.s.dest), len(dest))
	}
	for i, d := range dest {
		v := r.s.dest[i]
		switch d := d.(type) {
		case *int64:
			n, ok := v.(int64)
			if !ok && v != nil {
				return scanError(i, v)
			}
			*d = n
		case *[]byte:
			switch b := v.(type) {
			case []byte:
				*d = b
			case string:
				*d = []byte(b)
			case nil:
				*d = nil
			default:
				return scanError(i, v)
			}
		case *string:
			switch b := v.(type) {
			case []byte:
				*d = string(b)
			case string:
				*d = b
			case nil:
				*d = ""
			default:
				return scanError(i, v)
			}
		case *bool:
			switch b := v.(type) {
			case int64:
				*d = b != 0
			case bool:
				*d = b
			default:
				return scanError(i, v)
			}
		default:
			if s, ok := d.(scanner); ok {
				if !s.scan(v) {
					return scanError(i, v)
				}
				continue
			}
			return fmt.Errorf("storage: column %d cannot be read into %T", i, d)
		}
	}
	return nil
}

// scanner lets a domain type take a column.
type scanner interface{ scan(v driver.Value) bool }

func scanError(i int, v driver.Value) error {
	return fmt.Errorf("storage: column %d holds an unexpected %T", i, v)
}
