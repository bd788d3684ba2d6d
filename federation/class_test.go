package federation_test

import (
	"context"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// twoClasses is a queue for each class, to one peer.
type twoClasses struct{ message, control *outbox }

func (o twoClasses) of(c federation.Class) *outbox {
	if c == federation.ClassControl {
		return o.control
	}
	return o.message
}

func (o twoClasses) Lease(ctx context.Context, p clearbox.ServerName, c federation.Class) (federation.Lease, error) {
	return o.of(c).Lease(ctx, p, c)
}

func (o twoClasses) Pending(ctx context.Context, p clearbox.ServerName, c federation.Class, l federation.Lease) ([]*federation.Batch, error) {
	return o.of(c).Pending(ctx, p, c, l)
}

func (o twoClasses) Take(ctx context.Context, p clearbox.ServerName, c federation.Class, l federation.Lease, items, bytes int) (*federation.Batch, error) {
	return o.of(c).Take(ctx, p, c, l, items, bytes)
}

func (o twoClasses) Settle(ctx context.Context, p clearbox.ServerName, c federation.Class, l federation.Lease, b *federation.Batch, v []federation.Verdict) error {
	return o.of(c).Settle(ctx, p, c, l, b, v)
}

func (o twoClasses) Failed(ctx context.Context, p clearbox.ServerName, c federation.Class, b *federation.Batch, outcome federation.Outcome) error {
	return o.of(c).Failed(ctx, p, c, b, outcome)
}

func (o twoClasses) Repeat(ctx context.Context, p clearbox.ServerName, c federation.Class, l federation.Lease, b *federation.Batch) error {
	return o.of(c).Repeat(ctx, p, c, l, b)
}

func (o twoClasses) Rewind(ctx context.Context, p clearbox.ServerName, c federation.Class, l federation.Lease, at int64) (federation.Lease, error) {
	return o.of(c).Rewind(ctx, p, c, l, at)
}

func (o twoClasses) Due(ctx context.Context, c federation.Class) ([]clearbox.ServerName, error) {
	return o.of(c).Due(ctx, c)
}

// byClass keeps the streams of the classes apart.
type byClass map[federation.Class]*acceptor

func (a byClass) Accept(ctx context.Context, peer clearbox.ServerName, txn *federation.Transaction) (*federation.Answer, error) {
	return a[txn.Class].Accept(ctx, peer, txn)
}

func (a byClass) Resume(ctx context.Context, peer clearbox.ServerName, own federation.Position) (federation.Position, error) {
	return a[own.Class].Resume(ctx, peer, own)
}

// An answer in one class, whatever it says, ends the other's wait for a peer that
// was away, and not the rest of one that was refused.
func TestOneClassWakesTheOther(t *testing.T) {
	for _, c := range []struct {
		name    string
		refused bool
		want    int // messages, ten seconds after the peer has answered in the other class
	}{{"away", false, 1}, {"refused", true, 0}} {
		t.Run(c.name, func(t *testing.T) {
			two(t, func(w *world, a, b *node) { a.control = newOutbox(50) }, func(w *world, a, b *node) {
				refuse := c.refused
				b.acceptor.fail = func() error {
					if refuse {
						refuse = false
						return clearbox.Errorf(clearbox.CodePeerBlocked, "no messages for now")
					}
					return nil
				}
				b.inbox.Store(federation.NewInbox(b.self, b.client, byClass{federation.ClassMessage: b.acceptor, federation.ClassControl: newAcceptor()}, b.dir,
					federation.InboxOptions{Now: b.now}))
				if !c.refused {
					w.set(func(x *wire) { x.cut = true })
				}
				a.send("b.test", 1)
				if !c.refused {
					wait(t, 30*time.Hour)
				}
				wait(t, time.Minute)
				w.set(func(x *wire) { x.cut = false })
				a.control.add("a.test", "b.test")
				a.sender.Nudge("b.test", federation.ClassControl)
				wait(t, 10*time.Second)
				if a.control.unsettled() != 0 || b.acceptor.count() != c.want {
					t.Errorf("%d not answered in the class control, %d messages arrived", a.control.unsettled(), b.acceptor.count())
				}
				a.sender.Retry("b.test")
				wait(t, time.Second)
			})
		})
	}
}
