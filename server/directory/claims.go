package directory

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// claimTTL is how long the same claim gets the same answer.
const claimTTL = 24 * time.Hour

// maxClaimID bounds a claim's id, in bytes.
const maxClaimID = 64

func deviceBucket(p auth.Principal) string { return strconv.FormatInt(p.DeviceNo, 10) }

// UploadKeys stores prekeys of the caller's device after checking every
// signature: bad_signature, bad_request with the field, quota_exceeded beyond
// 100 of a kind. An id must never come again after its key was handed out, so a
// client that got no answer asks KeyStatus and uploads others.
func (s *Service) UploadKeys(ctx context.Context, p auth.Principal, k Keys) (Status, error) {
	if err := mustHaveDevice(p); err != nil {
		return Status{}, err
	}
	if err := s.uploads.Take(s.o.Now(), deviceBucket(p)); err != nil {
		return Status{}, err
	}
	var user storage.User
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		user, err = tx.UserByNo(p.UserNo)
		return err
	})
	if err != nil {
		return Status{}, fmt.Errorf("upload prekeys: %w", err)
	}
	list, err := s.lists.read(user.DeviceList, p.User)
	if err != nil {
		return Status{}, fmt.Errorf("upload prekeys: %w", err)
	}
	if err := k.Check(list.Identity, false, ""); err != nil {
		return Status{}, err
	}
	var st Status
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		if _, err := tx.DeviceByNo(p.DeviceNo); err != nil {
			return err // removed meanwhile
		}
		if err := k.Store(tx, p.DeviceNo); err != nil {
			return err
		}
		st, err = status(tx, p.DeviceNo)
		return err
	})
	if err != nil {
		return Status{}, fmt.Errorf("upload prekeys: %w", err)
	}
	return st, nil
}

// KeyStatus counts the one-time keys that the caller's device has left here.
func (s *Service) KeyStatus(ctx context.Context, p auth.Principal) (st Status, err error) {
	if err := mustHaveDevice(p); err != nil {
		return Status{}, err
	}
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		st, err = status(tx, p.DeviceNo)
		return err
	})
	return st, err
}

// StandingKeys gives the public signed and last-resort prekeys of all devices of
// the caller's account, by device: what a new identity has to sign anew.
func (s *Service) StandingKeys(ctx context.Context, p auth.Principal) (map[clearbox.DeviceID]Keys, error) {
	if err := mustHaveDevice(p); err != nil {
		return nil, err
	}
	var out map[clearbox.DeviceID]Keys
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		out = make(map[clearbox.DeviceID]Keys)
		all, err := tx.Devices(p.UserNo)
		if err != nil {
			return err
		}
		for _, d := range all {
			signed, last, _, err := tx.SignedPreKeys(d.No)
			if err != nil {
				return err
			}
			out[d.ID] = Keys{Signed: (*PreKey)(&signed), LastResort: (*PreKey)(&last)}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read prekeys: %w", err)
	}
	return out, nil
}

func status(tx *storage.Tx, deviceNo int64) (Status, error) {
	ec, kem, err := tx.PreKeyCounts(deviceNo)
	return Status{OneTime: ec, KEM: kem, Low: ec <= LowWater || kem <= LowWater}, err
}

// ClaimKeys gives bundles to start sessions with user's devices; no devices
// means all. The same claimID gets the same answer for 24 hours, and conflict
// with other arguments. Devices that are not there are left out. Beyond the
// limits, and when none is left, a bundle has no one-time key. Unknown people
// are not_found; for those of other servers, to whom token is shown, see Remote.
// While such a server is away, keys are given that were fetched ahead.
func (s *Service) ClaimKeys(ctx context.Context, p auth.Principal, claimID string, user clearbox.UserID, token []byte, devices []clearbox.DeviceID) ([]Bundle, error) {
	if err := mustHaveDevice(p); err != nil {
		return nil, err
	}
	if err := checkClaim(claimID, devices); err != nil {
		return nil, err
	}
	// Ids are the claimer's own: nobody reads another's answer by guessing, and
	// a peer cannot tell who claims.
	sum := sha256.Sum256([]byte("claim|" + string(p.User.UID) + "|" + claimID))
	own := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
	if user.Server != s.server {
		return s.claimRemote(ctx, own, user, token, devices)
	}
	c := claim{id: own, target: user.UID, devices: devices}
	return s.claim(ctx, c, func() bool {
		_, ok := s.localKeys.Allow(s.o.Now(), string(p.User.UID)+"|"+string(user.UID))
		return ok
	})
}

