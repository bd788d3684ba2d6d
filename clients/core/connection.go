package core

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// connection sends over one link. Each conversation with something to send has
// a worker that sends one item at a time: the next one goes when the last one
// was accepted, so an error never lets a later message overtake an earlier one.
// Up to wire.WindowSends conversations send at once.
type connection struct {
	b        *Brain
	link     link
	welcomed bool       // of the goroutine that takes frames
	failed   chan error // capacity 1: why the connection must end
	again    chan struct{}
	window   chan struct{} // capacity WindowSends: items in flight
	wg       sync.WaitGroup
	moved    atomic.Bool // a message was sent or received

	mu       sync.Mutex // guards everything below
	gone     bool
	lastRef  uint64
	waiting  map[uint64]chan *wire.ServerFrame // each of capacity 1
	workers  map[string]bool                   // by conversation
	notUntil map[string]time.Time              // a conversation that waits after an error
	tries    map[string]int                    // errors in a row
	step     chan struct{}                     // closed, and replaced, when a worker was done with an item
}

func newConnection(b *Brain, l link) *connection {
	return &connection{
		b: b, link: l,
		failed: make(chan error, 1), again: make(chan struct{}, 1), window: make(chan struct{}, wire.WindowSends),
		waiting: map[uint64]chan *wire.ServerFrame{}, workers: map[string]bool{},
		notUntil: map[string]time.Time{}, tries: map[string]int{}, step: make(chan struct{}),
	}
}

// errGone says that the connection ended before an answer came.
var errGone = errors.New("core: the connection ended")

// fail ends the connection.
func (c *connection) fail(err error) {
	select {
	case c.failed <- err:
	default: // one reason is enough
	}
}

// abandon lets everyone go who waits for an answer.
func (c *connection) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for ref, ch := range c.waiting {
		close(ch)
		delete(c.waiting, ref)
	}
}

// answer passes a sent or error frame to the worker that waits for it.
func (c *connection) answer(f *wire.ServerFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.waiting[f.Ref]; ch != nil {
		delete(c.waiting, f.Ref)
		ch <- f
	}
}

// submit sends an item and waits for the server's answer. errGone and ctx's
// error mean that the outcome is not known.
func (c *connection) submit(ctx context.Context, sub *wire.Submission) (*wire.Receipt, error) {
	select {
	case c.window <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-c.window }()
	ch := make(chan *wire.ServerFrame, 1)
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return nil, errGone
	}
	c.lastRef++
	ref := c.lastRef
	c.waiting[ref] = ch
	c.mu.Unlock()
	if err := c.link.send(ctx, &wire.ClientFrame{Type: wire.FrameSend, Ref: ref, Submission: sub}); err != nil {
		return nil, errors.Join(errGone, err)
	}
	select {
	case f, ok := <-ch:
		switch {
		case !ok:
			return nil, errGone
		case f.Type == wire.FrameSent && f.Receipt != nil:
			return f.Receipt, nil
		case f.Problem != nil:
			return nil, &refusal{err: f.Problem.Err(), retryAfter: f.Problem.RetryAfter}
		}
		return nil, clearbox.Errorf(clearbox.CodeInternal, "the server's answer cannot be read")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dispatch starts a worker for each conversation that has something to send.
func (c *connection) dispatch(ctx context.Context) {
	for {
		next, err := c.start(ctx)
		if err != nil {
			c.fail(err)
			return
		}
		var timer *time.Timer
		var due <-chan time.Time
		if next > 0 {
			timer = time.NewTimer(next)
			due = timer.C
		}
		select {
		case <-c.b.queueWake:
		case <-c.again:
		case <-due:
		case <-ctx.Done():
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// start gives how long until the next conversation has waited enough, 0 if
// none waits.
func (c *connection) start(ctx context.Context) (next time.Duration, err error) {
	var queued []string
	err = c.b.vault.View(ctx, func(r Reader) (err error) {
		queued, err = heads(r, prefixOut)
		return err
	})
	if err != nil {
		return 0, err
	}
	now := c.b.opts.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, uuid := range queued {
		if c.workers[uuid] || c.b.heldBack(uuid) {
			continue
		}
		if wait := c.notUntil[uuid].Sub(now); wait > 0 {
			if next == 0 || wait < next {
				next = wait
			}
			continue
		}
		c.workers[uuid] = true
		c.wg.Go(func() { c.work(ctx, uuid) })
	}
	return next, nil
}

// work sends a conversation's items until there are none or one must wait.
func (c *connection) work(ctx context.Context, uuid string) {
	defer func() {
		c.mu.Lock()
		delete(c.workers, uuid)
		c.mu.Unlock()
		c.stepped()
		wake(c.again) // something may have come after the last look
	}()
	for ctx.Err() == nil {
		key, err := c.b.firstOut(ctx, uuid)
		if err != nil {
			c.fail(err)
			return
		}
		if key == "" {
			return
		}
		err = c.sendOne(ctx, key)
		if ctx.Err() != nil || errors.Is(err, errGone) {
			return
		}
		if err != nil && !c.after(ctx, uuid, key, err) {
			return
		}
		if err == nil {
			c.mu.Lock()
			delete(c.tries, uuid)
			c.mu.Unlock()
		}
		c.stepped()
	}
}

// stepped tells whoever waits for other conversations that one has moved.
func (c *connection) stepped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.step)
	c.step = make(chan struct{})
}

func (b *Brain) firstOut(ctx context.Context, uuid string) (key string, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		entries, err := r.List(Range{Prefix: prefixOut + uuid + "/", Limit: 1})
		if len(entries) > 0 {
			key = entries[0].Key
		}
		return err
	})
	return key, err
}

