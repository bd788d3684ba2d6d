package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// issuerLife is how long one key signs sender certificates: it lies in memory
// alone, so a restart begins with another one.
const issuerLife = 24 * time.Hour

// issuer holds the server certificate under which sender certificates are made.
type issuer struct {
	mu   sync.Mutex // guards what follows; never held across storage
	root curve.PublicKey
	key  *curve.PrivateKey
	cert *certificate.Server
	made time.Time
}

// under gives the server certificate that stands under root, a new one once a
// day and whenever the root is another one.
func (i *issuer) under(s *Service, root *curve.PrivateKey) (*certificate.Server, *curve.PrivateKey, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := s.o.Now()
	if age := now.Sub(i.made); i.cert != nil && i.root == root.Public() && age >= 0 && age < issuerLife {
		return i.cert, i.key, nil
	}
	key, err := curve.GeneratePrivateKey(s.o.Random)
	if err != nil {
		return nil, nil, fmt.Errorf("draw a key for sender certificates: %w", err)
	}
	// The number tells one day's certificate from another's, for whoever looks.
	cert, err := certificate.IssueServer(s.o.Random, root, uint32(now.Unix()/int64(issuerLife.Seconds())), key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("issue a server certificate: %w", err)
	}
	i.root, i.key, i.cert, i.made = root.Public(), key, cert, now
	return cert, key, nil
}

// SenderCertificate issues a certificate for the caller's device: with it
// inside a sealed message, the recipient alone learns who wrote (e2ee.md, 2.9).
// It names the account by keys.AccountServiceID and the identity of the stored
// device list, and lives for a day. Who was banned or whose device was removed
// is forbidden; more than 10 at once and one a minute per device is
// rate_limited; a server without peers has not_implemented.
func (s *Service) SenderCertificate(ctx context.Context, p auth.Principal) (cert []byte, expires clearbox.Millis, err error) {
	if err := mustHaveDevice(p); err != nil {
		return nil, 0, err
	}
	if s.o.SenderRoot == nil {
		return nil, 0, clearbox.Errorf(clearbox.CodeNotImplemented, "this server exchanges no messages with other organisations: nothing needs a certificate")
	}
	if err := s.certificates.Take(s.o.Now(), deviceBucket(p)); err != nil {
		return nil, 0, err
	}
	subject, err := s.subject(ctx, p)
	if err != nil {
		return nil, 0, err
	}
	root, err := s.o.SenderRoot()
	if err != nil {
		return nil, 0, fmt.Errorf("read the root of sender certificates: %w", err)
	}
	server, key, err := s.issuer.under(s, root)
	if err != nil {
		return nil, 0, err
	}
	made, err := server.Issue(s.o.Random, key, subject)
	if err != nil {
		return nil, 0, fmt.Errorf("issue a sender certificate: %w", err)
	}
	return made.Bytes(), clearbox.Millis(subject.Expires.UnixMilli()), nil
}

// subject is what the caller's certificate says, after what is stored and not
// after what the session remembers.
func (s *Service) subject(ctx context.Context, p auth.Principal) (certificate.Subject, error) {
	var user storage.User
	var device storage.DeviceRecord
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		if user, err = tx.UserByNo(p.UserNo); err != nil {
			return err
		}
		device, err = tx.DeviceByNo(p.DeviceNo)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return certificate.Subject{}, fmt.Errorf("issue a sender certificate: %w", err)
	}
	gone := clearbox.Errorf(clearbox.CodeForbidden, "certificates are for active devices of active accounts")
	if err != nil || user.State != storage.UserActive || device.UserNo != user.No || device.ID != p.Device {
		return certificate.Subject{}, gone
	}
	account := clearbox.UserID{UID: user.UID, Server: s.server}
	list, err := s.lists.read(user.DeviceList, account)
	if err != nil {
		return certificate.Subject{}, fmt.Errorf("a stored device list: %w", err)
	}
	if !lists(list, device) {
		return certificate.Subject{}, gone
	}
	return certificate.Subject{
		Account: keys.AccountServiceID(account.String()), Device: uint8(device.ID), Identity: list.Identity,
		Expires: s.o.Now().Add(certificate.Life).Truncate(time.Millisecond),
	}, nil
}
