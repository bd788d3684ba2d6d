package storage

import (
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed schema
var schemas embed.FS

// dialect holds what differs between databases. The queries themselves are
// common to all: $1 placeholders, RETURNING, ON CONFLICT, integer milliseconds.
type dialect struct {
	name       string // folder under schema
	goose      goose.Dialect
	begin      string // opens a transaction that will write
	beginRead  string
	soundCheck string // returns the one row "ok" when the database is sound
	versioned  string // 1 if the table of applied migrations exists, else 0
	columns    string // every column of the live schema: table, column
	rewrite    func(query string) string
	translate  func(err error) error // driver error to one of this package's, wrapped
}

// migrations are the dialect's numbered files.
func (d dialect) migrations() (fs.FS, error) { return fs.Sub(schemas, "schema/"+d.name) }

func sqliteDialect() dialect {
	return dialect{
		name:       "sqlite",
		goose:      goose.DialectSQLite3,
		begin:      "BEGIN IMMEDIATE",
		beginRead:  "BEGIN",
		soundCheck: "PRAGMA integrity_check(1)",
		versioned:  "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = 'goose_db_version'",
		columns: `SELECT m.name, p.name FROM sqlite_schema m JOIN pragma_table_xinfo(m.name) p
			WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY m.name, p.cid`,
		rewrite:   positional,
		translate: translateSQLite,
	}
}

// positional turns $1, $2, ... into ? when they stand in order and each once:
// the driver looks named parameters up by name at every run, which costs
// 0.1 us each. Other queries are left as they are. Queries here hold no
// dollar sign in literals.
func positional(query string) string {
	var b strings.Builder
	want := 1
	for i := 0; i < len(query); i++ {
		if query[i] != '$' {
			b.WriteByte(query[i])
			continue
		}
		n := 0
		for i+1 < len(query) && query[i+1] >= '0' && query[i+1] <= '9' {
			n = n*10 + int(query[i+1]-'0')
			i++
		}
		if n != want {
			return query
		}
		want++
		b.WriteByte('?')
	}
	return b.String()
}

// sqliteConnector opens connections to one file, for writing if logPages is not
// 0. secure_delete overwrites what
// is deleted, in the file and in the pages that the log carries.
func sqliteConnector(path string, logPages int) (driver.Connector, error) {
	q := url.Values{}
	q.Set("_txlock", "immediate")
	q.Set("_dqs", "0")
	q.Set("_defensive", "1")
	pragmas := []string{
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)",
		"temp_store(MEMORY)", "trusted_schema(OFF)",
	}
	if logPages > 0 {
		// cache_size: a batch of 256 messages touches about 3 MB of pages.
		pragmas = append(pragmas, "cache_size(-16384)", fmt.Sprintf("wal_autocheckpoint(%d)", logPages),
			fmt.Sprintf("journal_size_limit(%d)", logKept))
	} else {
		pragmas = append(pragmas, "cache_size(-2048)", "query_only(ON)")
	}
	for _, p := range pragmas {
		q.Add("_pragma", p)
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	return sqlite.NewConnector(u.String())
}

func translateSQLite(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return err
}

// placeholders writes n of them from $first on.
func placeholders(b *strings.Builder, first, n int) {
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(first + i))
	}
}
