package api_test

import (
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/wire"
)

func TestServersAndCertificateOverHTTP(t *testing.T) {
	var root *curve.PrivateKey
	w := newWorld(t, setup{directory: directory.Options{SenderRoot: func() (*curve.PrivateKey, error) { return root, nil }}})
	var err error
	if root, err = curve.GeneratePrivateKey(w.Random); err != nil {
		t.Fatal(err)
	}
	bob := w.join("bob")
	var cert wire.SenderCertificate
	bob.do("GET", "/contacts/certificate", nil).into(t, &cert)
	c, err := certificate.ParseSender(cert.Certificate)
	if err != nil || c.Subject().Identity != bob.Identity.Public() || c.Subject().Expires.UnixMilli() != int64(cert.Expires) {
		t.Fatalf("%v: %+v", err, cert)
	}
	for range 10 {
		bob.do("GET", "/contacts/certificate", nil)
	}
	bob.do("GET", "/contacts/certificate", nil).want(t, 429, clearbox.CodeRateLimited, "")

	var info wire.ServerInfo
	bob.do("GET", "/servers/b.test", nil).into(t, &info)
	if info.Server != "b.test" || info.State != wire.ServerUnreachable || info.Since != 5 || info.Controller != "Clinic" || len(info.Roots) != 1 {
		t.Errorf("%+v", info)
	}
	bob.do("GET", "/servers/B.test", nil).want(t, 404, clearbox.CodeNotFound, "")
	bob.do("GET", "/servers/nothing", nil).want(t, 404, clearbox.CodeNotFound, "")

	w = newWorld(t, setup{})
	w.join("carol").do("GET", "/contacts/certificate", nil).want(t, 501, clearbox.CodeNotImplemented, "")
}