func checkClaim(id string, devices []clearbox.DeviceID) error {
	if id == "" || len(id) > maxClaimID {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "a claim has an id of 1 to 64 bytes", Field: "/claim_id"}
	}
	if len(devices) > 127 {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "there are at most 127 devices", Field: "/devices"}
	}
	return nil
}

// PeerClaim is ClaimKeys for a peer. One-time keys are for those alone who show
// the person's delivery token or the id of a knock; everybody else gets the
// signed prekey and the last-resort key. Its limits are per person and peer. The
// last Reserve one-time keys stay for people here and for new contacts: of them
// a peer gets one a day, and only with a token.
func (s *Service) PeerClaim(ctx context.Context, peer clearbox.ServerName, claimID string, target clearbox.UID, token []byte, devices []clearbox.DeviceID) ([]Bundle, error) {
	if err := checkClaim(claimID, devices); err != nil {
		return nil, err
	}
	may, err := s.mayReach(ctx, peer, target, token)
	if err != nil {
		return nil, fmt.Errorf("claim prekeys: %w", err)
	}
	now, pair := s.o.Now(), string(peer)+"|"+string(target)
	_, withinRate := s.peerRate.Allow(now, string(peer))
	c := claim{id: claimID, peer: peer, target: target, devices: devices, reserve: Reserve}
	c.mayReserve = func() bool { _, ok := s.reserve.Allow(now, pair); return ok }
	return s.claim(ctx, c, func() bool {
		if !may || !withinRate {
			return false
		}
		_, ok := s.peerKeys.Allow(now, pair)
		return ok
	})
}

// mayReach tells whether token opens the way to target for peer's people. What
// opens nothing costs the same as what does.
func (s *Service) mayReach(ctx context.Context, peer clearbox.ServerName, target clearbox.UID, token []byte) (bool, error) {
	if s.o.MayReach == nil {
		return false, nil
	}
	return s.o.MayReach(ctx, peer, target, token)
}

// claim is a claim of keys of someone here.
type claim struct {
	id      string
	peer    clearbox.ServerName // empty: by someone here
	target  clearbox.UID
	devices []clearbox.DeviceID
	reserve int // one-time keys that are left where they are, unless mayReserve
	// mayReserve takes one of the claimer's keys out of the reserve; nil when there
	// is none.
	mayReserve func() bool
}

// kept is the stored answer to a claim. Its keys are public.
type kept struct {
	Target  clearbox.UID        `cbor:"1,keyasint"`
	Devices []clearbox.DeviceID `cbor:"2,keyasint"`
	Nobody  bool                `cbor:"3,keyasint"`
	Bundles []Bundle            `cbor:"4,keyasint"`
}

// claim answers. Only answers with a one-time key are stored, since the others
// can be given again at any time, and so nobody can fill the disk with claims;
// allow is asked once per one-time key.
func (s *Service) claim(ctx context.Context, c claim, allow func() bool) ([]Bundle, error) {
	var before *kept
	var out []Bundle
	oneTime := make(map[int64]int) // by number of the device: how many one-time keys stay
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		if before, err = c.before(tx); err != nil || before != nil {
			return err
		}
		r, err := c.recipient(tx)
		if err != nil {
			return err
		}
		for _, d := range r.Devices {
			if !c.wants(d.ID) || !allow() {
				continue
			}
			if oneTime[d.No], err = c.leaves(tx, d.No); err != nil {
				return err
			}
		}
		if len(oneTime) == 0 {
			out, _, err = s.bundles(tx, r, c, nil)
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, s.claimNobody(ctx, c, allow)
	}
	if err == nil && before == nil && len(oneTime) > 0 {
		out, before, err = s.claimOneTime(ctx, c, oneTime)
	}
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, errNobody()
	case err != nil:
		return nil, fmt.Errorf("claim prekeys: %w", err)
	case before != nil:
		return c.again(before)
	}
	return out, nil
}

// claimOneTime takes one-time keys and keeps the answer, unless the same claim
// came first.
func (s *Service) claimOneTime(ctx context.Context, c claim, oneTime map[int64]int) (out []Bundle, before *kept, err error) {
	var low []int64
	err = s.store.Update(ctx, func(tx *storage.Tx) (err error) {
		out, low = nil, nil
		if before, err = c.before(tx); err != nil || before != nil {
			return err
		}
		r, err := c.recipient(tx)
		if err != nil {
			return err
		}
		if out, low, err = s.bundles(tx, r, c, oneTime); err != nil {
			return err
		}
		return c.keep(tx, r.No, kept{Target: c.target, Devices: c.devices, Bundles: out})
	})
	if err == nil {
		for _, no := range low {
			s.low(no)
		}
	}
	return out, before, err
}

