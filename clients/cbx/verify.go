package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// errOtherNumber: two people do not see the same safety number.
var errOtherNumber = advise(clearbox.Errorf(clearbox.CodeIdentityChanged, "the numbers are NOT the same: somebody may be listening"),
	"Nothing was marked. Compare once more, over a way on which you know them; until it is the same, write nothing that others must not read.")

type verifyCommand struct {
	Address string   `arg:"" help:"name@server."`
	Digits  []string `arg:"" optional:"" help:"The 60 digits that they see, with or without blanks."`
	QR      string   `help:"What their QR code says, in base64, in place of the digits." placeholder:"BASE64" name:"qr" xor:"how"`
	Undo    bool     `help:"Take the mark back." xor:"how"`
}

// Help is the long help.
func (verifyCommand) Help() string {
	return `Compares what the other side sees with what is seen here, and only if it is the same marks the contact as verified. Let them read their 60 digits out, or scan their code; they find both with cbx safety-number. At a terminal without digits, the number is shown and you are asked.

cbx contacts shows one of three levels: unverified, vouched by their organisation (their server names the keys as theirs), verified by you. When the keys of a contact whom you verified change, nothing is sent or shown until you decide: cbx contacts accept-identity.

Exit code 7 where the numbers differ: nothing is marked.`
}

// Run compares and marks.
func (c *verifyCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		who, err := p.contact(ctx, c.Address)
		if err != nil {
			return err
		}
		if !c.Undo {
			number, err := p.brain.SafetyNumber(ctx, who.User)
			if err != nil {
				return err
			}
			same, err := c.same(ctx, a, number)
			if err != nil {
				return err
			}
			if !same {
				return errOtherNumber
			}
		}
		if err := p.brain.Verify(ctx, who.User, !c.Undo); err != nil {
			return err
		}
		if who, err = p.brain.Known(ctx, who.User.String()); err != nil {
			return err
		}
		if a.JSON {
			a.contact(who)
			return nil
		}
		fmt.Fprintf(a.stdout, "%s is %s.\n", clean(c.Address), trustText[who.Trust])
		return nil
	})
}

// same compares what the other side sees with number, or asks the person to.
func (c *verifyCommand) same(ctx context.Context, a *app, number *keys.Fingerprint) (bool, error) {
	switch {
	case c.QR != "" && len(c.Digits) > 0:
		return false, usage("give the digits or --qr, not both")
	case c.QR != "":
		scanned, err := base64.StdEncoding.DecodeString(c.QR)
		if err != nil {
			return false, usage("--qr takes base64")
		}
		equal, err := number.Compare(scanned)
		if err != nil {
			return false, usage("--qr takes what the other side's QR code says; there, cbx --json safety-number shows it as \"scannable\"")
		}
		return equal, nil
	case len(c.Digits) > 0:
		typed, digits := strings.Join(strings.Fields(strings.Join(c.Digits, " ")), ""), number.Digits()
		if len(typed) != len(digits) || strings.Trim(typed, "0123456789") != "" {
			return false, usage("a safety number has %d digits, and nothing else but blanks", len(digits))
		}
		return typed == digits, nil
	case !a.asker.interactive():
		return false, usage("give what they see: their 60 digits, or --qr")
	}
	fmt.Fprint(a.stderr, groups(number.Digits()))
	return a.yes(ctx, "Do they see the same number? yes or no")
}
