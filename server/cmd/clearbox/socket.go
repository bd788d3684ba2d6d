package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox/server/wire"
)

const (
	maxAnswer     = 16 << 20        // bytes of an answer of the server
	answerTimeout = 2 * time.Minute // peer tests wait for networks
)

// socket is the running server's admin socket.
type socket struct {
	x    *call
	path string
	http *http.Client
}

// dial prepares the socket that the configuration names; it connects with the
// first request.
func (x *call) dial() (*socket, error) {
	path := x.global.Socket
	if path == "" {
		l, err := x.load(true)
		if err != nil {
			f := asFailure(err)
			f.text += ", so the admin socket is not known"
			f.next = "correct the configuration, or name the socket with --socket"
			return nil, f
		}
		path = l.Config.AdminSocket()
	}
	return x.dialPath(path), nil
}

func (x *call) dialPath(path string) *socket {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &socket{x: x, path: path, http: &http.Client{
		Timeout: answerTimeout,
		Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) },
			DisableKeepAlives: true,
		},
	}}
}

// do sends body (nil for none) and reads the answer into answer (nil for none).
// What the server refuses comes back as a *failure with its code.
func (s *socket) do(method, path string, body, answer any) error {
	var payload io.Reader
	if body != nil {
		data, err := wire.Append(wire.JSON, nil, body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(s.x.ctx, method, "http://clearbox"+path, payload)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := s.http.Do(req)
	if err != nil {
		return s.unreachable(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return s.unreachable(err)
	}
	if res.StatusCode >= 400 {
		return refused(res.StatusCode, data)
	}
	if answer == nil || res.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := wire.DecodeAnswer(wire.JSON, data, answer); err != nil {
		return &failure{code: exitFailed, text: fmt.Sprintf("the server's answer to %s %s is not understood: %v", method, path, err),
			next: "clearbox version; the server and this command should be of one version"}
	}
	return nil
}

// unreachable explains why there is no answer.
func (s *socket) unreachable(err error) error {
	f := &failure{code: exitUnreachable, text: fmt.Sprintf("the server does not answer at %s", s.path)}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.text += ": there is no such socket; is the server running?"
		f.next = "clearbox serve" + s.x.mention()
	case errors.Is(err, fs.ErrPermission):
		f.text += ": permission denied"
		f.next = "run this command as the user that runs the server"
	case strings.Contains(err.Error(), "connection refused"):
		f.text += ": nobody listens there; the server was not stopped properly, or is not running"
		f.next = "clearbox serve" + s.x.mention()
	case errors.Is(err, context.Canceled):
		f.text = "interrupted; whether the server did it is not known"
	default:
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		f.text += ": " + err.Error()
		f.next = "clearbox doctor" + s.x.mention()
	}
	return f
}

// refused turns a problem document (RFC 9457) into a failure.
func refused(status int, data []byte) error {
	var p wire.Problem
	if err := wire.DecodeAnswer(wire.JSON, data, &p); err != nil || p.Code == "" && p.Title == "" {
		return &failure{code: exitFailed, text: fmt.Sprintf("the server answered with status %d", status), next: "look into the server's log"}
	}
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if len(p.Errors) > 0 { // they say it more exactly
		lines := make([]string, len(p.Errors))
		for i, e := range p.Errors {
			lines[i] = strings.TrimPrefix(strings.TrimPrefix(e.Pointer, "/")+": ", ": ") + e.Detail
		}
		text = strings.Join(lines, "\n  ")
	}
	return &failure{code: exitFailed, slug: p.Code, text: text}
}

// segment escapes one element of a path.
func segment(s string) string { return url.PathEscape(s) }
