package auth

import (
	"strings"

	"github.com/clearbox-im/clearbox"
)

// Purpose is something that a person may consent to. Each is off unless chosen.
type Purpose string

// The purposes.
const (
	PurposePresence          Purpose = "presence"           // people here see that one is online
	PurposeReadReceipts      Purpose = "read_receipts"      //
	PurposeFederatedPresence Purpose = "federated_presence" // people elsewhere see it
	PurposeDirectoryListing  Purpose = "directory_listing"  // found by others than by exact address
	PurposePushThirdParty    Purpose = "push_third_party"   // wake-ups through a vendor
	PurposeOpenReachability  Purpose = "open_reachability"  // strangers may write
	PurposeCrashReports      Purpose = "crash_reports"      //
	PurposeHistoryArchive    Purpose = "history_archive"    // the encrypted archive at the server
)

// Purposes lists all of them, in the order they are shown.
func Purposes() []Purpose {
	return []Purpose{
		PurposePresence, PurposeReadReceipts, PurposeFederatedPresence, PurposeDirectoryListing,
		PurposePushThirdParty, PurposeOpenReachability, PurposeCrashReports, PurposeHistoryArchive,
	}
}

// ParsePurpose accepts the purposes above.
func ParsePurpose(s string) (Purpose, error) {
	for _, p := range Purposes() {
		if string(p) == s {
			return p, nil
		}
	}
	return "", clearbox.Errorf(clearbox.CodeBadRequest, "there is no such purpose")
}

// The sentences that a person reads before consenting: what happens with a yes,
// who learns what by it, and what a no means. Consent that was not informed is
// none (GDPR, Art. 4(11) and 7(2)). Another sentence gives the notice another
// hash, so it is proven which one somebody agreed to; one that asks for more
// needs another version of the notice too, which makes earlier consents stale.
var (
	purposesEnglish = map[Purpose]string{
		PurposePresence:          "People of this organisation whom you write with see whether you are online at the moment. Without it you always look offline.",
		PurposeReadReceipts:      "Whoever wrote to you learns when you have read it. Without it they learn only that it arrived.",
		PurposeFederatedPresence: "People of other organisations whom you write with see whether you are online, and their servers learn it too. Without it you always look offline to them.",
		PurposeDirectoryListing:  "Others of this organisation find you by searching for a part of your name. Without it only those find you who know your exact address.",
		PurposePushThirdParty:    "When a message waits, your device is woken through the push service of its vendor, which learns when that happens but never who wrote or what. Without it messages show when the program is open.",
		PurposeOpenReachability:  "People who do not know you may write to you first, from any organisation that this one is connected with. Without it only those reach you whom you know.",
		PurposeCrashReports:      "When the program fails, your organisation's administrators get a report of the failure, without messages, names or keys. Without it nothing is sent.",
		PurposeHistoryArchive:    "Your devices keep an encrypted copy of your conversations at this server, so that a new device can show them. The server cannot read it, and you can delete it at any time. Without it a new device begins empty.",
	}
	purposesGerman = map[Purpose]string{
		PurposePresence:          "Menschen dieser Organisation, mit denen Sie schreiben, sehen, ob Sie gerade online sind. Ohne Einwilligung erscheinen Sie immer als offline.",
		PurposeReadReceipts:      "Wer Ihnen schreibt, erfährt, wann Sie es gelesen haben. Ohne Einwilligung erfährt man nur, dass es angekommen ist.",
		PurposeFederatedPresence: "Menschen anderer Organisationen, mit denen Sie schreiben, sehen, ob Sie gerade online sind, und auch deren Server erfahren es. Ohne Einwilligung erscheinen Sie dort immer als offline.",
		PurposeDirectoryListing:  "Andere in dieser Organisation finden Sie, wenn sie nach einem Teil Ihres Namens suchen. Ohne Einwilligung findet Sie nur, wer Ihre genaue Adresse kennt.",
		PurposePushThirdParty:    "Wenn eine Nachricht wartet, wird Ihr Gerät über den Push-Dienst seines Herstellers geweckt. Dieser erfährt, wann das geschieht, aber nie, wer was geschrieben hat. Ohne Einwilligung erscheinen Nachrichten, wenn das Programm offen ist.",
		PurposeOpenReachability:  "Menschen, die Sie nicht kennen, dürfen Ihnen zuerst schreiben, aus jeder Organisation, mit der diese verbunden ist. Ohne Einwilligung erreichen Sie nur Menschen, die Sie kennen.",
		PurposeCrashReports:      "Wenn das Programm abstürzt, erhält die Verwaltung Ihrer Organisation einen Bericht darüber, ohne Nachrichten, Namen oder Schlüssel. Ohne Einwilligung wird nichts gesendet.",
		PurposeHistoryArchive:    "Ihre Geräte legen eine verschlüsselte Kopie Ihrer Unterhaltungen auf diesem Server ab, damit ein neues Gerät sie zeigen kann. Der Server kann sie nicht lesen, und Sie können sie jederzeit löschen. Ohne Einwilligung beginnt ein neues Gerät leer.",
	}
)

// Text is what p means, for the person who is asked: in the language of a BCP 47
// tag where there is a translation (English and German), else in English.
func (p Purpose) Text(language string) string {
	base, _, _ := strings.Cut(strings.ToLower(language), "-")
	if base == "de" {
		return purposesGerman[p]
	}
	return purposesEnglish[p]
}
