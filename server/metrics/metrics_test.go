package metrics_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/server/metrics"
)

func text(t *testing.T, r metrics.Rooms) []string {
	t.Helper()
	req := httptest.NewRequest("GET", "/metrics", nil)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	w := httptest.NewRecorder()
	metrics.Handler(r).ServeHTTP(w, req)
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text") {
		t.Fatalf("%d %s\n%s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	if !strings.HasSuffix(w.Body.String(), "# EOF\n") {
		t.Error("the text does not end as OpenMetrics does")
	}
	return strings.Split(w.Body.String(), "\n")
}

func TestFigures(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	rooms := metrics.Rooms{
		Version:   "v1",
		Protocols: func() []metrics.Protocol { return []metrics.Protocol{{"h3", 7, 2, 3, 1, 100, 200}} },
		Marks:     func() int64 { return 4 },
		Broken:    func() int64 { return 1 },
		Served:    func() []metrics.Served { return []metrics.Served{{"h2", 9}} },
		Incoming:  func() int64 { return 5 },
		Queues: func(context.Context) ([]metrics.Queue, error) {
			return []metrics.Queue{{Peer: "b.test", Items: 3, Bytes: 4096, Oldest: now.Add(-90 * time.Second)}, {Peer: "c.test"}}, nil
		},
		Panics: func() int64 { return 0 },
		Now:    func() time.Time { return now },
	}
	lines := text(t, rooms)
	for _, want := range []string{
		`clearbox_info{version="v1"} 1.0`, `clearbox_panics_total 0.0`,
		`clearbox_fed_requests_total{outcome="answered",proto="h3"} 7.0`, `clearbox_fed_requests_total{outcome="failed",proto="h3"} 2.0`,
		`clearbox_fed_connections_total{proto="h3"} 3.0`, `clearbox_fed_connections{proto="h3"} 1.0`,
		`clearbox_fed_bytes_total{direction="sent",proto="h3"} 100.0`, `clearbox_fed_bytes_total{direction="received",proto="h3"} 200.0`,
		`clearbox_fed_h3_marks_total 4.0`, `clearbox_fed_h3_broken 1.0`, `clearbox_fed_served_total{proto="h2"} 9.0`, `clearbox_fed_incoming_quic_connections 5.0`,
		`clearbox_fed_queue_items{peer="b.test"} 3.0`, `clearbox_fed_queue_bytes{peer="b.test"} 4096.0`,
		`clearbox_fed_queue_oldest_seconds{peer="b.test"} 90.0`, `clearbox_fed_queue_oldest_seconds{peer="c.test"} 0.0`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "go_goroutines ") }) {
		t.Error("nothing is said of the process")
	}
}

// Rooms that are not there, or that fail, take nothing else away.
func TestRoomsThatAreMissing(t *testing.T) {
	lines := text(t, metrics.Rooms{
		Panics: func() int64 { return 2 },
		Queues: func(context.Context) ([]metrics.Queue, error) { return nil, errors.New("the store is away") },
	})
	if !slices.Contains(lines, "clearbox_panics_total 2.0") {
		t.Error("the other figures are gone")
	}
	for _, l := range lines {
		if strings.HasPrefix(l, "clearbox_fed_") {
			t.Errorf("made up: %s", l)
		}
	}
}
