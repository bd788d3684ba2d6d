package rig

import "syscall"

// dieWithParent makes the kernel end a server whose test run died.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
