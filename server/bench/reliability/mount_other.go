//go:build !linux

package main

import (
	"errors"
	"syscall"
)

func ownMounts() *syscall.SysProcAttr { return nil }

func mountSmall(string, int64) error { return errors.New("this test needs Linux") }
