package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"rsc.io/qr"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

type contactsCommand struct {
	List           contactsList `cmd:"" default:"1" help:"List contacts."`
	Add            contactsAdd  `cmd:"" help:"Look somebody up."`
	AcceptIdentity contactsTake `cmd:"" help:"Accept a contact's changed safety number."`
}

// contactLine is a contact in JSON.
type contactLine struct {
	Type     string          `json:"type"` // contact
	Address  string          `json:"address,omitempty"`
	User     clearbox.UserID `json:"user"`
	Trust    core.Trust      `json:"trust"`
	Accepted bool            `json:"accepted"`
	Changed  bool            `json:"changed,omitempty"`
	Devices  int             `json:"devices,omitempty"`
	Pending  bool            `json:"pending,omitempty"` // was asked to accept us, or has to be
	Blocked  bool            `json:"blocked,omitempty"`
	Name     string          `json:"name,omitempty"` // what they call themselves
}

func (a *app) contact(c core.Contact) {
	name := c.Address
	if name == "" {
		name = c.User.String()
	}
	notes := trustText[c.Trust]
	if c.Name != "" {
		notes += fmt.Sprintf(", calls themselves \"%s\"", firstWords(c.Name))
	}
	switch {
	case c.Blocked:
		notes += ", blocked"
	case c.Pending && c.Asked:
		notes += ", was asked to accept you"
	case c.Pending:
		notes += ", will be asked to accept you when you write"
	case !c.Accepted:
		notes += ", not accepted"
	}
	if c.Changed {
		notes += ", SAFETY NUMBER CHANGED"
	}
	a.say(contactLine{"contact", c.Address, c.User, c.Trust, c.Accepted, c.Changed, c.Devices, c.Pending, c.Blocked, c.Name}, "%s  %s", name, notes)
}

// trustText says in words how sure one is of a contact's keys.
var trustText = map[core.Trust]string{
	core.TrustUnverified: "unverified",
	core.TrustVouched:    "vouched by their organisation",
	core.TrustVerified:   "verified by you",
}

type contactsList struct{}

// Run lists contacts by name.
func (contactsList) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		all, err := p.brain.Contacts(ctx)
		slices.SortFunc(all, func(x, y core.Contact) int {
			return strings.Compare(x.Address+" "+x.User.String(), y.Address+" "+y.User.String())
		})
		for _, c := range all {
			a.contact(c)
		}
		return err
	})
}

type contactsAdd struct {
	Address string `arg:"" help:"name@server."`
}

// Run looks somebody up and pins their keys.
func (c *contactsAdd) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		found, err := p.contact(ctx, c.Address)
		if err == nil {
			a.contact(found)
		}
		return err
	})
}

type contactsTake struct {
	Address string `arg:"" help:"name@server, or the user id."`
}

// Run accepts changed keys; the contact is unverified then.
func (c *contactsTake) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		found, err := p.contact(ctx, c.Address)
		if err != nil {
			return err
		}
		if err := p.brain.AcceptIdentity(ctx, found.User); err != nil {
			return err
		}
		found, err = p.brain.Known(ctx, found.User.String())
		if err == nil {
			a.contact(found)
		}
		return err
	})
}

type safetyCommand struct {
	Address  string `arg:"" help:"name@server."`
	Verify   bool   `help:"Note that both sides saw the same number." xor:"mark"`
	Unverify bool   `help:"Take that note back." xor:"mark"`
	Compare  string `help:"What the other side's QR code says, in base64; it is compared, and with --verify noted only if it is the same." placeholder:"BASE64"`
	NoQR     bool   `help:"Digits only." name:"no-qr"`
}

// safetyLine is a safety number in JSON.
type safetyLine struct {
	Type      string     `json:"type"` // safety_number
	Address   string     `json:"address"`
	Digits    string     `json:"digits"`
	Scannable []byte     `json:"scannable"` // what the QR code holds, in base64
	Trust     core.Trust `json:"trust"`
	Changed   bool       `json:"changed,omitempty"`
	Same      *bool      `json:"same,omitempty"` // with --compare
}

