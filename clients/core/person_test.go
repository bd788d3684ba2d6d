package core_test

import (
	"context"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// person is one brain with its vault and network, which may crash and return.
type person struct {
	t     testing.TB
	w     *world
	name  clearbox.Address
	store *memvault.Vault
	vault core.Vault
	net   *network
	opts  core.Options
	brain *core.Brain
	user  clearbox.UserID

	doubts  bool // some of what others wrote is without proof
	closed  bool // joins without letting people of other servers find it
	preKeys int  // one-time prekeys of a kind; 0 is the product's number

	cancel context.CancelFunc
	ended  chan error
}

func newPerson(t testing.TB, w *world, name string) *person {
	t.Helper()
	p := &person{t: t, w: w, store: &memvault.Vault{}, opts: core.Options{Now: time.Now, Random: cryptoRandom}}
	var err error
	if p.name, err = clearbox.ParseAddress(name); err != nil {
		t.Fatal(err)
	}
	p.net = &network{w: w, server: p.name.Server}
	p.vault, p.preKeys = p.store, 4
	p.open()
	return p
}

// open makes a new brain over what the vault holds, as a new process would.
func (p *person) open() {
	p.t.Helper()
	brain, err := core.New(context.Background(), p.vault, p.net, p.opts)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.preKeys > 0 {
		core.SetPreKeys(brain, p.preKeys)
	}
	p.brain = brain
}

func (p *person) registration() core.Registration {
	consents := []string{"open_reachability"}
	if p.closed {
		consents = nil
	}
	return core.Registration{
		Consents: consents,
		Server:   p.name.Server, Handle: p.name.Handle, Password: "secret", Invite: "invite", DeviceName: "laptop",
		Notice: wire.NoticeAck{Version: "1", Hash: "h"},
	}
}

// join registers.
func (p *person) join() *person {
	p.t.Helper()
	if err := p.brain.Register(context.Background(), p.registration()); err != nil {
		p.t.Fatal(err)
	}
	p.user = p.profile().User
	return p
}

func (p *person) profile() core.Profile {
	p.t.Helper()
	pr, err := p.brain.Profile()
	if err != nil {
		p.t.Fatal(err)
	}
	return pr
}

func (p *person) start() *person {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan error, 1)
	brain, ended := p.brain, p.ended
	go func() { ended <- brain.Run(ctx) }()
	return p
}

// stop ends Run and gives its error.
func (p *person) stop() error {
	if p.cancel == nil {
		return nil
	}
	p.cancel()
	p.cancel = nil
	return <-p.ended
}

func (p *person) contact(name string) core.Contact {
	p.t.Helper()
	c, err := p.brain.Contact(context.Background(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *person) send(to *person, text string) clearbox.MessageID {
	p.t.Helper()
	p.contact(to.name.String())
	m, err := p.brain.Send(context.Background(), to.user, text)
	if err != nil {
		p.t.Fatal(err)
	}
	return m.ID
}

func (p *person) state(id clearbox.MessageID) core.State {
	p.t.Helper()
	m, err := p.brain.Message(context.Background(), id)
	if err != nil {
		p.t.Fatal(err)
	}
	return m.State
}

// heard gives the texts of other's messages in their order.
func (p *person) heard(other *person) []string {
	p.t.Helper()
	lines, err := p.brain.Messages(context.Background(), other.user, 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, m := range lines {
		switch {
		case m.Outgoing:
		case m.Kind == core.MessageText:
			out = append(out, m.Text)
			if m.Unproven() && !p.doubts {
				p.t.Errorf("nothing proves who wrote message %v", m.ID)
			}
		default:
			out = append(out, "<"+string(m.Kind)+">")
		}
	}
	return out
}
