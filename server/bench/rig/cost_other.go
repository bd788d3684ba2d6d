//go:build !linux

package rig

import (
	"errors"
	"net/netip"
	"runtime"
	"syscall"
)

// Cost is what a process and its children used since their start.
type Cost struct {
	CPU     float64 // seconds, user and system
	RSS     float64 // MiB now
	Peak    float64 // MiB, highest so far
	Written int64   // bytes that the kernel counts as written to block devices
	Files   int     // open descriptors
}

var errLinux = errors.New("rig: these runs read /proc and need Linux")

// CostOf reads a process tree from /proc.
func CostOf(int) (Cost, error) { return Cost{}, errLinux }

// Filesystem names the filesystem that holds path.
func Filesystem(string) (string, bool, error) { return "", false, errLinux }

// Kernel is the release of the running kernel.
func Kernel() string { return runtime.GOOS }

// RaiseFiles lifts the limit of open files.
func RaiseFiles() uint64 { return 0 }

// OwnCPU is the CPU time of this process alone, in seconds.
func OwnCPU() (float64, error) { return 0, errLinux }

func tree(pid int) []int { return []int{pid} }

// Established gives the other ends of a server's connections.
func (s *Server) Established() (map[netip.AddrPort]bool, error) { return nil, errLinux }

// SmallWindow is for net.Dialer.Control.
func SmallWindow(_, _ string, _ syscall.RawConn) error { return errLinux }
