package servertest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// What an attachment's origin sees of a reader elsewhere is the reader's server
// and nothing else; the reader's server keeps nothing; and what is deleted at the
// origin is gone.
func TestThreat21AttachmentsDoNotTellTheirReaders(t *testing.T) {
	makers := authtest.New(t, auth.Options{})
	servertest.Run(t, []clearbox.ServerName{"a.test", "b.test"}, func(w *servertest.World) {
		var mu sync.Mutex
		var seen []string // what the origin was asked, without the bodies: those have an object, its secret and an offset
		w.House("a.test").Watch(func(r *http.Request) {
			if r.URL.Path != federation.PathMedia {
				return
			}
			var head strings.Builder
			fmt.Fprintf(&head, "%s %s from %s\r\n", r.Method, r.RequestURI, r.RemoteAddr)
			r.Header.Write(&head)
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, head.String())
		})
		alice, bob := joinBare(w, makers, "alice", "a.test"), joinBare(w, makers, "bob", "b.test")
		all := bytes.Repeat([]byte("ciphertext"), 200_000)
		secret, object, digest := [32]byte{1, 2, 3}, clearbox.ObjectID{4}, sha256.Sum256(all)
		hash := sha256.Sum256(secret[:])
		alice.do("POST", "/media", wire.NewMedia{Object: object, Size: int64(len(all)), Reader: hash[:]}, nil)
		alice.raw("PUT", "/media/"+object.String()+"?offset=0", all, nil)
		alice.do("POST", "/media/"+object.String(), wire.MediaFinish{Digest: digest[:]}, nil)
		show := map[string]string{wire.HeaderMediaSecret: base64.RawURLEncoding.EncodeToString(secret[:])}
		read := func() core.Response { return bob.raw("GET", "/media/a.test/"+object.String(), nil, show) }
		if res := read(); res.Status != http.StatusOK || !bytes.Equal(res.Body, all) {
			t.Fatalf("%d, %d bytes", res.Status, len(res.Body))
		}
		mu.Lock()
		asked := seen
		mu.Unlock()
		if len(asked) < 4 {
			t.Errorf("%d questions for %d bytes", len(asked), len(all))
		}
		headers := map[string]bool{"Accept-Encoding": true, "Clearbox-Destination": true, "Clearbox-Origin": true, "Clearbox-Version": true, "Content-Digest": true,
			"Content-Length": true, "Content-Type": true, "Signature": true, "Signature-Input": true, "User-Agent": true}
		for _, q := range asked {
			for _, line := range strings.Split(q, "\r\n") {
				if name, value, ok := strings.Cut(line, ": "); ok && (!headers[name] || name == "User-Agent" && !strings.HasPrefix(value, "Go-http-client")) {
					t.Errorf("a header that need not be: %q", line)
				}
			}
			for what, trace := range map[string]string{"uid": string(bob.User.UID), "name": "bob", "token": bob.token, "session": "Authorization", "address": "Forwarded"} {
				if strings.Contains(q, trace) {
					t.Errorf("the origin sees the reader's %s:\n%q", what, q)
				}
			}
		}
		filepath.WalkDir(w.House("b.test").Conf.MediaPath(), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				t.Errorf("the reader's server kept %s", path)
			}
			return err
		})
		alice.do("DELETE", "/media/"+object.String(), nil, nil)
		if res := read(); res.Status != http.StatusNotFound {
			t.Errorf("after its deletion: %d", res.Status)
		}
	})
}

// raw is do for bodies that are no JSON.
func (p *bare) raw(method, path string, body []byte, headers map[string]string) core.Response {
	p.w.T.Helper()
	res, err := p.line.Do(p.w.T.Context(), core.Request{Method: method, Path: path, Token: p.token, Body: body, Type: "application/octet-stream", Header: headers})
	if err != nil {
		p.w.T.Fatalf("%s %s: %v", method, path, err)
	}
	return res
}
