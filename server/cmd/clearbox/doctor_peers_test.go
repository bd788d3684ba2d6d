package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Every kind of trouble that federation names, and every one that the doctor
// finds, has a sentence and a command that the program has.
func TestEveryAilmentIsExplained(t *testing.T) {
	parser, err := kong.New(&commands{}, kong.Name("clearbox"), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, a := range ailments {
		if seen[a.kind] {
			t.Errorf("%s stands there twice", a.kind)
		}
		seen[a.kind] = true
		sentence := fill(a.sentence, "b.example")
		if !strings.Contains(sentence, "b.example") || strings.Contains(sentence, "\n") || strings.HasSuffix(sentence, ".") || len(sentence) > 200 {
			t.Errorf("%s: %q is no sentence about b.example", a.kind, sentence)
		}
		args := strings.Fields(fill(a.next, "b.example"))
		if i := slices.Index(args, "--words"); i > 0 {
			args = append(args[:i+1], strings.Trim(strings.Join(args[i+1:], " "), `"`))
		}
		if _, err := parser.Parse(args); err != nil {
			t.Errorf("%s: clearbox %s: %v", a.kind, a.next, err)
		}
	}
	kinds := []string{"unreachable", "suspended_there", "unknown_there", "document_expired", "clock_off", "queue_full", "queue_high", "queue_late", "direction",
		"blocked", "suspended", "leaving", "unfinished", "probation", "resting"}
	for _, k := range []federation.Trouble{federation.TroubleDNS, federation.TroubleAddress, federation.TroubleRefused, federation.TroubleTCP, federation.TroubleTLS,
		federation.TroubleTimeout, federation.TroubleHTTP, federation.TroubleBusy, federation.TroubleKey, federation.TroubleClock, federation.TroubleRefusal,
		federation.TroubleTooLarge, federation.TroubleIdentity, federation.TroubleProtocol} {
		kinds = append(kinds, string(k))
	}
	for _, k := range []federation.Alert{federation.AlertRollback, federation.AlertIdentity, federation.AlertSplitView, federation.AlertDowngrade,
		federation.AlertClock, federation.AlertParked, federation.AlertGroupFork, federation.AlertGroupInvalid} {
		kinds = append(kinds, string(k))
	}
	for _, k := range kinds {
		if !seen[k] {
			t.Errorf("%s is not explained", k)
		}
	}
	if len(kinds) != len(ailments) {
		t.Errorf("%d kinds, %d are tested", len(ailments), len(kinds))
	}
}

func TestAilmentsOfAPeer(t *testing.T) {
	now := time.Date(2026, 11, 28, 14, 30, 0, 0, time.UTC)
	at := func(d time.Duration) clearbox.Millis { return clearbox.Millis(now.Add(d).UnixMilli()) }
	limits := config.Default().Limits
	for _, c := range []struct {
		name string
		p    patient
		want string
	}{
		{"well", patient{peer: wire.AdminPeer{State: "active", Document: at(time.Hour)}}, ""},
		{"removed", patient{peer: wire.AdminPeer{State: "removed"}}, ""},
		{"blocked", patient{peer: wire.AdminPeer{State: "active", Blocked: "spam", LastError: clearbox.CodePeerBlocked}}, "blocked"},
		{"suspended", patient{peer: wire.AdminPeer{State: "suspended"}}, "suspended"},
		{"leaving", patient{peer: wire.AdminPeer{State: "leaving"}}, "leaving"},
		{"invited", patient{peer: wire.AdminPeer{State: "invited"}}, "unfinished"},
		{"dns", patient{peer: wire.AdminPeer{State: "active", LastError: clearbox.CodePeerUnreachable, Trouble: "dns"}}, "dns"},
		{"by an older build", patient{peer: wire.AdminPeer{State: "active", LastError: clearbox.CodePeerUnreachable}}, "unreachable"},
		{"suspended there", patient{peer: wire.AdminPeer{State: "active", LastError: clearbox.CodePeerBlocked, Trouble: "refusal"}, alerts: []string{"queue_parked"}}, "suspended_there queue_parked"},
		{"unknown there", patient{peer: wire.AdminPeer{State: "active", LastError: clearbox.CodeUnknownPeer, Trouble: "http"}}, "unknown_there"},
		{"expired", patient{peer: wire.AdminPeer{State: "active", Document: at(-time.Hour)}}, "document_expired"},
		{"clock", patient{peer: wire.AdminPeer{State: "active", ClockOffset: -40_000}}, "clock_off"},
		{"probation", patient{mode: "open", peer: wire.AdminPeer{State: "active", FirstUse: true, ProbationUntil: at(time.Hour)}}, "probation"},
		{"after probation", patient{mode: "open", peer: wire.AdminPeer{State: "active", FirstUse: true, ProbationUntil: at(-time.Hour)}}, ""},
		{"mode changed", patient{mode: "allowlist", peer: wire.AdminPeer{State: "active", FirstUse: true, ProbationUntil: at(time.Hour)}}, "resting"},
		{"full", patient{queue: wire.AdminFedQueue{Queued: 500_000}}, "queue_full"},
		{"high", patient{queue: wire.AdminFedQueue{Queued: 400_000}}, "queue_high"},
		{"high by size", patient{queue: wire.AdminFedQueue{Queued: 1, Bytes: 900 << 20}}, "queue_high"},
		{"late", patient{queue: wire.AdminFedQueue{Queued: 1, Oldest: at(-5 * time.Hour)}}, "queue_late"},
		{"not late", patient{queue: wire.AdminFedQueue{Queued: 1, Oldest: at(-3 * time.Hour)}}, ""},
		{"direction", patient{peer: wire.AdminPeer{State: "active", Direction: "in"}, queue: wire.AdminFedQueue{Queued: 1}}, "direction"},
	} {
		c.p.now, c.p.limits, c.p.late = now, limits, 4*time.Hour
		if got := strings.Join(append(c.p.ways(), c.p.waits()...), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
