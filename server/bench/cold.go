package main

import (
	"context"
	"os"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
)

// coldLine is a line of cold. Keys are only ever added.
type coldLine struct {
	Scenario string    `json:"scenario"`
	Ready    float64   `json:"ready_s"`
	IdleRSS  float64   `json:"idle_rss_mib"`
	Binary   float64   `json:"binary_mib"`
	Runs     []float64 `json:"runs_ready_s"`
	Stop     float64   `json:"stop_s"`
	Errors   int64     `json:"errors"`
}

// cold times ten starts on an initialised folder, from exec to the first
// positive answer of /readyz, and reads the memory a second later.
func (b *bench) cold(ctx context.Context) error {
	srv, err := b.server("cold", "a.test")
	if err != nil {
		return err
	}
	defer b.discard(srv)
	if _, err := srv.Accounts(ctx, "p", 1, true); err != nil {
		return err
	}
	if _, err := srv.StartReady(ctx); err != nil { // initialises
		return err
	}
	srv.Stop()
	line := coldLine{Scenario: "cold"}
	var rss, stop []float64
	for range 10 {
		took, err := srv.StartReady(ctx)
		if err != nil {
			return err
		}
		line.Runs = append(line.Runs, round(took.Seconds(), 4))
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		c, err := rig.CostOf(srv.PID())
		if err != nil {
			return err
		}
		rss = append(rss, c.RSS)
		began := time.Now()
		if !srv.Stop() {
			line.Errors++
		}
		stop = append(stop, time.Since(began).Seconds())
	}
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	line.Ready, line.IdleRSS, line.Stop = round(median(line.Runs), 4), round(median(rss), 1), round(median(stop), 3)
	line.Binary = round(float64(info.Size())/(1<<20), 1)
	return print(line)
}
