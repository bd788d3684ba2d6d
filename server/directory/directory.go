// Package directory is responsible for who has which devices and keys: signed
// device lists, prekeys and their claims, for the people of this server and,
// cached, for those of others.
//
// It is not responsible for sessions and passwords (server/auth) nor for mail
// (server/delivery asks it which devices a person has at the moment).
package directory

import (
	"context"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/directory/prekeys"
)

// PreKey, Keys and Bundle are what devices publish and claimers get.
type (
	PreKey = prekeys.PreKey
	Keys   = prekeys.Upload
	Bundle = prekeys.Bundle
)

// Account is what anyone who may write to a person knows about the person.
// Nothing in it may be believed before the client checked DeviceList.
type Account struct {
	User       clearbox.UserID
	Address    clearbox.Address
	DeviceList []byte // signed keys.DeviceList
	Version    int64  // of DeviceList
	// Withdrawn devices are still in DeviceList, but their account removed
	// them since: nothing is to be encrypted for them.
	Withdrawn []clearbox.DeviceID
	// Token is the delivery token of somebody who agreed to be written to by
	// strangers and was asked for by address; else nil.
	Token []byte
}

// RemoteAccount is what another homeserver says about one of its people. It is
// checked here before anyone sees it.
type RemoteAccount = Account

// Remote asks other homeservers. Federation's client side implements it. Each
// method returns a *clearbox.Error: not_found when the person is not there or
// not visible, consent_required when they must accept the asker first,
// peer_unreachable or peer_blocked when there is no answer.
type Remote interface {
	Resolve(ctx context.Context, a clearbox.Address) (RemoteAccount, error)
	Devices(ctx context.Context, u clearbox.UserID) (RemoteAccount, error)
	// Claim asks for bundles; no devices means all. Without the person's delivery
	// token they have no one-time keys. The same claimID gets the same answer for
	// 24 hours.
	Claim(ctx context.Context, u clearbox.UserID, claimID string, token []byte, devices []clearbox.DeviceID) ([]Bundle, error)
}

// DeviceInfo is an own device as its person sees it.
type DeviceInfo struct {
	ID           clearbox.DeviceID
	Registration uint16
	Name         string
	Added        clearbox.Millis
	LastSeenDay  clearbox.Millis // begin of the day in UTC; 0: never
	Current      bool            // the one that asks
}

// Own is the caller's account with its active devices.
type Own struct {
	Account
	Devices []DeviceInfo
}

// ListUpdate is a new device list. An added device needs its prekeys in the
// same call, so that nobody meets a device that cannot be written to.
type ListUpdate struct {
	Signed []byte
	Keys   map[clearbox.DeviceID]Keys
	Names  map[clearbox.DeviceID]string
}

// Status says how many one-time keys a device has left.
type Status struct {
	OneTime int
	KEM     int
	Low     bool // at LowWater or below in one of them: the device should upload more
}

// Bounds of prekeys and claims.
const (
	LowWater = 25 // see Status.Low
	Reserve  = 20 // one-time keys that a peer gets one of a day, and only with a token
)
