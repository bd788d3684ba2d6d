package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/storage"
)

// MaxDeviceName bounds the name of a device, in bytes.
const MaxDeviceName = 64

// Register makes an account with its first device, prekeys, notice
// acknowledgement, consents and session, all in one transaction, and uses up the
// invite. When it returns an error there is no account and the invite is as it
// was. A client that got no answer logs in with the device it made.
//
// Errors: bad_handle, handle_taken, notice_required, invite_invalid,
// bad_signature (list or prekey), bad_request with the field, conflict (the
// uid is taken), rate_limited.
func (s *Service) Register(ctx context.Context, r Registration) (Tokens, error) {
	if err := s.limit(s.byClient, "register|"+r.Client); err != nil {
		return Tokens{}, err
	}
	notice := s.Notice() // one and the same throughout, should a reload replace it
	list, err := s.checkRegistration(r, notice)
	if err != nil {
		return Tokens{}, err
	}
	// Cheap refusals before dear work; the transaction decides.
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		_, err := s.admission(tx, r)
		return err
	})
	if err != nil {
		return Tokens{}, err
	}
	if err := r.Keys.Check(list.Identity, true, "/keys"); err != nil {
		return Tokens{}, err
	}
	phc, err := s.hasher.hash(ctx, r.Password)
	if err != nil {
		return Tokens{}, err
	}
	n, err := s.newSession()
	if err != nil {
		return Tokens{}, err
	}
	key, err := s.people.Create(ctx)
	if err != nil {
		return Tokens{}, fmt.Errorf("make a person's key: %w", err)
	}
	user := storage.User{
		UID: r.UID, Key: key, Handle: r.Handle, Password: phc,
		DeviceList: r.DeviceList, DevicesVersion: list.Version, NoticeVersion: notice.Version,
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error { return s.create(tx, r, notice, list, &user, &n) })
	if err != nil && !s.happened(ctx, r.UID, key) {
		return Tokens{}, fmt.Errorf("register: %w", err)
	}
	return s.tokens(ctx, n, user)
}

// checkRegistration checks everything that needs no database and parses the list.
func (s *Service) checkRegistration(r Registration, notice Notice) (*keys.DeviceList, error) {
	refuse := func(field, text string) error {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: text, Field: field}
	}
	if _, err := clearbox.ParseHandle(string(r.Handle)); err != nil {
		return nil, atField(err, "/handle")
	}
	if _, err := clearbox.ParseUID(string(r.Handle)); err == nil {
		return nil, &clearbox.Error{Code: clearbox.CodeBadHandle, Text: "this name could be taken for a user id", Field: "/handle"}
	}
	if _, err := clearbox.ParseUID(string(r.UID)); err != nil {
		return nil, atField(err, "/uid")
	}
	if err := notice.acknowledged(r.Notice); err != nil {
		return nil, err
	}
	if len(r.Language) > 35 { // RFC 5646, 4.4.1
		return nil, refuse("/notice/language", "a language tag has at most 35 characters")
	}
	if err := CheckDeviceName(r.DeviceName, "/device_name"); err != nil {
		return nil, err
	}
	for i, p := range r.Consents {
		if _, err := ParsePurpose(string(p)); err != nil {
			return nil, atField(err, fmt.Sprintf("/consents/%d", i))
		}
	}
	if err := checkPassword(r.Password, "/password", contextWords(r.Handle, s.server)...); err != nil {
		return nil, err
	}
	list, err := ReadDeviceList(r.DeviceList, clearbox.UserID{UID: r.UID, Server: s.server})
	if err != nil {
		return nil, err
	}
	if len(list.Devices) != 1 || list.Devices[0].ID != 1 || list.Devices[0].Removed != 0 {
		return nil, refuse("/device_list", "a new account has exactly one device, with the id 1")
	}
	return list, nil
}

// ReadDeviceList verifies a signed list and that it is of account. The error is
// a *clearbox.Error with bad_signature or bad_request and the field
// /device_list.
func ReadDeviceList(signed []byte, account clearbox.UserID) (*keys.DeviceList, error) {
	refuse := func(code clearbox.Code, text string, err error) error {
		return &clearbox.Error{Code: code, Text: text, Field: "/device_list", Cause: err}
	}
	list, err := keys.ParseDeviceList(signed)
	switch {
	case errors.Is(err, keys.ErrDeviceListSignature):
		return nil, refuse(clearbox.CodeBadSignature, "the device list's signature does not verify", err)
	case err != nil:
		return nil, refuse(clearbox.CodeBadRequest, "the device list is malformed", err)
	case list.Account != account.String():
		return nil, refuse(clearbox.CodeBadRequest, "the device list is of another account", nil)
	}
	return list, nil
}

