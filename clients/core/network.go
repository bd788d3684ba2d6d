package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// MaxAnswer bounds what a Network reads of one answer, in bytes: a full page
// of GET /sync in base64.
const MaxAnswer = 8 << 20

// Network reaches the account's homeserver. It knows the server's address,
// TLS and timeouts of connecting; the brain knows paths, tokens and bodies.
// Safe for concurrent use. Tokens must not be logged.
type Network interface {
	// Do carries one request. An error means that no answer came, and that the
	// server may have acted all the same. A problem document is an answer.
	Do(ctx context.Context, req Request) (Response, error)
	// Open opens the WebSocket at /ws with the CBOR subprotocol. It gives
	// ErrNoSocket where something on the way does not let WebSockets through,
	// and the server's refusal as a *clearbox.Error.
	Open(ctx context.Context, token string) (Stream, error)
}

// Request is one request of the client API.
type Request struct {
	Method string
	Path   string // with its query, beginning with a slash
	Token  string // access token for the Authorization header, or empty
	Body   []byte // JSON if Type says nothing else, or nil
	Type   string // of Body, "" is application/json
	// Header has more headers, nil is none.
	Header map[string]string
}

// Headers calls set for each header that the request needs beside those of the
// connection.
func (r *Request) Headers(set func(name, value string)) {
	if r.Token != "" {
		set("Authorization", "Bearer "+r.Token)
	}
	if r.Body != nil {
		set("Content-Type", cmp.Or(r.Type, "application/json"))
	}
	for name, value := range r.Header {
		set(name, value)
	}
}

// Response is what the server answered.
type Response struct {
	Status int
	Body   []byte // at most MaxAnswer bytes
}

// Stream is an open WebSocket: whole frames in both directions. Send and
// Receive may each be used by one goroutine at a time. Pings are answered, and
// a stream on which nothing comes any more ends with an error within 45
// seconds, without the brain's help.
type Stream interface {
	Send(ctx context.Context, frame []byte) error
	// Receive waits for the next frame. A *ClosedError tells why the server ended.
	Receive(ctx context.Context) ([]byte, error)
	// Close ends the stream at once; safe at any time, and more than once.
	Close() error
}

// ErrNoSocket says that WebSockets do not get through: the brain polls instead.
var ErrNoSocket = errors.New("core: no WebSocket on this network")

// ClosedError is the close code that a stream ended with.
type ClosedError struct{ Code wire.CloseCode }

// Error names the code.
func (e *ClosedError) Error() string {
	return fmt.Sprintf("the server closed the connection (%d)", e.Code)
}

// Errors of the brain that a caller branches on.
var (
	// ErrNoAccount: the vault holds no account yet; Register makes one.
	ErrNoAccount = errors.New("there is no account in this profile")
	// ErrLoginRequired: the session ended; Login makes a new one. Nothing queued is lost.
	ErrLoginRequired = errors.New("the session has ended: log in again")
	// ErrRemoved: the account's list has this device no more, and nothing logs it in
	// again. What is in its vault stays.
	ErrRemoved = clearbox.Errorf(clearbox.CodeNoDevice, "this device was removed from the account")
	// ErrReplaced: the same device connected from somewhere else.
	ErrReplaced = errors.New("this device is connected from another place")
	// ErrUnknownContact: Lookup finds them first.
	ErrUnknownContact = errors.New("nobody is known by that name")
	// ErrRunning: Run and Drain exclude each other.
	ErrRunning = errors.New("the brain is running already")
)

// exchange carries one request with JSON bodies; in and out may be nil. The
// server's problem comes back as its error.
func (b *Brain) exchange(ctx context.Context, method, path, token string, in, out any) error {
	req := Request{Method: method, Path: path, Token: token}
	if in != nil {
		body, err := wire.Append(wire.JSON, nil, in)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		req.Body = body
	}
	res, err := b.request(ctx, req)
	if err != nil || out == nil {
		return err
	}
	if err := wire.DecodeAnswer(wire.JSON, res.Body, out); err != nil {
		return clearbox.Wrap(clearbox.CodeInternal, "the server's answer cannot be read", err)
	}
	return nil
}

// request carries one request as it is. The server's problem comes back as its
// error.
func (b *Brain) request(ctx context.Context, req Request) (Response, error) {
	res, err := b.network.Do(ctx, req)
	if err != nil {
		if ctx.Err() != nil {
			return Response{}, ctx.Err()
		}
		var said *clearbox.Error // the network has words for it
		if errors.As(err, &said) {
			return Response{}, err
		}
		return Response{}, clearbox.Wrap(clearbox.CodeUnavailable, "the server cannot be reached", err)
	}
	if res.Status >= 200 && res.Status < 300 {
		return res, nil
	}
	var p wire.Problem
	if err := wire.DecodeAnswer(wire.JSON, res.Body, &p); err != nil || p.Code == "" {
		return Response{}, clearbox.Wrap(clearbox.CodeUnavailable, fmt.Sprintf("the server answered with status %d", res.Status), err)
	}
	return Response{}, &refusal{err: p.Err(), retryAfter: p.RetryAfter}
}

// refusal is a problem with the wait that the server asks for.
type refusal struct {
	err        error
	retryAfter int // seconds
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// call is exchange with the session's access token. A token that expired on
// the way is refreshed once.
func (b *Brain) call(ctx context.Context, method, path string, in, out any) error {
	return b.withToken(ctx, func(token string) error { return b.exchange(ctx, method, path, token, in, out) })
}

// callRaw is request with the session's access token.
func (b *Brain) callRaw(ctx context.Context, req Request) (res Response, err error) {
	err = b.withToken(ctx, func(token string) error {
		req.Token = token
		res, err = b.request(ctx, req)
		return err
	})
	return res, err
}

func (b *Brain) withToken(ctx context.Context, fn func(token string) error) error {
	token, err := b.accessToken(ctx)
	if err != nil {
		return err
	}
	err = fn(token)
	if code := clearbox.CodeOf(err); code != clearbox.CodeTokenExpired && code != clearbox.CodeUnauthorized {
		return err
	}
	if token, err = b.refreshToken(ctx, token); err != nil {
		return err
	}
	return fn(token)
}
