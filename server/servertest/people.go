package servertest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
	"github.com/clearbox-im/clearbox/crypto/vault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Person is somebody with one device: a brain, its vault and its line.
type Person struct {
	w     *World
	House *House
	Name  string // alice@a.test
	Brain *core.Brain
	Vault *memvault.Vault
	User  clearbox.UserID
	line  *line

	cancel context.CancelFunc
	ended  chan error // capacity 1
	sent   []said
}

// said is what a person handed to the own brain.
type said struct {
	to   *Person
	text string
	id   clearbox.MessageID
}

// Join registers somebody and goes online. name is an address, name@server.
func (w *World) Join(name string) *Person {
	w.T.Helper()
	address, err := clearbox.ParseAddress(name)
	w.must(err)
	h := w.House(address.Server)
	p := &Person{w: w, House: h, Name: name, Vault: new(memvault.Vault)}
	p.line = newLine(w.Wires, name, "https://"+string(h.Name), w.clientTLS())
	ctx := context.Background()
	p.Brain, err = core.New(ctx, p.Vault, p.line, core.Options{Now: time.Now, Random: rand.Reader})
	w.must(err)
	notice, err := p.Brain.Notice(ctx)
	w.must(err)
	const password = "seven grey herons over the dam"
	w.must(p.Brain.Register(ctx, core.Registration{
		Server: h.Name, Handle: address.Handle, Password: password, DeviceName: "laptop of " + string(address.Handle),
		Notice:   wire.NoticeAck{Version: notice.Version, Hash: notice.Hash},
		Consents: []string{"open_reachability"}, // people of other houses write to them without asking first
	}))
	profile, err := p.Brain.Profile()
	w.must(err)
	p.User = profile.User
	w.people = append(w.people, p)
	w.Secret(password, "laptop of "+string(address.Handle), string(p.User.UID), name)
	p.Online()
	return p
}

// Online runs the brain.
func (p *Person) Online() {
	if p.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan error, 1)
	go func() { p.ended <- p.Brain.Run(ctx) }()
}

// Offline ends the brain; what it has queued stays in its vault.
func (p *Person) Offline() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	if err := <-p.ended; err != nil && !errors.Is(err, context.Canceled) {
		p.w.T.Errorf("%s: %v", p.Name, err)
	}
	p.cancel = nil
}

// Say hands a text to the own brain, which sends it when it can.
func (p *Person) Say(to *Person, text string) clearbox.MessageID {
	p.w.T.Helper()
	c, err := p.Brain.Contact(context.Background(), to.Name)
	p.w.must(err)
	m, err := p.Brain.Send(context.Background(), c.User, text)
	p.w.must(err)
	p.sent = append(p.sent, said{to, text, m.ID})
	p.w.Secret(text)
	return m.ID
}

// Heard gives the texts that a person has got from another, in order.
func (p *Person) Heard(from *Person) []string {
	p.w.T.Helper()
	var out []string
	for after := uint64(0); ; {
		page, err := p.Brain.Messages(context.Background(), from.User, after, 500)
		if errors.Is(err, core.ErrUnknownContact) {
			return nil
		}
		p.w.must(err)
		if len(page) == 0 {
			return out
		}
		for _, m := range page {
			after = m.Order
			switch {
			case m.Outgoing:
			case m.Kind == core.MessageText:
				out = append(out, m.Text)
				if m.Unproven() {
					p.w.T.Errorf("%s cannot prove what %s wrote", p.Name, from.Name)
				}
			default:
				out = append(out, "("+string(m.Kind)+")")
			}
		}
	}
}

// State tells how far a message has come, with its reason.
func (p *Person) State(id clearbox.MessageID) (core.State, clearbox.Code) {
	p.w.T.Helper()
	m, err := p.Brain.Message(context.Background(), id)
	p.w.must(err)
	return m.State, m.Reason
}

// Wait lets time fly until done is true, for at most the given time.
func (w *World) Wait(what string, most time.Duration, done func() bool) time.Duration {
	w.T.Helper()
	begin := time.Now()
	for !done() {
		if time.Since(begin) > most {
			w.T.Fatalf("after %v still not: %s", most, what)
		}
		time.Sleep(min(most/100+time.Millisecond, time.Second))
		synctest.Wait()
	}
	return time.Since(begin)
}

