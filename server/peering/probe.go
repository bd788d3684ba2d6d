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
// fails; that is a result and no error. Nothing is changed but what is known of
// the peer: a newer document is stored, and what is wrong with it, or no more.
func (s *Service) Test(ctx context.Context, server clearbox.ServerName) (wire.AdminPeerTest, error) {
	report := wire.AdminPeerTest{Server: server, Steps: []wire.AdminStep{}}
	if stored, known := s.table.Stored(server); known && stored.State == storage.PeerSuspended {
		report.Stopped = "suspended"
	}
	if reason, blocked := s.table.Blocked(server); blocked {
		report.Stopped = "blocked"
		report.Steps = append(report.Steps, wire.AdminStep{Name: "peering", Code: clearbox.CodePeerBlocked, Detail: "on the block list: " + reason})
		return report, nil
	}
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
	report.OK = r.failed == nil
	if report.Stopped == "" {
		s.learn(ctx, server, r.failed)
	}
	return report, nil
}

// learn keeps what a test has found, as if a message had met it: it is explained
// before one does, and a test that finds nothing ends the explanation.
func (s *Service) learn(ctx context.Context, server clearbox.ServerName, failed error) {
	stored, known := s.table.Stored(server)
	if !known || stored.State != storage.PeerActive || failed == nil && stored.LastError == "" || ctx.Err() != nil {
		return
	}
	now := clearbox.Millis(s.o.Now().UnixMilli())
	found := federation.Status{LastTry: now, LastSeen: now}
	if failed != nil {
		found = federation.Status{LastTry: now, LastError: codeOf(failed), Kind: federation.TroubleOf(failed), Since: now, Failures: max(1, stored.Failures), NextTry: stored.NextTry}
	}
	if err := s.table.SaveStatus(ctx, server, found); err != nil {
		s.o.Log.Warn("what a test of a peer found is not kept", "peer", string(server), "code", string(clearbox.CodeOf(err)))
	}
}

// codeOf is a failure's code as an operator is told: what is none of ours to name
// means that the peer was not reached.
func codeOf(err error) clearbox.Code {
	code := clearbox.CodeOf(err)
	if code == clearbox.CodeInternal {
		code = clearbox.CodePeerUnreachable
	}
	return code
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
	failed error // of the last step, nil while all go well
}

func (r *run) step(name string, do func() (string, error)) {
	if r.failed != nil {
		return
	}
	from := r.s.o.Now()
	detail, err := do()
	step := wire.AdminStep{Name: name, OK: err == nil, Detail: detail, Took: r.s.o.Now().Sub(from).Milliseconds()}
	if err != nil {
		r.failed = err
		step.Code = codeOf(err)
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
