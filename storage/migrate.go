package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

// migrate brings the schema up to the newest embedded migration. A database
// that is newer is left alone: ErrNewerSchema.
func migrate(ctx context.Context, d dialect, connector driver.Connector) error {
	files, err := d.migrations()
	if err != nil {
		return err
	}
	newest, err := newestMigration(files)
	if err != nil {
		return err
	}
	dc, err := connector.Connect(ctx)
	if err != nil {
		return d.translate(err)
	}
	c := newConn(dc, d)
	current, err := schemaVersion(c)
	if err := errors.Join(err, c.close()); err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	switch {
	case current == newest:
		return nil
	case current > newest:
		return fmt.Errorf("schema %d, this release knows %d: %w", current, newest, ErrNewerSchema)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	p, err := goose.NewProvider(d.goose, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate from schema %d to %d: %w", current, newest, d.translate(err))
	}
	return nil
}

// schemaVersion is the newest applied migration, 0 in an empty database.
func schemaVersion(c *conn) (int64, error) {
	var tables int64
	if err := c.row(c.d.versioned, nil, &tables); err != nil {
		return 0, err
	}
	if tables == 0 {
		return 0, nil
	}
	var v int64
	err := c.row("SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied", nil, &v)
	return v, err
}

// newestMigration reads the number that a migration's file name begins with.
func newestMigration(files fs.FS) (int64, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, name := range names {
		digits, _, _ := strings.Cut(name, "_")
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the migration %q has no number", name)
		}
		newest = max(newest, n)
	}
	return newest, nil
}
