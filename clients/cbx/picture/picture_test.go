package picture_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"testing"

	"github.com/clearbox-im/clearbox/clients/cbx/picture"
)

const canary = "lat 48.2082 lon 16.3738 by Ada's phone"

// painted is a picture whose corners have four colours.
func painted(w, h int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{A: 255}
			if x < w/2 {
				c.R = 255
			}
			if y < h/2 {
				c.G = 255
			}
			img.SetRGBA(x, y, c)
		}
	}
	return img
}

func segment(mark byte, body string) []byte {
	out := []byte{0xff, mark, 0, 0}
	binary.BigEndian.PutUint16(out[2:], uint16(len(body)+2))
	return append(out, body...)
}

// exif is a segment as cameras write it, with a turn and what is nobody's business.
func exif(turn byte) []byte {
	tiff := "MM\x00\x2a\x00\x00\x00\x08\x00\x02" +
		"\x01\x0f\x00\x02\x00\x00\x00\x04abc\x00" +
		"\x01\x12\x00\x03\x00\x00\x00\x01\x00" + string(turn) + "\x00\x00" +
		"\x00\x00\x00\x00" + canary
	return segment(0xe1, "Exif\x00\x00"+tiff)
}

func aJPEG(t testing.TB, turn byte) []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, painted(64, 32), &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	out := append([]byte{}, b.Bytes()[:2]...)
	out = append(out, segment(0xe0, "JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")...)
	out = append(out, exif(turn)...)
	out = append(out, segment(0xe1, "http://ns.adobe.com/xap/1.0/\x00"+canary)...)
	out = append(out, segment(0xe2, "ICC_PROFILE\x00\x01\x01colours")...)
	out = append(out, segment(0xed, "Photoshop 3.0\x00"+canary)...)
	out = append(out, segment(0xfe, canary)...)
	out = append(out, b.Bytes()[2:]...)
	return append(out, canary...) // some append a film
}

func chunk(kind, body string) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	out = append(out, kind+body...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE([]byte(kind+body)))
}

func aPNG(t testing.TB) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, painted(64, 32)); err != nil {
		t.Fatal(err)
	}
	out := append([]byte{}, b.Bytes()[:33]...) // signature and IHDR
	for _, kind := range []string{"tEXt", "iTXt", "zTXt", "eXIf", "tIME", "prVt"} {
		out = append(out, chunk(kind, canary)...)
	}
	out = append(out, chunk("gAMA", "\x00\x00\xb1\x8f")...)
	return append(append(out, b.Bytes()[33:]...), canary...)
}

func aGIF(t testing.TB) []byte {
	pal := color.Palette{color.White, color.Black, color.RGBA{255, 0, 0, 255}}
	a, b := image.NewPaletted(image.Rect(0, 0, 20, 10), pal), image.NewPaletted(image.Rect(0, 0, 20, 10), pal)
	b.SetColorIndex(3, 3, 2)
	var out bytes.Buffer
	if err := gif.EncodeAll(&out, &gif.GIF{Image: []*image.Paletted{a, b}, Delay: []int{5, 5}, LoopCount: 3}); err != nil {
		t.Fatal(err)
	}
	file := out.Bytes()
	at := 13
	if file[10]&0x80 != 0 {
		at += 3 << (file[10]&7 + 1)
	}
	note := append([]byte{0x21, 0xfe, byte(len(canary))}, canary...)
	xmp := append([]byte{0x21, 0xff, 11}, "XMP DataXMP"...)
	xmp = append(append(xmp, byte(len(canary))), canary...)
	extra := append(append(append(note, 0), xmp...), 0)
	return append(append(append(append([]byte{}, file[:at]...), extra...), file[at:]...), canary...)
}

func aWebP() []byte {
	part := func(kind, body string) string {
		s := kind + string(binary.LittleEndian.AppendUint32(nil, uint32(len(body)))) + body
		if len(body)%2 == 1 {
			s += "\x00"
		}
		return s
	}
	body := "WEBP" + part("VP8X", "\x1c\x00\x00\x00\x0f\x00\x00\x0f\x00\x00") + part("ICCP", "colours") + part("VP8 ", "pixels") + part("EXIF", canary) + part("XMP ", canary)
	return []byte("RIFF" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(body)))) + body + canary)
}

func TestStrip(t *testing.T) {
	for kind, file := range map[string][]byte{picture.JPEG: aJPEG(t, 1), picture.PNG: aPNG(t), picture.GIF: aGIF(t), picture.WebP: aWebP()} {
		if got := picture.Kind(file); got != kind || !bytes.Contains(file, []byte(canary)) {
			t.Fatalf("%s: %q", kind, got)
		}
		bare, err := picture.Strip(file)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if bytes.Contains(bare, []byte(canary)) {
			t.Errorf("%s: it still tells", kind)
		}
		again, err := picture.Strip(bare)
		if err != nil || !bytes.Equal(again, bare) {
			t.Errorf("%s: twice is not once: %v", kind, err)
		}
		if kind == picture.WebP {
			if !bytes.Contains(bare, []byte("pixels")) || !bytes.Contains(bare, []byte("colours")) || bare[20]&0x0c != 0 {
				t.Errorf("%q", bare)
			}
			continue
		}
		one, _, err1 := image.Decode(bytes.NewReader(file))
		two, _, err2 := image.Decode(bytes.NewReader(bare))
		if err1 != nil || err2 != nil || one.Bounds() != two.Bounds() {
			t.Errorf("%s: %v, %v", kind, err1, err2)
			continue
		}
		for y := range one.Bounds().Dy() {
			for x := range one.Bounds().Dx() {
				if one.At(x, y) != two.At(x, y) {
					t.Fatalf("%s: another pixel at %d, %d", kind, x, y)
				}
			}
		}
		if kind == picture.JPEG && !bytes.Contains(bare, []byte("ICC_PROFILE")) {
			t.Error("the colour profile is gone")
		}
		if kind == picture.GIF {
			if g, err := gif.DecodeAll(bytes.NewReader(bare)); err != nil || len(g.Image) != 2 || g.LoopCount != 3 || g.Delay[1] != 5 {
				t.Errorf("the animation: %+v %v", g, err)
			}
		}
	}
	if b, err := picture.Strip([]byte("%PDF-1.7")); err != nil || string(b) != "%PDF-1.7" {
		t.Errorf("%q %v", b, err)
	}
}

