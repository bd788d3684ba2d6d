package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

const maxJSONDepth = 8

var errJSON = errors.New("not strict JSON: one value, lower-case names, each once, at most 8 levels")

// strictJSON decodes one JSON value whose object names are in lower case and
// occur once (RFC 8259, 4 leaves repeats open; encoding/json would take the
// last and match names in any case). Unknown names are ignored.
func strictJSON(b []byte, into any) error {
	if !utf8.Valid(b) {
		return errJSON
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := walkJSON(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errJSON
	}
	return json.Unmarshal(b, into)
}

func walkJSON(dec *json.Decoder, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth >= maxJSONDepth {
		return errJSON
	}
	var names map[string]bool
	if delim == '{' {
		names = map[string]bool{}
	}
	for dec.More() {
		if names != nil {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			name, ok := tok.(string)
			if !ok || names[name] || strings.ToLower(name) != name {
				return errJSON
			}
			names[name] = true
		}
		if err := walkJSON(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing delimiter
	return err
}
