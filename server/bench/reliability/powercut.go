package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// powercutLine is what powercut prints. Keys are only ever added.
type powercutLine struct {
	Test         string  `json:"test"`
	Acknowledged int     `json:"acknowledged"`
	Images       int     `json:"images"`
	Lost         int     `json:"lost"`    // acknowledged and not there, over all images
	Dead         int     `json:"dead"`    // images on which the server did not start
	Control      int     `json:"control"` // images whose log was never synced
	ControlLost  int     `json:"control_lost"`
	Writes       int     `json:"writes"` // of the server to its data folder
	Syncs        int     `json:"syncs"`
	PerSync      float64 `json:"acknowledged_per_sync"`
}

const (
	cutSenders = 8  // concurrent, so that commits are shared
	cutPerEach = 25 // messages of each
)

// sent is one acknowledged message: when its sender began, when it knew, and
// where in the trace the server told it.
type sent struct {
	id          string
	began, knew float64 // seconds since 1970
	port        int     // of the sender's end
	position    int     // index of the answer among the events
}

// powercut is R26: the server's writes and syncs are traced while clients send;
// for every acknowledgement the disk is rebuilt as it may be after a power cut
// at that moment, and the real server must start on it and have everything that
// was acknowledged until then.
func (s *suite) powercut(ctx context.Context) (verdict, error) {
	line := powercutLine{Test: "powercut"}
	v := verdict{}
	tracer, err := exec.LookPath("strace")
	if err != nil {
		return v, errors.New("strace is not installed, and this test needs it: apt-get install strace (Debian, Ubuntu) or dnf install strace (Fedora)")
	}
	srv, err := s.server("cut", rig.Setup{Name: "a.test"})
	if err != nil {
		return v, err
	}
	people, err := srv.Accounts(ctx, "p", cutSenders+1, true)
	if err != nil {
		return v, err
	}
	if _, err := srv.StartReady(ctx); err != nil { // initialises what the first start makes
		return v, err
	}
	srv.Stop()
	cfg, err := srv.Config()
	if err != nil {
		return v, err
	}
	base, err := newDisk(cfg.Server.DataDir)
	if err != nil {
		return v, err
	}
	trace := filepath.Join(s.dir, "cut", "trace.txt")
	srv.Wrap = []string{tracer, "-f", "--seccomp-bpf", "-ttt", "-yy", "-xx", "-s", "16777216", "-o", trace, "-e",
		"trace=open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,ftruncate,truncate,fallocate," +
			"unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,copy_file_range,sendfile"}
	if _, err := srv.StartReady(ctx); err != nil {
		return v, fmt.Errorf("start the server below strace: %w", err)
	}
	defer srv.Kill()
	acks, err := s.sendTraced(ctx, srv, people[1:], people[0])
	if err != nil {
		return v, err
	}
	srv.Kill()

	events, err := s.place(trace, acks, cfg.Server.DataDir, &line)
	if err != nil {
		return v, err
	}
	line.Acknowledged = len(acks)
	line.PerSync = float64(int(float64(len(acks))/float64(max(line.Syncs, 1))*100)) / 100
	if err := s.cut(ctx, base, events, acks, people[0], &line); err != nil {
		return v, err
	}
	v.line = line
	v.demand(line.Lost == 0, "%d acknowledged messages were lost", line.Lost)
	v.demand(line.Dead == 0, "%d images did not start", line.Dead)
	v.demand(line.ControlLost > 0, "the control lost nothing, so the method proves nothing")
	return v, nil
}