// sendOne brings one item to the server and stores the answer.
func (c *connection) sendOne(ctx context.Context, key string) error {
	prepare := c.b.prepare
	if ofGroup(key) {
		prepare = c.b.prepareMany
	}
	it, err := prepare(ctx, key)
	if errors.Is(err, errNobody) {
		return c.b.sentToNobody(ctx, key)
	}
	if err != nil || it == nil {
		return err
	}
	if ofGroup(key) {
		if err := c.keysFirst(ctx, it.Group); err != nil {
			return err
		}
	}
	var sub wire.Submission
	if err := wire.Decode(wire.CBOR, it.submission(), &sub); err != nil {
		return err
	}
	receipt, err := c.submit(ctx, &sub)
	if clearbox.CodeOf(err) == clearbox.CodeConflict {
		receipt, err = c.b.resolveConflict(ctx, it, err)
	}
	if err != nil {
		return err
	}
	c.moved.Store(true)
	return c.b.accepted(ctx, key, it, receipt)
}

// maxRounds is how often in a row the devices of one item may change.
const maxRounds = 5

// after deals with an error of an item and tells whether to go on with the
// conversation at once.
func (c *connection) after(ctx context.Context, uuid, key string, err error) bool {
	code := clearbox.CodeOf(err)
	c.mu.Lock()
	c.tries[uuid]++
	tries := c.tries[uuid]
	c.mu.Unlock()
	var stale *clearbox.StaleDevicesError
	if errors.As(err, &stale) && tries <= maxRounds {
		if err = c.b.stale(ctx, key, stale); err == nil {
			return true
		}
		code = clearbox.CodeOf(err)
	}
	var changed *clearbox.GroupChangedError
	if errors.As(err, &changed) {
		learned := c.b.regroup(ctx, key)
		if learned == nil && tries <= maxRounds {
			return true
		}
		if learned != nil {
			err = learned
		}
		code = clearbox.CodeOf(err)
	}
	switch {
	case lasting(err):
		c.fail(err)
		return false
	case code == clearbox.CodeConsentRequired:
		if err := c.b.refused(ctx, key); err != nil {
			c.fail(err)
			return false
		}
		if tries > maxRounds {
			c.later(uuid, tries, err)
			return false
		}
		return true
	case code == clearbox.CodeIdentityChanged:
		if err := c.b.holdBack(ctx, uuid, key); err != nil {
			c.fail(err)
		}
		return false
	case passing(code) && (code != clearbox.CodeInternal || tries < 8):
		c.later(uuid, tries, err)
		if err := c.b.noteWaiting(ctx, key, code); err != nil {
			c.fail(err)
		}
		return false
	}
	if err := c.b.giveUp(ctx, key, code); err != nil {
		c.fail(err)
		return false
	}
	return true
}

// passing tells codes that time or a reconnect mends.
func passing(code clearbox.Code) bool {
	switch code {
	case clearbox.CodeUnavailable, clearbox.CodeRateLimited, clearbox.CodeStoreFull, clearbox.CodeInternal, clearbox.CodePeerUnreachable,
		clearbox.CodeUnauthorized, clearbox.CodeTokenExpired, clearbox.CodeStaleDevices, clearbox.CodeClockSkew, clearbox.CodeGroupChanged:
		return true
	}
	return false
}

// later lets a conversation wait, as long as the server asked or longer each time.
func (c *connection) later(uuid string, tries int, err error) {
	wait := backoffFirst << min(tries, 7)
	wait = c.b.spread(wait/2, min(wait, backoffMost))
	var refused *refusal
	if errors.As(err, &refused) && refused.retryAfter > 0 {
		wait = max(wait, min(time.Duration(refused.retryAfter)*time.Second, 10*backoffMost))
	}
	c.mu.Lock()
	c.notUntil[uuid] = c.b.opts.Now().Add(wait)
	c.mu.Unlock()
}

