package logging

// class says what may stand under a key.
type class uint8

const (
	unlisted  class = iota // the value is hidden: name the key here first
	plain                  // numbers, codes, server names, file paths: shown, and scrubbed
	opaque                 // random ids that name no person: shown as they are
	pseudonym              // ids of sessions: shown under a name of the day, with privacy mode or without
)

// keys is the one list of attribute names, in snake_case. A key that is missing
// has its value hidden, so a new one is a decision and not an accident. Names of
// peers are organisations, not people, and are shown.
func keyClass(key string) class {
	switch key {
	case "action", "addr", "address", "algorithm", "attempt", "attempts",
		"batch", "bytes", "backlog", "build",
		"changed", "class", "clock_offset_ms", "code", "commit", "component", "config", "count", "cert_expires",
		"deferred", "delay", "delay_ms", "dir", "disk_free", "duration", "duration_ms",
		"endpoint", "error", "event", "expected", "expires", "expires_in",
		"failures", "fault", "fence", "field", "file", "first_pos", "format", "found", "from",
		"go", "host", "items",
		"key_name", "kind", "level", "limit", "line", "listener",
		"max", "message", "method", "migration", "min", "mode", "msg",
		"name", "next_try", "notice_version",
		"offset_ms", "oldest", "oldest_s", "open",
		"panic", "path", "peer", "peers", "pending", "pid", "pos", "port", "problem", "problems", "protocol", "proto",
		"queue", "queued", "ready", "reason", "rejected", "reload", "remaining", "remote", "restart", "retry_after", "retry_after_ms", "role", "route", "row", "rows",
		"seq", "server", "sessions", "signal", "size", "socket", "source", "speed", "stage", "state", "status", "step", "store", "subprotocol",
		"table", "time", "timeout", "tls_version", "type", "to", "took", "took_ms", "total", "transport", "try",
		"updates", "url", "users", "version", "wait", "wait_ms", "warning", "write_ms":
		return plain
	case "request_id", "trace_id", "span_id", "stack", "fingerprint", "kid", "device", "device_no", "user_no", "session_ref", "stream":
		return opaque
	case "session":
		return pseudonym
	}
	return unlisted
}

// secretKey tells whether a key's value is never shown, not even its type.
func secretKey(key string) bool {
	switch key {
	case "access", "access_token", "authorization", "body", "ciphertext", "code_secret", "content", "cookie", "credential", "credentials",
		"envelope", "identity_key", "invite", "key", "keys", "notice_text", "passphrase", "password", "payload", "plaintext", "private",
		"private_key", "query", "refresh", "refresh_token", "root_key", "seal", "secret", "sig", "signature", "text", "ticket",
		"token", "tokens", "user", "handle", "uid", "sender", "recipient":
		return true
	}
	return false
}
