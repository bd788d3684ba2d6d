package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/logging"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Homeserver is what `serve` runs; package server makes it.
type Homeserver interface {
	// Run serves until ctx ends, then drains within server.drain_timeout.
	Run(ctx context.Context) error
	// Reload takes over a configuration of which only reloadable keys differ.
	// After an error the old one is still in force.
	Reload(cfg *config.Config) error
}

// StartOptions go with the configuration to Main.Start.
type StartOptions struct {
	Log     *logging.Logs
	Version wire.Version
	Started clearbox.Millis
	// Reload is what POST /admin/reload calls.
	Reload func(context.Context) (wire.AdminReload, error)
}

type serveCommand struct{}

func (c *serveCommand) Run(x *call) error {
	loaded, err := x.load(false)
	if err != nil {
		f := asFailure(err)
		f.text += "; the server does not start"
		return f
	}
	logs, err := logging.New(x.err, logging.Options{
		Format: loaded.Config.Log.Format, Level: loaded.Config.Log.Level, Privacy: loaded.Config.Log.Privacy, Now: x.Now, Random: x.Random,
	})
	if err != nil {
		return err
	}
	for _, w := range loaded.Warnings {
		logProblem(logs.Log(), slog.LevelWarn, "configuration warning", w)
	}
	r := &reloader{x: x, logs: logs, current: loaded.Config}
	r.server, err = x.Start(loaded.Config, StartOptions{
		Log: logs, Version: x.build(), Started: clearbox.Millis(x.Now().UnixMilli()), Reload: r.reload,
	})
	if err != nil {
		return &failure{code: exitFailed, slug: clearbox.CodeOf(err), text: fmt.Sprintf("the server does not start: %v", err), next: "clearbox doctor" + x.mention()}
	}
	ctx, stop := context.WithCancel(x.ctx)
	defer stop()
	ended := make(chan error, 1) // Run's result, whether or not anybody waits for it still
	go func() { ended <- r.server.Run(ctx) }()
	draining := false
	for {
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, context.Canceled) {
				return &failure{code: exitFailed, text: fmt.Sprintf("the server ended: %v", err), next: "clearbox doctor" + x.mention()}
			}
			logs.Log().Info("server stopped")
			return nil
		case sig := <-x.Signals:
			switch {
			case sig == syscall.SIGHUP:
				_, _ = r.reload(x.ctx) // the result is in the log
			case draining:
				return &failure{code: exitFailed, text: "stopped before everything was finished"}
			default:
				logs.Log().Info("server draining", "signal", signalName(sig), "timeout", loaded.Config.Server.DrainTimeout)
				draining = true
				stop()
			}
		}
	}
}

func signalName(s os.Signal) string {
	if s == os.Interrupt {
		return "interrupt"
	}
	return s.String()
}

// reloader reads the configuration again on SIGHUP and for POST /admin/reload.
type reloader struct {
	x    *call
	logs *logging.Logs

	mu      sync.Mutex // one reload at a time
	server  Homeserver
	current *config.Config // what is in force
}

// reload applies what can be applied. A configuration with mistakes, or one that
// the server refuses, changes nothing.
func (r *reloader) reload(context.Context) (wire.AdminReload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.logs.Log()
	loaded, err := r.x.load(false)
	if err != nil {
		var mistakes *config.Errors
		if !errors.As(err, &mistakes) {
			log.Error("configuration not reloaded; the running one stays in force", "error", err)
			return wire.AdminReload{}, clearbox.Wrap(clearbox.CodeBadRequest, "the configuration cannot be read; the running one stays in force", err)
		}
		for _, p := range mistakes.Problems {
			logProblem(log, slog.LevelError, "configuration mistake", p)
		}
		log.Error("configuration not reloaded; the running one stays in force", "problems", len(mistakes.Problems))
		return wire.AdminReload{}, clearbox.Errorf(clearbox.CodeBadRequest, "%s; the running one stays in force\n%s", mistakes.Summary(), mistakes.Brief(10))
	}
	merged := config.Applied(r.current, loaded.Config)
	if err := r.server.Reload(merged); err != nil {
		log.Error("configuration not reloaded; the running one stays in force", "error", err)
		return wire.AdminReload{}, clearbox.Wrap(clearbox.CodeBadRequest, "the server refuses the configuration; the running one stays in force; see its log", err)
	}
	if err := r.logs.Set(merged.Log.Level, merged.Log.Privacy); err != nil {
		log.Error("log settings not reloaded", "error", err)
	}
	var result wire.AdminReload
	for _, c := range config.Diff(r.current, loaded.Config) {
		if c.Reload {
			result.Applied = append(result.Applied, c.Key)
			log.Info("configuration changed", "field", c.Key)
		} else {
			result.Restart = append(result.Restart, c.Key)
			log.Warn("configuration change waits for a restart", "field", c.Key)
		}
	}
	for _, w := range loaded.Warnings {
		logProblem(log, slog.LevelWarn, "configuration warning", w)
	}
	r.current = merged
	log.Info("configuration reloaded", "changed", len(result.Applied), "restart", len(result.Restart))
	return result, nil
}

// logProblem logs a mistake without the line itself.
func logProblem(log *slog.Logger, level slog.Level, message string, p config.Problem) {
	log.Log(context.Background(), level, message, "file", p.Where, "line", p.Line, "field", p.Key, "reason", p.Text, "expected", p.Hint)
}