// A picture that is cut anywhere is damaged, or complete without its end.
func TestStripDamaged(t *testing.T) {
	for _, file := range [][]byte{aJPEG(t, 6), aPNG(t), aGIF(t), aWebP()} {
		whole, err := picture.Strip(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := 12; n < len(file)-len(canary); n++ {
			if b, err := picture.Strip(file[:n]); err == nil && picture.Kind(file[:n]) != "" && !bytes.Equal(b, whole) {
				t.Errorf("%s cut at %d of %d was taken", picture.Kind(file), n, len(file))
				break
			}
		}
	}
}

func TestTurnIsKept(t *testing.T) {
	for turn := byte(1); turn <= 8; turn++ {
		file := aJPEG(t, turn)
		bare, err := picture.Strip(file)
		if err != nil {
			t.Fatal(err)
		}
		a, b := picture.Look(file, 32, 32<<10), picture.Look(bare, 32, 32<<10)
		if a.Width != b.Width || a.Height != b.Height || !bytes.Equal(a.Thumbnail, b.Thumbnail) || len(a.Thumbnail) == 0 {
			t.Errorf("%d: %dx%d, %dx%d", turn, a.Width, a.Height, b.Width, b.Height)
		}
		if turned := turn >= 5; turned != (a.Height > a.Width) {
			t.Errorf("%d: %dx%d", turn, a.Width, a.Height)
		}
	}
}

// The corner that is yellow in the file comes where the turn puts it.
func TestTurns(t *testing.T) {
	yellow := map[byte][2]int{1: {0, 0}, 2: {1, 0}, 3: {1, 1}, 4: {0, 1}, 5: {0, 0}, 6: {1, 0}, 7: {1, 1}, 8: {0, 1}}
	for turn, corner := range yellow {
		p := picture.Look(aJPEG(t, turn), 64, 32<<10)
		img, err := jpeg.Decode(bytes.NewReader(p.Thumbnail))
		if err != nil {
			t.Fatal(err)
		}
		b := img.Bounds()
		x, y := b.Dx()/8+corner[0]*b.Dx()*3/4, b.Dy()/8+corner[1]*b.Dy()*3/4
		if r, g, _, _ := img.At(x, y).RGBA(); r < 0xd000 || g < 0xd000 {
			t.Errorf("turn %d: %x %x at %d, %d of %v", turn, r, g, x, y, b)
		}
	}
}

func TestLook(t *testing.T) {
	for kind, file := range map[string][]byte{picture.JPEG: aJPEG(t, 1), picture.PNG: aPNG(t), picture.GIF: aGIF(t)} {
		p := picture.Look(file, 16, 4<<10)
		c, err := jpeg.DecodeConfig(bytes.NewReader(p.Thumbnail))
		if err != nil || max(c.Width, c.Height) > 16 || p.Mime != kind || p.Width == 0 || bytes.Contains(p.Thumbnail, []byte(canary)) {
			t.Errorf("%s: %+v %v", kind, p, err)
		}
		if p := picture.Look(file, 16, 10); p.Thumbnail != nil || p.Width == 0 {
			t.Errorf("%s: a small picture in 10 bytes", kind)
		}
	}
	// A bomb: a few bytes that say they are a picture of 40,000 by 40,000.
	bomb := append([]byte("\x89PNG\r\n\x1a\n"), chunk("IHDR", "\x00\x00\x9c\x40\x00\x00\x9c\x40\x08\x02\x00\x00\x00")...)
	if p := picture.Look(bomb, 16, 4<<10); p.Thumbnail != nil || p.Width != 40_000 {
		t.Errorf("%+v", p)
	}
	if p := picture.Look([]byte("text"), 16, 4<<10); p.Mime != "" {
		t.Errorf("%+v", p)
	}
}

func FuzzStrip(f *testing.F) {
	f.Add(aJPEG(f, 6))
	f.Add(aPNG(f))
	f.Add(aGIF(f))
	f.Add(aWebP())
	f.Fuzz(func(t *testing.T, file []byte) {
		bare, err := picture.Strip(file)
		if err != nil {
			return
		}
		again, err := picture.Strip(bare)
		if err != nil || !bytes.Equal(again, bare) {
			t.Errorf("%q, then %q: %v", bare, again, err)
		}
		if len(bare) > len(file)+40 {
			t.Errorf("%d bytes became %d", len(file), len(bare))
		}
	})
}
