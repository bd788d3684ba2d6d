package peering

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Test tries the way to a peer step by step: discovery, address, tls,
// identity, http3, signature, clock, round_trip. It stops at the first step that
// fails; that is a result and no error. Nothing is changed but a newer
// document of the peer, which is stored.
func (s *Service) Test(ctx context.Context, server clearbox.ServerName) (wire.AdminPeerTest, error) {
	report := wire.AdminPeerTest{Server: server, Steps: []wire.AdminStep{}}
	peer, err := s.table.Peer(ctx, server)
	if err != nil || peer.State == federation.PeerRemoved {
		return report, storage.ErrNotFound
	}
	r := &run{s: s, report: &report}
	base := ""
	r.step("discovery", func() (string, error) {
		var err error
		base, err = s.o.Prober.Endpoint(ctx, peer.Target())
		return base, err
	})
	r.step("address", func() (string, error) {
		addrs, err := s.o.Prober.Resolve(ctx, base, peer.AllowPrivate)
		if peer.AllowPrivate && err == nil {
			return "private addresses are allowed for this peer", nil
		}
		return strings.Join(addrs, ", "), err
	})
	r.step("tls", func() (string, error) {
		p, err := s.o.Prober.Handshake(ctx, base, peer.AllowPrivate)
		if p == nil {
			return "", err
		}
		return fmt.Sprintf("%s, %s, certificate until %s", p.TLS, p.ALPN, p.Expires.UTC().Format(time.DateOnly)), err
	})
	h3 := false
	r.step("identity", func() (string, error) {
		doc, err := s.client.FetchDocument(ctx, server)
		if err != nil {
			return "", err
		}
		for _, e := range doc.Endpoints {
			h3 = h3 || e.H3
		}
		return fmt.Sprintf("document %d, until %s", doc.Seq, time.UnixMilli(int64(doc.Expires)).UTC().Format(time.DateOnly)), nil
	})
	r.step("http3", func() (string, error) { return s.tryHTTP3(ctx, h3, base, peer.AllowPrivate), nil })
	var hello *federation.Hello
	var took time.Duration
	r.step("signature", func() (string, error) {
		var err error
		from := s.o.Now()
		hello, err = s.client.Hello(ctx, server)
		took = s.o.Now().Sub(from)
		return "", err
	})
	r.step("clock", func() (string, error) {
		apart := time.UnixMilli(hello.Clock).Sub(s.o.Now().Add(-took / 2)).Round(time.Millisecond)
		detail := fmt.Sprintf("%v apart", apart)
		if apart.Abs() >= 15*time.Minute {
			return detail, clearbox.Errorf(clearbox.CodeClockSkew, "the clocks differ by more than 15 minutes")
		}
		return detail, nil
	})
	r.step("round_trip", func() (string, error) { return took.Round(time.Millisecond / 10).String(), nil })
	report.OK = !r.failed
	return report, nil
}

// tryHTTP3 tells whether the peer answers by UDP. It is no failure when it does
// not: HTTP/2 carries as much.
func (s *Service) tryHTTP3(ctx context.Context, offered bool, base string, allowPrivate bool) string {
	if !offered {
		return "not offered by the peer; HTTP/2 is used"
	}
	_, err := s.o.Prober.HandshakeQUIC(ctx, base, allowPrivate)
	switch {
	case clearbox.CodeOf(err) == clearbox.CodeUnavailable:
		return "off at this server; HTTP/2 is used"
	case err != nil:
		return "no answer by UDP, look at the firewalls; HTTP/2 is used"
	}
	return "answers"
}

// run collects steps until one fails.
type run struct {
	s      *Service
	report *wire.AdminPeerTest
	failed bool
}

func (r *run) step(name string, do func() (string, error)) {
	if r.failed {
		return
	}
	from := r.s.o.Now()
	detail, err := do()
	step := wire.AdminStep{Name: name, OK: err == nil, Detail: detail, Took: r.s.o.Now().Sub(from).Milliseconds()}
	if err != nil {
		r.failed = true
		step.Code = clearbox.CodeOf(err)
		if step.Code == clearbox.CodeInternal {
			step.Code = clearbox.CodePeerUnreachable
		}
		step.Detail = explain(err)
	}
	r.report.Steps = append(r.report.Steps, step)
}

// explain is for the operator of this server, who may see causes.
func explain(err error) string {
	var e *clearbox.Error
	if errors.As(err, &e) && e.Cause != nil {
		return e.Error() + ": " + e.Cause.Error()
	}
	return err.Error()
}
