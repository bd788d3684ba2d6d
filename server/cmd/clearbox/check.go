package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clearbox-im/clearbox/server/config"
)

// finding is the result of one check of `init` or `doctor`.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"` // OK, WARN or FAIL
	Text   string `json:"text"`
	Next   string `json:"next,omitempty"` // what to do
}

// The results of a check.
const (
	statusOK   = "OK"
	statusWarn = "WARN"
	statusFail = "FAIL"
)

func ok(name, format string, a ...any) finding {
	return finding{Name: name, Status: statusOK, Text: fmt.Sprintf(format, a...)}
}

func warn(name, next, format string, a ...any) finding {
	return finding{Name: name, Status: statusWarn, Text: fmt.Sprintf(format, a...), Next: next}
}

func bad(name, next, format string, a ...any) finding {
	return finding{Name: name, Status: statusFail, Text: fmt.Sprintf(format, a...), Next: next}
}

// checkDNS looks the public host up.
func (x *call) checkDNS(host string) finding {
	const name = "dns"
	if ip := net.ParseIP(host); ip != nil {
		return ok(name, "%s is an address", host)
	}
	ctx, cancel := context.WithTimeout(x.ctx, 5*time.Second)
	defer cancel()
	addrs, err := x.Lookup(ctx, host)
	var de *net.DNSError
	switch {
	case err == nil && len(addrs) > 0:
		return ok(name, "%s is %s", host, strings.Join(addrs, " "))
	case err == nil || errors.As(err, &de) && de.IsNotFound:
		return bad(name, "add an A or AAAA record for "+host+" at your DNS provider", "%s has no address", host)
	default:
		return warn(name, "try again, or look at /etc/resolv.conf", "%s could not be looked up: %v", host, err)
	}
}

// checkClock finds clocks that are plainly wrong: before this was written, or
// before the newest file of the server.
func (x *call) checkClock(files ...string) finding {
	const name, next = "clock", "set up time synchronisation, such as systemd-timesyncd or chrony"
	now := x.Now()
	if now.Before(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)) {
		return bad(name, next, "the clock says %s, which is in the past", now.UTC().Format(time.RFC3339))
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(now.Add(time.Minute)) {
			return bad(name, next, "the clock says %s, but %s was written at %s", now.UTC().Format(time.RFC3339), f, info.ModTime().UTC().Format(time.RFC3339))
		}
	}
	return ok(name, "%s", now.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// checkDisk compares the free space of the folder, or of what is above it, with
// the reserve.
func checkDisk(dir string, reserve config.Size) finding {
	const name, next = "disk", "make room, or set limits.disk_reserve lower"
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	free, known := diskFree(dir)
	if !known {
		return warn(name, "look at the free space yourself", "the free space at %s is not known on this system", dir)
	}
	size := (config.Size(free) / config.MiB * config.MiB).String()
	switch {
	case config.Size(free) < reserve:
		return bad(name, next, "%s free at %s, less than the reserve of %s: nothing new is accepted", size, dir, reserve)
	case config.Size(free) < 4*reserve:
		return warn(name, next, "%s free at %s; below %s nothing new is accepted", size, dir, reserve)
	}
	return ok(name, "%s free at %s", size, dir)
}

// checkBind tries whether the server could listen.
func checkBind(addresses []string) finding {
	const name = "ports"
	for _, a := range addresses {
		ln, err := net.Listen("tcp", a)
		switch {
		case errors.Is(err, syscall.EACCES):
			return bad(name, "use a port above 1023, or: setcap cap_net_bind_service=+ep on the program", "%s: not allowed to listen", a)
		case errors.Is(err, syscall.EADDRINUSE):
			return bad(name, "find who listens: ss -ltnp", "%s is in use by another program", a)
		case err != nil:
			return bad(name, "correct listen.addresses", "%s: %v", a, plain(err))
		}
		if err := ln.Close(); err != nil {
			return bad(name, "", "%s: %v", a, plain(err))
		}
	}
	return ok(name, "%s can be opened", strings.Join(addresses, " "))
}

// plain is a network error without the operation and the address.
func plain(err error) error {
	var oe *net.OpError
	if errors.As(err, &oe) {
		err = oe.Err
	}
	var se *os.SyscallError
	if errors.As(err, &se) {
		err = se.Err
	}
	return err
}
