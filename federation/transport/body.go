package transport

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

var errTakenBack = errors.New("the request was taken back")

// onceBody hands one request body to one connection after the other, until
// one has begun to read it.
type onceBody struct {
	body io.ReadCloser // nil or http.NoBody: there is none

	mu    sync.Mutex // guards the fields below
	held  *heldBody  // may read
	begun bool       // it stays with the one that holds it
	ended bool       // the holder has closed it
}

func newOnce(body io.ReadCloser) *onceBody { return &onceBody{body: body} }

// forOne gives a copy of req whose body is the holder's alone.
func (o *onceBody) forOne(req *http.Request) *http.Request {
	one := *req
	one.GetBody = nil // nobody else makes a second body of it
	if o.body == nil || o.body == http.NoBody {
		one.Body = nil
		return &one
	}
	h := &heldBody{once: o}
	o.mu.Lock()
	o.held = h
	o.mu.Unlock()
	one.Body = h
	return &one
}

// takeBack tells whether nothing was read of the body that sent holds. If so
// its holder cannot read any more.
func (o *onceBody) takeBack(sent *http.Request) bool {
	if sent.Body == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.begun {
		return false
	}
	o.held, o.ended = nil, false
	return true
}

// commit leaves the body to the connection that has answered, read or not.
func (o *onceBody) commit(sent *http.Request) {
	if sent.Body == nil {
		return
	}
	o.mu.Lock()
	unread := !o.begun && o.ended
	o.begun = true
	o.mu.Unlock()
	if unread {
		o.close()
	}
}

func (o *onceBody) close() {
	if o.body != nil {
		o.body.Close()
	}
}

// heldBody is the body as one connection sees it.
type heldBody struct{ once *onceBody }

func (h *heldBody) may() bool {
	h.once.mu.Lock()
	defer h.once.mu.Unlock()
	if h.once.held != h {
		return false
	}
	h.once.begun = true
	return true
}

func (h *heldBody) Read(b []byte) (int, error) {
	if !h.may() {
		return 0, errTakenBack
	}
	return h.once.body.Read(b)
}

func (h *heldBody) Close() error {
	h.once.mu.Lock()
	mine := h.once.held == h && h.once.begun
	h.once.ended = h.once.ended || h.once.held == h
	h.once.mu.Unlock()
	if mine {
		return h.once.body.Close()
	}
	return nil // what was not begun may go to another connection
}

// countedBody counts what is read and ends one use of a connection when it is
// closed.
type countedBody struct {
	io.ReadCloser
	received *atomic.Int64
	end      func()
}

func (c *countedBody) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.received.Add(int64(n))
	return n, err
}

func (c *countedBody) Close() error {
	err := c.ReadCloser.Close()
	c.end()
	return err
}

func (t *Courier) counted(body io.ReadCloser, l *link) io.ReadCloser {
	return &countedBody{body, &t.of(l.proto).received, sync.OnceFunc(func() { t.release(l) })}
}
