// Package picture prepares pictures for sending: it takes out what a camera or a
// program wrote beside the picture, such as place, time and device, and makes a
// small one that is shown at once. Pixels are not touched: nothing is encoded
// anew but the small picture.
//
// It knows JPEG, PNG, GIF and WebP by their first bytes, whatever a file is
// called, and leaves everything else alone.
package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
)

// Limits.
const (
	MaxFile   = 64 << 20 // bytes of a file that is looked at
	MaxPixels = 64 << 20 // of a picture that is decoded for a small one
)

// The media types that it knows.
const (
	JPEG = "image/jpeg"
	PNG  = "image/png"
	GIF  = "image/gif"
	WebP = "image/webp"
)

// ErrDamaged is a file that begins like a picture and is none: what is in it
// cannot be told, so nothing is taken out.
var ErrDamaged = errors.New("picture: damaged")

// Picture is what a file shows.
type Picture struct {
	Mime          string // "" for what is no picture that this package knows
	Width, Height int    // as it is shown; 0 if that is not known
	Thumbnail     []byte // JPEG of at most the asked size, or nil
}

// Kind tells by its first bytes which kind of picture a file is; "" for none.
func Kind(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		return JPEG
	case bytes.HasPrefix(head, []byte(pngSignature)):
		return PNG
	case bytes.HasPrefix(head, []byte("GIF87a")), bytes.HasPrefix(head, []byte("GIF89a")):
		return GIF
	case len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP":
		return WebP
	}
	return ""
}

// Strip gives the file without what stands beside the picture. How it is turned
// is kept, as are colour profiles and animations. ErrDamaged for a picture whose parts
// cannot be told apart. What is no picture comes back as it is.
func Strip(file []byte) ([]byte, error) {
	switch Kind(file) {
	case JPEG:
		return stripJPEG(file)
	case PNG:
		return stripPNG(file)
	case GIF:
		return stripGIF(file)
	case WebP:
		return stripWebP(file)
	}
	return file, nil
}

// Look describes a picture and makes a small one of at most side pixels each way
// and most bytes, or none if it does not fit or the picture is too large to
// decode.
func Look(file []byte, side, most int) Picture {
	p := Picture{Mime: Kind(file)}
	var config func(io.Reader) (image.Config, error)
	var decode func(io.Reader) (image.Image, error)
	switch p.Mime {
	case JPEG:
		config, decode = jpeg.DecodeConfig, jpeg.Decode
	case PNG:
		config, decode = png.DecodeConfig, png.Decode
	case GIF:
		config, decode = gif.DecodeConfig, gif.Decode
	default:
		return p
	}
	c, err := config(bytes.NewReader(file))
	if err != nil || c.Width < 1 || c.Height < 1 {
		return Picture{Mime: p.Mime}
	}
	turn := 1
	if p.Mime == JPEG {
		turn = orientation(file)
	}
	p.Width, p.Height = c.Width, c.Height
	if turn >= 5 {
		p.Width, p.Height = c.Height, c.Width
	}
	if int64(c.Width)*int64(c.Height) > MaxPixels {
		return p
	}
	img, err := decode(bytes.NewReader(file))
	if err != nil {
		return p
	}
	for quality := 75; quality >= 25 && p.Thumbnail == nil; quality -= 25 {
		var out bytes.Buffer
		if err := jpeg.Encode(&out, small(img, side, turn), &jpeg.Options{Quality: quality}); err == nil && out.Len() <= most {
			p.Thumbnail = out.Bytes()
		}
		side = side * 3 / 4
	}
	return p
}

const pngSignature = "\x89PNG\r\n\x1a\n"

// pngKept are the ancillary chunks that say how the picture looks.
var pngKept = map[string]bool{
	"tRNS": true, "gAMA": true, "cHRM": true, "sRGB": true, "iCCP": true, "cICP": true, "sBIT": true, "bKGD": true, "pHYs": true, "hIST": true,
	"acTL": true, "fcTL": true, "fdAT": true,
}

// stripPNG keeps critical chunks and those of pngKept.
func stripPNG(file []byte) ([]byte, error) {
	out := append(make([]byte, 0, len(file)), pngSignature...)
	for b := file[len(pngSignature):]; ; {
		if len(b) < 12 {
			return nil, ErrDamaged
		}
		n := int64(binary.BigEndian.Uint32(b)) + 12
		if n > int64(len(b)) {
			return nil, ErrDamaged
		}
		kind := string(b[4:8])
		if kind[0]&0x20 == 0 || pngKept[kind] { // upper case: critical
			out = append(out, b[:n]...)
		}
		if b = b[n:]; kind == "IEND" {
			return out, nil // what is behind the end is no picture
		}
	}
}

// stripGIF keeps images, the extensions that steer them, and how often an
// animation is repeated.
func stripGIF(file []byte) ([]byte, error) {
	if len(file) < 13 {
		return nil, ErrDamaged
	}
	at := 13 + colours(file[10])
	if at > len(file) {
		return nil, ErrDamaged
	}
	out := append(make([]byte, 0, len(file)), file[:at]...)
	for at < len(file) {
		from := at
		keep := true
		switch file[at] {
		case 0x3b: // the end
			return append(out, 0x3b), nil
		case 0x2c: // an image
			if at+10 > len(file) {
				return nil, ErrDamaged
			}
			at += 10 + colours(file[at+9]) + 1
		case 0x21: // an extension
			if at+2 > len(file) {
				return nil, ErrDamaged
			}
			label := file[at+1]
			at += 2
			keep = label == 0xf9 || label == 0x01 || label == 0xff && at+12 <= len(file) && (string(file[at+1:at+12]) == "NETSCAPE2.0" || string(file[at+1:at+12]) == "ANIMEXTS1.0")
		default:
			return nil, ErrDamaged
		}
		for { // its blocks
			if at >= len(file) {
				return nil, ErrDamaged
			}
			n := int(file[at])
			if at += 1 + n; n == 0 {
				break
			}
		}
		if keep {
			out = append(out, file[from:at]...)
		}
	}
	return nil, ErrDamaged
}

// colours is the size of a colour table that packed announces.
func colours(packed byte) int {
	if packed&0x80 == 0 {
		return 0
	}
	return 3 << (packed&7 + 1)
}

// stripWebP leaves the chunks EXIF and XMP out, and what is behind the end.
func stripWebP(file []byte) ([]byte, error) {
	size := int64(binary.LittleEndian.Uint32(file[4:])) + 8
	if size > int64(len(file)) || size < 12 {
		return nil, ErrDamaged
	}
	out := append(make([]byte, 0, size), file[:12]...)
	for b := file[12:size]; len(b) > 0; {
		if len(b) < 8 {
			return nil, ErrDamaged
		}
		n := int64(binary.LittleEndian.Uint32(b[4:])) + 8
		n += n & 1
		if n > int64(len(b)) {
			return nil, ErrDamaged
		}
		switch kind := string(b[:4]); kind {
		case "EXIF", "XMP ":
		case "VP8X":
			at := len(out)
			if out = append(out, b[:n]...); n > 8 {
				out[at+8] &^= 0x0c // it has neither
			}
		default:
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
	return out, nil
}
