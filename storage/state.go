package storage

// ServerState reads a small value that the server keeps under key; ErrNotFound.
// Personal data has no place here.
func (tx *Tx) ServerState(key string) ([]byte, error) {
	var v []byte
	err := tx.one("SELECT value FROM server_state WHERE key = $1", args(key), &v)
	return v, err
}

// SetServerState stores it.
func (tx *Tx) SetServerState(key string, value []byte) error {
	_, err := tx.exec("INSERT INTO server_state (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	return err
}
