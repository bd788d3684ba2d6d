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

// parts is everything that a client calls: what it names, the linker keeps.
var parts = []any{
	(*core.Brain).Accept,
	(*core.Brain).AcceptGroup,
	(*core.Brain).AcceptIdentity,
	(*core.Brain).BackUp,
	(*core.Brain).Backup,
	(*core.Brain).Before,
	(*core.Brain).BeginLink,
	(*core.Brain).Block,
	(*core.Brain).Card,
	(*core.Brain).ChangePassword,
	(*core.Brain).CloseGroup,
	(*core.Brain).ConfirmNames,
	(*core.Brain).Contact,
	(*core.Brain).Contacts,
	(*core.Brain).Conversation,
	(*core.Brain).Conversations,
	(*core.Brain).CreateGroup,
	(*core.Brain).Decline,
	(*core.Brain).DeclineGroup,
	(*core.Brain).Delete,
	(*core.Brain).Devices,
	(*core.Brain).Discover,
	(*core.Brain).Drain,
	(*core.Brain).Edit,
	(*core.Brain).Events,
	(*core.Brain).Export,
	(*core.Brain).Fates,
	(*core.Brain).Fetch,
	(*core.Brain).Find,
	(*core.Brain).FinishRenewal,
	(*core.Brain).Flush,
	(*core.Brain).Group,
	(*core.Brain).Groups,
	(*core.Brain).HasAccount,
	(*core.Brain).Import,
	(*core.Brain).InviteToGroup,
	(*core.Brain).Known,
	(*core.Brain).LeaveGroup,
	(*core.Brain).Line,
	(*core.Brain).Lines,
	(*core.Brain).Link,
	(*core.Brain).Login,
	(*core.Brain).Logout,
	(*core.Brain).Lookup,
	(*core.Brain).MarkRequestsShown,
	(*core.Brain).MarkSeen,
	(*core.Brain).MarkShown,
	(*core.Brain).Members,
	(*core.Brain).Message,
	(*core.Brain).Messages,
	(*core.Brain).Mute,
	(*core.Brain).Notice,
	(*core.Brain).Observe,
	(*core.Brain).Pin,
	(*core.Brain).Post,
	(*core.Brain).Presence,
	(*core.Brain).Profile,
	(*core.Brain).React,
	(*core.Brain).Recent,
	(*core.Brain).Recover,
	(*core.Brain).Register,
	(*core.Brain).Remove,
	(*core.Brain).RemoveDevice,
	(*core.Brain).RemoveFromGroup,
	(*core.Brain).RenewIdentity,
	(*core.Brain).Renewing,
	(*core.Brain).Report,
	(*core.Brain).Reports,
	(*core.Brain).Requests,
	(*core.Brain).ResetPassword,
	(*core.Brain).Run,
	(*core.Brain).SafetyNumber,
	(*core.Brain).Search,
	(*core.Brain).Send,
	(*core.Brain).SendFile,
	(*core.Brain).Server,
	(*core.Brain).SetDraft,
	(*core.Brain).SetGroupInfo,
	(*core.Brain).SetGroupPolicy,
	(*core.Brain).SetGroupRole,
	(*core.Brain).SetProfile,
	(*core.Brain).SetSettings,
	(*core.Brain).SetTimer,
	(*core.Brain).SetTyping,
	(*core.Brain).SetUpRecovery,
	(*core.Brain).Settings,
	(*core.Brain).Status,
	(*core.Brain).StopRecovery,
	(*core.Brain).SyncGroup,
	(*core.Brain).Tidy,
	(*core.Brain).Typing,
	(*core.Brain).Unblock,
	(*core.Brain).Unshown,
	(*core.Brain).Verify,
	(*core.Brain).Watch,
	core.EncodeContent,
	core.DecodeContent,
	core.DefaultGroupPolicy,
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	_, err := core.New(ctx, &memvault.Vault{}, away{}, core.Options{Now: time.Now, Random: rand.Reader})
	if err != nil {
		return err
	}
	fmt.Println(len(parts), "parts")
	return nil
}
