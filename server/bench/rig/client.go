package rig

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// StatusError is an answer other than success.
type StatusError struct {
	Status int
	Body   []byte // at most 2 KiB
}

// Error gives the status and the problem's code.
func (e *StatusError) Error() string {
	return fmt.Sprintf("status %d: %s", e.Status, bytes.TrimSpace(e.Body))
}

// Code is the problem's code, empty when the answer is not a problem document.
func (e *StatusError) Code() clearbox.Code {
	var p wire.Problem
	if wire.DecodeAnswer(wire.JSON, e.Body, &p) != nil {
		return ""
	}
	return p.Code
}

// Client speaks HTTP with one server.
type Client struct {
	base string
	http *http.Client
}

// Client makes one; via chooses the source address. Close it.
func (s *Server) Client(via Via) *Client {
	address := via.Address
	if address == "" {
		address = s.Address
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	if via.Source != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: via.Source}
	}
	return &Client{base: "https://" + address, http: &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig: s.ClientTLS(), ForceAttemptHTTP2: true, DialContext: dialer.DialContext, MaxIdleConnsPerHost: 8,
		},
	}}
}

// Close drops the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do carries one request with JSON bodies; in and out may be nil. Anything but
// a 2xx status is a *StatusError.
func (c *Client) Do(ctx context.Context, method, path, token string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := wire.Append(wire.JSON, nil, in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		problem, _ := io.ReadAll(io.LimitReader(res.Body, 2048))
		return &StatusError{Status: res.StatusCode, Body: problem}
	}
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return err
	}
	return wire.DecodeAnswer(wire.JSON, data, out)
}

// Stream carries one request with a body and headers of any kind. The answer's
// body is the caller's to read and close. Anything but a 2xx status is a
// *StatusError.
func (c *Client) Stream(ctx context.Context, method, path, token string, header map[string]string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		problem, _ := io.ReadAll(io.LimitReader(res.Body, 2048))
		return nil, &StatusError{Status: res.StatusCode, Body: problem}
	}
	return res, nil
}

// Login begins a new session of a's device and stores its token in a.
func (c *Client) Login(ctx context.Context, a *Account) error {
	at := clearbox.Millis(time.Now().UnixMilli())
	var tokens wire.Tokens
	err := c.Do(ctx, http.MethodPost, "/auth/login", "", &wire.Login{Handle: a.Handle, Password: a.Password, Device: &wire.DeviceProof{
		Device: 1, At: at, Signature: ed25519.Sign(a.DeviceKey, wire.LoginProof(a.User.Server, a.User.UID, 1, at)),
	}}, &tokens)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	a.Access = tokens.Access
	return nil
}

// Lookup asks a's server for another account, as a client does before the
// first message.
func (c *Client) Lookup(ctx context.Context, a *Account, user clearbox.UserID) (wire.Account, error) {
	var out wire.Account
	err := c.Do(ctx, http.MethodGet, "/users/"+url.PathEscape(user.String()), a.Access, nil, &out)
	return out, err
}

// Raw carries one request with a body that is sent as it is, and gives the
// answer whatever its status.
func (c *Client) Raw(ctx context.Context, method, path, token string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(res.Body, 16<<20))
	return res.StatusCode, answer, err
}
