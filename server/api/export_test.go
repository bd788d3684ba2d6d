package api

// Routes lists every operation as "METHOD /path".
func Routes() []string {
	var out []string
	for _, op := range operations() {
		out = append(out, op.method+" "+op.path)
	}
	return out
}

// Polls is how many long polls of a session wait.
func (a *API) Polls(session string) int {
	a.sockets.mu.Lock()
	defer a.sockets.mu.Unlock()
	return len(a.sockets.polls[session])
}
