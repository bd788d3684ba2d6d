package main

import (
	"context"

	"github.com/clearbox-im/clearbox/server"
	"github.com/clearbox-im/clearbox/server/config"
)

// start assembles the homeserver.
func start(cfg *config.Config, opt StartOptions) (Homeserver, error) {
	return server.New(context.Background(), cfg, server.Options{Logs: opt.Log, Version: opt.Version, Reload: opt.Reload})
}
