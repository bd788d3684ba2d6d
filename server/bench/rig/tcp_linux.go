package rig

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Established gives the other ends of a server's connections that the server
// still holds open, as the kernel sees the server's side. A
// connection that the server has closed is missing even where the client has
// not heard of it.
func (s *Server) Established() (map[netip.AddrPort]bool, error) {
	_, text, ok := strings.Cut(s.Address, ":")
	port, err := strconv.Atoi(text)
	if !ok || err != nil {
		return nil, fmt.Errorf("rig: the address %s has no port", s.Address)
	}
	data, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	local := []byte(fmt.Sprintf(":%04X", port))
	out := map[netip.AddrPort]bool{}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		const established = "01"
		if len(f) < 4 || string(f[3]) != established || !bytes.HasSuffix(f[1], local) {
			continue
		}
		if end, ok := endpoint(string(f[2])); ok {
			out[end] = true
		}
	}
	return out, nil
}

// endpoint reads the kernel's 0100007F:1F90, an IPv4 address in the byte order
// of the machine.
func endpoint(s string) (netip.AddrPort, bool) {
	ip, port, ok := strings.Cut(s, ":")
	a, err := strconv.ParseUint(ip, 16, 32)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil {
		return netip.AddrPort{}, false
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(a))
	return netip.AddrPortFrom(netip.AddrFrom4(b), uint16(p)), true
}

// SmallWindow is for net.Dialer.Control: the connection takes as little at a
// time as the kernel lets it. The small segments keep the other end's buffer
// small as well, which is megabytes on loopback otherwise.
func SmallWindow(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = errors.Join(
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096),
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536),
		)
	})
	return errors.Join(err, failed)
}
