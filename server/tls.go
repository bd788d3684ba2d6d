package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/clearbox-im/clearbox/server/config"
)

// certificate is the server's certificate; reload replaces it while
// connections go on with the one they began with.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// load reads the files. On an error the former certificate stays.
func (c *certificate) load(t config.TLS) error {
	if _, err := config.ReadSecret(t.KeyFile); err != nil {
		return fmt.Errorf("tls.key_file: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return fmt.Errorf("tls.cert_file and tls.key_file: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

// tlsConfig is what clients and peers meet. TLS 1.2 is an opt-in for clients
// only: federation refuses requests below 1.3 (see doors).
func (c *certificate) tlsConfig(min string) *tls.Config {
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
		NextProtos:     []string{"h2", "http/1.1"},
	}
	if min == "1.2" {
		conf.MinVersion = tls.VersionTLS12
		// ECDHE with AEAD only (BSI TR-02102-2); TLS 1.3 suites are not configurable.
		conf.CipherSuites = []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		}
	}
	return conf
}

// authorities gives the certificate authorities for peers: the system's, and
// those in file if one is named.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("federation.ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("federation.ca_file: %s holds no certificate", file)
	}
	return pool, nil
}
