package transport

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Probe is what can be seen of an endpoint without a signature.
type Probe struct {
	Addresses []string // empty when the operator allows private addresses: the name is dialled as it is
	TLS       string   // such as "TLS 1.3"
	ALPN      string
	Expires   time.Time // of the certificate
}

func seen(state tls.ConnectionState) *Probe {
	return &Probe{TLS: tls.VersionName(state.Version), ALPN: state.NegotiatedProtocol, Expires: state.PeerCertificates[0].NotAfter}
}

// Resolve gives the addresses that would be dialled for an endpoint.
func (t *Courier) Resolve(ctx context.Context, base string, allowPrivate bool) ([]string, error) {
	u, err := federation.ParseEndpoint(base)
	if err != nil {
		return nil, err
	}
	if allowPrivate {
		return nil, nil
	}
	addrs, err := t.publicAddresses(ctx, u.Hostname())
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out, nil
}

// Handshake opens one TCP connection to an endpoint, completes TLS and closes
// it.
func (t *Courier) Handshake(ctx context.Context, base string, allowPrivate bool) (*Probe, error) {
	d, err := t.findEndpoint(ctx, base, allowPrivate, false)
	if err != nil {
		return nil, err
	}
	tc, err := t.dialTLS(ctx, d)
	if err != nil {
		return nil, err
	}
	defer tc.Close()
	p := seen(tc.ConnectionState())
	if p.ALPN != string(H2) {
		return p, noHTTP2()
	}
	return p, nil
}

// HandshakeQUIC opens one QUIC connection to an endpoint and closes it. It
// changes no mark, and an endpoint without HTTP/3 takes it three seconds. A
// Courier without HTTP/3 gives an error with clearbox.CodeUnavailable.
func (t *Courier) HandshakeQUIC(ctx context.Context, base string, allowPrivate bool) (*Probe, error) {
	if t.opts.Mode == ModeH2 {
		return nil, clearbox.Errorf(clearbox.CodeUnavailable, "HTTP/3 is off here")
	}
	d, err := t.findEndpoint(ctx, base, allowPrivate, true)
	if err != nil {
		return nil, err
	}
	conn, carrier, err := t.dialQUIC(ctx, d)
	if err != nil {
		return nil, err
	}
	defer closeCarrier(carrier)
	defer conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	return seen(conn.ConnectionState().TLS), nil
}

func (t *Courier) findEndpoint(ctx context.Context, base string, allowPrivate, udp bool) (*destination, error) {
	u, err := federation.ParseEndpoint(base)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialBudget)
	defer cancel()
	return t.find(ctx, placeOf(u, allowPrivate), udp)
}
