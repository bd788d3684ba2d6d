package picture

import (
	"bytes"
	"encoding/binary"
)

// Segments of a JPEG file (ITU-T T.81, B.1).
const (
	markSOI  = 0xd8
	markEOI  = 0xd9
	markSOS  = 0xda
	markAPP0 = 0xe0
	markAPP1 = 0xe1
	markAPP2 = 0xe2
	markAPPE = 0xee
	markAPPF = 0xef
	markCOM  = 0xfe
)

// stripJPEG leaves comments and application segments out, but for JFIF, colour
// profiles and Adobe's note on colours, without which it looks different. How the
// picture is turned is written anew, alone. Between the scans of a progressive
// picture segments may stand as well.
func stripJPEG(file []byte) ([]byte, error) {
	out := append(make([]byte, 0, len(file)), file[:2]...)
	turned := false
	turn := orientation(file)
	for b := file[2:]; ; {
		mark, segment, rest, ok := nextSegment(b)
		if !ok {
			return nil, ErrDamaged
		}
		b = rest
		switch {
		case mark == markEOI:
			return append(out, 0xff, markEOI), nil // what is behind the end is no picture
		case mark == markAPP0 && bytes.HasPrefix(segment[4:], []byte("JFIF\x00")),
			mark == markAPP2 && bytes.HasPrefix(segment[4:], []byte("ICC_PROFILE\x00")),
			mark == markAPPE && bytes.HasPrefix(segment[4:], []byte("Adobe")):
			out = append(out, segment...)
		case mark >= markAPP0 && mark <= markAPPF || mark == markCOM:
		default:
			if !turned && turn != 1 {
				out = append(out, turnSegment(turn)...)
			}
			turned = true
			out = append(out, segment...)
			if mark == markSOS {
				n, ok := scan(b)
				if !ok {
					return nil, ErrDamaged
				}
				out, b = append(out, b[:n]...), b[n:]
			}
		}
	}
}

// nextSegment cuts a segment off, with its marker; of those without a length the
// marker is all.
func nextSegment(b []byte) (mark byte, segment, rest []byte, ok bool) {
	for len(b) > 1 && b[0] == 0xff && b[1] == 0xff {
		b = b[1:] // fill bytes
	}
	if len(b) < 2 || b[0] != 0xff || b[1] == 0 {
		return 0, nil, nil, false
	}
	mark = b[1]
	if mark == markEOI || mark == markSOI || mark >= 0xd0 && mark <= 0xd7 || mark == 0x01 {
		return mark, b[:2], b[2:], mark != markSOI
	}
	if len(b) < 4 {
		return 0, nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[2:])) + 2
	if n < 4 || n > len(b) {
		return 0, nil, nil, false
	}
	return mark, b[:n], b[n:], true
}

// scan is the length of the coded data that follows the head of a scan.
func scan(b []byte) (int, bool) {
	for i := 0; i+1 < len(b); i++ {
		if b[i] == 0xff && b[i+1] != 0 && b[i+1] != 0xff && (b[i+1] < 0xd0 || b[i+1] > 0xd7) {
			return i, true
		}
	}
	return 0, false
}

// orientation reads how a picture is turned (Exif 2.3, tag 0x0112); 1 is upright.
func orientation(file []byte) int {
	for b := file[2:]; ; {
		mark, segment, rest, ok := nextSegment(b)
		if !ok || mark == markSOS || mark == markEOI {
			return 1
		}
		b = rest
		if mark == markAPP1 && bytes.HasPrefix(segment[4:], []byte("Exif\x00\x00")) {
			return turnOf(segment[10:])
		}
	}
}

// turnOf looks for the tag in the first directory of a TIFF structure.
func turnOf(tiff []byte) int {
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case len(tiff) < 8:
		return 1
	case string(tiff[:2]) == "MM":
		order = binary.BigEndian
	case string(tiff[:2]) != "II":
		return 1
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return 1
	}
	for i, n := int64(0), int64(order.Uint16(tiff[at:])); i < n; i++ {
		entry := at + 2 + 12*i
		if entry+12 > int64(len(tiff)) {
			return 1
		}
		if e := tiff[entry:]; order.Uint16(e) == 0x0112 {
			if turn := int(order.Uint16(e[8:])); turn >= 1 && turn <= 8 {
				return turn
			}
			return 1
		}
	}
	return 1
}

// turnSegment is an Exif segment with the orientation and nothing else.
func turnSegment(turn int) []byte {
	return []byte{
		0xff, markAPP1, 0, 34, 'E', 'x', 'i', 'f', 0, 0,
		'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1,
		0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, byte(turn), 0, 0,
		0, 0, 0, 0,
	}
}
