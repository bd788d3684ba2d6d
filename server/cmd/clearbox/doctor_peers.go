package main

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
)

// ailment is one kind of trouble with a peer, as the doctor explains it.
type ailment struct {
	kind     string
	weight   int    // how bad it is
	sentence string // %s is the peer
	next     string // a command, without the program's name; %s is the peer
}

// How bad an ailment is. What an administrator wanted, or what passes by itself,
// is told and is no warning.
const (
	noted = iota
	warned
	failed
)

// ailments is every kind of trouble with a peer. The kinds of federation.Trouble
// and of federation.Alert are among them.
var ailments = []ailment{
	{"dns", warned, "%s is unreachable: its name does not resolve; what is sent waits", "peer test %s"},
	{"address", warned, "%s is unreachable: its name leads to private addresses only, which are not dialled for it", "peer test %s"},
	{"refused", warned, "%s is unreachable: nobody listens at its address; what is sent waits", "peer test %s"},
	{"tcp", warned, "%s is unreachable: no connection comes about, or it breaks; look at the network and firewalls on both sides", "peer test %s"},
	{"tls", warned, "%s is unreachable: TLS fails; its certificate has expired, is for another name or comes from an unknown authority", "peer test %s"},
	{"timeout", warned, "%s is unreachable: it does not answer in time", "peer test %s"},
	{"http", warned, "%s does not answer as a homeserver: a proxy in front of it says that it is down, or something else listens there", "peer test %s"},
	{"unreachable", warned, "%s is unreachable; what is sent waits", "peer test %s"},
	{"busy", noted, "%s asks to wait: it has more to do than it can, or this server brings more than its quota", "fed status"},
	{"key", warned, "%s and this server do not know each other's signing keys at the moment; they fetch them by themselves", "peer test %s"},
	{"clock", warned, "the clocks of %s and this server are too far apart for signatures to be valid", "doctor clock"},
	{"suspended_there", warned, "%s has suspended or blocked this server; call its administrator, what is sent waits", "peer test %s"},
	{"unknown_there", warned, "%s does not know this server as a peer; make the peering anew with its administrator", "peer test %s"},
	{"refusal", warned, "%s does not accept messages of this server", "peer test %s"},
	{"too_large", warned, "%s takes smaller messages than this server sends", "fed status"},
	{"identity", failed, "%s shows another identity than the pinned one, or an older document, and is not believed", "peer test %s"},
	{"protocol", warned, "%s gives answers that break the protocol; one of the two servers may be too old", "peer test %s"},
	{"document_expired", warned, "the document of %s has expired, and no newer one could be fetched", "peer test %s"},
	{"clock_off", noted, "the clock of %s differs by more than 30 s; signatures are made with its time", "doctor clock"},

	{"rollback", failed, "%s showed an older document than before, which was refused: it was restored from a backup, or somebody plays an old one", "peer alerts %s"},
	{"identity_changed", failed, "%s showed another identity than the pinned one, which was refused: if its administrator confirms it by phone, pin the new words", "peer repin %s --words \"W1 W2 W3 W4 W5 W6 W7 W8\""},
	{"split_view", failed, "%s shows different documents to different servers: compare its words with its administrator and with others", "peer alerts %s"},
	{"downgrade", warned, "%s speaks a lower version of the protocol than it says it can: somebody between may have changed it, or it was set back", "peer alerts %s"},
	{"clock_skew", failed, "the clock of %s is more than 15 minutes off, so its requests and ours are refused", "doctor clock"},
	{"group_fork", failed, "%s told two histories of one group, whose membership is frozen here: it was restored from a backup, or it cheats", "group list --frozen"},
	{"group_invalid", failed, "%s told operations of a group that nobody could have accepted; its membership is frozen here", "group list --frozen"},
	{"queue_parked", warned, "what waits for %s is parked, because it refused this server's messages; it is tried once an hour", "fed retry %s"},

	{"queue_full", failed, "the queue to %s is full, and new messages to it are refused", "fed status"},
	{"queue_high", warned, "the queue to %s is above 80 %%; when it is full, new messages are refused", "fed status"},
	{"queue_late", warned, "messages wait for %s longer than federation.delayed_after", "fed retry %s"},
	{"direction", warned, "messages wait for %s, but its direction is in: new ones are not accepted", "peer set %s --direction both"},

	{"blocked", noted, "%s is on the block list; nothing is exchanged with it", "peer blocks"},
	{"suspended", noted, "%s is suspended here; what waits for it stays until it expires", "peer resume %s"},
	{"leaving", warned, "the end of the peering with %s is not finished; it goes on by itself every minute", "peer defederate %s --yes"},
	{"unfinished", warned, "the peering with %s is not finished: its administrator has not accepted the token", "peer invite %s --country XX"},
	{"probation", noted, "%s became a peer by the first contact and is on probation for 7 days, with a twentieth of the quota", "peer set %s --listed"},
	{"resting", warned, "%s became a peer in mode open, which is not the mode any more; nothing is exchanged with it", "peer set %s --listed"},
}

func ailmentOf(kind string) ailment {
	for _, a := range ailments {
		if a.kind == kind {
			return a
		}
	}
	return ailment{kind, warned, "%s: " + strings.ReplaceAll(kind, "%", "%%"), "peer test %s"}
}

// fill puts the peer's name where it belongs.
func fill(text string, peer clearbox.ServerName) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "%s", string(peer)), "%%", "%")
}

// patient is what the doctor knows about one peer.
type patient struct {
	peer   wire.AdminPeer
	queue  wire.AdminFedQueue
	alerts []string // kinds
	mode   string   // of federation
	limits config.Limits
	late   time.Duration
	now    time.Time
}

