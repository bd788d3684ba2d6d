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

// Sockets is how many are open.
func (a *API) Sockets() int { return a.sockets.count() }

// Window is what is in flight to a session.
func (a *API) Window(session string) (frames, bytes int) {
	for _, s := range a.sockets.all() {
		if s.who.Session == session {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.window.items), s.window.bytes
		}
	}
	return 0, 0
}
