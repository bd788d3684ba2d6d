package core

import (
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
)

// A group's rules stand in its chain, and this device holds everybody to them,
// itself included: servers check the same, and need not be believed.

// errRules: an operation brings somebody in whom the group's rules exclude, or
// sets rules that exclude somebody who is in.
var errRules = errors.New("core: an operation against the rules of the group")

// reasonExcluded: the group's rules exclude somebody who is in it. It is not sent.
const reasonExcluded clearbox.Code = "policy_excluded"

// countryFor is how old what the own server said of another one's country may be.
const countryFor = 24 * time.Hour

// lawful holds an operation against the rules that are in force after it: those
// whom it brings in, and everybody where the rules are new. Of servers the chain
// has the names; in which country one is, a device has nobody but servers to ask,
// and history may have been written when that was another one.
func lawful(r Reader, id clearbox.GroupID, next *chain.State, o *chain.Op) error {
	var about []chain.Member
	switch body := o.Body.(type) {
	case chain.Create, chain.Accept:
		about = append(about, o.Actor)
	case chain.Add:
		for _, v := range body.Invitees {
			about = append(about, v.Member)
		}
	case chain.SetPolicy:
		for m, is := range next.Members {
			if is.Status != chain.StatusFormer {
				about = append(about, m)
			}
		}
	}
	for _, m := range about {
		o, user, err := whoIs(r, id, m)
		if err != nil {
			return vaultFault(err)
		}
		if o != nil && !next.Policy.AllowsServer(string(user.Server)) {
			return errRules
		}
	}
	return nil
}

// countryError says that the own server has to be asked where another one is.
type countryError struct{ server clearbox.ServerName }

func (e *countryError) Error() string { return "the country of a member's server is not known" }

// mayRead refuses to encrypt for somebody whom the group's rules exclude: a server
// may have moved to another country since they came. A *countryError asks for that.
func (b *Brain) mayRead(r Reader, rules *chain.Policy, user clearbox.UserID) error {
	excluded := clearbox.Errorf(reasonExcluded, "the rules of the group exclude %s, of which somebody is in it: remove them, or change the rules", user.Server)
	if !rules.AllowsServer(string(user.Server)) {
		return excluded
	}
	if len(rules.Countries) == 0 {
		return nil
	}
	known, err := load[serverRoots](r, rootsKey(user.Server))
	switch {
	case err != nil:
		return err
	case known == nil || !within(b.now(), known.Asked, countryFor):
		return &countryError{user.Server}
	case !rules.AllowsCountry(known.Country):
		return excluded
	}
	return nil
}

// timerOf is when disappears what is written into a conversation now, in seconds:
// in a group its rules say so, for everybody.
func (b *Brain) timerOf(r Reader, in ConversationID, conv *conversation) (uint32, error) {
	if in.Group.IsZero() {
		return conv.Timer, nil
	}
	_, st, err := b.loadGroup(r, in.Group)
	if err != nil || st == nil {
		return 0, err
	}
	return st.Policy.Disappear, nil
}

// timerAt is the timer of a group's rules in an epoch that is over, or not.
func timerAt(r Reader, g *group, st *chain.State, epoch uint64) (uint32, error) {
	if epoch >= st.Epoch {
		return st.Policy.Disappear, nil
	}
	entries, err := r.List(Range{Prefix: prefixOp + g.ID.String() + "/", Before: opKey(prefixOp, g.ID, epoch+1), Reverse: true})
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		o, err := chain.Parse(e.Value)
		if err != nil {
			return 0, err
		}
		switch body := o.Body.(type) {
		case chain.SetPolicy:
			return body.Policy.Disappear, nil
		case chain.Create:
			return body.Policy.Disappear, nil
		}
	}
	return 0, nil
}

// keepTime gives a message that goes to a group the timer that is in force when it
// is encrypted, here as well.
func keepTime(tx Tx, s *self, c *Content, seconds uint32) error {
	if !timed(c) || c.Expires == seconds {
		return nil
	}
	c.Expires = seconds
	m, key, err := findMessage(tx, s.uuid, c.ID)
	if err != nil || m == nil || m.Gone != 0 {
		return err
	}
	m.Expires = seconds
	return save(tx, key, m)
}

// timed tells kinds that disappear.
func timed(c *Content) bool { return c.Kind == KindText || c.Kind == KindFile }
