package main

import (
	"fmt"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// reasons are the sentences for the codes that stand beside a message. SERVER is
// replaced by the other side's homeserver.
var reasons = map[clearbox.Code]string{
	// Why it was given up, or waits.
	clearbox.CodePeerBlocked:          "your server does not exchange messages with SERVER",
	clearbox.CodeUnknownPeer:          "there is no peering between your server and SERVER",
	clearbox.CodeNoRoutePolicy:        "your server's rules do not allow messages to SERVER",
	clearbox.CodePeerUnreachable:      "SERVER could not be reached in time",
	clearbox.CodePeerBacklogFull:      "SERVER cannot be reached and too much waits for it already",
	clearbox.CodeRecipientUnavailable: "SERVER has nobody by that name, or they do not take messages",
	clearbox.CodeNotFound:             "SERVER has nobody by that name",
	clearbox.CodeMailboxFull:          "their mailbox is full",
	clearbox.CodeExpired:              "none of their devices fetched it in time",
	clearbox.CodeOutcomeUnknown:       "SERVER never said whether it took it; it may have arrived",
	clearbox.CodeNoDevice:             "they have no device that could read it",
	clearbox.CodeStaleDevices:         "their devices kept changing while it was sent",
	clearbox.CodeIdentityChanged:      "their safety number changed and you have not accepted the new one",
	clearbox.CodeBadSignature:         "their keys do not verify",
	clearbox.CodeConflict:             "your server knows another message by the same number",
	clearbox.CodeTooLarge:             "it is too long for your server",
	clearbox.CodeForbidden:            "your server does not allow you to send it",
	clearbox.CodeQuota:                "you have used up what your server allows you",
	clearbox.CodeStoreFull:            "your server's disk is full",
	clearbox.CodeRateLimited:          "you wrote more than your server takes at a time",
	clearbox.CodeBadRequest:           "your server does not understand it; update cbx",
	clearbox.CodeInternal:             "something is wrong at your server; its administrator can find it in the log",
	clearbox.CodeConsentRequired:      "they have not accepted you",
	clearbox.CodeNotAMember:           "they or you are not in the group any more",
	clearbox.CodeGroupChanged:         "the group kept changing while it was sent",
	clearbox.CodeHubUnreachable:       "the group's server does not answer; who is in the group cannot change now",
	clearbox.CodeGroupFrozen:          "the group's server contradicted itself; who is in the group cannot change any more",
	clearbox.CodeGroupClosed:          "the group is closed",
	clearbox.CodeUnproven:             "SERVER does not know that it was sent, or not any more",
	clearbox.CodeDeviceRemoved:        "the device that signed it is no device of its person",
	"policy_excluded":                 "the group's rules exclude a server of which somebody is in it; remove them (cbx group remove), or change the rules (cbx group policy)",
	// Why it cannot be read.
	"bad_padding":           "it is not padded as sealed messages are",
	"not_sealed_for_us":     "it was sealed for other keys than yours, or altered on the way",
	"certificate_stolen":    "its certificate is not that of the key that sealed it",
	"certificate_expired":   "its sender's certificate had ended before SERVER took it",
	"certificate_untrusted": "SERVER does not vouch for its sender",
	"wrong_server":          "it names a sender who is not of SERVER",
	"wrong_identity":        "its sender's certificate names another key than the one you know",
	"misrouted":             "it was meant for somebody else",
	"no_session":            "the keys for it are gone",
	"not_authentic":         "it was altered on the way",
	"not_understood":        "its format is not known",
}

// waiting are the sentences where something is tried again.
var waiting = map[clearbox.Code]string{
	clearbox.CodeConsentRequired: "waits until they accept you; they were asked",
	clearbox.CodePeerUnreachable: "SERVER does not answer your server; it is tried again",
	clearbox.CodeRateLimited:     "you wrote more than your server takes at a time; it goes on in a moment",
	clearbox.CodeStoreFull:       "your server's disk is full; it is tried again",
}

// explanation is the reason of a message in a sentence, or empty.
func explanation(m *core.Message) string {
	text := reasons[m.Reason]
	if again := waiting[m.Reason]; again != "" && m.State == core.StateQueued {
		text = again
	}
	return strings.ReplaceAll(text, "SERVER", string(m.Conversation.Server))
}

// because is the explanation with the code behind it, for whoever helps.
func because(m *core.Message) string {
	return strings.TrimSpace(explanation(m) + " [" + string(m.Reason) + "]")
}

// stateText is an own message's state in words.
func stateText(m *core.Message) string {
	switch m.State {
	case core.StateQueued:
		if m.Reason != "" {
			return "waiting: " + because(m)
		}
		return "queued on this device; it is sent when cbx runs and the server can be reached"
	case core.StateAtServer:
		if m.Delayed {
			return "at my server; theirs cannot be reached and is tried again" + reachText(m, "; ")
		}
		return "at my server" + reachText(m, "; ")
	case core.StateAtPeer:
		if m.Reach != nil && m.Reach.Delivered > 0 {
			return reachText(m, "")
		}
		return "at their server" + reachText(m, "; ")
	case core.StateFailed:
		return "failed: " + because(m)
	}
	return string(m.State)
}

// reachText says how far a message to a group came with its members, behind before;
// empty where nobody told.
func reachText(m *core.Message, before string) string {
	r := m.Reach
	if r == nil || r.Delivered+r.Failed == 0 {
		return ""
	}
	var parts []string
	if r.Delivered > 0 {
		parts = append(parts, fmt.Sprintf("delivered to %d of %d", r.Delivered, r.Of))
	}
	if r.Read > 0 {
		parts = append(parts, fmt.Sprintf("read by %d", r.Read))
	}
	if r.Failed > 0 {
		parts = append(parts, fmt.Sprintf("not delivered to %d of %d", r.Failed, r.Of))
	}
	return before + strings.Join(parts, ", ")
}
