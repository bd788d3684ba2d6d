//go:build linux || darwin || freebsd

package main

import "syscall"

// diskFree is the space that an ordinary user may still fill, in bytes.
func diskFree(dir string) (int64, bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true
}
