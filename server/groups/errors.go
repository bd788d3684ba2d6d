package groups

import (
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
)

// Why an operation is refused that its chain would allow. They are causes of the
// errors that this package returns, as those of crypto/chain are.
var (
	// ErrOpening: one is missing, malformed, or of nobody whom the operation adds.
	ErrOpening = errors.New("groups: openings are not those of the people whom the operation adds")
	// ErrIdentity: the opening names another identity than the person has.
	ErrIdentity = errors.New("groups: opening names another identity than the person's")
	// ErrDevice: the key is none of the actor's devices, or of one that was removed.
	ErrDevice = errors.New("groups: signed by a device that the person does not have")
	// ErrActor: the actor is not who hands the operation in.
	ErrActor = errors.New("groups: operation of another person")
	// ErrPolicy: somebody's server or country is not among those that the group takes in.
	ErrPolicy = errors.New("groups: the group's policy excludes the server")
	// ErrTwice: somebody is added who is in the group already.
	ErrTwice = errors.New("groups: person is in the group already")
	// ErrGhost: somebody is added whom their server does not have.
	ErrGhost = errors.New("groups: the person's server has no such person")
	// ErrFuture: the operation is dated too far ahead.
	ErrFuture = errors.New("groups: operation is dated in the future")
	// ErrHub: the operation names another hub than the server that it came to.
	ErrHub = errors.New("groups: another server is the hub")
)

// answers are the codes and words for causes.
var answers = []struct {
	cause error
	code  clearbox.Code
	text  string
}{
	{chain.ErrSignature, clearbox.CodeBadSignature, "the operation is not signed by the device that it names"},
	{chain.ErrCountersignature, clearbox.CodeBadSignature, "a countersignature does not verify"},
	{chain.ErrCommitment, clearbox.CodeBadRequest, "an opening is not what the operation committed to"},
	{chain.ErrClosed, clearbox.CodeGroupClosed, "the group is closed"},
	{chain.ErrUnknownMember, clearbox.CodeNotAMember, "the group has no such member"},
	{chain.ErrNotActive, clearbox.CodeNotAMember, "this takes somebody who is a member"},
	{chain.ErrNotInvited, clearbox.CodeConflict, "there is no open invitation"},
	{chain.ErrKey, clearbox.CodeForbidden, "this device has not introduced itself to the group"},
	{chain.ErrKeyInUse, clearbox.CodeConflict, "this device is known to the group already"},
	{chain.ErrRole, clearbox.CodeForbidden, "the role in the group does not allow this"},
	{chain.ErrMemberInUse, clearbox.CodeConflict, "the member id is in use"},
	{chain.ErrFull, clearbox.CodeQuota, "the group is full"},
	{chain.ErrLimit, clearbox.CodeQuota, "the group has reached a limit"},
	{ErrOpening, clearbox.CodeBadRequest, "the openings are not those of the people whom the operation adds"},
	{ErrIdentity, clearbox.CodeIdentityChanged, "the identity named is not the person's"},
	{ErrDevice, clearbox.CodeDeviceRemoved, "the device that signed is none of the person's"},
	{ErrActor, clearbox.CodeForbidden, "the operation is of another person"},
	{ErrPolicy, clearbox.CodeNoRoutePolicy, "the group takes in nobody of this server or country"},
	{ErrGhost, clearbox.CodeRecipientUnavailable, "this person cannot be reached"},
	{ErrTwice, clearbox.CodeConflict, "this person is in the group already"},
	{ErrFuture, clearbox.CodeBadRequest, "the operation is dated in the future; is the device's clock right?"},
	{ErrHub, clearbox.CodeBadRequest, "the operation names another hub"},
}

// refuse gives a cause its code and words. What has a code keeps it.
func refuse(cause error) error {
	for _, a := range answers {
		if errors.Is(cause, a.cause) {
			return clearbox.Wrap(a.code, a.text, cause)
		}
	}
	if clearbox.CodeOf(cause) != clearbox.CodeInternal {
		return cause
	}
	for _, e := range []error{chain.ErrOperation, chain.ErrNoGroup, chain.ErrGroup, chain.ErrTime, chain.ErrEpoch, chain.ErrPrev} {
		if errors.Is(cause, e) {
			return clearbox.Wrap(clearbox.CodeBadRequest, "the operation is not well-formed for this group", cause)
		}
	}
	return cause
}

// outdated is refuse for what was made for another epoch.
func outdated(cause error, epoch uint64) error {
	if errors.Is(cause, chain.ErrEpoch) || errors.Is(cause, chain.ErrPrev) {
		return &clearbox.GroupChangedError{Epoch: epoch}
	}
	return refuse(cause)
}

func errUnknown() error { return clearbox.Errorf(clearbox.CodeNotFound, "there is no such group") }

func errNotMember() error {
	return clearbox.Errorf(clearbox.CodeNotAMember, "you are not in this group")
}
