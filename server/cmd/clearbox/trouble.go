package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// troubles says each kind of trouble with a peer in words (federation.Trouble).
var troubles = map[string]string{
	"dns":       "its name does not resolve",
	"address":   "its name leads to private addresses",
	"refused":   "connection refused",
	"tcp":       "no connection, or it broke",
	"tls":       "TLS failed",
	"timeout":   "no answer in time",
	"http":      "what answers there is not its homeserver",
	"busy":      "it asks to wait",
	"key":       "keys are not known yet",
	"clock":     "the clocks are too far apart",
	"refusal":   "it does not accept our messages",
	"too_large": "it takes smaller messages only",
	"identity":  "it shows another identity than the pinned one",
	"protocol":  "its answers break the protocol",
}

// refusals says why a peer lets this server's requests go no further.
var refusals = map[clearbox.Code]string{
	clearbox.CodePeerBlocked: "it has suspended or blocked this server",
	clearbox.CodeUnknownPeer: "it does not know this server as a peer",
}

// troubleWords is the trouble in words, or the code where the kind is not known.
func troubleWords(trouble string, code clearbox.Code) string {
	if w := troubles[trouble]; w != "" {
		return w
	}
	return dash(string(code))
}

// peerTrouble is a sentence about a peer that does not take our messages, empty
// when it does.
func peerTrouble(p *wire.AdminFedQueue, now time.Time) string {
	if p.Since == 0 || p.LastError == "" {
		return ""
	}
	is, why := "is unreachable", troubleWords(p.Trouble, p.LastError)
	switch p.Trouble {
	case "busy", "clock", "key", "too_large", "protocol":
		is = "is in trouble"
	case "refusal", "identity":
		is = "has been parked"
	}
	if w := refusals[p.LastError]; w != "" { // also where the answer is not signed, because a block comes before any key
		why = w
		if p.Trouble == "http" {
			is = "refuses this server"
		}
	}
	s := fmt.Sprintf("%s %s since %s (%s), %s", p.Server, is, clock(p.Since, now), why, waiting(p.Queued))
	if p.NextTry != 0 {
		s += ", next attempt at " + clock(p.NextTry, now)
	}
	return s
}

// circuits says what kinds of traffic carry (federation.Circuit); the queue has
// its own sentence.
var circuits = map[string]string{"claim": "questions about people and their keys", "media": "attachments", "rights": "requests under data protection law"}

// circuitTrouble is a sentence about what beside messages a peer does not
// answer, empty when there is nothing.
func circuitTrouble(p *wire.AdminFedQueue, now time.Time) string {
	var parts []string
	for _, c := range p.Circuits {
		if what := circuits[c.Circuit]; what != "" {
			parts = append(parts, fmt.Sprintf("%s since %s", what, clock(c.Since, now)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("%s does not answer %s", p.Server, strings.Join(parts, ", nor "))
}

func waiting(n int64) string {
	switch n {
	case 0:
		return "nothing waits"
	case 1:
		return "1 message waits"
	}
	return fmt.Sprintf("%d messages wait", n)
}

// clock is a moment of today without the day.
func clock(m clearbox.Millis, now time.Time) string {
	at, now := time.UnixMilli(int64(m)).UTC(), now.UTC()
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format("15:04 UTC")
	}
	return when(m)
}
