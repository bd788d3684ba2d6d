package federation

import (
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Resolve asks the address's server who is behind it. It fails with
// clearbox.CodeConsentRequired or CodeRecipientUnavailable when nobody is who
// wants to be found, and with CodePeerUnreachable at once when the peer did not answer a question within
// the last ten seconds.
func (c *Client) Resolve(ctx context.Context, a clearbox.Address) (Account, error) {
	var w accountAnswer
	if err := c.ask(ctx, a.Server, PathResolve, resolveRequest{Handle: string(a.Handle)}, &w); err != nil {
		return Account{}, err
	}
	return accountFrom(&w, a.Server)
}

// Devices asks the user's server for the user's current device list. Errors
// are those of Resolve.
func (c *Client) Devices(ctx context.Context, u clearbox.UserID) (Account, error) {
	var w accountAnswer
	if err := c.ask(ctx, u.Server, PathDevices, devicesRequest{UID: string(u.UID)}, &w); err != nil {
		return Account{}, err
	}
	acc, err := accountFrom(&w, u.Server)
	if err == nil && acc.User != u {
		return Account{}, clearbox.Errorf(clearbox.CodeBadRequest, "the answer is about another user")
	}
	return acc, err
}

// Claim asks for prekey bundles; no devices means all of them. token is the
// person's delivery token, the id of their knock, or the permit of a group in
// which they are (clearbox.GroupRef); without one there are no
// one-time keys. Asking again with the same claim id gives the same bundles for
// 24 hours. The bundles' signatures are the caller's to verify. Errors are
// those of Resolve.
func (c *Client) Claim(ctx context.Context, u clearbox.UserID, claimID string, token []byte, devices []clearbox.DeviceID) ([]Bundle, error) {
	req := claimRequest{ClaimID: claimID, UID: string(u.UID), Token: token}
	if g, ok := clearbox.ParsePermit(token); ok {
		req.Token, req.Group, req.Epoch = nil, g.ID[:], g.Epoch
	}
	for _, d := range devices {
		req.Devices = append(req.Devices, int64(d))
	}
	var w claimAnswer
	if err := c.ask(ctx, u.Server, PathClaim, req, &w); err != nil {
		return nil, err
	}
	if len(w.Bundles) > clearbox.MaxDevices {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the answer has too many bundles")
	}
	for i := range w.Bundles {
		if _, err := clearbox.ParseDeviceID(int64(w.Bundles[i].Device)); err != nil {
			return nil, err
		}
	}
	return w.Bundles, nil
}

func accountFrom(w *accountAnswer, server clearbox.ServerName) (Account, error) {
	u, err := clearbox.ParseUserID(w.User)
	if err != nil {
		return Account{}, err
	}
	if u.Server != server || w.Version < 0 || len(w.Devices) > MaxSmallBody {
		return Account{}, clearbox.Errorf(clearbox.CodeBadRequest, "the answer is out of range")
	}
	if len(w.Token) != 0 && len(w.Token) != itemBytes {
		return Account{}, clearbox.Errorf(clearbox.CodeBadRequest, "a delivery token has %d bytes", itemBytes)
	}
	a := Account{User: u, DeviceList: w.Devices, Version: w.Version, Token: w.Token}
	if w.Handle != "" {
		if a.Handle, err = clearbox.ParseHandle(w.Handle); err != nil {
			return Account{}, err
		}
	}
	return a, nil
}

// ask makes one directory question on the claim circuit: a peer whose queue is
// backing off still gets one every ten seconds.
func (c *Client) ask(ctx context.Context, server clearbox.ServerName, path string, question, into any) error {
	body, err := encoder.Marshal(question)
	if err != nil {
		return clearbox.Wrap(clearbox.CodeInternal, "the question could not be encoded", err)
	}
	answer, err := c.askRaw(ctx, server, CircuitClaim, path, body, MaxDirectory)
	if err != nil {
		return questionError(err)
	}
	return decodeBody(answer, into)
}

// askRaw makes one question on a circuit and gives the bytes of the answer, or
// the error as Call has it.
func (c *Client) askRaw(ctx context.Context, server clearbox.ServerName, circuit Circuit, path string, body []byte, limit int64) ([]byte, error) {
	if _, err := c.peer(ctx, server); err != nil {
		return nil, err // before anything is remembered about a name that a user typed
	}
	if !c.mayProbe(server, circuit) {
		return nil, clearbox.Errorf(clearbox.CodePeerUnreachable, "the other server does not answer at the moment")
	}
	answer, err := c.Call(ctx, server, path, body, limit)
	if wait := introduced(err); wait > 0 && sleep(ctx, wait) {
		answer, err = c.Call(ctx, server, path, body, limit)
	}
	if ctx.Err() == nil {
		wait := time.Duration(0)
		if clearbox.CodeOf(err) == clearbox.CodePeerUnreachable {
			wait = probeEvery
		}
		c.noteCircuit(server, circuit, wait)
	}
	c.noteAnswer(server, err)
	return answer, err
}

// introduced is how long to wait for the other side, which is about to know us;
// 0 when it is not or takes too long.
func introduced(err error) time.Duration {
	var r *RefusedError
	if !errors.As(err, &r) || r.Code != clearbox.CodeUnknownPeer || r.RetryAfter > maxStrangerWait {
		return 0
	}
	return r.RetryAfter
}

// questionError turns what went wrong between the servers into what a person
// can be told.
func questionError(err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) {
		switch {
		case refused.Code == clearbox.CodeRecipientUnavailable && refused.Signed:
			return clearbox.Wrap(clearbox.CodeRecipientUnavailable, "this person cannot be reached", err)
		case refused.Code == clearbox.CodePeerBlocked && refused.Signed:
			return clearbox.Wrap(clearbox.CodePeerBlocked, "the other organisation does not accept this", err)
		case refused.Code == clearbox.CodeConsentRequired && refused.Signed:
			return clearbox.Wrap(clearbox.CodeConsentRequired, "ask this person to accept you first", err)
		}
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodeUnknownPeer, clearbox.CodePeerBlocked, clearbox.CodeIdentityChanged, clearbox.CodeNoRoutePolicy:
		return err
	}
	return clearbox.Wrap(clearbox.CodePeerUnreachable, "the other server does not answer at the moment", err)
}
