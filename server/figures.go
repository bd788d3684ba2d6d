package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/metrics"
	"github.com/clearbox-im/clearbox/storage"
)

// visits counts the requests of peers by protocol.
type visits struct{ h1, h2, h3 atomic.Int64 }

func (v *visits) counted(peers http.Handler) http.Handler {
	if peers == nil {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.ProtoMajor {
		case 3:
			v.h3.Add(1)
		case 2:
			v.h2.Add(1)
		default:
			v.h1.Add(1)
		}
		peers.ServeHTTP(w, r)
	})
}

// shown lets Options.Incoming see what passes.
func (s *Server) shown(peers http.Handler) http.Handler {
	if s.o.Incoming == nil {
		return peers
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.o.Incoming(r)
		peers.ServeHTTP(w, r)
	})
}

func (v *visits) served() []metrics.Served {
	return []metrics.Served{{Name: "http/1.1", Requests: v.h1.Load()}, {Name: "h2", Requests: v.h2.Load()}, {Name: "h3", Requests: v.h3.Load()}}
}

// listenMetrics opens the private listener for figures, nil when it is off.
func (s *Server) listenMetrics() (net.Listener, error) {
	address := s.conf.get().Listen.Metrics
	if address == "" {
		return nil, nil
	}
	l, err := s.o.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen.metrics: cannot listen on %s: %w", address, err)
	}
	return l, nil
}

// figures serves the metrics and nothing else.
func (s *Server) figures(quic *transport.Server) *http.Server {
	rooms := metrics.Rooms{
		Version: s.o.Version.Version, Panics: s.Panics, Served: s.visits.served, Incoming: quic.Connections, Queues: s.queues, Now: s.o.Now, Log: s.log,
	}
	if s.transport != nil {
		rooms.Protocols, rooms.Marks, rooms.Broken = s.protocols, s.transport.Marks, s.broken
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(rooms))
	h := &http.Server{Handler: mux, ErrorLog: quiet()}
	api.ConfigureServer(h)
	return h
}

func (s *Server) protocols() []metrics.Protocol {
	open := map[transport.Proto]int64{}
	for _, p := range s.transport.Paths() {
		open[p.Proto]++
	}
	var all []metrics.Protocol
	for _, proto := range []transport.Proto{transport.H2, transport.H3} {
		c := s.transport.Counts(proto)
		all = append(all, metrics.Protocol{
			Name: string(proto), Answered: c.Requests, Failed: c.Failures, Connections: c.Connections, Open: open[proto], Sent: c.Sent, Received: c.Received,
		})
	}
	return all
}

func (s *Server) broken() (n int64) {
	for _, p := range s.transport.Paths() {
		if !p.BrokenUntil.IsZero() {
			n++
		}
	}
	return n
}

// queues is what waits for each peer, all classes together.
func (s *Server) queues(ctx context.Context) ([]metrics.Queue, error) {
	var stats []storage.OutboxStat
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		stats, err = tx.OutboxStats()
		return err
	})
	if err != nil {
		return nil, errors.Join(errors.New("read the queues to peers"), err)
	}
	at := map[clearbox.ServerName]int{}
	var all []metrics.Queue
	for _, q := range stats {
		i, known := at[q.Peer]
		if !known {
			i = len(all)
			at[q.Peer] = i
			all = append(all, metrics.Queue{Peer: string(q.Peer)})
		}
		row := &all[i]
		row.Items += q.Count
		row.Bytes += q.Bytes
		if oldest := time.UnixMilli(int64(q.Oldest)); q.Oldest != 0 && (row.Oldest.IsZero() || oldest.Before(row.Oldest)) {
			row.Oldest = oldest
		}
	}
	return all, nil
}
