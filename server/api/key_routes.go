package api

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/wire"
)

func uploadKeys(c *call) error {
	var in wire.Keys
	if err := c.body(&in); err != nil {
		return err
	}
	st, err := c.api.parts.Directory.UploadKeys(c.ctx(), c.who, keysIn(&in))
	if err != nil {
		return keyPlace(err)
	}
	return c.reply(http.StatusOK, keyStatusOut(st))
}

func keyStatus(c *call) error {
	st, err := c.api.parts.Directory.KeyStatus(c.ctx(), c.who)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, keyStatusOut(st))
}

func keyStatusOut(s directory.Status) wire.KeyStatus {
	return wire.KeyStatus{OneTime: s.OneTime, OneTimeKEM: s.KEM, Low: s.Low, Max: wire.MaxPreKeys}
}

func standingKeys(c *call) error {
	all, err := c.api.parts.Directory.StandingKeys(c.ctx(), c.who)
	if err != nil {
		return err
	}
	out := wire.StandingKeys{Devices: make([]wire.StandingKey, 0, len(all))}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		k := all[id]
		out.Devices = append(out.Devices, wire.StandingKey{Device: id, Signed: preKeyOut(*k.Signed), KEM: preKeyOut(*k.LastResort)})
	}
	return c.reply(http.StatusOK, out)
}

func claimKeys(c *call) error {
	var in wire.KeyClaim
	if err := c.body(&in); err != nil {
		return err
	}
	token := in.Token
	if in.Group != nil {
		if err := c.api.parts.Router.Fellows(c.ctx(), c.who.User, in.User, in.Group.ID); err != nil {
			return err
		}
		token = in.Group.Permit()
	}
	bundles, err := c.api.parts.Directory.ClaimKeys(c.ctx(), c.who, in.ClaimID.String(), in.User, token, in.DeviceIDs())
	if err != nil {
		return err
	}
	out := wire.Bundles{User: in.User, Bundles: make([]wire.Bundle, 0, len(bundles))}
	for i := range bundles {
		b := &bundles[i]
		w := wire.Bundle{Device: b.Device, Registration: b.Registration, Identity: b.Identity, Signed: preKeyOut(b.Signed), KEM: preKeyOut(b.KEM)}
		if b.OneTime != nil {
			one := preKeyOut(*b.OneTime)
			w.OneTime = &one
		}
		out.Bundles = append(out.Bundles, w)
	}
	return c.reply(http.StatusOK, out)
}

func lookup(c *call) error {
	if err := c.knownQuery("version"); err != nil {
		return err
	}
	version, err := c.queryInt("version", 1, 1<<53-1)
	if err != nil {
		return err
	}
	acc, err := c.api.parts.Directory.LookupAtLeast(c.ctx(), c.who, c.param("id"), version)
	if err != nil {
		return err
	}
	out := wire.Account{User: acc.User, DeviceList: acc.DeviceList, Version: acc.Version, Token: acc.Token}
	if acc.Address.Handle != "" {
		out.Address = acc.Address.String()
	}
	for _, d := range acc.Withdrawn {
		out.Withdrawn = append(out.Withdrawn, int(d))
	}
	return c.reply(http.StatusOK, out)
}

// myself tells whether {id} is the caller.
func myself(c *call) (bool, error) { return c.param("id") == c.who.User.String(), nil }

func keysIn(k *wire.Keys) directory.Keys {
	return directory.Keys{Signed: preKeyIn(k.Signed), LastResort: preKeyIn(k.KEM), OneTime: preKeysIn(k.OneTime), KEM: preKeysIn(k.OneTimeKEM)}
}

func preKeyIn(k *wire.PreKey) *directory.PreKey {
	if k == nil {
		return nil
	}
	return &directory.PreKey{ID: k.ID, Public: k.Key, Signature: k.Signature}
}

func preKeysIn(list []wire.PreKey) []directory.PreKey {
	out := make([]directory.PreKey, 0, len(list))
	for i := range list {
		out = append(out, *preKeyIn(&list[i]))
	}
	return out
}

func preKeyOut(k directory.PreKey) wire.PreKey {
	return wire.PreKey{ID: k.ID, Key: k.Public, Signature: k.Signature}
}

func at(pointer string, i int) string { return pointer + "/" + strconv.Itoa(i) }

// place adds the pointer to an error that lacks it.
func place(err error, pointer string) error {
	var e *clearbox.Error
	if !errors.As(err, &e) || e.Field != "" {
		return err
	}
	return &clearbox.Error{Code: e.Code, Text: e.Text, Field: pointer, Cause: e.Cause}
}

// keyPlace translates the directory's names of prekeys in an error's pointer
// into those of the body: kem is one_time_kem, last_resort is kem.
func keyPlace(err error) error {
	return replace(err, func(field string) string {
		parts := strings.Split(field, "/")
		for i, p := range parts {
			switch p {
			case "kem":
				parts[i] = "one_time_kem"
			case "last_resort":
				parts[i] = "kem"
			}
		}
		return strings.Join(parts, "/")
	})
}

// addedPlace translates /keys/7/... and /names/7 of a list update, where 7 is a
// device, into the place in the body.
func addedPlace(err error, added []wire.AddedDevice) error {
	return replace(err, func(field string) string {
		parts := strings.SplitN(field, "/", 4)
		if len(parts) < 3 || parts[1] != "keys" && parts[1] != "names" {
			return field
		}
		for i := range added {
			if strconv.Itoa(int(added[i].Device)) != parts[2] {
				continue
			}
			out := at("/added", i) + "/" + strings.TrimSuffix(parts[1], "s")
			if parts[1] == "keys" {
				out = at("/added", i) + "/keys"
			}
			if len(parts) == 4 {
				out += "/" + parts[3]
			}
			return out
		}
		return "/added" // the device has no entry there
	})
}

func replace(err error, fn func(field string) string) error {
	var e *clearbox.Error
	if !errors.As(err, &e) || e.Field == "" {
		return err
	}
	return &clearbox.Error{Code: e.Code, Text: e.Text, Field: fn(e.Field), Cause: err}
}
