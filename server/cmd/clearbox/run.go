package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
)

// Main is the program. Tests start it as main does, with their own world.
type Main struct {
	Version string
	Now     func() time.Time
	Random  io.Reader
	Signals <-chan os.Signal // SIGHUP reloads, others end `serve`; nil means none

	// Lookup resolves a host name into addresses.
	Lookup func(ctx context.Context, host string) ([]string, error)
	// UDPBuffer is how many bytes a UDP socket may buffer at most, if that is known; nil: it is not.
	UDPBuffer func() (int64, bool)
	// Start assembles the homeserver for `serve`.
	Start func(cfg *config.Config, opt StartOptions) (Homeserver, error)
}

// The exit codes; `doctor` has its own: 0 all well, 1 warnings, 2 failures.
const (
	exitOK          = 0
	exitFailed      = 1 // the server refused, or something went wrong
	exitUsage       = 2 // the command line or the configuration is wrong
	exitUnreachable = 3 // the server does not answer
)

// commands is the command line. Kong reads the tags.
type commands struct {
	Config string   `short:"c" placeholder:"FILE" help:"Configuration file. Default: $$CLEARBOX_CONFIG, ./clearbox.yaml or /etc/clearbox/clearbox.yaml."`
	Set    []string `sep:"none" placeholder:"KEY=VALUE" help:"Override a key of the configuration; may be repeated."`
	Socket string   `placeholder:"PATH" help:"Admin socket of the running server, instead of the one in the configuration."`
	JSON   bool     `name:"json" help:"Write JSON, errors too."`

	Init     initCommand      `cmd:"" help:"Set up a homeserver: configuration, keys and what to do next."`
	Serve    serveCommand     `cmd:"" help:"Run the homeserver."`
	Config_  configCommands   `cmd:"" name:"config" help:"Check, print and explain the configuration."`
	Doctor   doctorCommand    `cmd:"" help:"Look for what is wrong, also while the server is down."`
	Status   statusCommand    `cmd:"" help:"Show how the running server is."`
	Reload   reloadCommand    `cmd:"" help:"Make the running server read its configuration again."`
	User     userCommands     `cmd:"" help:"Accounts."`
	Invite   inviteCommands   `cmd:"" help:"Invites to register."`
	Peer     peerCommands     `cmd:"" help:"Other organisations' homeservers."`
	Group    groupCommands    `cmd:"" help:"Groups of people here."`
	Report   reportCommands   `cmd:"" help:"Messages of people here that a recipient reported."`
	Identity identityCommands `cmd:"" help:"This server's identity key and its operational keys."`
	Fed      fedCommands      `cmd:"" help:"What waits for peers."`
	Audit    auditCommand     `cmd:"" help:"What administrators did."`
	Demo     demoCommand      `cmd:"" help:"Two organisations on this machine with throw-away data, to try things out."`
	Version  versionCommand   `cmd:"" help:"Show the version."`
}

// call is one run of the program, handed to the command.
type call struct {
	*Main
	ctx    context.Context
	in     io.Reader
	out    io.Writer
	err    io.Writer
	env    []string
	global *commands
}

// exited ends kong's parsing after it printed help.
type exited int

// Run runs one command line, without the program's name, and gives the exit
// code. It writes to out and errOut only, and reads env instead of the process's
// environment.
func (m *Main) Run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer, env []string) int {
	x := &call{Main: m, ctx: ctx, in: in, out: out, err: errOut, env: env, global: &commands{}}
	parser, err := kong.New(x.global,
		kong.Name("clearbox"),
		kong.Description("The ClearBox homeserver and its administration."),
		kong.Writers(out, errOut),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		fmt.Fprintln(errOut, "clearbox:", err)
		return exitFailed
	}
	if len(args) == 0 || len(args) == 1 && args[0] == "help" {
		args = []string{"--help"}
	} else if args[0] == "help" {
		args = append(args[1:len(args):len(args)], "--help")
	}
	parsed, code, err := parseArgs(parser, args)
	switch {
	case code >= 0:
		return code
	case err != nil:
		return x.fail(&failure{code: exitUsage, text: err.Error(), next: "clearbox " + strings.TrimSpace(commandOf(err)+" --help")})
	}
	if err := parsed.Run(x); err != nil {
		f := asFailure(err)
		if f.next == "" && (f.code == exitUsage || f.slug == clearbox.CodeBadRequest || f.slug == clearbox.CodeBadHandle) {
			f.next = parsed.Selected().FullPath() + " --help"
		}
		return x.fail(f)
	}
	return exitOK
}

// parseArgs parses; code is not negative when kong printed help instead.
func parseArgs(parser *kong.Kong, args []string) (parsed *kong.Context, code int, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exited)
			if !ok {
				panic(r)
			}
			code = int(e)
		}
	}()
	parsed, err = parser.Parse(args)
	return parsed, -1, err
}

// commandOf is the command that was being parsed when err arose.
func commandOf(err error) string {
	var pe *kong.ParseError
	if errors.As(err, &pe) && pe.Context != nil {
		var words []string
		for _, p := range pe.Context.Path {
			if p.Command != nil {
				words = append(words, p.Command.Name)
			}
		}
		return strings.Join(words, " ")
	}
	return ""
}

// getenv reads the handed-in environment.
func (x *call) getenv(name string) string {
	for i := len(x.env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(x.env[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// configPath is the configuration file that is meant.
func (x *call) configPath() string {
	if x.global.Config != "" {
		return x.global.Config
	}
	if p := x.getenv(config.EnvConfig); p != "" {
		return p
	}
	const system = "/etc/clearbox/clearbox.yaml"
	if _, err := os.Stat("clearbox.yaml"); err != nil {
		if _, err := os.Stat(system); err == nil {
			return system
		}
	}
	return "clearbox.yaml"
}

// load reads the configuration; skipFiles leaves the files it names alone.
func (x *call) load(skipFiles bool) (*config.Loaded, error) {
	return config.Load(x.configPath(), config.Options{Env: x.env, Set: x.global.Set, SkipFiles: skipFiles})
}

// mention is how the command line names the configuration in a hint.
func (x *call) mention() string {
	if x.global.Config == "" {
		return ""
	}
	if rel := filepath.ToSlash(x.global.Config); strings.ContainsAny(rel, " '\"") {
		return fmt.Sprintf(" --config %q", rel)
	}
	return " --config " + x.global.Config
}
