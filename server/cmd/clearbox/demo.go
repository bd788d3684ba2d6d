package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

type demoCommand struct {
	Once bool   `help:"Play a conversation through outages, look for leaks and end, instead of running until Ctrl-C."`
	Cbx  string `name:"cbx" placeholder:"FILE" help:"The terminal client. Default: cbx beside this program, or on the PATH."`
	Dir  string `placeholder:"FOLDER" help:"Where the throw-away data goes. Default: a new temporary folder."`
}

// demo is two organisations on loopback, with throw-away keys.
type demo struct {
	x     *call
	dir   string
	cbx   string
	self  string
	a, b  *demoHouse
	alice *demoPerson
	bob   *demoPerson
	carol *demoPerson // joins for the group
	begin time.Time

	spoken    []string    // every text between Alice and Bob, in order
	elsewhere []string    // what else was said, or stands there no more
	tablet    *demoPerson // Alice's second device
}

// Run sets the two organisations up, has Alice and Bob join and meet, and then
// either plays the conversation or waits for Ctrl-C. All data is deleted at the end.
func (c *demoCommand) Run(x *call) (err error) {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	go func() {
		for sig := range x.Signals {
			if sig != nil {
				cancel()
			}
		}
	}()
	d := &demo{x: x, begin: x.Now()}
	if d.self, err = os.Executable(); err != nil {
		return err
	}
	if d.cbx, err = findCbx(c.Cbx, d.self); err != nil {
		return err
	}
	if d.dir = c.Dir; d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "clearbox-demo-"); err != nil {
			return err
		}
	} else if err := os.Mkdir(d.dir, 0o700); err != nil {
		return &failure{code: exitUsage, text: "--dir: " + err.Error(), next: "name a folder that does not exist yet"}
	}
	defer func() {
		d.stop()
		if removed := os.RemoveAll(d.dir); err == nil {
			err = removed
		}
	}()
	if err := d.setUp(ctx); err != nil {
		return d.explain(err)
	}
	if err := d.acquaint(ctx); err != nil {
		return d.explain(err)
	}
	if !c.Once {
		d.invite()
		<-ctx.Done()
		d.say("Stopping; everything in %s is deleted.", d.dir)
		return nil
	}
	if err := d.play(ctx); err != nil {
		return d.explain(err)
	}
	return nil
}

func findCbx(named, self string) (string, error) {
	if named != "" {
		return filepath.Abs(named)
	}
	if beside := filepath.Join(filepath.Dir(self), "cbx"); isFile(beside) {
		return beside, nil
	}
	found, err := exec.LookPath("cbx")
	if err != nil {
		return "", &failure{code: exitUsage, text: "cbx, the terminal client, is neither beside this program nor on the PATH", next: "make build, or clearbox demo --cbx FILE"}
	}
	return found, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.x.out, format+"\n", args...) }

// explain shows the end of both servers' logs with what went wrong.
func (d *demo) explain(err error) error {
	for _, h := range []*demoHouse{d.a, d.b} {
		if h != nil {
			if log, e := os.ReadFile(h.log); e == nil {
				fmt.Fprintf(d.x.err, "--- the end of the log of %s\n%s\n", h.name, tail(string(log), 15))
			}
		}
	}
	return err
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (d *demo) setUp(ctx context.Context) error {
	ca, err := newDemoCA(d.dir, d.x.Now(), d.x.Random)
	if err != nil {
		return fmt.Errorf("make a certificate authority: %w", err)
	}
	if d.a, err = d.newHouse("clinic.test", "Demo Clinic", "AT", ca); err != nil {
		return err
	}
	if d.b, err = d.newHouse("townhall.test", "Demo Town Hall", "DE", ca); err != nil {
		return err
	}
	d.say("ClearBox demo: two organisations on this machine, data in %s", d.dir)
	for _, h := range []*demoHouse{d.a, d.b} {
		if err := h.start(ctx); err != nil {
			return err
		}
		d.say("  %-14s %s  ready after %v", h.name, h.url, h.took.Round(time.Millisecond))
	}
	var invited struct {
		Token string   `json:"token"`
		Words []string `json:"words"`
	}
	if err := d.a.admin(ctx, &invited, "peer", "invite", d.b.name, "--country", "DE", "--allow-private"); err != nil {
		return err
	}
	var accepted struct {
		Peer struct {
			State string   `json:"state"`
			Words []string `json:"words"`
		} `json:"peer"`
		Own []string `json:"own_words"`
	}
	if err := d.b.admin(ctx, &accepted, "peer", "accept", invited.Token, "--country", "AT", "--allow-private"); err != nil {
		return err
	}
	if accepted.Peer.State != "active" || strings.Join(accepted.Peer.Words, " ") != strings.Join(invited.Words, " ") {
		return errors.New("the two servers did not pin each other")
	}
	d.say("Peered. Both admins read out the same words for %s: %s", d.a.name, strings.Join(invited.Words, " "))
	if err := d.protocols(ctx); err != nil {
		return err
	}
	if d.alice, err = d.join(ctx, d.a, "alice.berger"); err != nil {
		return err
	}
	if d.bob, err = d.join(ctx, d.b, "bob.marin"); err != nil {
		return err
	}
	d.say("Joined by invite: %s and %s", d.alice.address, d.bob.address)
	return nil
}

// invite prints what a person can try in two other terminals.
func (d *demo) invite() {
	d.say("\nTry it, each line in a terminal of its own:\n")
	d.say("  %s", d.alice.line("chat", d.bob.address))
	d.say("  %s", d.bob.line("chat", d.alice.address))
	d.say("\nAdminister one of them:\n\n  %s status --config %s", quoted(d.self), quoted(d.a.config))
	d.say("\nCtrl-C stops both servers and deletes everything.")
}

func (d *demo) stop() {
	for _, h := range []*demoHouse{d.a, d.b} {
		if h != nil {
			h.kill()
		}
	}
}

func quoted(s string) string {
	if strings.ContainsAny(s, " '\"$`\\") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// execute runs a program and gives its output; an error carries what it said.
func execute(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = stdin
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return []byte(out.String()), fmt.Errorf("%s %s: %w: %s%s", filepath.Base(name), args[0], err, tail(out.String(), 3), tail(errOut.String(), 5))
	}
	return []byte(out.String()), nil
}
