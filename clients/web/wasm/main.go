// Command wasm links the whole brain for the browser, so that its size is
// measured from the first day (size.sh). It is not the web client yet: its
// vault forgets everything and its network is always away. The binding to a
// worker comes with the web client.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// away is a network without a server.
type away struct{}

var errAway = errors.New("there is no network")

func (away) Do(context.Context, core.Request) (core.Response, error) {
	return core.Response{}, errAway
}

func (away) Open(context.Context, string) (core.Stream, error) { return nil, errAway }

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// run calls the part of the brain that args name: each is reachable, so the
// linker keeps all of it.
func run(ctx context.Context, args []string) error {
	b, err := core.New(ctx, &memvault.Vault{}, away{}, core.Options{Now: time.Now, Random: rand.Reader})
	if err != nil || len(args) == 0 {
		return err
	}
	user, _ := clearbox.ParseUserID(args[len(args)-1]) // the zero user is nobody, which the brain says
	switch args[0] {
	case "register":
		return b.Register(ctx, core.Registration{Handle: "probe", Server: "probe.example"})
	case "login":
		return b.Login(ctx, "")
	case "run":
		return b.Run(ctx)
	case "drain":
		return b.Drain(ctx)
	case "send":
		_, err = b.Send(ctx, user, "probe")
	case "messages":
		_, err = b.Messages(ctx, user, 0, 0)
	case "contact":
		_, err = b.Contact(ctx, user.String())
	case "accept":
		err = b.AcceptIdentity(ctx, user)
	case "verify":
		err = b.Verify(ctx, user, true)
	case "safety-number":
		_, err = b.SafetyNumber(ctx, user)
	case "devices":
		err = errors.Join(b.RemoveDevice(ctx, 2), b.Logout(ctx), b.ChangePassword(ctx, "", ""))
	case "status":
		_, err = b.Status(ctx)
	case "change":
		err = errors.Join(b.Edit(ctx, core.Ref{Author: user}, "probe"), b.Delete(ctx, core.Ref{Author: user}), b.React(ctx, core.Ref{Author: user}, ""))
	case "conversations":
		_, err = b.Conversations(ctx)
	case "search":
		_, err = b.Search(ctx, core.Search{Words: "probe"})
	case "events":
		_, err = b.Events(ctx)
	case "disappear":
		_, err = b.SetTimer(ctx, core.With(user), time.Hour)
	case "keep":
		err = errors.Join(b.Mute(ctx, core.With(user), 0), b.SetDraft(ctx, core.With(user), ""), b.Pin(ctx, core.Ref{Author: user}, true))
	case "profile":
		err = errors.Join(b.SetProfile(ctx, "probe", nil), b.SetSettings(ctx, core.Settings{}))
	}
	return err
}
