package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
)

// halfopenLine is what halfopen prints. Keys are only ever added.
type halfopenLine struct {
	Test       string  `json:"test"`
	Sent       int     `json:"sent"`
	Before     int     `json:"received_before"` // shown before the line went dead
	Lost       int     `json:"lost"`
	Duplicated int     `json:"duplicated"` // shown more than once
	Reordered  int     `json:"reordered"`
	Detection  float64 `json:"detection_max_s"`       // by the server, its socket closed
	Discarded  float64 `json:"detection_discarded_s"` // the network swallows everything
	Stalled    float64 `json:"detection_stalled_s"`   // the network takes nothing more
	Forgotten  float64 `json:"detection_forgotten_s"` // the network swallows everything on old connections; new ones pass
	AtClient   float64 `json:"client_detection_max_s"`
	Back       float64 `json:"back_max_s"` // from when the client may connect again until it has shown everything
	SentDead   int     `json:"sent_while_dead"`
}

const (
	halfopenSends  = 1000 // to each recipient, while its line is dead
	halfopenBefore = 100  // and before
	halfopenLimit  = 45 * time.Second
)

// halfopen is R3: recipients, which are the real terminal client, whose lines
// go dead without a word while 1,000 messages are sent to each. The server must
// notice by itself, so must the client, and after the client has come back by
// itself nothing is lost or shown twice.
func (s *suite) halfopen(ctx context.Context) (verdict, error) {
	v := verdict{}
	srv, err := s.server("halfopen", rig.Setup{Name: "a.test", Extra: "registration:\n  mode: open\n"})
	if err != nil {
		return v, err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return v, err
	}
	defer srv.Stop()
	line := halfopenLine{Test: "halfopen"}
	var dead []*deadEnd
	for i, kind := range []string{"discarded", "stalled", "forgotten"} {
		d, err := s.newDeadEnd(ctx, srv, i, kind)
		if err != nil {
			return v, err
		}
		defer d.close()
		dead = append(dead, d)
	}
	errs := make([]error, len(dead))
	var wg sync.WaitGroup
	for i, d := range dead {
		wg.Go(func() {
			if err := d.run(ctx, s.scaled(halfopenBefore), s.scaled(halfopenSends)); err != nil {
				errs[i] = fmt.Errorf("%s: %w", d.kind, err)
			}
		})
	}
	wg.Wait()
	for _, d := range dead {
		d.judge(&line)
	}
	line.Discarded, line.Stalled, line.Forgotten = tidy(dead[0].atServer.Seconds()), tidy(dead[1].atServer.Seconds()), tidy(dead[2].atServer.Seconds())
	v.line = line
	limit := halfopenLimit.Seconds()
	v.demand(line.Lost == 0, "%d messages were lost", line.Lost)
	v.demand(line.Duplicated == 0, "%d messages were shown twice", line.Duplicated)
	v.demand(line.Reordered == 0, "%d messages were shown out of order", line.Reordered)
	v.demand(line.Detection <= limit, "the server noticed a dead line after %.1f s", line.Detection)
	v.demand(line.AtClient <= limit, "a client noticed its dead line after %.1f s", line.AtClient)
	v.demand(line.Back <= 60, "a client needed %.1f s to be back", line.Back)
	return v, errors.Join(errs...)
}

// deadEnd is a sender, a recipient behind a proxy, and what happened to them.
type deadEnd struct {
	kind   string
	no     int
	srv    *rig.Server
	proxy  *proxy
	sender *person
	to     clearbox.UserID
	stop   context.CancelFunc
	sends  sync.WaitGroup
	cbx    *follower

	before, sent             int
	accepted                 int
	atServer, atClient, back time.Duration
}

func (s *suite) newDeadEnd(ctx context.Context, srv *rig.Server, no int, kind string) (d *deadEnd, err error) {
	d = &deadEnd{kind: kind, no: no, srv: srv}
	defer func() {
		if err != nil {
			d.close()
			err = fmt.Errorf("%s: %w", kind, err)
		}
	}()
	dir := filepath.Join(s.dir, "halfopen", kind)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return d, err
	}
	if d.proxy, err = newProxy(srv.Address, kind == "stalled"); err != nil {
		return d, err
	}
	if d.sender, err = join(ctx, dir, no, srv, &gate{}); err != nil {
		return d, err
	}
	if d.cbx, err = s.follow(ctx, dir, srv, d.proxy.address(), "reader"+fmt.Sprint(no)); err != nil {
		return d, err
	}
	contact, err := d.sender.brain.Lookup(ctx, d.cbx.address)
	if err != nil {
		return d, err
	}
	d.to = contact.User
	running, stop := context.WithCancel(ctx)
	d.stop = stop
	d.sends.Go(func() { d.sender.brain.Run(running) })
	return d, nil
}

// run is the whole story.
func (d *deadEnd) run(ctx context.Context, before, meanwhile int) error {
	d.before = before
	if err := d.write(ctx, before); err != nil {
		return err
	}
	if err := d.cbx.wait(ctx, before, 30*time.Second); err != nil {
		return err
	}
	cut := time.Now()
	atServer, atClient := d.proxy.blackhole(d.kind != "forgotten")
	if len(atServer) != 1 {
		return fmt.Errorf("the client had %d sockets", len(atServer))
	}
	if err := d.write(ctx, meanwhile); err != nil {
		return err
	}
	if err := d.detect(ctx, cut, atServer[0], atClient[0]); err != nil {
		return err
	}
	d.proxy.heal()
	from := time.Now()
	if d.kind == "forgotten" {
		from = cut.Add(d.atClient)
	}
	if err := d.cbx.wait(ctx, before+meanwhile, 2*time.Minute); err != nil {
		return err
	}
	d.back = time.Since(from)
	return sleep(ctx, 3*time.Second) // a repeat would come now
}