// settle mends everything and waits until every message has met its fate.
func (w *World) settle() {
	w.T.Helper()
	w.Wires.mendAll()
	if w.Air != nil {
		w.Air.mendAll()
	}
	for _, h := range w.houses {
		if h.server == nil {
			h.Start()
		}
	}
	for _, p := range w.people {
		p.Online()
	}
	w.Wait("every message is delivered or reported", 2*time.Hour, func() bool {
		for _, p := range w.people {
			heard := map[*Person][]string{}
			for _, s := range p.sent {
				// Receipts are for contacts only: a stranger's message stays at_peer.
				switch st, _ := p.State(s.id); st {
				case core.StateDelivered, core.StateFailed:
				case core.StateAtPeer:
					if heard[s.to] == nil {
						heard[s.to] = s.to.Heard(p)
					}
					if !slices.Contains(heard[s.to], s.text) {
						return false
					}
				default:
					return false
				}
			}
		}
		return true
	})
}

// checkMessages: each message was shown once, in order, or reported.
func (w *World) checkMessages() {
	w.T.Helper()
	for _, from := range w.people {
		for _, to := range w.people {
			var want []string
			for _, s := range from.sent {
				if s.to != to {
					continue
				}
				if st, code := from.State(s.id); st != core.StateFailed {
					want = append(want, s.text)
				} else if slices.Contains(to.Heard(from), s.text) && code != clearbox.CodeOutcomeUnknown {
					w.T.Errorf("%s was told that %q failed (%s), and %s has it", from.Name, s.text, code, to.Name)
				}
			}
			got := slices.DeleteFunc(to.Heard(from), func(t string) bool { return !slices.Contains(want, t) })
			if !slices.Equal(got, want) {
				w.T.Errorf("%s to %s: shown %d of %d, or in another order, or twice", from.Name, to.Name, len(got), len(want))
			}
		}
	}
}

// Admin makes a request on the house's admin socket.
func (h *House) Admin(method, path string, in, out any) {
	w := h.w
	w.T.Helper()
	client := newLine(w.Wires, "admin of "+string(h.Name), "http://clearbox", w.clientTLS())
	client.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return w.Wires.Dial(ctx, "admin", h.Conf.AdminSocket())
	}
	defer client.close()
	body, err := json.Marshal(in)
	w.must(err)
	res, err := client.Do(context.Background(), core.Request{Method: method, Path: path, Body: body})
	w.must(err)
	if res.Status >= 300 {
		w.T.Fatalf("%s %s at %s: %d %s", method, path, h.Name, res.Status, res.Body)
	}
	if out != nil {
		w.must(json.Unmarshal(res.Body, out))
	}
}

// peer makes two houses peers through the real handshake.
func (w *World) peer(a, b *House) {
	w.T.Helper()
	var invited wire.AdminPeerInvited
	a.Admin("POST", "/admin/peers/invite", wire.AdminPeerInvite{Server: b.Name, Country: "AT"}, &invited)
	var accepted wire.AdminPeerAccepted
	b.Admin("POST", "/admin/peers/accept", wire.AdminPeerAccept{Token: invited.Token, Country: "DE"}, &accepted)
	if !slices.Equal(accepted.Peer.Words, invited.Words) {
		w.T.Errorf("the words differ: %v at %s, %v at %s", invited.Words, a.Name, accepted.Peer.Words, b.Name)
	}
	w.Secret(invited.Token)
}

// Link gives p's account a further device, which takes everything over and goes
// online. What it hears and says is its own; the world's checks are about p.
func (p *Person) Link(name string) *Person {
	w := p.w
	w.T.Helper()
	second := &Person{w: w, House: p.House, Name: p.Name, Vault: new(memvault.Vault), User: p.User}
	second.line = newLine(w.Wires, p.Name+" "+name, "https://"+string(p.House.Name), w.clientTLS())
	ctx := context.Background()
	var err error
	second.Brain, err = core.New(ctx, second.Vault, second.line, core.Options{Now: time.Now, Random: rand.Reader})
	w.must(err)
	l, err := second.Brain.BeginLink(ctx)
	w.must(err)
	ended := make(chan error, 1)
	go func() {
		_, err := l.Finish(ctx, name, func(vault.Confirmation) {})
		ended <- err
	}()
	_, err = p.Brain.Link(ctx, l.Code(), func(context.Context, vault.Confirmation) (bool, error) { return true, nil })
	w.must(errors.Join(err, <-ended))
	w.Secret(name)
	w.further = append(w.further, second)
	second.Online()
	return second
}

// Gone ends a device whose session has ended: that is no fault.
func (p *Person) Gone() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	<-p.ended
	p.cancel = nil
}
