// Command bench is responsible for the load figures of the real homeserver: it
// spawns the clearbox binary with durable storage on a real disk, drives it
// over TLS 1.3 from this process, and prints one JSON line per scenario.
//
// It does not judge: bars stand in the documentation, and the calib line says
// how this machine compares.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/config"
)

func main() {
	var b bench
	scenarios := flag.String("scenarios", "local,offline,idle,fed,fed-h3,fed-backlog,fed-trouble,group,media,cold", "which to run, separated by commas; calib always runs")
	flag.StringVar(&b.binary, "clearbox", "bin/clearbox", "the binary to drive")
	flag.StringVar(&b.parent, "dir", "tmp", "folder for the servers' data, on a real disk; what is made below it is removed")
	flag.IntVar(&b.runs, "runs", 3, "runs per scenario, of which the median counts")
	flag.DurationVar(&b.measure, "measure", 3*time.Second, "measured time of one run of local and fed")
	flag.BoolVar(&b.keep, "keep", false, "keep the servers' folders")
	flag.StringVar(&b.profile, "only", "", "substring of the lines to run, such as window=16")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, strings.Split(*scenarios, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// bench is one invocation.
type bench struct {
	binary, parent string
	runs           int
	measure        time.Duration
	keep           bool
	profile        string

	dir       string // below parent, of this invocation
	authority *rig.Authority
}

func (b *bench) run(ctx context.Context, scenarios []string) error {
	known := map[string]func(context.Context) error{
		"local": b.local, "group": b.group, "offline": b.offline, "idle": b.idle, "fed": b.fed, "fed-h3": b.fedH3,
		"fed-backlog": b.fedBacklog, "fed-trouble": b.fedTrouble, "media": b.media, "cold": b.cold, "calib": func(context.Context) error { return nil },
	}
	for _, s := range scenarios {
		if known[s] == nil {
			return fmt.Errorf("there is no scenario %q", s)
		}
	}
	if b.runs < 1 {
		return errors.New("at least one run is needed")
	}
	if _, err := os.Stat(b.binary); err != nil {
		return fmt.Errorf("%w (make build makes it)", err)
	}
	files := rig.RaiseFiles()
	if err := os.MkdirAll(b.parent, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.parent, "bench")
	if err != nil {
		return err
	}
	if b.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if !b.keep {
		defer os.RemoveAll(b.dir)
	}
	if err := b.setup(files); err != nil {
		return err
	}
	if b.authority, err = rig.NewAuthority(); err != nil {
		return err
	}
	if err := b.calib(ctx); err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	for _, s := range scenarios {
		if err := known[s](ctx); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// setup prints the circumstances, and refuses a disk that is none.
func (b *bench) setup(files uint64) error {
	fs, durable, err := rig.Filesystem(b.dir)
	if err != nil {
		return err
	}
	if !durable {
		return fmt.Errorf("%s is on %s, which keeps nothing: name a folder on a disk with -dir", b.dir, fs)
	}
	l := config.Default().Limits
	return print(struct {
		Scenario   string         `json:"scenario"`
		Filesystem string         `json:"filesystem"`
		Kernel     string         `json:"kernel"`
		CPUs       int            `json:"cpus"`
		Go         string         `json:"go"`
		OpenFiles  uint64         `json:"open_files"`
		Quotas     map[string]any `json:"quotas"`
	}{"setup", fs, rig.Kernel(), runtime.NumCPU(), runtime.Version(), files, map[string]any{
		"mailbox_envelopes": l.MailboxEnvelopes, "mailbox_bytes": l.MailboxSize,
		"peer_queue_items": l.PeerQueueItems, "peer_queue_bytes": l.PeerQueueSize,
		"peer_envelopes_per_s": l.PeerEnvelopesPerSecond, "peer_bytes_per_s": l.PeerBytesPerSecond,
		"account_messages_per_s": l.AccountMessagesPerSecond, "address_requests_per_s": l.AddressRequestsPerSecond,
		"address_logins_per_min": l.AddressLoginsPerMinute, "connections": l.Connections, "disk_reserve_bytes": l.DiskReserve,
	}})
}

// print writes one JSON line.
func print(line any) error {
	data, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(data))
	return err
}

// wanted tells whether a line of a scenario was asked for.
func (b *bench) wanted(name string) bool { return strings.Contains(name, b.profile) }

// server makes a server with shipped limits in a folder of its own.
func (b *bench) server(run string, name clearbox.ServerName) (*rig.Server, error) {
	return b.serverOver(run, name, "")
}

// serverOver is server with a federation.transport.
func (b *bench) serverOver(run string, name clearbox.ServerName, transport string) (*rig.Server, error) {
	parent := filepath.Join(b.dir, run)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	return rig.NewServer(rig.Setup{Binary: b.binary, Parent: parent, Name: name, Authority: b.authority, Transport: transport})
}

// discard stops a server and removes its data.
func (b *bench) discard(s *rig.Server) {
	s.Stop()
	if !b.keep {
		os.RemoveAll(s.Dir)
	}
}

// percentile of sorted values; 0 without values.
func percentile(sorted []int64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := min(int(float64(len(sorted))*p/100), len(sorted)-1)
	return float64(sorted[i])
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// round keeps figures readable.
func round(v float64, digits int) float64 {
	scale := 1.0
	for range digits {
		scale *= 10
	}
	if v < 0 {
		return -round(-v, digits)
	}
	return float64(int64(v*scale+0.5)) / scale
}
