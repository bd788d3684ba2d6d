package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// fullLine is what diskfull prints. Keys are only ever added.
type fullLine struct {
	Test         string             `json:"test"`
	Acknowledged int                `json:"acknowledged"`
	Refused      int                `json:"refused"`         // answered with 507 or its frame
	Reads        int                `json:"reads_when_full"` // that worked while nothing could be stored
	Lost         int                `json:"lost"`
	Duplicated   int                `json:"duplicated"`
	Reordered    int                `json:"reordered"`
	Ghosts       int                `json:"ghosts"` // refused for good, and delivered all the same
	Damaged      int                `json:"damaged"`
	Resumed      map[string]float64 `json:"resumed_after_s"` // from the freed space to the next acknowledgement
}

const (
	fullPairs  = 4
	fullSize   = 64 << 20
	fullWaits  = 30 * time.Second // for the server to see that the disk is full, or has room again
	fullWithin = "RELIABILITY_DISKFULL"
)

// diskfull is R7: a server on a file system of 64 MB that fills up, once down
// to the reserve that it keeps and once to the last byte.
//
// A small file system takes a mount, so the test runs in a mount namespace of
// its own, in a user namespace when it is not root; both vanish with it.
func (s *suite) diskfull(ctx context.Context) (verdict, error) {
	if os.Getenv(fullWithin) == "" {
		return s.diskfullApart(ctx)
	}
	line := fullLine{Test: "diskfull", Resumed: map[string]float64{}}
	var v verdict
	for _, c := range []struct {
		name, reserve string
		leave         int64 // bytes
	}{{"reserve", "16MiB", 14 << 20}, {"last byte", "0B", 0}} {
		if err := s.fill(ctx, c.name, c.reserve, c.leave, &line); err != nil {
			return v, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	v.line = line
	v.demand(line.Refused > 0, "nothing was refused")
	v.demand(line.Lost+line.Duplicated+line.Reordered == 0, "%d lost, %d duplicated, %d reordered", line.Lost, line.Duplicated, line.Reordered)
	v.demand(line.Ghosts == 0, "%d messages were refused and delivered", line.Ghosts)
	v.demand(line.Damaged == 0, "%d databases are damaged", line.Damaged)
	return v, nil
}

// diskfullApart runs this test alone in the namespaces and takes over its line.
func (s *suite) diskfullApart(ctx context.Context) (verdict, error) {
	self, err := os.Executable()
	if err != nil {
		return verdict{}, err
	}
	cmd := exec.CommandContext(ctx, self, "-tests", "diskfull", "-clearbox", s.clearbox, "-cbx", s.cbx, "-dir", s.dir,
		fmt.Sprintf("-seed=%d", s.seed), fmt.Sprintf("-scale=%d", s.scale), fmt.Sprintf("-keep=%t", s.keep))
	cmd.Env = append(os.Environ(), fullWithin+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = ownMounts()
	out, err := cmd.Output()
	v := verdict{line: map[string]string{"test": "diskfull"}}
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		if line := (fullLine{}); json.Unmarshal(sc.Bytes(), &line) == nil && line.Test == "diskfull" {
			v.line = line
		}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		err = fmt.Errorf("a mount namespace of its own is needed: be root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1): %w", err)
	}
	return v, err
}

// fill is one server on one small file system.
func (s *suite) fill(ctx context.Context, name, reserve string, leave int64, line *fullLine) error {
	data := filepath.Join(s.dir, "small "+name)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if err := mountSmall(data, fullSize); err != nil {
		return fmt.Errorf("mount a file system of %d MB: %w", fullSize>>20, err)
	}
	srv, err := s.server("full "+name, rig.Setup{Name: "a.test", Data: data, Extra: "limits:\n  disk_reserve: " + reserve + "\n"})
	if err != nil {
		return err
	}
	people, err := srv.Accounts(ctx, "p", 2*fullPairs, true)
	if err != nil {
		return err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return err
	}
	defer srv.Stop()
	pid := srv.PID()
	f := &filling{srv: srv, line: line, random: s.random("diskfull" + name), next: make([]uint32, fullPairs), ghosts: map[[2]uint32]bool{}}
	for i := range fullPairs {
		t, err := rig.NewTemplate(people[2*i+1])
		if err != nil {
			return err
		}
		f.templates = append(f.templates, t)
	}
	f.people = people
	if err := f.connect(ctx); err != nil {
		return err
	}
	defer func() { f.close() }()
	if err := f.fill(ctx, data, leave); err != nil {
		return err
	}
	if err := f.read(ctx, reserve != "0B"); err != nil {
		return fmt.Errorf("with a full disk: %w", err)
	}
	if err := os.Remove(ballast(data)); err != nil {
		return err
	}
	freed := time.Now()
	if err := f.resume(ctx); err != nil {
		return err
	}
	line.Resumed[name] = tidy(time.Since(freed).Seconds())
	if err := f.drain(ctx); err != nil {
		return err
	}
	if srv.PID() != pid || !srv.Running() {
		return errors.New("the server was not the same process to the end")
	}
	if !srv.Stop() {
		return errors.New("the server did not stop")
	}
	store, keys, err := srv.OpenStore(ctx)
	if err != nil {
		return err
	}
	defer keys.Close()
	defer store.Close()
	if err := store.Check(ctx); err != nil {
		line.Damaged++
		fmt.Fprintln(os.Stderr, "diskfull:", name, err)
	}
	return nil
}

func ballast(dir string) string { return filepath.Join(dir, "ballast") }

// filling is the clients of one server.
type filling struct {
	srv       *rig.Server
	line      *fullLine
	random    *rand.Rand
	people    []*rig.Account // sender, recipient, sender, ...
	templates []*rig.Template
	senders   []*rig.Socket
	next      []uint32           // per pair: the message that is not acknowledged yet
	ghosts    map[[2]uint32]bool // pair and number of what was refused and given up
}

func (f *filling) connect(ctx context.Context) error {
	for i := range fullPairs {
		sock, err := greeted(ctx, f.srv, f.people[2*i], rig.Via{Source: rig.Source(2 * i)})
		if err != nil {
			return err
		}
		f.senders = append(f.senders, sock)
	}
	return nil
}

func (f *filling) close() {
	for _, s := range f.senders {
		s.Close()
	}
}

// send offers the next message of pair i and says whether it was taken. What
// was refused stays next.
func (f *filling) send(i int) (taken bool, err error) {
	sock := f.senders[i]
	sock.SetDeadline(time.Now().Add(fullWaits))
	sock.Queue(f.templates[i].Message(uint32(i), f.next[i]))
	if err := sock.Flush(); err != nil {
		return false, err
	}
	for {
		frame, _, err := sock.Next()
		if err != nil {
			return false, err
		}
		e, err := rig.ReadEvent(frame)
		switch {
		case err != nil:
			return false, err
		case e.Type == wire.FrameSent:
			f.next[i]++
			f.line.Acknowledged++
			return true, nil
		case e.Type == wire.FrameError && e.Code == clearbox.CodeStoreFull:
			f.line.Refused++
			return false, nil
		case e.Type == wire.FrameError && e.Code == clearbox.CodeRateLimited: // the shipped quota of a person
			time.Sleep(20 * time.Millisecond)
			sock.Queue(f.templates[i].Message(uint32(i), f.next[i]))
			if err := sock.Flush(); err != nil {
				return false, err
			}
		case e.Type == wire.FrameError:
			return false, fmt.Errorf("the refusal is %q, not %q", e.Code, clearbox.CodeStoreFull)
		}
	}
}

// fill sends, then makes the disk full beside the server, and sends until every
// pair was refused ten times in a row.
func (f *filling) fill(ctx context.Context, dir string, leave int64) error {
	for range 500 {
		if taken, err := f.send(f.random.IntN(fullPairs)); err != nil || !taken {
			return errors.Join(err, fmt.Errorf("refused with an empty disk: %t", !taken))
		}
	}
	out, err := os.Create(ballast(dir))
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.CopyN(out, zeros{}, fullSize); err == nil {
		return errors.New("the file system has room for more than its size")
	}
	// A little more is given back than leave, so that the end comes in the middle of a commit.
	if at, err := out.Seek(0, io.SeekEnd); err != nil {
		return err
	} else if err := out.Truncate(at - leave - f.random.Int64N(256<<10)); err != nil {
		return err
	}
	row := make([]int, fullPairs)
	until := time.Now().Add(2 * fullWaits)
	for i := 0; ; i = (i + 1) % fullPairs {
		taken, err := f.send(i)
		if err != nil {
			return err
		}
		row[i]++
		if taken {
			row[i] = 0
		}
		if min(row[0], row[1], row[2], row[3]) >= 10 {
			break
		}
		if time.Now().After(until) {
			return errors.New("sends go on though the disk is full")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for i := range fullPairs / 2 { // half of the senders give up what was refused
		f.ghosts[[2]uint32{uint32(i), f.next[i]}] = true
		f.next[i]++
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// read does with a full disk what must go on. With the reserve there, mail can
// also be acknowledged.
func (f *filling) read(ctx context.Context, reserve bool) error {
	last := fullPairs - 1
	from, to := f.people[2*last], f.people[2*last+1]
	c := f.srv.Client(rig.Via{Source: rig.Source(2*last + 1)})
	defer c.Close()
	var refused *rig.StatusError
	err := c.Do(ctx, http.MethodPost, "/messages/send", from.Access, &wire.Submission{ID: f.templates[last].MessageID(f.next[last]), To: []wire.Recipient{{
		User: to.User, Envelopes: []wire.Outgoing{{Device: 1, Registration: to.Registration, Type: clearbox.ContentWhisper, Content: make([]byte, rig.PayloadSize)}},
	}}}, nil)
	if !errors.As(err, &refused) || refused.Status != http.StatusInsufficientStorage || refused.Code() != clearbox.CodeStoreFull {
		return fmt.Errorf("the answer to POST /messages/send is not the problem of status 507: %w", err)
	}
	f.line.Refused++
	for _, r := range []struct {
		path, token string
	}{
		{"/livez", ""},
		{"/messages/history", to.Access},
		{"/users/" + from.User.String(), to.Access},
		{"/devices", to.Access},
		{"/sync", to.Access},
	} {
		status, answer, err := c.Raw(ctx, http.MethodGet, r.path, r.token, nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("GET %s: %d %.300s", r.path, status, answer)
		}
		f.line.Reads++
	}
	sock, err := greeted(ctx, f.srv, to, rig.Via{Source: rig.Source(2*last + 1)})
	if err != nil {
		return err
	}
	defer sock.Close()
	sock.SetDeadline(time.Now().Add(fullWaits))
	for range 10 {
		if _, err := awaitFrame(sock, wire.FrameReceive); err != nil {
			return err
		}
		f.line.Reads++
	}
	if !reserve {
		return nil
	}
	for range 2 {
		if err := c.Login(ctx, to); err != nil {
			return err
		}
		f.line.Reads++
	}
	return nil
}

// resume sends until everybody is served again, by the same process.
func (f *filling) resume(ctx context.Context) error {
	until := time.Now().Add(fullWaits)
	for i := 0; i < fullPairs; {
		taken, err := f.send(i)
		if err != nil {
			return err
		}
		if taken {
			i++
			continue
		}
		if time.Now().After(until) {
			return fmt.Errorf("no message was taken within %s after the disk had room again", fullWaits)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	for range 200 {
		if taken, err := f.send(f.random.IntN(fullPairs)); err != nil || !taken {
			return errors.Join(err, fmt.Errorf("refused with room on the disk: %t", !taken))
		}
	}
	return nil
}

// drain receives and acknowledges everything and compares.
func (f *filling) drain(ctx context.Context) error {
	for i := range fullPairs {
		sock, err := greeted(ctx, f.srv, f.people[2*i+1], rig.Via{Source: rig.Source(2*i + 1)})
		if err != nil {
			return err
		}
		seen := map[uint32]int{}
		last := int64(-1)
		for len(seen) == 0 || last < int64(f.next[i])-1 {
			sock.SetDeadline(time.Now().Add(fullWaits))
			frame, _, err := sock.Next()
			if err != nil {
				break // what is missing is counted below
			}
			e, err := rig.ReadEvent(frame)
			if err != nil {
				return err
			}
			if e.Type != wire.FrameReceive {
				continue
			}
			pair, n, ok := e.Origin()
			if !ok || pair != uint32(i) {
				return errors.New("a message came that nobody sent")
			}
			seen[n]++
			if int64(n) < last {
				f.line.Reordered++
			}
			last = max(last, int64(n))
			sock.Queue(rig.AppendAck(nil, e.Seq))
			if err := sock.Flush(); err != nil {
				return err
			}
		}
		sock.Close()
		for n := range f.next[i] {
			switch ghost := f.ghosts[[2]uint32{uint32(i), n}]; {
			case ghost && seen[n] > 0:
				f.line.Ghosts++
			case !ghost && seen[n] == 0:
				f.line.Lost++
			case seen[n] > 1:
				f.line.Duplicated++
			}
		}
	}
	return nil
}
