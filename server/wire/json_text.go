package wire

import (
	"strconv"
	"unicode/utf8"
)

// text reads a string, pos at its quote.
func (r *jsonReader) text() (string, error) {
	r.pos++
	start := r.pos
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; {
		case c == '"':
			raw := r.data[start:r.pos]
			r.pos++
			if !utf8.Valid(raw) {
				return "", r.fault("is not valid UTF-8")
			}
			return string(raw), nil
		case c == '\\':
			return r.escapedText(start)
		case c < 0x20:
			return "", r.syntax()
		}
		r.pos++
	}
	return "", r.syntax()
}

// escapedText goes on where text met the first backslash.
func (r *jsonReader) escapedText(start int) (string, error) {
	out := append([]byte(nil), r.data[start:r.pos]...)
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		r.pos++
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", r.fault("is not valid UTF-8")
			}
			return string(out), nil
		case c < 0x20:
			return "", r.syntax()
		case c != '\\':
			out = append(out, c)
			continue
		}
		e := r.peek()
		r.pos++
		switch e {
		case '"', '\\', '/':
			out = append(out, e)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			c, err := r.escapedRune()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, c)
		default:
			return "", r.syntax()
		}
	}
	return "", r.syntax()
}

// escapedRune reads the digits after \u and the second half of a surrogate
// pair (RFC 8259, 7); half a pair is an error.
func (r *jsonReader) escapedRune() (rune, error) {
	hex4 := func() (rune, bool) {
		if len(r.data)-r.pos < 4 {
			return 0, false
		}
		n, err := strconv.ParseUint(string(r.data[r.pos:r.pos+4]), 16, 16)
		r.pos += 4
		return rune(n), err == nil
	}
	hi, ok := hex4()
	if !ok {
		return 0, r.syntax()
	}
	if hi < 0xd800 || hi > 0xdfff {
		return hi, nil
	}
	if hi <= 0xdbff && r.literal(`\u`) {
		if lo, ok := hex4(); ok && lo >= 0xdc00 && lo <= 0xdfff {
			return (hi-0xd800)<<10 + (lo - 0xdc00) + 0x10000, nil
		}
	}
	return 0, r.fault("has half a surrogate pair")
}
