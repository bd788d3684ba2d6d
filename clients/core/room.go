package core

import (
	"context"
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// room is one side of two devices' room at their server.
type room struct {
	b     *Brain
	id    clearbox.MessageID
	own   bool // the side with a session
	said  int64
	heard int64
	ready [][]byte // heard, not given out yet
}

func (r *room) path(rest string) string { return "/devices/link/" + r.id.String() + "/" + rest }

// carry is a request of this side.
func (r *room) carry(ctx context.Context, method, path string, in, out any) error {
	if r.own {
		return r.b.call(ctx, method, path, in, out)
	}
	return r.b.exchange(ctx, method, path, "", in, out)
}

// say leaves the next message.
func (r *room) say(ctx context.Context, body []byte) error {
	side := "new"
	if r.own {
		side = "old"
	}
	message := wire.LinkMessage{N: r.said + 1, Body: body}
	for tries := 1; ; tries++ {
		err := r.carry(ctx, "POST", r.path(side), message, nil)
		code := clearbox.CodeOf(err)
		if again := code == clearbox.CodeRateLimited || code == clearbox.CodeUnavailable; !again || tries == 8 {
			if err == nil {
				r.said++
			}
			return err
		}
		if err := pause(ctx, r.b.spread(backoffFirst, 2*backoffFirst)); err != nil {
			return err
		}
	}
}

// hear waits for the other side's next message.
func (r *room) hear(ctx context.Context) ([]byte, error) {
	side := "old"
	if r.own {
		side = "new"
	}
	for lost := 0; len(r.ready) == 0; {
		var out wire.LinkMessages
		err := r.carry(ctx, "GET", r.path(fmt.Sprintf("%s?after=%d&timeout=%d", side, r.heard, wire.MaxSyncSeconds)), nil, &out)
		if clearbox.CodeOf(err) == clearbox.CodeUnavailable && lost < 8 {
			lost++
			if err := pause(ctx, r.b.spread(backoffFirst, 2*backoffFirst)); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range out.Messages {
			if m.N != r.heard+1 && r.heard == 0 {
				return nil, clearbox.Errorf(clearbox.CodeConflict, "this code was used already: begin again on the new device")
			}
			if m.N != r.heard+1 {
				return nil, clearbox.Errorf(clearbox.CodeBadSignature, "the server left something out while linking")
			}
			r.heard++
			r.ready = append(r.ready, m.Body)
		}
	}
	body := r.ready[0]
	r.ready = r.ready[1:]
	return body, nil
}

// The byte before a piece of a container.
const (
	pieceLast = 0
	pieceMore = 1
)

// cutter writes a container as messages.
type cutter struct {
	ctx  context.Context
	room *room
	rest []byte
}

// Write implements io.Writer.
func (c *cutter) Write(b []byte) (int, error) {
	c.rest = append(c.rest, b...)
	for len(c.rest) > linkPiece {
		if err := c.room.say(c.ctx, append([]byte{pieceMore}, c.rest[:linkPiece]...)); err != nil {
			return 0, err
		}
		c.rest = append([]byte(nil), c.rest[linkPiece:]...)
	}
	return len(b), nil
}

func (c *cutter) end() error {
	return c.room.say(c.ctx, append([]byte{pieceLast}, c.rest...))
}

// pieces reads a container that comes as messages.
type pieces struct {
	ctx  context.Context
	room *room
	rest []byte
	last bool
}

// Read implements io.Reader.
func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.last {
			return 0, io.EOF
		}
		body, err := p.room.hear(p.ctx)
		if err != nil {
			return 0, err
		}
		if len(body) == 0 || body[0] > pieceMore {
			return 0, clearbox.Errorf(clearbox.CodeBadSignature, "the history was tampered with")
		}
		p.last, p.rest = body[0] == pieceLast, body[1:]
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
