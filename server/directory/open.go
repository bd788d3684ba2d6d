package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// Across servers a name finds only those who agreed to be written to by
// strangers (the consent open_reachability). Everybody else gets one answer,
// whether there is such a person or not: a server must not tell who works there.

func errAskFirst() error {
	return clearbox.Errorf(clearbox.CodeConsentRequired, "ask this person to accept you first")
}

// resolveBeat: a peer's question about a name is answered a whole number of
// beats after it came. The work that the answer takes, which differs between
// somebody and nobody by a row that is read or not, ends well within the first.
const resolveBeat = 5 * time.Millisecond

// PeerResolve finds an account here for a peer, with its delivery token.
// Everybody who has not consented to be found is consent_required like nobody,
// and after the same time. A peer that asks too much is rate_limited.
func (s *Service) PeerResolve(ctx context.Context, peer clearbox.ServerName, h clearbox.Handle) (Account, error) {
	if err := s.peerLookup(peer); err != nil {
		return Account{}, err
	}
	began := time.Now()
	a, err := s.peerResolve(ctx, h)
	beat := time.NewTimer(resolveBeat - time.Since(began)%resolveBeat)
	defer beat.Stop()
	select {
	case <-beat.C:
		return a, err
	case <-ctx.Done():
		return Account{}, clearbox.Wrap(clearbox.CodeUnavailable, "the request was given up", ctx.Err())
	}
}

func (s *Service) peerResolve(ctx context.Context, h clearbox.Handle) (Account, error) {
	var uid clearbox.UID
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		uid, err = s.auth.ConsentingByHandle(tx, h, auth.PurposeOpenReachability)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) || err == nil && s.o.TokenOf == nil {
		return Account{}, errAskFirst()
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up an account: %w", err)
	}
	token, err := s.o.TokenOf(ctx, uid)
	if clearbox.CodeOf(err) == clearbox.CodeConsentRequired {
		return Account{}, errAskFirst() // its devices have not made a token yet
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up a delivery token: %w", err)
	}
	a, err := s.local(ctx, func(tx *storage.Tx) (storage.User, error) { return tx.UserByUID(uid) })
	if clearbox.CodeOf(err) == clearbox.CodeNotFound {
		return Account{}, errAskFirst() // gone meanwhile
	}
	a.Token = token[:]
	return a, err
}

// openCache remembers in memory whom other servers showed by name. It is not
// kept in the store: a consent may be withdrawn, and what is known of a person
// by id must not answer for a name.
type openCache struct {
	mu  sync.Mutex // guards all
	all map[clearbox.Address]opened
}

type opened struct {
	account Account
	at      time.Time
}

const maxOpened = 10_000

func (c *openCache) get(a clearbox.Address) (opened, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.all[a]
	return o, ok
}

func (c *openCache) put(a clearbox.Address, o opened) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = make(map[clearbox.Address]opened)
	}
	if _, known := c.all[a]; !known && len(c.all) >= maxOpened {
		for some := range c.all { // map order chooses
			delete(c.all, some)
			break
		}
	}
	c.all[a] = o
}

func (c *openCache) drop(a clearbox.Address) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, a)
}

// openRemote finds somebody elsewhere by name.
func (s *Service) openRemote(ctx context.Context, address clearbox.Address) (Account, error) {
	known, have := s.open.get(address)
	age := s.o.Now().Sub(known.at)
	if have && age >= 0 && age < s.o.RemoteFresh {
		return known.account, nil
	}
	// The flight outlives a caller who gives up: others wait for it too.
	flight := s.flights.DoChan(address.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.RemoteTimeout)
		defer cancel()
		return s.resolve(ctx, address)
	})
	var err error
	select {
	case r := <-flight:
		if r.Err == nil {
			return r.Val.(Account), nil
		}
		err = r.Err
	case <-ctx.Done():
		return Account{}, clearbox.Wrap(clearbox.CodeUnavailable, "the request was given up", ctx.Err())
	}
	switch code := clearbox.CodeOf(err); {
	case code == clearbox.CodeConsentRequired, code == clearbox.CodeNotFound, code == clearbox.CodeRecipientUnavailable:
		s.open.drop(address)
		return Account{}, errAskFirst()
	case code == clearbox.CodeIdentityChanged:
		return Account{}, err
	case have && age < s.o.RemoteStale:
		return known.account, nil
	case code == clearbox.CodeInternal:
		return Account{}, clearbox.Wrap(clearbox.CodePeerUnreachable, "the other server cannot be reached", err)
	}
	return Account{}, err
}

// resolve asks the address's server, checks what it says and remembers it. An
// answer without a token is of no use: nothing could be sent.
func (s *Service) resolve(ctx context.Context, address clearbox.Address) (Account, error) {
	answer, err := s.o.Remote.Resolve(ctx, address)
	switch {
	case err != nil:
		return Account{}, err
	case answer.Address != address:
		return Account{}, errRemoteAnswer("it answered for another address", nil)
	case len(answer.Token) == 0:
		return Account{}, errAskFirst()
	}
	token, err := clearbox.ParseDeliveryToken(answer.Token)
	if err != nil {
		return Account{}, errRemoteAnswer("", err)
	}
	a, err := s.accept(ctx, answer)
	if err != nil {
		return Account{}, err
	}
	a.Token = token[:]
	s.open.put(address, opened{a, s.o.Now()})
	return a, nil
}