// noteWaiting says at a queued message what it waits for, where it is not the
// own server's connection.
func (b *Brain) noteWaiting(ctx context.Context, key string, code clearbox.Code) error {
	switch code {
	case clearbox.CodePeerUnreachable, clearbox.CodeRateLimited, clearbox.CodeStoreFull:
	default:
		return nil
	}
	s, err := b.me()
	if err != nil {
		return err
	}
	noted := false
	err = b.vault.Update(ctx, func(tx Tx) error {
		noted = false
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		m, at, err := findMessage(tx, s.uuid, it.ID)
		if err != nil || m == nil || m.State != StateQueued || m.Reason == code {
			return err
		}
		noted, m.Reason = true, code
		return save(tx, at, m)
	})
	if noted {
		b.changed()
	}
	return err
}

// accepted takes an item out of the queue: the server has it.
func (b *Brain) accepted(ctx context.Context, key string, it *outItem, r *wire.Receipt) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	state, delayed := StateAtServer, r.Status == wire.StateDelayed
	if it.To.Server == s.User.Server || r.Status == wire.StateAtPeer {
		state = StateAtPeer // one server is both
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		now, err := load[outItem](tx, key)
		if err != nil || now == nil || now.outer() != it.outer() {
			return err // a notice came before this answer, and said more
		}
		if err := tx.Delete(key); err != nil {
			return err
		}
		if !kinds[it.Kind].line {
			return b.toldRenewal(tx, key)
		}
		if state == StateAtServer {
			if err := tx.Put(awaitKey(it.outer()), []byte{1}); err != nil {
				return err
			}
		}
		if m, at, err := findMessage(tx, s.uuid, it.ID); err != nil {
			return err
		} else if m != nil && it.Token != nil {
			m.Token = it.Token
			if err := save(tx, at, m); err != nil {
				return err
			}
		}
		_, err = b.advance(tx, s, it.ID, state, "", delayed)
		return err
	})
	b.changed()
	return err
}

// giveUp takes an item out of the queue: it will never be sent.
func (b *Brain) giveUp(ctx context.Context, key string, code clearbox.Code) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		if err := tx.Delete(key); err != nil {
			return err
		}
		if it.Kind == KindSenderKey {
			return b.lostSender(tx, it.Group, it.To)
		}
		if again, err := sentAgain(tx, it.ID); err != nil || again != nil {
			if err == nil {
				_, err = b.reached(tx, s, again, MemberFate{it.To, StateFailed, code})
			}
			return err
		}
		_, err = b.fail(tx, s, it.ID, code)
		return err
	})
	b.changed()
	return err
}

// resolveConflict asks what became of an id that the server knows with another
// body. Under one id there is one content, so another encryption of it that
// was accepted before is as good.
func (b *Brain) resolveConflict(ctx context.Context, it *outItem, conflict error) (*wire.Receipt, error) {
	var out wire.Statuses
	if err := b.call(ctx, "POST", "/messages/status", wire.StatusQuery{IDs: []clearbox.MessageID{it.outer()}}, &out); err != nil {
		return nil, err
	}
	for _, st := range out.States {
		if st.ID == it.outer() && st.State != wire.StateUnknown && st.State != "" {
			if st.State == wire.StateUndeliverable {
				st.State = wire.StateAccepted // the notice in the mailbox says why it failed
			}
			return &wire.Receipt{ID: it.outer(), Status: st.State}, nil
		}
	}
	return nil, conflict
}

// holdBack stops a conversation whose contact's keys changed, and says so at
// its message.
func (b *Brain) holdBack(ctx context.Context, uuid, key string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.stopped[uuid] = true
	b.mu.Unlock()
	err = b.vault.Update(ctx, func(tx Tx) error {
		c, err := load[contact](tx, contactKey(uuid))
		if err != nil {
			return err
		}
		if c == nil || c.Changed == nil { // accepted a moment ago
			b.release(uuid)
			return nil
		}
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		m, at, err := findMessage(tx, s.uuid, it.ID)
		if err != nil || m == nil || m.Reason == clearbox.CodeIdentityChanged {
			return err
		}
		m.Reason = clearbox.CodeIdentityChanged
		return save(tx, at, m)
	})
	b.changed()
	return err
}

func (b *Brain) heldBack(uuid string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stopped[uuid]
}

// release lets a conversation go on.
func (b *Brain) release(uuid string) {
	b.mu.Lock()
	delete(b.stopped, uuid)
	b.mu.Unlock()
}
