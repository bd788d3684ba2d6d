package main

import (
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

func TestPeerTrouble(t *testing.T) {
	now := time.Date(2026, 11, 28, 14, 30, 0, 0, time.UTC)
	at := func(h, m int) clearbox.Millis {
		return clearbox.Millis(time.Date(2026, 11, 28, h, m, 0, 0, time.UTC).UnixMilli())
	}
	yesterday := at(14, 2) - 24*3600_000
	for _, c := range []struct {
		name string
		q    wire.AdminFedQueue
		want string
	}{
		{"fine", wire.AdminFedQueue{Server: "b.example", Queued: 3}, ""},
		{"refused", wire.AdminFedQueue{Server: "b.example", Queued: 12, Since: at(14, 2), NextTry: at(14, 40), LastError: clearbox.CodePeerUnreachable, Trouble: "refused"},
			"b.example is unreachable since 14:02 UTC (connection refused), 12 messages wait, next attempt at 14:40 UTC"},
		{"since yesterday", wire.AdminFedQueue{Server: "b.example", Queued: 1, Since: yesterday, LastError: clearbox.CodePeerUnreachable, Trouble: "dns"},
			"b.example is unreachable since 2026-11-27 14:02 UTC (its name does not resolve), 1 message waits"},
		{"busy", wire.AdminFedQueue{Server: "b.example", Since: at(14, 2), LastError: clearbox.CodeRateLimited, Trouble: "busy"},
			"b.example is in trouble since 14:02 UTC (it asks to wait), nothing waits"},
		{"parked", wire.AdminFedQueue{Server: "b.example", Since: at(14, 2), LastError: clearbox.CodePeerBlocked, Trouble: "refusal"},
			"b.example has been parked since 14:02 UTC (it has suspended or blocked this server), nothing waits"},
		{"an unsigned refusal", wire.AdminFedQueue{Server: "b.example", Since: at(14, 2), LastError: clearbox.CodePeerBlocked, Trouble: "http", Queued: 1},
			"b.example refuses this server since 14:02 UTC (it has suspended or blocked this server), 1 message waits"},
		{"of an older server", wire.AdminFedQueue{Server: "b.example", Since: at(14, 2), LastError: clearbox.CodePeerUnreachable},
			"b.example is unreachable since 14:02 UTC (peer_unreachable), nothing waits"},
	} {
		if got := peerTrouble(&c.q, now); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	q := wire.AdminFedQueue{Server: "b.example", Circuits: []wire.AdminCircuit{{Circuit: "claim", Since: at(14, 2)}, {Circuit: "txn", Since: at(13, 0)}}}
	if got := circuitTrouble(&q, now); got != "b.example does not answer questions about people and their keys since 14:02 UTC" {
		t.Errorf("%q", got)
	}
	if got := circuitTrouble(&wire.AdminFedQueue{Server: "b.example"}, now); got != "" {
		t.Errorf("%q", got)
	}
}
