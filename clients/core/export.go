package core

import (
	"context"
	"io"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/vault"
)

// contextExport is the context of containers that are files.
const contextExport = "clearbox export"

// exportHead is the first frame of an export.
type exportHead struct {
	User    clearbox.UserID `cbor:"1,keyasint"`
	Address string          `cbor:"2,keyasint"`
	At      clearbox.Millis `cbor:"3,keyasint"`
}

// Export writes contacts, settings and all conversations, without what disappears, to w, as a container under
// secret, 32 bytes, with a hint that tells how to come by it. It has no keys of the
// account or of sessions. It tells how many messages are in it.
func (b *Brain) Export(ctx context.Context, w io.Writer, secret, hint []byte) (int, error) {
	s, err := b.me()
	if err != nil {
		return 0, err
	}
	var all []record
	err = b.vault.View(ctx, func(r Reader) error {
		all, err = gather(r, 0)
		all = slices.DeleteFunc(all, func(one record) bool { return transient(one.Key, one.Value) })
		return err
	})
	if err != nil {
		return 0, err
	}
	out, err := vault.NewWriter(w, b.opts.Random, secret, vault.Header{Kind: vault.KindExport, Hint: hint}, []byte(contextExport))
	if err != nil {
		return 0, err
	}
	head, err := recordOut.Marshal(&exportHead{s.User, s.address().String(), b.now()})
	if err != nil {
		return 0, err
	}
	if err := out.WriteFrame(head); err != nil {
		return 0, err
	}
	if err := writeRecords(out, all); err != nil {
		return 0, err
	}
	return messagesIn(all), out.Close()
}

// Import takes in what Export wrote, of the same account: what is here already
// stays, so it may be repeated. secret is asked for with the hint. It tells how many
// messages were not here. What it took before an error stays.
func (b *Brain) Import(ctx context.Context, from io.Reader, secret func(hint []byte) ([]byte, error)) (messages int, err error) {
	s, err := b.me()
	if err != nil {
		return 0, err
	}
	r, err := vault.NewReader(from)
	if err != nil {
		return 0, clearbox.Wrap(clearbox.CodeBadRequest, "this is not a file that ClearBox exported", err)
	}
	if r.Header().Kind != vault.KindExport {
		return 0, clearbox.Errorf(clearbox.CodeBadRequest, "this is not a file that ClearBox exported")
	}
	key, err := secret(r.Header().Hint)
	if err != nil {
		return 0, err
	}
	if err := r.Open(key, []byte(contextExport)); err != nil {
		return 0, clearbox.Wrap(clearbox.CodeBadCredentials, "the file does not open with that", err)
	}
	frame, err := r.Next()
	if err != nil {
		return 0, clearbox.Wrap(clearbox.CodeBadSignature, "the file was altered, or its end is missing", err)
	}
	head, err := parse[exportHead](frame)
	if err != nil {
		return 0, err
	}
	if head.User != s.User {
		return 0, clearbox.Errorf(clearbox.CodeForbidden, "the file is of %s, another account", head.Address)
	}
	err = readRecords(r, func(batch []record) error {
		return b.vault.Update(ctx, func(tx Tx) error {
			n, err := takeIn(tx, batch, false)
			messages += n
			return err
		})
	})
	b.changed()
	if err != nil {
		return messages, clearbox.Wrap(clearbox.CodeBadSignature, "the file was altered, or its end is missing", err)
	}
	return messages, nil
}
