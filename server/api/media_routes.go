package api

import (
	"encoding/base64"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/media"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Time for attachments. A link that carries less than mediaRate is cut, and goes
// on where it ended.
const (
	mediaRate  = 16 << 10 // bytes a second
	mediaPause = 30 * time.Second
)

func createMedia(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	var in wire.NewMedia
	if err := c.body(&in); err != nil {
		return err
	}
	up, created, err := c.api.parts.Media.Create(c.ctx(), c.who, in.Object, in.Size, [32]byte(in.Reader))
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
		c.w.Header().Set("Location", "/media/"+in.Object.String())
	}
	return c.replyMedia(status, &up)
}

func (c *call) replyMedia(status int, up *media.Upload) error {
	c.offset(up.Have)
	return c.reply(status, wire.Media{Object: up.Object, Size: up.Size, Offset: up.Have, Whole: up.Whole, Expires: up.Expires})
}

func (c *call) offset(have int64) {
	c.w.Header().Set(wire.HeaderUploadOffset, strconv.FormatInt(have, 10))
}

func (c *call) object() (clearbox.ObjectID, error) {
	object, err := clearbox.ParseObjectID(c.param("object"))
	if err != nil {
		return object, clearbox.Wrap(clearbox.CodeNotFound, "there is no such attachment", err)
	}
	return object, nil
}

func mediaState(c *call) error {
	object, err := c.object()
	if err != nil {
		return err
	}
	up, err := c.api.parts.Media.State(c.ctx(), c.who, object)
	if err != nil {
		return err
	}
	return c.replyMedia(http.StatusOK, &up)
}

// appendMedia takes a part of an upload. What has arrived stays when the
// connection breaks.
func appendMedia(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	object, err := c.object()
	if err != nil {
		return err
	}
	if err := c.knownQuery("offset"); err != nil {
		return err
	}
	if c.r.Header.Get("Content-Type") != "application/octet-stream" || c.r.Header.Get("Content-Encoding") != "" {
		return clearbox.Errorf(clearbox.CodeUnsupportedMedia, "the body must be application/octet-stream")
	}
	at, err := c.queryInt("offset", 0, math.MaxInt64)
	if err != nil {
		return err
	}
	if err := c.api.uploads.Take(c.api.o.Now(), string(c.who.User.UID)); err != nil {
		return err
	}
	most := c.op.maxBody
	if n := c.r.ContentLength; n >= 0 {
		most = n
	}
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(ReadTimeout + time.Duration(most)*time.Second/mediaRate))
	up, err := c.api.parts.Media.Append(c.ctx(), c.who, object, at, c.r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		err = bodyTooLarge(large.Limit)
	case clearbox.CodeOf(err) == clearbox.CodeConflict:
		c.offset(up.Have)
	}
	if err != nil {
		return err
	}
	return c.replyMedia(http.StatusOK, &up)
}

func finishMedia(c *call) error {
	object, err := c.object()
	if err != nil {
		return err
	}
	var in wire.MediaFinish
	if err := c.body(&in); err != nil {
		return err
	}
	up, err := c.api.parts.Media.Finish(c.ctx(), c.who, object, [32]byte(in.Digest))
	if err != nil {
		return err
	}
	return c.replyMedia(http.StatusOK, &up)
}

func deleteMedia(c *call) error {
	object, err := c.object()
	if err != nil {
		return err
	}
	if err := c.api.parts.Media.Delete(c.ctx(), c.who, object); err != nil {
		return err
	}
	return c.done()
}

// readMedia gives an attachment or a part of it, from here or from the server
// that has it, to whom the message that names it told the secret.
func readMedia(c *call) error {
	server, err := clearbox.ParseServerName(c.param("server"))
	if err != nil {
		return clearbox.Wrap(clearbox.CodeNotFound, "there is no such attachment", err)
	}
	object, err := c.object()
	if err != nil {
		return err
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(c.r.Header.Get(wire.HeaderMediaSecret))
	if err != nil || len(secret) != media.SecretSize {
		return clearbox.Errorf(clearbox.CodeBadRequest, "the header %s has 32 bytes in base64url", wire.HeaderMediaSecret)
	}
	part, partial := media.ParseRange(c.r.Header.Get("Range"))
	if c.r.Header.Get("If-Range") != "" {
		part, partial = media.Range{}, false // RFC 9110, 13.1.5: the whole is always right
	}
	c.answerWithin(requestTimeout + WriteTimeout)
	st, err := c.api.parts.Media.Read(c.ctx(), c.who, server, object, [media.SecretSize]byte(secret), part)
	var beyond *media.RangeError
	if errors.As(err, &beyond) {
		c.w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(beyond.Size, 10)) // RFC 9110, 14.4
	}
	if err != nil {
		return err
	}
	defer st.Close()
	return c.stream(st, partial)
}

// stream sends what has a length that is known. A reader that misses something
// in the middle sees it by that length.
func (c *call) stream(st *media.Stream, partial bool) error {
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", "attachment")
	h.Set("Accept-Ranges", "bytes")
	h.Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(st.Digest[:])+`"`)
	h.Set("Content-Length", strconv.FormatInt(st.Length, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", "bytes "+strconv.FormatInt(st.From, 10)+"-"+strconv.FormatInt(st.From+st.Length-1, 10)+"/"+strconv.FormatInt(st.Size, 10))
	}
	c.w.WriteHeader(status)
	if c.r.Method == http.MethodHead {
		return nil
	}
	for {
		b, err := st.Next(c.ctx())
		if err == io.EOF {
			return nil
		}
		if err == nil {
			c.answerWithin(mediaPause)
			_, err = c.w.Write(b)
		}
		if err != nil {
			c.api.o.Log.Debug("attachment cut", "request_id", requestID(c.ctx()), "code", string(codeOf(err)))
			panic(http.ErrAbortHandler) // the status is out: the reader must see that it is not all
		}
	}
}
