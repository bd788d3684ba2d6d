package server

import (
	"context"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/directory"
)

// remote lets the directory ask peers through federation's client.
type remote struct{ client *federation.Client }

func (r remote) Resolve(ctx context.Context, a clearbox.Address) (directory.RemoteAccount, error) {
	acc, err := r.client.Resolve(ctx, a)
	return fromPeer(acc), err
}

func (r remote) Devices(ctx context.Context, u clearbox.UserID) (directory.RemoteAccount, error) {
	acc, err := r.client.Devices(ctx, u)
	return fromPeer(acc), err
}

func (r remote) Claim(ctx context.Context, u clearbox.UserID, claimID string, token []byte, devices []clearbox.DeviceID) ([]directory.Bundle, error) {
	bundles, err := r.client.Claim(ctx, u, claimID, token, devices)
	out := make([]directory.Bundle, len(bundles))
	for i, b := range bundles {
		out[i] = directory.Bundle{
			Device: b.Device, Registration: b.Registration, Identity: b.Identity,
			Signed: directory.PreKey(b.Signed), KEM: directory.PreKey(b.KEM),
		}
		if b.OneTime != nil {
			one := directory.PreKey(*b.OneTime)
			out[i].OneTime = &one
		}
	}
	return out, err
}

func fromPeer(a federation.Account) directory.RemoteAccount {
	return directory.RemoteAccount{
		User: a.User, Address: clearbox.Address{Handle: a.Handle, Server: a.User.Server}, DeviceList: a.DeviceList, Version: a.Version,
		Token: a.Token,
	}
}

// local serves the directory's answers to peers.
type local struct{ dir *directory.Service }

func (l local) PeerResolve(ctx context.Context, peer clearbox.ServerName, h clearbox.Handle) (federation.Account, error) {
	a, err := l.dir.PeerResolve(ctx, peer, h)
	return toPeer(a), err
}

func (l local) PeerDevices(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID) (federation.Account, error) {
	a, err := l.dir.PeerDevices(ctx, peer, uid)
	return toPeer(a), err
}

func (l local) PeerClaim(ctx context.Context, peer clearbox.ServerName, claimID string, uid clearbox.UID, token []byte, devices []clearbox.DeviceID) ([]federation.Bundle, error) {
	bundles, err := l.dir.PeerClaim(ctx, peer, claimID, uid, token, devices)
	out := make([]federation.Bundle, len(bundles))
	for i, b := range bundles {
		out[i] = federation.Bundle{
			Device: b.Device, Registration: b.Registration, Identity: b.Identity,
			Signed: federation.PreKey(b.Signed), KEM: federation.PreKey(b.KEM),
		}
		if b.OneTime != nil {
			one := federation.PreKey(*b.OneTime)
			out[i].OneTime = &one
		}
	}
	return out, err
}

func toPeer(a directory.Account) federation.Account {
	return federation.Account{User: a.User, Handle: a.Address.Handle, DeviceList: a.DeviceList, Version: a.Version, Token: a.Token}
}
