package wire

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// appendJSON writes v with encoding/json and without HTML escapes.
func appendJSON(dst []byte, v any) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// decodeJSON reads one JSON text (RFC 8259) more strictly than encoding/json:
// names match exactly, a repeated name, bad UTF-8, half a surrogate pair,
// null for a value that cannot be absent and non-canonical base64 are errors,
// and every error has a JSON pointer.
func decodeJSON(data []byte, into any, lenient bool) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic("wire: decode into " + v.Kind().String())
	}
	r := jsonReader{data: data, lenient: lenient}
	r.space()
	if err := r.value(v.Elem()); err != nil {
		return err
	}
	r.space()
	if r.pos != len(r.data) {
		r.path = r.path[:0]
		return r.fault("there is something after the value")
	}
	return nil
}

type jsonReader struct {
	data    []byte
	pos     int
	path    []string // escaped reference tokens of the value being read
	lenient bool
}

func (r *jsonReader) pointer() string {
	if len(r.path) == 0 {
		return ""
	}
	return "/" + strings.Join(r.path, "/")
}

func (r *jsonReader) fault(detail string) *InvalidError { return invalid(r.pointer(), detail) }

func (r *jsonReader) syntax() *InvalidError { return r.fault("is not valid JSON") }

func (r *jsonReader) space() {
	for r.pos < len(r.data) {
		switch r.data[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

// peek is the next byte, or 0 at the end: no JSON token begins with it.
func (r *jsonReader) peek() byte {
	if r.pos < len(r.data) {
		return r.data[r.pos]
	}
	return 0
}

func (r *jsonReader) literal(word string) bool {
	if bytes.HasPrefix(r.data[r.pos:], []byte(word)) {
		r.pos += len(word)
		return true
	}
	return false
}

// value reads what stands at pos into v, which is settable.
func (r *jsonReader) value(v reflect.Value) error {
	if len(r.path) > maxDepth {
		return r.fault("is nested too deeply")
	}
	if v.Kind() == reflect.Pointer {
		if r.literal("null") {
			v.SetZero()
			return nil
		}
		p := reflect.New(v.Type().Elem())
		if err := r.value(p.Elem()); err != nil {
			return err
		}
		v.Set(p)
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		s, err := r.textValue()
		if err != nil {
			return err
		}
		if err := u.UnmarshalText([]byte(s)); err != nil {
			return fromError(r.pointer(), err)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Struct:
		return r.object(v)
	case reflect.Map:
		return r.table(v)
	case reflect.Slice:
		if r.lenient && r.literal("null") { // a careless server's empty list
			v.SetZero()
			return nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return r.base64(v)
		}
		return r.array(v)
	case reflect.String:
		s, err := r.textValue()
		if err != nil {
			return err
		}
		v.SetString(s)
		return nil
	case reflect.Bool:
		switch {
		case r.literal("true"):
			v.SetBool(true)
		case r.literal("false"):
			v.SetBool(false)
		default:
			return r.wrongType("true or false")
		}
		return nil
	default:
		return r.number(v)
	}
}

// wrongType tells a value of another type from text that is no JSON.
func (r *jsonReader) wrongType(want string) *InvalidError {
	if err := r.skip(len(r.path)); err != nil {
		return err
	}
	return r.fault("must be " + want)
}

func (r *jsonReader) textValue() (string, error) {
	if r.peek() != '"' {
		return "", r.wrongType("a string")
	}
	s, err := r.text()
	if err != nil {
		return "", err
	}
	return s, nil
}

func (r *jsonReader) base64(v reflect.Value) error {
	s, err := r.textValue()
	if err != nil {
		return err
	}
	// The decoder ignores line ends, which would give one value many spellings.
	raw, decodeErr := base64.StdEncoding.Strict().DecodeString(s)
	if decodeErr != nil || strings.ContainsAny(s, "\r\n") {
		return r.fault("must be base64 with padding (RFC 4648, 4)")
	}
	v.SetBytes(raw)
	return nil
}

func (r *jsonReader) object(v reflect.Value) error {
	if r.peek() != '{' {
		return r.wrongType("an object")
	}
	r.pos++
	var seen uint64
	return r.members(func(name string) error {
		i, ok := fieldByName(v.Type(), name)
		if !ok {
			if r.lenient {
				return noError(r.skip(len(r.path)))
			}
			return r.fault("is not a known field")
		}
		if seen&(1<<i) != 0 {
			return r.fault("appears twice")
		}
		seen |= 1 << i
		return r.value(v.Field(i))
	})
}

// fieldByName finds the field whose json tag is exactly name. The structs of
// this package have few fields and no embedded ones, so a scan is enough.
func fieldByName(t reflect.Type, name string) (int, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name && tag != "-" && tag != "" {
			return i, true
		}
	}
	return 0, false
}

func (r *jsonReader) table(v reflect.Value) error {
	if r.peek() != '{' {
		return r.wrongType("an object")
	}
	if v.Type().Key().Kind() != reflect.String {
		panic("wire: map keys are strings")
	}
	r.pos++
	v.Set(reflect.MakeMap(v.Type()))
	return r.members(func(name string) error {
		key := reflect.ValueOf(name).Convert(v.Type().Key())
		if v.MapIndex(key).IsValid() {
			return r.fault("appears twice")
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := r.value(elem); err != nil {
			return err
		}
		v.SetMapIndex(key, elem)
		return nil
	})
}

// members reads the rest of an object after its brace and calls each with the
// name on the path and pos at the value.
func (r *jsonReader) members(each func(name string) error) error {
	r.space()
	if r.peek() == '}' {
		r.pos++
		return nil
	}
	for n := 0; ; n++ {
		if n == maxPairs {
			return r.fault("has too many fields")
		}
		r.space()
		if r.peek() != '"' {
			return r.syntax()
		}
		name, err := r.text()
		if err != nil {
			return err
		}
		r.space()
		if r.peek() != ':' {
			return r.syntax()
		}
		r.pos++
		r.space()
		r.path = append(r.path, escapePointer(name))
		if err := each(name); err != nil {
			return err
		}
		r.path = r.path[:len(r.path)-1]
		r.space()
		switch r.peek() {
		case ',':
			r.pos++
		case '}':
			r.pos++
			return nil
		default:
			return r.syntax()
		}
	}
}

func (r *jsonReader) array(v reflect.Value) error {
	if r.peek() != '[' {
		return r.wrongType("a list")
	}
	r.pos++
	v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	return r.elements(func() error {
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := r.value(elem); err != nil {
			return err
		}
		v.Set(reflect.Append(v, elem))
		return nil
	})
}

func (r *jsonReader) elements(each func() error) error {
	r.space()
	if r.peek() == ']' {
		r.pos++
		return nil
	}
	for n := 0; ; n++ {
		if n == maxElements {
			return r.fault("has too many elements")
		}
		r.space()
		r.path = append(r.path, strconv.Itoa(n))
		if err := each(); err != nil {
			return err
		}
		r.path = r.path[:len(r.path)-1]
		r.space()
		switch r.peek() {
		case ',':
			r.pos++
		case ']':
			r.pos++
			return nil
		default:
			return r.syntax()
		}
	}
}

// numeral reads a number's text (RFC 8259, 6) and tells whether it is whole.
func (r *jsonReader) numeral() (text string, whole bool, err error) {
	start := r.pos
	digits := func() bool {
		from := r.pos
		for c := r.peek(); c >= '0' && c <= '9'; c = r.peek() {
			r.pos++
		}
		return r.pos > from
	}
	if r.peek() == '-' {
		r.pos++
	}
	first := r.peek()
	intStart := r.pos
	if !digits() || first == '0' && r.pos > intStart+1 {
		return "", false, r.syntax()
	}
	whole = true
	if r.peek() == '.' {
		whole = false
		r.pos++
		if !digits() {
			return "", false, r.syntax()
		}
	}
	if c := r.peek(); c == 'e' || c == 'E' {
		whole = false
		r.pos++
		if c := r.peek(); c == '+' || c == '-' {
			r.pos++
		}
		if !digits() {
			return "", false, r.syntax()
		}
	}
	return string(r.data[start:r.pos]), whole, nil
}

func (r *jsonReader) number(v reflect.Value) error {
	c := r.peek()
	if c != '-' && (c < '0' || c > '9') {
		return r.wrongType("a number")
	}
	s, whole, err := r.numeral()
	if err != nil {
		return err
	}
	switch {
	case v.CanInt():
		n, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if !whole || err != nil {
			return r.fault("must be a whole number in range")
		}
		v.SetInt(n)
	case v.CanUint():
		n, err := strconv.ParseUint(s, 10, v.Type().Bits())
		if !whole || err != nil {
			return r.fault("must be a whole number in range, not negative")
		}
		v.SetUint(n)
	case v.CanFloat():
		n, err := strconv.ParseFloat(s, v.Type().Bits())
		if err != nil || math.IsInf(n, 0) {
			return r.fault("must be a number in range")
		}
		v.SetFloat(n)
	default:
		panic("wire: no JSON form for " + v.Type().String())
	}
	return nil
}

// skip reads over one value at the given depth.
func (r *jsonReader) skip(depth int) *InvalidError {
	if depth > maxDepth {
		return r.fault("is nested too deeply")
	}
	var err error
	switch c := r.peek(); {
	case c == '{':
		r.pos++
		err = r.members(func(string) error { return noError(r.skip(len(r.path))) })
	case c == '[':
		r.pos++
		err = r.elements(func() error { return noError(r.skip(len(r.path))) })
	case c == '"':
		_, err = r.text()
	case c == '-' || c >= '0' && c <= '9':
		_, _, err = r.numeral()
	case r.literal("true"), r.literal("false"), r.literal("null"):
	default:
		return r.syntax()
	}
	if err != nil {
		return fromError(r.pointer(), err)
	}
	return nil
}

// noError keeps a nil *InvalidError from becoming a non-nil error.
func noError(err *InvalidError) error {
	if err == nil {
		return nil
	}
	return err
}