// CheckDeviceName accepts printable text of at most MaxDeviceName bytes. field is
// the place in the request.
func CheckDeviceName(name, field string) error {
	if len(name) > MaxDeviceName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "a device's name is printable text of at most 64 bytes", Field: field}
	}
	return nil
}

// atField gives an error of a Parse function its place in the request.
func atField(err error, field string) error {
	var e *clearbox.Error
	if !errors.As(err, &e) {
		return err
	}
	return &clearbox.Error{Code: e.Code, Text: e.Text, Field: field, Cause: e.Cause}
}

// admission tells as which role r may register now. Only whoever may register
// learns whether a name is taken.
func (s *Service) admission(tx *storage.Tx, r Registration) (Role, error) {
	role := RoleMember
	if r.Invite != "" || s.Mode() != ModeOpen {
		invite, err := tx.InviteByHash(hashed(plainCode(r.Invite)))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return "", err
		}
		usable := err == nil && invite.Used == 0 && invite.Revoked == 0 && invite.Expires > tx.Now()
		if !usable || s.Mode() == ModeClosed && invite.For == "" {
			return "", &clearbox.Error{Code: clearbox.CodeInviteInvalid, Text: "this invite is not valid, or no longer", Field: "/invite"}
		}
		if invite.For != "" && invite.For != r.Handle {
			return "", &clearbox.Error{Code: clearbox.CodeInviteInvalid, Text: "this invite is for another name", Field: "/handle"}
		}
		role = Role(invite.Role)
	}
	if _, err := tx.UserByHandle(r.Handle); err == nil {
		return "", errHandleTaken()
	} else if !errors.Is(err, storage.ErrNotFound) {
		return "", err
	}
	return role, nil
}

func errHandleTaken() error {
	return &clearbox.Error{Code: clearbox.CodeHandleTaken, Text: "this name is taken", Field: "/handle"}
}

// create is the transaction of Register.
func (s *Service) create(tx *storage.Tx, r Registration, notice Notice, list *keys.DeviceList, user *storage.User, n *newborn) error {
	role, err := s.admission(tx, r)
	if err != nil {
		return err
	}
	user.Role, user.State, user.Created = storage.Role(role), storage.UserActive, tx.Now()
	err = tx.CreateUser(user)
	var taken *storage.ExistsError
	switch {
	case errors.As(err, &taken) && taken.Field == "handle":
		return errHandleTaken()
	case errors.As(err, &taken):
		return &clearbox.Error{Code: clearbox.CodeConflict, Text: "this uid is taken; draw another", Field: "/uid"}
	case err != nil:
		return err
	}
	if r.Invite != "" {
		if _, err := tx.UseInvite(hashed(plainCode(r.Invite)), user.No); err != nil {
			return err
		}
	}
	entry := list.Devices[0]
	device := storage.DeviceRecord{
		UserNo: user.No, ID: clearbox.DeviceID(entry.ID), Registration: entry.Registration, Key: entry.Key,
		Name: r.DeviceName, Added: tx.Now(), LastSeenDay: day(tx.Now()),
	}
	if err := tx.AddDevice(&device); err != nil {
		return err
	}
	if err := r.Keys.Store(tx, device.No); err != nil {
		return err
	}
	if err := recordNotice(tx, user.No, notice); err != nil {
		return err
	}
	for _, p := range r.Consents {
		if err := recordConsent(tx, user.No, notice, p, true, r.Language); err != nil {
			return err
		}
	}
	_, err = s.start(tx, n, user.No, device.ID)
	return err
}

// happened tells, after a transaction that failed, whether the account is there
// all the same, because only the answer was lost. If it certainly is not, the
// key that was made for it is destroyed. If that cannot be found out, the key
// stays: one too many harms nobody, one too few would.
func (s *Service) happened(ctx context.Context, uid clearbox.UID, key storage.KeyID) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	there := false
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		user, err := tx.UserByUID(uid)
		there = err == nil && user.Key == key
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	if err == nil && !there {
		err = s.people.Destroy(ctx, key)
	}
	if err != nil {
		s.o.Log.Error("key of a failed registration was not destroyed", "code", clearbox.CodeOf(err))
	}
	return there
}

// plainCode undoes what people do to codes when they copy them.
func plainCode(code string) string {
	if len(code) > 128 {
		return ""
	}
	return strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(code))
}