// write sends n messages and waits until the server has accepted them.
func (d *deadEnd) write(ctx context.Context, n int) error {
	for range n {
		if _, err := d.sender.brain.Send(ctx, d.to, fmt.Sprintf("halfopen %d", d.sent)); err != nil {
			return err
		}
		d.sent++
	}
	limit := time.Now().Add(2 * time.Minute)
	for {
		st, err := d.sender.brain.Status(ctx)
		if err != nil {
			return err
		}
		if st.Queued == 0 {
			break
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the server did not accept %d messages", st.Queued)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	lines, err := d.sender.brain.Messages(ctx, d.to, 0, 0)
	if err != nil {
		return err
	}
	for _, m := range outgoing(lines) {
		if m.Reason != "" {
			return fmt.Errorf("a message was refused: %s", m.Reason)
		}
	}
	d.accepted = d.sent
	return nil
}

// detect waits until both ends have closed the dead line, the server's and the
// client's.
func (d *deadEnd) detect(ctx context.Context, cut time.Time, atServer, atClient netip.AddrPort) error {
	before := &rig.Server{Address: d.proxy.address()} // the proxy's end of the client's connections
	for d.atServer == 0 || d.atClient == 0 {
		for _, side := range []struct {
			at    *rig.Server
			other netip.AddrPort
			found *time.Duration
		}{{d.srv, atServer, &d.atServer}, {before, atClient, &d.atClient}} {
			if *side.found > 0 {
				continue
			}
			open, err := side.at.Established()
			if err != nil {
				return err
			}
			if !open[side.other] {
				*side.found = time.Since(cut)
			}
		}
		if time.Since(cut) > 2*time.Minute {
			return errors.New("a dead line was not noticed within two minutes")
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// judge compares what was accepted with what was shown.
func (d *deadEnd) judge(line *halfopenLine) {
	line.Sent += d.sent
	line.Before += d.before
	line.SentDead += d.sent - d.before
	line.Detection = max(line.Detection, tidy(d.atServer.Seconds()))
	line.AtClient = max(line.AtClient, tidy(d.atClient.Seconds()))
	line.Back = max(line.Back, tidy(d.back.Seconds()))
	var got []int
	times := map[int]int{}
	for _, text := range d.cbx.shown() {
		n := -1
		fmt.Sscanf(text, "halfopen %d", &n) // what is no number was not sent: it counts as twice
		got = append(got, n)
		times[n]++
	}
	if !slices.IsSorted(got) {
		line.Reordered++
	}
	for n := range d.accepted {
		if times[n] == 0 {
			line.Lost++
		}
		line.Duplicated += max(0, times[n]-1)
	}
	line.Duplicated += times[-1]
}

func (d *deadEnd) close() {
	if d.cbx != nil {
		d.cbx.stop()
	}
	if d.stop != nil {
		d.stop()
	}
	d.sends.Wait()
	if d.sender != nil {
		d.sender.close()
	}
	if d.proxy != nil {
		d.proxy.close()
	}
}

// follower is the terminal client as a process that shows what comes.
type follower struct {
	address clearbox.Address
	cmd     *exec.Cmd
	ended   chan struct{}

	mu    sync.Mutex
	texts []string // guarded by mu
}

// follow makes an account with the real client and lets it follow.
func (s *suite) follow(ctx context.Context, dir string, srv *rig.Server, at, name string) (*follower, error) {
	password := filepath.Join(dir, name+".password")
	if err := os.WriteFile(password, []byte(hex.EncodeToString([]byte(name))+" fixture\n"), 0o600); err != nil {
		return nil, err
	}
	flags := []string{
		"--vault", filepath.Join(dir, name+".vault"), "--key-file", filepath.Join(dir, name+".key"), "--password-file", password,
		"--ca", filepath.Join(srv.Dir, "tls", "ca.pem"), "--server-url", "https://" + at, "--json",
	}
	joining, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(joining, s.cbx, append([]string{"join", "--server", string(srv.Name), "--name", name, "--accept-notice"}, flags...)...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cbx join: %w: %s", err, strings.TrimSpace(string(out)))
	}
	f := &follower{
		address: clearbox.Address{Handle: clearbox.Handle(name), Server: srv.Name}, ended: make(chan struct{}),
		cmd: exec.Command(s.cbx, append([]string{"recv", "--follow"}, flags...)...),
	}
	f.cmd.Stderr = os.Stderr
	stdout, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(f.ended)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var m struct{ Type, Text string }
			if json.Unmarshal(lines.Bytes(), &m) == nil && m.Type == "message" {
				f.mu.Lock()
				f.texts = append(f.texts, m.Text)
				f.mu.Unlock()
			}
		}
	}()
	return f, nil
}

// shown is what it has shown so far, in its order.
func (f *follower) shown() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.texts)
}

// wait returns when n messages were shown, or after the limit: what is missing
// then is for the judge.
func (f *follower) wait(ctx context.Context, n int, limit time.Duration) error {
	for end := time.Now().Add(limit); len(f.shown()) < n && time.Now().Before(end); {
		select {
		case <-f.ended:
			return errors.New("cbx ended by itself")
		default:
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) stop() {
	f.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { f.cmd.Process.Kill() })
	defer timer.Stop()
	<-f.ended
	f.cmd.Wait() // its exit status says nothing after a signal
}
