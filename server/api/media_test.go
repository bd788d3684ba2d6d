package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/media"
	"github.com/clearbox-im/clearbox/server/wire"
)

var mediaSecret = [32]byte{5}

func announcement(object clearbox.ObjectID, size int) wire.NewMedia {
	hash := sha256.Sum256(mediaSecret[:])
	return wire.NewMedia{Object: object, Size: int64(size), Reader: hash[:]}
}

func (s *someone) part(object clearbox.ObjectID, at int, body []byte) answer {
	return s.w.request(s.w.server.URL, "PUT", "/media/"+object.String()+"?offset="+strconv.Itoa(at), s.tokens.Access, bytes.NewReader(body),
		func(r *http.Request) { r.Header.Set("Content-Type", "application/octet-stream") })
}

func (s *someone) fetch(method string, object clearbox.ObjectID, headers ...string) answer {
	return s.w.request(s.w.server.URL, method, "/media/"+string(home)+"/"+object.String(), s.tokens.Access, nil, func(r *http.Request) {
		r.Header.Set(wire.HeaderMediaSecret, base64.RawURLEncoding.EncodeToString(mediaSecret[:]))
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
	})
}

func TestMedia(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	object := clearbox.ObjectID{1, 2, 3}
	all := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	digest := sha256.Sum256(all)
	var st wire.Media
	if a := w.do("POST", "/media", alice.tokens.Access, announcement(object, len(all))); a.status != http.StatusCreated || a.header.Get("Location") != "/media/"+object.String() {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := w.do("POST", "/media", alice.tokens.Access, announcement(object, len(all))); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	alice.part(object, 0, all[:1_000_000]).into(t, &st)
	if st.Offset != 1_000_000 || st.Whole || st.Size != int64(len(all)) {
		t.Errorf("%+v", st)
	}
	again := alice.part(object, 0, all)
	again.want(t, http.StatusConflict, clearbox.CodeConflict, "")
	if at := again.header.Get(wire.HeaderUploadOffset); at != "1000000" {
		t.Errorf("it stands at %q", at)
	}
	if a := w.do("HEAD", "/media/"+object.String(), alice.tokens.Access, nil); a.status != 200 || a.header.Get(wire.HeaderUploadOffset) != "1000000" || len(a.body) != 0 {
		t.Errorf("%d %v", a.status, a.header)
	}
	w.do("GET", "/media/"+object.String(), bob.tokens.Access, nil).want(t, http.StatusNotFound, clearbox.CodeNotFound, "")
	w.do("POST", "/media/"+object.String(), alice.tokens.Access, wire.MediaFinish{Digest: digest[:]}).want(t, http.StatusConflict, clearbox.CodeConflict, "")
	bob.fetch("GET", object).want(t, http.StatusNotFound, clearbox.CodeNotFound, "")
	alice.part(object, 1_000_000, all[1_000_000:]).into(t, &st)
	w.do("POST", "/media/"+object.String(), alice.tokens.Access, wire.MediaFinish{Digest: digest[:]}).into(t, &st)
	if !st.Whole || st.Offset != st.Size {
		t.Errorf("%+v", st)
	}

	a := bob.fetch("GET", object)
	if a.status != http.StatusOK || !bytes.Equal(a.body, all) {
		t.Fatalf("%d, %d bytes", a.status, len(a.body))
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes",
		"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff", "Content-Length": strconv.Itoa(len(all))} {
		if a.header.Get(name) != want {
			t.Errorf("%s: %q", name, a.header.Get(name))
		}
	}
	if a.header.Get("ETag") == "" {
		t.Error("no ETag")
	}
	for header, want := range map[string][2]int{"bytes=0-0": {0, 1}, "bytes=100-": {100, len(all)}, "bytes=524287-524288": {524_287, 524_289}, "bytes=1599999-9999999": {1_599_999, 1_600_000}} {
		a := bob.fetch("GET", object, "Range", header)
		if a.status != http.StatusPartialContent || !bytes.Equal(a.body, all[want[0]:want[1]]) {
			t.Errorf("%s: %d, %d bytes", header, a.status, len(a.body))
		}
		if got, want := a.header.Get("Content-Range"), "bytes "+strconv.Itoa(want[0])+"-"+strconv.Itoa(want[1]-1)+"/1600000"; got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	for _, header := range []string{"bytes=-5", "bytes=0-1,5-6", "bytes=7-3", "lines=1-2"} {
		if a := bob.fetch("GET", object, "Range", header); a.status != http.StatusOK || len(a.body) != len(all) {
			t.Errorf("%s: %d, %d bytes", header, a.status, len(a.body))
		}
	}
	if a := bob.fetch("GET", object, "Range", "bytes=0-0", "If-Range", `"x"`); a.status != http.StatusOK || len(a.body) != len(all) {
		t.Errorf("If-Range: %d", a.status)
	}
	beyond := bob.fetch("GET", object, "Range", "bytes=1600000-")
	beyond.want(t, http.StatusRequestedRangeNotSatisfiable, clearbox.CodeRange, "")
	if beyond.header.Get("Content-Range") != "bytes */1600000" {
		t.Errorf("%v", beyond.header)
	}
	if a := bob.fetch("HEAD", object); a.status != http.StatusOK || len(a.body) != 0 || a.header.Get("Content-Length") != "1600000" {
		t.Errorf("%d %v", a.status, a.header)
	}
	bob.fetch("GET", object, wire.HeaderMediaSecret, "short").want(t, http.StatusBadRequest, clearbox.CodeBadRequest, "")
	bob.fetch("GET", object, wire.HeaderMediaSecret, base64.RawURLEncoding.EncodeToString(make([]byte, 32))).want(t, http.StatusNotFound, clearbox.CodeNotFound, "")
	w.do("DELETE", "/media/"+object.String(), bob.tokens.Access, nil).want(t, http.StatusNotFound, clearbox.CodeNotFound, "")
	if a := w.do("DELETE", "/media/"+object.String(), alice.tokens.Access, nil); a.status != http.StatusNoContent {
		t.Errorf("%d", a.status)
	}
	bob.fetch("GET", object).want(t, http.StatusNotFound, clearbox.CodeNotFound, "")
}

func TestMediaIsRefused(t *testing.T) {
	w := newWorld(t, setup{media: media.Options{MaxObject: 1000, MaxAccount: 1500}})
	alice := w.join("alice")
	object := clearbox.ObjectID{1}
	w.do("POST", "/media", alice.tokens.Access, announcement(object, 1001)).want(t, http.StatusRequestEntityTooLarge, clearbox.CodeTooLarge, "")
	w.do("POST", "/media", alice.tokens.Access, announcement(object, 0)).want(t, http.StatusBadRequest, clearbox.CodeBadRequest, "/size")
	w.do("POST", "/media", alice.tokens.Access, announcement(object, 1000))
	w.do("POST", "/media", alice.tokens.Access, announcement(clearbox.ObjectID{2}, 501)).want(t, http.StatusForbidden, clearbox.CodeQuota, "")
	w.do("POST", "/media", "", announcement(clearbox.ObjectID{2}, 5)).want(t, http.StatusUnauthorized, clearbox.CodeUnauthorized, "")
	alice.part(object, 0, make([]byte, 1001)).want(t, http.StatusRequestEntityTooLarge, clearbox.CodeTooLarge, "")
	alice.part(object, 0, make([]byte, wire.MaxMediaPart+1)).want(t, http.StatusRequestEntityTooLarge, clearbox.CodeTooLarge, "")
	w.do("PUT", "/media/"+object.String()+"?offset=0", alice.tokens.Access, "{}").want(t, http.StatusUnsupportedMediaType, clearbox.CodeUnsupportedMedia, "")
	w.do("GET", "/media/short", alice.tokens.Access, nil).want(t, http.StatusNotFound, clearbox.CodeNotFound, "")
	alice.part(clearbox.ObjectID{7}, 0, []byte{1}).want(t, http.StatusNotFound, clearbox.CodeNotFound, "")
}

// Each part is synced, so tiny ones are bounded; who is told to wait goes on.
func TestMediaInTinyParts(t *testing.T) {
	var now atomic.Int64 // stands still, so that nothing is gained meanwhile
	w := newWorld(t, setup{api: api.Options{Now: func() time.Time { return time.Unix(1_800_000_000+now.Load(), 0) }}})
	alice := w.join("alice")
	object := clearbox.ObjectID{1}
	w.do("POST", "/media", alice.tokens.Access, announcement(object, 1000))
	at := 0
	for ; at < 100; at++ {
		if a := alice.part(object, at, []byte{7}); a.status != http.StatusOK {
			a.want(t, http.StatusTooManyRequests, clearbox.CodeRateLimited, "")
			break
		}
	}
	if at != 60 {
		t.Errorf("%d parts at once", at)
	}
	now.Add(1)
	if a := alice.part(object, at, []byte{7}); a.status != http.StatusOK {
		t.Errorf("a second later: %d %s", a.status, a.body)
	}
}

// A connection that breaks in the middle of a part loses nothing that came.
func TestMediaPartThatBreaksOff(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.join("alice")
	object, all := clearbox.ObjectID{1}, bytes.Repeat([]byte{7}, 900_000)
	w.do("POST", "/media", alice.tokens.Access, announcement(object, len(all)))
	body, feed := io.Pipe()
	r, err := http.NewRequest("PUT", w.server.URL+"/media/"+object.String()+"?offset=0", body)
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = int64(len(all))
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set("Authorization", "Bearer "+alice.tokens.Access)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		feed.Write(all[:600_000])
		feed.CloseWithError(io.ErrClosedPipe)
	}()
	if res, err := w.server.Client().Do(r); err == nil {
		res.Body.Close()
		t.Errorf("answered %d", res.StatusCode)
	}
	<-sent
	var st wire.Media
	for { // the server notices a moment later
		w.do("GET", "/media/"+object.String(), alice.tokens.Access, nil).into(t, &st)
		if st.Offset == 600_000 {
			break
		}
	}
	alice.part(object, int(st.Offset), all[st.Offset:]).into(t, &st)
	digest := sha256.Sum256(all)
	w.do("POST", "/media/"+object.String(), alice.tokens.Access, wire.MediaFinish{Digest: digest[:]}).into(t, &st)
	if a := alice.fetch("GET", object); !bytes.Equal(a.body, all) {
		t.Errorf("%d bytes", len(a.body))
	}
}
