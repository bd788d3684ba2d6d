// Command clearbox is the homeserver and the tool of its administrator. It is
// responsible for the command line: reading it, asking the running server over
// its admin socket, and showing answers and mistakes so that a person knows what
// to do next. What the server does is in package server and below it.
package main

import (
	"context"
	"crypto/rand"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set by the linker; see the Makefile.
var version = "dev"

func main() {
	signals := make(chan os.Signal, 4) // a few that arrive while one is handled
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	m := &Main{
		Version: version, Now: time.Now, Random: rand.Reader, Signals: signals,
		Lookup: net.DefaultResolver.LookupHost, UDPBuffer: udpBuffer, Start: start,
	}
	os.Exit(m.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
