package storage

// Exec runs any statement, so that tests can damage and inspect the database.
func (tx *Tx) Exec(query string, args ...any) error {
	tx.wrote = true
	r, err := tx.c.query(query, args...)
	if err != nil {
		return err
	}
	for r.next() {
	}
	return r.close()
}

// Int reads one number.
func (tx *Tx) Int(query string, args ...any) (n int64, err error) {
	err = tx.one(query, args, &n)
	return n, err
}

// LiveColumns lists the schema's columns as table.column, goose's own table
// included.
func (tx *Tx) LiveColumns() ([]string, error) {
	var out []string
	var table, column string
	err := tx.each(tx.c.d.columns, nil, []any{&table, &column}, func() error {
		out = append(out, table+"."+column)
		return nil
	})
	return out, err
}

// Positional is exported for its table.
var Positional = positional