// leaves decides how many one-time keys of a device stay: fewer than the reserve
// only where nothing else is left and the claimer may.
func (c *claim) leaves(tx *storage.Tx, deviceNo int64) (int, error) {
	if c.mayReserve == nil {
		return c.reserve, nil
	}
	ec, kem, err := tx.PreKeyCounts(deviceNo)
	if err == nil && ec > 0 && min(ec, kem) <= c.reserve && c.mayReserve() {
		return 0, nil
	}
	return c.reserve, err
}

// claimNobody gives the answer for nobody after as much work as for somebody:
// the first claims of a claimer are written down in both cases.
func (s *Service) claimNobody(ctx context.Context, c claim, allow func() bool) error {
	if !allow() {
		return errNobody()
	}
	if _, few := s.strangers.Allow(s.o.Now(), string(c.peer)); few {
		err := s.store.Update(ctx, func(tx *storage.Tx) error {
			return c.keep(tx, 0, kept{Target: c.target, Devices: c.devices, Nobody: true})
		})
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return fmt.Errorf("claim prekeys: %w", err)
		}
	}
	return errNobody()
}

func (c *claim) wants(id clearbox.DeviceID) bool {
	return len(c.devices) == 0 || slices.Contains(c.devices, id)
}

// before finds the answer that the same claim got. It is nil for a new claim.
func (c *claim) before(tx *storage.Tx) (*kept, error) {
	raw, _, err := tx.Claim(c.id, c.peer)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := new(kept)
	if err := cbor.Unmarshal(raw, k); err != nil {
		return nil, fmt.Errorf("a stored claim: %w", err)
	}
	return k, nil
}

func (c *claim) again(k *kept) ([]Bundle, error) {
	if k.Target != c.target || !slices.Equal(k.Devices, c.devices) {
		return nil, clearbox.Errorf(clearbox.CodeConflict, "this claim id was used for something else")
	}
	if k.Nobody {
		return nil, errNobody()
	}
	return k.Bundles, nil
}

func (c *claim) keep(tx *storage.Tx, targetNo int64, k kept) error {
	raw, err := cbor.Marshal(k)
	if err != nil {
		return err
	}
	until := tx.Now() + clearbox.Millis(claimTTL.Milliseconds())
	err = tx.PutClaim(c.id, c.peer, targetNo, raw, until)
	if !errors.Is(err, storage.ErrExists) {
		return err
	}
	// before has looked: what is in the way has expired and waits for Run.
	if _, err := tx.ExpireClaims(tx.Now(), 10_000); err != nil {
		return err
	}
	return tx.PutClaim(c.id, c.peer, targetNo, raw, until)
}

// recipient is storage.ErrNotFound for whoever is not active.
func (c *claim) recipient(tx *storage.Tx) (storage.Recipient, error) {
	r, err := tx.Recipient(c.target)
	if err == nil && r.State != storage.UserActive {
		err = storage.ErrNotFound
	}
	return r, err
}

// bundles takes the keys of the devices that c wants, and tells which of them
// have few one-time keys left.
func (s *Service) bundles(tx *storage.Tx, r storage.Recipient, c claim, oneTime map[int64]int) (out []Bundle, low []int64, err error) {
	user, err := tx.UserByNo(r.No)
	if err != nil {
		return nil, nil, err
	}
	list, err := s.lists.read(user.DeviceList, clearbox.UserID{UID: c.target, Server: s.server})
	if err != nil {
		return nil, nil, fmt.Errorf("a stored device list: %w", err)
	}
	out = []Bundle{}
	for _, d := range r.Devices {
		if !c.wants(d.ID) {
			continue
		}
		leave, any := oneTime[d.No]
		signed, kem, one, err := tx.TakePreKeys(d.No, any, leave)
		if errors.Is(err, storage.ErrNotFound) {
			continue // it has published nothing
		}
		if err != nil {
			return nil, nil, err
		}
		if any {
			st, err := status(tx, d.No)
			if err != nil {
				return nil, nil, err
			}
			if st.Low {
				low = append(low, d.No)
			}
		}
		b := Bundle{Device: d.ID, Registration: d.Registration, Identity: list.Identity.Bytes(), Signed: PreKey(signed), KEM: PreKey(kem)}
		if one != nil {
			b.OneTime = (*PreKey)(one)
		}
		out = append(out, b)
	}
	return out, low, nil
}