// Run shows the safety number and notes what the person found.
func (c *safetyCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		who, err := p.contact(ctx, c.Address)
		if err != nil {
			return err
		}
		number, err := p.brain.SafetyNumber(ctx, who.User)
		if err != nil {
			return err
		}
		var same *bool
		if c.Compare != "" {
			scanned, err := base64.StdEncoding.DecodeString(c.Compare)
			if err != nil {
				return usage("--compare takes base64")
			}
			equal, err := number.Compare(scanned)
			if err != nil {
				return usage("--compare takes what the other side's QR code says; there, cbx --json safety-number shows it as \"scannable\"")
			}
			same = &equal
		}
		if c.Verify && same != nil && !*same {
			return errOtherNumber
		}
		if c.Verify || c.Unverify {
			if err := p.brain.Verify(ctx, who.User, c.Verify); err != nil {
				return err
			}
		}
		if who, err = p.brain.Known(ctx, who.User.String()); err != nil {
			return err
		}
		if a.JSON {
			a.line(a.stdout, safetyLine{"safety_number", c.Address, number.Digits(), number.Scannable(), who.Trust, who.Changed, same})
			return nil
		}
		if !c.NoQR {
			code, err := terminalQR(number.Scannable())
			if err != nil {
				return err
			}
			fmt.Fprint(a.stdout, code)
		}
		fmt.Fprint(a.stdout, groups(number.Digits()))
		if same != nil {
			fmt.Fprintf(a.stdout, "the same as theirs: %t\n", *same)
		}
		fmt.Fprintf(a.stdout, "%s is %s. Both sides see the same number if nobody is in between.\n", c.Address, trustText[who.Trust])
		return nil
	})
}

