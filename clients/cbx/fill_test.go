package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// fill PROFILE KEYFILE WITH N puts N messages with somebody into a profile's vault.
func scriptFill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: fill PROFILE KEYFILE USER N")
	}
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	user, err := clearbox.ParseUserID(args[2])
	ts.Check(err)
	key, err := hex.DecodeString(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	v, err := vault.Open(filepath.Join(ts.Getenv("HOME"), ".local", "share", "cbx", args[0]), vault.Options{Secret: vault.Secret{Key: key}, Random: rand.Reader})
	ts.Check(err)
	mode, err := cbor.EncOptions{TextMarshaler: cbor.TextMarshalerTextString}.EncMode()
	ts.Check(err)
	prefix := "msg/" + keys.AccountServiceID(user.String()).UUID() + "/"
	err = v.Update(context.Background(), func(tx core.Tx) error {
		for i := range n {
			order := uint64(1000 + i)
			m := core.Message{Order: order, ID: clearbox.MessageID{byte(i), byte(i >> 8), byte(i >> 16), 1}, Conversation: user, Sender: user, SenderDevice: 1,
				Kind: core.MessageText, Text: fmt.Sprintf("line %d of a long conversation about the weather", i), Sent: 1, Stored: 1, State: core.StateReceived}
			b, err := mode.Marshal(&m)
			if err != nil {
				return err
			}
			if err := tx.Put(fmt.Sprintf("%s%016x", prefix, order), b); err != nil {
				return err
			}
		}
		return tx.Put("count/order", binary.BigEndian.AppendUint64(nil, uint64(1000+n)))
	})
	ts.Check(errors.Join(err, v.Close()))
}
