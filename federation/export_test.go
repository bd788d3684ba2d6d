package federation

import (
	"crypto/sha256"
	"encoding/json"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
)

// BaseOf builds a signature base from any components with the functions that
// build the profile's.
func BaseOf(components [][2]string, params string) []byte {
	var b []byte
	for _, c := range components {
		b = line(b, c[0], c[1])
	}
	return append(append(b, `"@signature-params": `...), params...)
}

// Digest is the Content-Digest of a body.
func Digest(body []byte) string { return digestHeader(sha256.Sum256(body)) }

// Health is the detector of an outage of our own.
type Health struct{ h *health }

// NewHealth knows of no attempt.
func NewHealth() Health { return Health{newHealth()} }

// Note records an attempt.
func (h Health) Note(peer clearbox.ServerName, now time.Time, ok bool) (outage, changed bool) {
	return h.h.note(peer, now, ok)
}

// Waits gives the waits after failures one after the other; away is moved on
// by each of them.
func Waits(random io.Reader, start time.Time, away time.Duration, frozen bool) []time.Duration {
	b := backoff{random: random}
	var out []time.Duration
	for now := start; now.Sub(start) < away; {
		w := b.next(now, frozen)
		out = append(out, w)
		now = now.Add(w)
	}
	return out
}

// OnlyFedSign is what Self stored when all keys signed requests.
func OnlyFedSign(blob []byte) []byte {
	var b selfBlob
	if err := json.Unmarshal(blob, &b); err != nil {
		panic(err)
	}
	b.Keys = slices.DeleteFunc(b.Keys, func(k selfKey) bool { return k.purpose() != PurposeFedSign })
	for i := range b.Keys {
		b.Keys[i].Purpose = ""
	}
	out, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return out
}

// OutcomeOf tells what is known of an attempt that failed.
func OutcomeOf(err error) Outcome { return outcomeOf(err) }

// ReactionTo names what a sender does about a failed attempt.
func ReactionTo(err error) string {
	what, _ := classify(err)
	return [...]string{reactGrow: "grow", reactWait: "wait", reactQuick: "quick", reactPark: "park", reactRewind: "rewind", reactFenced: "fenced", reactSplit: "split"}[what]
}

// Pace is the congestion control of one queue.
type Pace struct{ p pace }

// NewPace begins at the most.
func NewPace(window int) *Pace { return &Pace{newPace(window)} }

// Now gives how many transactions of how many bytes may be under way.
func (p *Pace) Now() (window, bytes int) { return p.p.window, p.p.bytes }

// Landed follows an answer.
func (p *Pace) Landed(took time.Duration) { p.p.landed(took) }

// Limited follows the wish to wait.
func (p *Pace) Limited() { p.p.limited() }

// Slow follows a transaction that did not arrive in its time.
func (p *Pace) Slow() { p.p.slow() }

// MediaWire is the answer to a question about an attachment as it is sent.
type MediaWire = mediaAnswer

// EncodeWire encodes anything that is sent.
func EncodeWire(t testing.TB, v any) []byte {
	t.Helper()
	b, err := encoder.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// DecodeHistory reads the answer of a hub.
func DecodeHistory(raw []byte) (GroupHistory, error) { return decodeHistory(raw) }

// DecodeGroupOp reads the body of PathGroupOps.
func DecodeGroupOp(raw []byte) (GroupOp, error) {
	var w wireGroupOp
	if err := decodeBody(raw, &w); err != nil {
		return GroupOp{}, err
	}
	return groupOpFrom(&w)
}

// DecodeReport and EncodeReport are the body of PathReports.
func DecodeReport(b []byte) (Report, error)  { return decodeReport(b) }
func EncodeReport(r *Report) ([]byte, error) { return encodeReport(r) }
