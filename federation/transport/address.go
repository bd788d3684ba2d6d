package transport

import (
	"fmt"
	"net/netip"

	"github.com/clearbox-im/clearbox"
)

// AddressError says that a host has no address that may be dialled.
type AddressError struct{ Host string }

// Error names the host.
func (e *AddressError) Error() string {
	return fmt.Sprintf("%s has no public address; a peer inside a private network needs allow_private", e.Host)
}

// Unwrap gives the error its code.
func (e *AddressError) Unwrap() error { return &clearbox.Error{Code: clearbox.CodeForbidden} }

// Ranges that are global unicast by form and lead somewhere private or nowhere
// (IANA special-purpose address registries).
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // RFC 1122, 3.2.1.3
	netip.MustParsePrefix("100.64.0.0/10"),  // RFC 6598, carrier NAT
	netip.MustParsePrefix("192.0.0.0/24"),   // RFC 6890
	netip.MustParsePrefix("198.18.0.0/15"),  // RFC 2544, benchmarking
	netip.MustParsePrefix("240.0.0.0/4"),    // RFC 1112, reserved
	netip.MustParsePrefix("::/96"),          // IPv4-compatible
	netip.MustParsePrefix("64:ff9b:1::/48"), // RFC 8215, local NAT64
	netip.MustParsePrefix("100::/64"),       // RFC 6666, discard
	netip.MustParsePrefix("2001::/32"),      // RFC 4380, Teredo
	netip.MustParsePrefix("fec0::/10"),      // RFC 3879, site-local
	netip.MustParsePrefix("5f00::/16"),      // RFC 9602, segment routing
	netip.MustParsePrefix("2001:db8::/32"),  // RFC 3849, documentation
	netip.MustParsePrefix("192.88.99.0/24"), // RFC 7526, 6to4 relay
	netip.MustParsePrefix("255.255.255.255/32"),
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: an IPv4 address in the last 32 bits
	sixTo4 = netip.MustParsePrefix("2002::/16")    // RFC 3056: an IPv4 address after the prefix
)

// Public tells whether an address may be dialled for a peer that is not marked
// as private: neither loopback, private, link-local, multicast nor reserved, also
// when it is an IPv4 address inside an IPv6 one.
func Public(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range closed {
		if p.Contains(a) {
			return false
		}
	}
	raw := a.As16()
	switch {
	case nat64.Contains(a):
		return Public(netip.AddrFrom4([4]byte(raw[12:16])))
	case sixTo4.Contains(a):
		return Public(netip.AddrFrom4([4]byte(raw[2:6])))
	}
	return true
}
