package picture

import (
	"image"
	"image/color"
)

// samples is how many pixels each way stand for a small one.
const samples = 4

// small shrinks a picture to at most side pixels each way and turns it upright.
// What is transparent is shown on white.
func small(img image.Image, side, turn int) image.Image {
	b := img.Bounds()
	w, h := b.Dx(), b.Dy()
	if turn >= 5 {
		w, h = h, w
	}
	nw, nh := w, h
	if long := max(w, h); long > side {
		nw, nh = max(1, w*side/long), max(1, h*side/long)
	}
	out := image.NewRGBA(image.Rect(0, 0, nw, nh))
	for y := range nh {
		for x := range nw {
			var r, g, bl uint32
			for sy := range samples {
				for sx := range samples {
					px, py := upright((x*samples+sx)*w/(nw*samples), (y*samples+sy)*h/(nh*samples), w, h, turn)
					cr, cg, cb, ca := img.At(b.Min.X+px, b.Min.Y+py).RGBA()
					r, g, bl = r+cr+0xffff-ca, g+cg+0xffff-ca, bl+cb+0xffff-ca
				}
			}
			const n = samples * samples
			out.SetRGBA(x, y, color.RGBA{uint8(r / n >> 8), uint8(g / n >> 8), uint8(bl / n >> 8), 0xff})
		}
	}
	return out
}

// upright gives where the pixel at x, y of the picture as it is shown, w by h,
// stands in the file.
func upright(x, y, w, h, turn int) (int, int) {
	switch turn {
	case 2:
		return w - 1 - x, y
	case 3:
		return w - 1 - x, h - 1 - y
	case 4:
		return x, h - 1 - y
	case 5:
		return y, x
	case 6:
		return y, w - 1 - x
	case 7:
		return h - 1 - y, w - 1 - x
	case 8:
		return h - 1 - y, x
	}
	return x, y
}