// sendTraced has every sender send one message after the other, each waiting
// for its answer, to a recipient that is away.
func (s *suite) sendTraced(ctx context.Context, srv *rig.Server, senders []*rig.Account, to *rig.Account) ([]*sent, error) {
	var (
		mu   sync.Mutex
		all  []*sent
		errs []error
		wg   sync.WaitGroup
	)
	for i, a := range senders {
		wg.Go(func() {
			mine, err := sendSome(ctx, srv, a, to, i, s.scaled(cutPerEach))
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, mine...), append(errs, err)
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

func sendSome(ctx context.Context, srv *rig.Server, a, to *rig.Account, n, count int) ([]*sent, error) {
	sock, err := srv.Dial(ctx, a.Access, rig.Via{Source: rig.Source(n)})
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	sock.SetDeadline(time.Now().Add(2 * time.Minute))
	if err := sock.Welcome(); err != nil {
		return nil, err
	}
	t, err := rig.NewTemplate(to)
	if err != nil {
		return nil, err
	}
	var out []*sent
	for i := range uint32(count) {
		m := &sent{id: t.MessageID(i).String(), began: seconds(), port: sock.LocalPort()}
		sock.Queue(t.Message(uint32(n), i))
		if err := sock.Flush(); err != nil {
			return nil, err
		}
		frame, _, err := sock.Next()
		if err != nil {
			return nil, err
		}
		m.knew = seconds()
		if e, err := rig.ReadEvent(frame); err != nil || e.Type != wire.FrameSent || e.Ref != uint64(rig.FirstRef+i) {
			return nil, fmt.Errorf("message %d was answered by %q %s: %v", i, e.Type, e.Code, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func seconds() float64 { return float64(time.Now().UnixMicro()) / 1e6 }

// place reads the trace and finds the write that told each sender: the one to
// its socket between the moment it sent and the moment it knew.
func (s *suite) place(trace string, acks []*sent, dir string, line *powercutLine) ([]*event, error) {
	var events []*event
	told := map[int][]int{} // by port: positions of writes to it
	err := readTrace(trace, func(e *event) error {
		switch {
		case e.port != 0:
			told[e.port] = append(told[e.port], len(events))
			e.data = nil
		case !strings.HasPrefix(e.path, dir):
			return nil
		case e.call == "pwrite64":
			line.Writes++
		case e.call == "fsync" || e.call == "fdatasync":
			line.Syncs++
		}
		events = append(events, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, m := range acks {
		m.position = -1
		for _, i := range told[m.port] {
			if t := events[i].at; t < m.began || t > m.knew {
				continue
			}
			if m.position >= 0 {
				return nil, errors.New("two writes to one socket could be the same answer: the trace does not fit")
			}
			m.position = i
		}
		if m.position < 0 {
			return nil, errors.New("an answer is not in the trace")
		}
	}
	return events, nil
}

// cut replays the events and examines two images at every acknowledgement: all
// that was not synced dropped, and random prefixes kept. A few more images of a
// log whose syncs did nothing are the control.
func (s *suite) cut(ctx context.Context, base *disk, events []*event, acks []*sent, to *rig.Account, line *powercutLine) error {
	at := map[int]bool{}
	for _, m := range acks {
		at[m.position] = true
	}
	control := base.clone()
	control.deaf = func(path string) bool { return strings.HasSuffix(path, "-wal") }
	r := s.random("powercut")
	v, err := s.examiner(to)
	if err != nil {
		return err
	}
	n := 0
	for i, e := range events {
		if at[i] {
			want := until(acks, i)
			n++
			for _, keep := range []*rand.Rand{nil, r} {
				if err := v.look(ctx, base, keep, want, &line.Images, &line.Lost, &line.Dead); err != nil {
					return err
				}
			}
			if n%20 == 0 {
				var dead int
				if err := v.look(ctx, control, nil, want, &line.Control, &line.ControlLost, &dead); err != nil {
					return err
				}
			}
		}
		x, y := *e, *e
		if err := errors.Join(base.apply(&x), control.apply(&y)); err != nil {
			return err
		}
	}
	return nil
}

// until gives the ids of what was acknowledged at or before a position.
func until(acks []*sent, position int) map[string]bool {
	out := map[string]bool{}
	for _, m := range acks {
		if m.position <= position {
			out[m.id] = true
		}
	}
	return out
}

// examiner starts the real server on images.
type examiner struct {
	s    *suite
	srv  *rig.Server
	data string
	to   *rig.Account
}

func (s *suite) examiner(to *rig.Account) (*examiner, error) {
	data := filepath.Join(s.dir, "image")
	srv, err := s.server("examiner", rig.Setup{Name: "a.test", Data: data})
	if err != nil {
		return nil, err
	}
	for _, k := range []string{"root.key", "identity.key"} { // the keys are the traced server's
		key, err := os.ReadFile(filepath.Join(s.dir, "cut", "a.test", "keys", k))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(srv.Dir, "keys", k), key, 0o600); err != nil {
			return nil, err
		}
	}
	return &examiner{s, srv, data, to}, nil
}

// look writes one image, starts the server on it and adds up what is missing.
func (x *examiner) look(ctx context.Context, d *disk, keep *rand.Rand, want map[string]bool, images, lost, dead *int) error {
	if err := os.RemoveAll(x.data); err != nil {
		return err
	}
	if err := os.MkdirAll(x.data, 0o700); err != nil {
		return err
	}
	if err := d.image(x.data, keep); err != nil {
		return err
	}
	*images++
	if _, err := x.srv.StartReady(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		*dead++
		fmt.Fprintf(os.Stderr, "powercut: image %d: %v\n", *images, err)
		return x.s.keepImage(x.data, *images)
	}
	defer x.srv.Kill()
	missing, err := x.missing(ctx, want)
	if err != nil {
		return err
	}
	*lost += missing
	if missing > 0 && d.deaf == nil {
		fmt.Fprintf(os.Stderr, "powercut: image %d lacks %d of %d acknowledged messages\n", *images, missing, len(want))
		return x.s.keepImage(x.data, *images)
	}
	return nil
}

// keepImage saves an image that broke a promise, when folders are kept.
func (s *suite) keepImage(data string, n int) error {
	if !s.keep {
		return nil
	}
	return os.CopyFS(filepath.Join(s.dir, fmt.Sprintf("broken-%d", n)), os.DirFS(data))
}

// missing reads the recipient's mail and tells how many wanted messages are not
// there once the mailbox has been quiet for a second.
func (x *examiner) missing(ctx context.Context, want map[string]bool) (int, error) {
	sock, err := x.srv.Dial(ctx, x.to.Access, rig.Via{})
	if err != nil {
		var refused *rig.StatusError
		if errors.As(err, &refused) && (refused.Code() == clearbox.CodeUnauthorized || refused.Status == 401) {
			return len(want), nil // the account is not there either
		}
		return 0, err
	}
	defer sock.Close()
	left := len(want)
	seen := map[string]bool{}
	for left > 0 {
		sock.SetDeadline(time.Now().Add(time.Second))
		frame, _, err := sock.Next()
		if err != nil {
			break // quiet
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			return 0, err
		}
		if e.Type != wire.FrameReceive {
			continue
		}
		if id := string(e.ID); want[id] && !seen[id] {
			seen[id] = true
			left--
		}
		sock.Queue(rig.AppendAck(nil, e.Seq))
		sock.Flush()
	}
	return left, nil
}

// clone copies the model.
func (d *disk) clone() *disk {
	out := &disk{root: d.root, live: map[string]*file{}, durable: map[string]*file{}}
	for p, f := range d.durable {
		c := &file{certain: append([]byte{}, f.certain...)}
		out.live[p], out.durable[p] = c, c
	}
	return out
}