// ways are the kinds of what stands between this server and the peer: of the
// peering, of the last attempt, of its document, of its clock and of its alerts.
func (p *patient) ways() (kinds []string) {
	switch {
	case p.peer.Blocked != "":
		return []string{"blocked"}
	case p.peer.State == "suspended" || p.peer.State == "leaving":
		kinds = append(kinds, p.peer.State)
	case p.peer.State == "invited" || p.peer.State == "pending":
		return []string{"unfinished"}
	case p.peer.State == "active":
		kinds = p.active()
	}
	return append(kinds, p.alerts...)
}

func (p *patient) active() (kinds []string) {
	now := clearbox.Millis(p.now.UnixMilli())
	if p.peer.FirstUse && p.mode != config.ModeOpen {
		return []string{"resting"}
	}
	if p.peer.ProbationUntil > now {
		kinds = append(kinds, "probation")
	}
	if kind := lastTrouble(&p.peer); kind != "" {
		kinds = append(kinds, kind)
	}
	if p.peer.Document != 0 && p.peer.Document < now {
		kinds = append(kinds, "document_expired")
	}
	if p.peer.ClockOffset > 30_000 || p.peer.ClockOffset < -30_000 {
		kinds = append(kinds, "clock_off")
	}
	return kinds
}

// lastTrouble is the kind of why the last attempt failed, empty when it did not.
func lastTrouble(p *wire.AdminPeer) string {
	switch {
	case p.LastError == "":
		return ""
	case p.LastError == clearbox.CodePeerBlocked:
		return "suspended_there"
	case p.LastError == clearbox.CodeUnknownPeer:
		return "unknown_there"
	}
	return cmp.Or(p.Trouble, "unreachable")
}

// waits are the kinds of what is wrong with the queue to the peer.
func (p *patient) waits() (kinds []string) {
	q, l := &p.queue, &p.limits
	switch {
	case above(q.Queued, int64(l.PeerQueueItems), 100) || above(q.Bytes, int64(l.PeerQueueSize), 100):
		kinds = append(kinds, "queue_full")
	case above(q.Queued, int64(l.PeerQueueItems), 80) || above(q.Bytes, int64(l.PeerQueueSize), 80):
		kinds = append(kinds, "queue_high")
	case q.Queued > 0 && q.Oldest > 0 && p.now.Sub(time.UnixMilli(int64(q.Oldest))) > p.late:
		kinds = append(kinds, "queue_late")
	}
	if q.Queued > 0 && p.peer.Direction == wire.DirectionIn {
		kinds = append(kinds, "direction")
	}
	return kinds
}

// patients reads what the running server knows about its peers.
func (e *examination) patients() (map[clearbox.ServerName]*patient, error) {
	var list wire.AdminPeers
	if err := e.sock.do(http.MethodGet, "/admin/peers", nil, &list); err != nil {
		return nil, err
	}
	var st wire.AdminFedStatus
	if err := e.sock.do(http.MethodGet, "/admin/fed/status", nil, &st); err != nil {
		return nil, err
	}
	standard := config.Default()
	if e.loaded != nil {
		standard = e.loaded.Config
	}
	known := map[clearbox.ServerName]*patient{}
	of := func(server clearbox.ServerName) *patient {
		p := known[server]
		if p == nil {
			p = &patient{mode: st.Mode, limits: standard.Limits, late: standard.Federation.DelayedAfter, now: e.x.Now()}
			p.peer.Server = server
			known[server] = p
		}
		return p
	}
	for _, p := range list.Peers {
		of(p.Server).peer = p
	}
	for _, q := range st.Peers {
		of(q.Server).queue = q
	}
	for _, a := range st.Alerts {
		of(a.Server).alerts = append(of(a.Server).alerts, a.Kind)
	}
	return known, nil
}

// explain makes the finding of all peers' ailments, the worst first, each with
// its next command.
func (e *examination) explain(name string, all map[clearbox.ServerName]*patient, kinds func(*patient) []string, fine string) finding {
	type line struct {
		ailment
		peer clearbox.ServerName
	}
	var lines []line
	for server, p := range all {
		for _, kind := range kinds(p) {
			lines = append(lines, line{ailmentOf(kind), server})
		}
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.peer, b.peer), cmp.Compare(a.kind, b.kind))
	})
	text := make([]string, 0, len(lines)+1)
	for _, l := range lines {
		text = append(text, fill(l.sentence, l.peer)+": clearbox "+fill(l.next, l.peer))
	}
	if len(lines) == 0 || lines[0].weight == noted {
		return ok(name, "%s", strings.Join(append([]string{fine}, text...), "\n"))
	}
	next := "clearbox " + fill(lines[0].next, lines[0].peer) + e.x.mention()
	if lines[0].weight == failed {
		return bad(name, next, "%s", strings.Join(text, "\n"))
	}
	return warn(name, next, "%s", strings.Join(text, "\n"))
}

func (e *examination) peers() finding {
	const name = "peers"
	if e.down != nil {
		return unknown(name, "the server is not running")
	}
	all, err := e.patients()
	if err != nil {
		return bad(name, "look into the server's log", "%v", err)
	}
	active := 0
	for _, p := range all {
		if p.peer.State == "active" {
			active++
		}
	}
	return e.explain(name, all, (*patient).ways, fmt.Sprintf("%d active", active))
}

func (e *examination) queue() finding {
	const name = "queue"
	if e.down != nil {
		return unknown(name, "the server is not running")
	}
	all, err := e.patients()
	if err != nil {
		return bad(name, "look into the server's log", "%v", err)
	}
	var total int64
	for _, p := range all {
		total += p.queue.Queued
	}
	return e.explain(name, all, (*patient).waits, fmt.Sprintf("%d items wait for peers", total))
}
