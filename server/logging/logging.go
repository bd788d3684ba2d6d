// Package logging is responsible for what leaves the homeserver as log lines:
// JSON or text through log/slog, with a last filter that hides personal and
// secret values whoever wrote the line. It is not a reason to be careless: bodies,
// tokens, keys and people's addresses are not logged in the first place.
package logging

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync/atomic"
	"time"
)

// Options of New.
type Options struct {
	Format  string           // "json" or "text" (default)
	Level   string           // "debug", "info" (default), "warn" or "error"
	Privacy bool             // replaces user ids by daily pseudonyms and cuts network addresses
	Now     func() time.Time // required: lines carry this time
	Random  io.Reader        // required: draws the daily key of the pseudonyms
}

// Logs is a log that can be adjusted while it is in use. It is safe for
// concurrent use.
type Logs struct {
	log     *slog.Logger
	level   slog.LevelVar
	privacy atomic.Bool
	names   pseudonyms
	now     func() time.Time
}

// New writes lines to w, one Write each. It returns an error for a format or a
// level that does not exist and when Random fails.
func New(w io.Writer, opt Options) (*Logs, error) {
	l := &Logs{names: pseudonyms{now: opt.Now, random: opt.Random}, now: opt.Now}
	if opt.Level == "" {
		opt.Level = "info"
	}
	if err := l.Set(opt.Level, opt.Privacy); err != nil {
		return nil, err
	}
	if err := l.names.rotate(opt.Now()); err != nil {
		return nil, err
	}
	ho := &slog.HandlerOptions{Level: &l.level, ReplaceAttr: l.clean}
	switch opt.Format {
	case "json":
		l.log = slog.New(stamped{slog.NewJSONHandler(w, ho), opt.Now})
	case "text", "":
		l.log = slog.New(stamped{slog.NewTextHandler(w, ho), opt.Now})
	default:
		return nil, fmt.Errorf("log format %q: expected json or text", opt.Format)
	}
	return l, nil
}

// Log is the logger to hand around.
func (l *Logs) Log() *slog.Logger { return l.log }

// Std is for packages that want a *log.Logger; their lines are filtered too.
func (l *Logs) Std(level slog.Level) *log.Logger {
	return slog.NewLogLogger(l.log.Handler(), level)
}

// Set changes level and privacy; lines that follow obey it. On an error, which
// names a level that does not exist, nothing is changed.
func (l *Logs) Set(level string, privacy bool) error {
	var v slog.Level
	switch level {
	case "debug":
		v = slog.LevelDebug
	case "info":
		v = slog.LevelInfo
	case "warn":
		v = slog.LevelWarn
	case "error":
		v = slog.LevelError
	default:
		return fmt.Errorf("log level %q: expected debug, info, warn or error", level)
	}
	l.level.Set(v)
	l.privacy.Store(privacy)
	return nil
}
