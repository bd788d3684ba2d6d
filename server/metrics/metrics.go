// Package metrics is responsible for a homeserver's figures as text for a
// monitoring system (OpenMetrics). It keeps no figure itself: functions that
// are handed in read them from the rooms when somebody asks.
//
// No figure is about a person, and no label names one. A peer is named by its
// server name, a protocol and an outcome by a word of a fixed list.
package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readBudget is what reading the figures may take.
const readBudget = 5 * time.Second

// Protocol is what went to peers over one protocol since the start.
type Protocol struct {
	Name        string // h2 or h3
	Answered    int64  // requests, whatever the status
	Failed      int64  // requests that were sent and not answered
	Connections int64  // opened
	Open        int64  // in use for new requests
	Sent        int64  // bytes of the bodies of answered requests
	Received    int64  // bytes of the answers' bodies
}

// Served is what peers asked over one protocol since the start.
type Served struct {
	Name     string // http/1.1, h2 or h3
	Requests int64
}

// Queue is what waits for one peer.
type Queue struct {
	Peer   string
	Items  int64
	Bytes  int64
	Oldest time.Time // when the oldest was accepted; zero when nothing waits
}

// Rooms read the figures. All are called at once for each request; nil means
// that there is nothing to show.
type Rooms struct {
	Version   string
	Protocols func() []Protocol
	Marks     func() int64 // times that a path was marked as broken for HTTP/3
	Broken    func() int64 // paths that are marked now
	Served    func() []Served
	Incoming  func() int64 // QUIC connections of peers that are open
	Queues    func(context.Context) ([]Queue, error)
	Panics    func() int64     // handlers that panicked and were caught
	Now       func() time.Time // default time.Now
	Log       *slog.Logger     // default discards
}

// Handler answers every request with the figures of now.
func Handler(r Rooms) http.Handler {
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(house{r}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4, ErrorHandling: promhttp.ContinueOnError})
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("clearbox_"+name, help, labels, nil)
}

// The figures. Names and labels are only ever added.
var (
	info        = desc("info", "The version that runs.", "version")
	panics      = desc("panics_total", "Handlers that panicked and were caught.")
	requests    = desc("fed_requests_total", "Requests to peers by protocol and outcome: answered, or failed on a connection.", "proto", "outcome")
	opened      = desc("fed_connections_total", "Connections to peers that were opened.", "proto")
	inUse       = desc("fed_connections", "Connections to peers that take requests now.", "proto")
	bodies      = desc("fed_bytes_total", "Bytes of requests to peers and of their answers, without headers.", "proto", "direction")
	marks       = desc("fed_h3_marks_total", "Times that HTTP/3 did not get through to a peer.")
	broken      = desc("fed_h3_broken", "Ways to peers that are marked as broken for HTTP/3 now.")
	served      = desc("fed_served_total", "Requests of peers by protocol.", "proto")
	incoming    = desc("fed_incoming_quic_connections", "QUIC connections of peers that are open.")
	queueItems  = desc("fed_queue_items", "Items that wait for a peer.", "peer")
	queueBytes  = desc("fed_queue_bytes", "Bytes that wait for a peer.", "peer")
	queueOldest = desc("fed_queue_oldest_seconds", "Age of the oldest item that waits for a peer.", "peer")
)

// house reads the rooms.
type house struct{ r Rooms }

// Describe names every figure.
func (h house) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{info, panics, requests, opened, inUse, bodies, marks, broken, served, incoming, queueItems, queueBytes, queueOldest} {
		ch <- d
	}
}

// Collect reads every figure once.
func (h house) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(info, 1, h.r.Version)
	read(h.r.Panics, func(v int64) { counter(panics, v) })
	read(h.r.Marks, func(v int64) { counter(marks, v) })
	read(h.r.Broken, func(v int64) { gauge(broken, float64(v)) })
	read(h.r.Incoming, func(v int64) { gauge(incoming, float64(v)) })
	read(h.r.Protocols, func(all []Protocol) {
		for _, p := range all {
			counter(requests, p.Answered, p.Name, "answered")
			counter(requests, p.Failed, p.Name, "failed")
			counter(opened, p.Connections, p.Name)
			gauge(inUse, float64(p.Open), p.Name)
			counter(bodies, p.Sent, p.Name, "sent")
			counter(bodies, p.Received, p.Name, "received")
		}
	})
	read(h.r.Served, func(all []Served) {
		for _, s := range all {
			counter(served, s.Requests, s.Name)
		}
	})
	h.queues(gauge)
}

// read hands on what a room says, if there is one.
func read[T any](room func() T, show func(T)) {
	if room != nil {
		show(room())
	}
}

func (h house) queues(gauge func(*prometheus.Desc, float64, ...string)) {
	if h.r.Queues == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), readBudget)
	defer cancel()
	queues, err := h.r.Queues(ctx)
	if err != nil {
		h.r.Log.Warn("the queues could not be read for the metrics", "error", err)
		return
	}
	now := h.r.Now()
	for _, q := range queues {
		age := 0.0
		if !q.Oldest.IsZero() {
			age = max(0, now.Sub(q.Oldest).Seconds())
		}
		gauge(queueItems, float64(q.Items), q.Peer)
		gauge(queueBytes, float64(q.Bytes), q.Peer)
		gauge(queueOldest, age, q.Peer)
	}
}