// groups sets 60 digits in three lines of four groups of five.
func groups(digits string) string {
	var b strings.Builder
	for i := 0; i+5 <= len(digits); i += 5 {
		b.WriteString(digits[i : i+5])
		if (i/5)%4 == 3 {
			b.WriteByte('\n')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// quiet is the light border that a QR code needs, in modules (ISO 18004, 9.1).
const quiet = 4

// terminalQR draws bytes as a QR code with half blocks, light on dark, so that
// it reads on dark and on light terminals.
func terminalQR(data []byte) (string, error) {
	code, err := qr.Encode(string(data), qr.L)
	if err != nil {
		return "", fmt.Errorf("draw the QR code: %w", err)
	}
	light := func(x, y int) bool {
		return x < 0 || y < 0 || x >= code.Size || y >= code.Size || !code.Black(x, y)
	}
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString("\x1b[97;40m") // white on black, whatever the terminal's colours
		for x := -quiet; x < code.Size+quiet; x++ {
			switch up, down := light(x, y), light(x, y+1) && y+1 < code.Size+quiet; {
			case up && down:
				b.WriteRune('█')
			case up:
				b.WriteRune('▀')
			case down:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String(), nil
}

type devicesCommand struct {
	List   devicesList   `cmd:"" default:"1" help:"List the account's devices."`
	Remove devicesRemove `cmd:"" help:"Log a device out and take it off the list."`
}

type devicesList struct{}

// Run lists the account's devices.
func (devicesList) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		all, err := p.brain.Devices(ctx)
		if err != nil {
			return err
		}
		for _, d := range all.Devices {
			mark := ""
			if d.Current {
				mark = "  (this one)"
			}
			a.say(map[string]any{"type": "device", "device": d.Device, "name": d.Name, "added": d.Added, "last_seen_day": d.LastSeenDay, "current": d.Current},
				"%d  %s%s", d.Device, clean(d.Name), mark)
		}
		return nil
	})
}

type devicesRemove struct {
	ID             int  `arg:"" help:"Number of the device."`
	RotateIdentity bool `help:"Also give the account a new identity key, which that device does not know: cbx identity rotate."`
}

// Run removes a device.
func (c *devicesRemove) Run(ctx context.Context, a *app) error {
	id, err := clearbox.ParseDeviceID(int64(c.ID))
	if err != nil {
		return err
	}
	return a.with(ctx, func(p *profile) error {
		err := p.brain.RemoveDevice(ctx, id)
		if clearbox.CodeOf(err) == clearbox.CodeNotFound {
			return advise(err, "cbx devices lists them.")
		}
		if err != nil {
			return err
		}
		a.say(map[string]any{"type": "device_removed", "device": id}, "Device %d is logged out and off the list; what it knew of yours and can be replaced is.", id)
		st, err := p.brain.Backup(ctx)
		if err != nil {
			return err
		}
		if st.Exposed {
			fmt.Fprintln(a.stderr, "cbx: that device knows the secrets of your archive: make a new recovery key with cbx recover setup.")
		}
		if c.RotateIdentity {
			return a.rotateIdentity(ctx, p)
		}
		a.offerRotation()
		return p.running(ctx, p.flush)
	})
}

type statusCommand struct {
	Offline bool `help:"Do not ask the server."`
}

// Run shows the account, the queue, and whether the server answers.
func (c *statusCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		who, err := p.brain.Profile()
		if err != nil {
			return err
		}
		st, err := p.brain.Status(ctx)
		if err != nil {
			return err
		}
		out := map[string]any{
			"type": "status", "address": who.Address.String(), "user": who.User, "device": who.Device, "device_name": who.Name,
			"server_url": p.ServerURL, "queued": st.Queued, "waiting": st.Waiting, "unshown": st.Unshown, "held": st.Held, "failed": st.Failed,
			"events": st.Events, "ignored": st.Ignored,
			"healing": healingLine(st.Healing),
		}
		backup, err := p.brain.Backup(ctx)
		if err != nil {
			return err
		}
		out["backup"] = backupOf(backup)
		renewal, err := a.noteRenewal(ctx, p, out)
		if err != nil {
			return err
		}
		reach, session := "not asked", "not asked"
		var theirs []serverLine
		if !c.Offline {
			reach, session = c.ask(ctx, p)
			out["server"], out["session"] = reach, session
			if theirs, err = a.troubles(ctx, p); err != nil {
				return err
			}
			out["servers"] = theirs
		}
		a.say(out, "%s, device %d (%s)\nserver:  %s: %s\nsession: %s\nqueue:   %d to send, %d new to read, %d held back",
			who.Address, who.Device, clean(who.Name), p.ServerURL, reach, session, st.Queued, st.Unshown, st.Held)
		if !a.JSON {
			fmt.Fprintf(a.stdout, "backup:  %s\n%s", backupWords(backup), renewal)
		}
		for _, s := range theirs {
			if !a.JSON {
				fmt.Fprintf(a.stdout, "peer:    %s\n", s.Explanation)
			}
		}
		if st.Waiting > 0 && !a.JSON {
			fmt.Fprintf(a.stdout, "waiting: %d until somebody accepts you; cbx contacts says who\n", st.Waiting)
		}
		if h := st.Healing; h.Lost > 0 && !a.JSON {
			fmt.Fprintf(a.stdout, "healing: %d could not be read, %d of them came after all\n", h.Lost, h.Healed)
		}
		if st.Ignored > 0 && !a.JSON {
			fmt.Fprintf(a.stdout, "ignored: %d changes by somebody who may not make them\n", st.Ignored)
		}
		if st.Failed > 0 && !a.JSON {
			fmt.Fprintf(a.stdout, "failed:  %d not delivered; cbx recv says which and why, once\n", st.Failed)
		}
		return nil
	})
}

// healingLine is core.Healing in JSON.
type healingLine struct {
	Lost    uint64 `json:"lost"`    // messages that could not be read
	Asked   uint64 `json:"asked"`   // requests for them
	Healed  uint64 `json:"healed"`  // of them that came after all
	Resent  uint64 `json:"resent"`  // own messages that were sent again because somebody asked
	Rewound uint64 `json:"rewound"` // times this profile turned out to be an older copy
}

func (c *statusCommand) ask(ctx context.Context, p *profile) (reach, session string) {
	if _, err := p.brain.Discover(ctx); err != nil {
		return err.Error(), "unknown"
	}
	if _, err := p.brain.Devices(ctx); err != nil {
		return "reachable", err.Error()
	}
	return "reachable", "valid"
}
