package rig

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// ticks is the kernel's unit of CPU time; USER_HZ is 100 on every Linux that Go
// runs on.
const ticks = 100

// CostOf reads a process tree from /proc.
func CostOf(pid int) (Cost, error) {
	var total Cost
	for _, p := range tree(pid) {
		c, err := costOfOne(p)
		if err != nil {
			if p != pid {
				continue // a child that ended meanwhile
			}
			return Cost{}, err
		}
		total.CPU += c.CPU
		total.RSS += c.RSS
		total.Peak += c.Peak
		total.Written += c.Written
		total.Files += c.Files
	}
	return total, nil
}

func costOfOne(pid int) (Cost, error) {
	var c Cost
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return c, err
	}
	_, rest, ok := strings.Cut(string(stat), ") ") // the name may hold blanks
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return c, fmt.Errorf("rig: cannot read %s/stat", dir)
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	c.CPU = (user + system) / ticks
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return c, err
	}
	c.RSS, c.Peak = field(status, "VmRSS:")/1024, field(status, "VmHWM:")/1024
	if io, err := os.ReadFile(dir + "/io"); err == nil {
		c.Written = int64(field(io, "write_bytes:"))
	}
	if fds, err := os.ReadDir(dir + "/fd"); err == nil {
		c.Files = len(fds)
	}
	return c, nil
}

func field(data []byte, name string) float64 {
	_, rest, ok := bytes.Cut(data, []byte(name))
	if !ok {
		return 0
	}
	f := strings.Fields(string(rest[:min(len(rest), 64)]))
	if len(f) == 0 {
		return 0
	}
	v, _ := strconv.ParseFloat(f[0], 64)
	return v
}

// tree is the process and all that descend from it.
func tree(pid int) []int {
	out := []int{pid}
	for i := 0; i < len(out); i++ {
		lists, _ := filepath.Glob("/proc/" + strconv.Itoa(out[i]) + "/task/*/children")
		for _, l := range lists {
			data, _ := os.ReadFile(l)
			for _, f := range strings.Fields(string(data)) {
				if n, err := strconv.Atoi(f); err == nil {
					out = append(out, n)
				}
			}
		}
	}
	return out
}

// Filesystem names the filesystem that holds path and tells whether it keeps
// anything over a power cut.
func Filesystem(path string) (name string, durable bool, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return "", false, err
	}
	switch uint32(st.Type) {
	case 0xEF53:
		return "ext4", true, nil
	case 0x58465342:
		return "xfs", true, nil
	case 0x9123683E:
		return "btrfs", true, nil
	case 0x2FC12FC1:
		return "zfs", true, nil
	case 0xF2F52010:
		return "f2fs", true, nil
	case 0x794c7630:
		return "overlayfs", true, nil
	case 0x01021994:
		return "tmpfs", false, nil
	case 0x858458f6:
		return "ramfs", false, nil
	}
	return fmt.Sprintf("0x%x", uint32(st.Type)), true, nil
}

// Kernel is the release of the running kernel.
func Kernel() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(data))
}

// RaiseFiles lifts the limit of open files as far as it may go and gives it.
// The Go runtime hands the original one to children, which lift their own.
func RaiseFiles() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	l.Cur = l.Max
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return uint64(l.Cur)
}

// OwnCPU is the CPU time of this process alone, in seconds.
func OwnCPU() (float64, error) {
	c, err := costOfOne(os.Getpid())
	return c.CPU, err
}
