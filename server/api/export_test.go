package api

// Routes lists every operation as "METHOD /path".
func Routes() []string {
	var out []string
	for _, op := range operations() {
		out = append(out, op.method+" "+op.path)
	}
	return out
}

// Statuses gives the HTTP status of every code.
func Statuses() map[string]int {
	out := map[string]int{}
	for code, a := range answers {
		out[string(code)] = a.status
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

// Classes are the columns of the role table.
var Classes = []string{"anyone", "nodevice", "member", "moderator", "rights", "dpo", "admin", "local"}

// Operation is one row of the role table, in words.
type Operation struct {
	Route  string
	May    []string // none, own, other or both, as Classes
	HasOwn bool     // the object may be the caller's own or another's
}

// Operations is the role table.
func Operations() []Operation {
	words := map[grant]string{none: "none", own: "own", other: "other", both: "both"}
	var out []Operation
	for _, op := range operations() {
		row := Operation{Route: op.method + " " + op.path, HasOwn: op.mine != nil}
		for _, g := range op.may {
			row.May = append(row.May, words[g])
		}
		out = append(out, row)
	}
	return out
}

// ForgetPanics is for the test that makes some.
func (a *API) ForgetPanics() { a.panics.Store(0) }
