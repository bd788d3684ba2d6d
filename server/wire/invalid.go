package wire

import (
	"errors"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
)

// FieldError says what is wrong with one member of an input.
type FieldError struct {
	Pointer string `json:"pointer"` // RFC 6901; "" is the whole input
	Detail  string `json:"detail"`  // for the person; never repeats the value
}

// InvalidError lists what is wrong with an input. Nothing was changed. Its
// code is bad_request unless a cause says otherwise, such as bad_handle or
// too_large.
type InvalidError struct {
	Errors []FieldError
	cause  *clearbox.Error
}

// Error names the first fault.
func (e *InvalidError) Error() string {
	if len(e.Errors) == 0 {
		return "the input is not valid"
	}
	first := e.Errors[0]
	if first.Pointer == "" {
		return first.Detail
	}
	return first.Pointer + ": " + first.Detail
}

// Unwrap gives a clearbox.Error, so that CodeOf knows the code.
func (e *InvalidError) Unwrap() error {
	if e.cause != nil {
		return e.cause
	}
	return clearbox.Errorf(clearbox.CodeBadRequest, "the input is not valid")
}

func invalid(pointer, detail string) *InvalidError {
	return &InvalidError{Errors: []FieldError{{Pointer: pointer, Detail: detail}}}
}

// fromError keeps the code of a Parse function's error and adds the place.
func fromError(pointer string, err error) *InvalidError {
	var own *InvalidError
	if errors.As(err, &own) {
		return own
	}
	out := invalid(pointer, "is not valid")
	var e *clearbox.Error
	if errors.As(err, &e) {
		out.Errors[0].Detail = e.Error()
		out.cause = e
	}
	return out
}

// faults collects what a Check finds.
type faults struct{ err InvalidError }

// add notes a fault; at most 16 are reported.
func (f *faults) add(pointer, detail string) {
	if len(f.err.Errors) < 16 {
		f.err.Errors = append(f.err.Errors, FieldError{Pointer: pointer, Detail: detail})
	}
}

// addError notes a Parse function's error; the first one's code wins.
func (f *faults) addError(pointer string, err error) {
	if err == nil {
		return
	}
	in := fromError(pointer, err)
	if len(f.err.Errors) == 0 {
		f.err.cause = in.cause
	}
	f.add(pointer, in.Errors[0].Detail)
}

// check notes a fault unless ok.
func (f *faults) check(ok bool, pointer, detail string) {
	if !ok {
		f.add(pointer, detail)
	}
}

// text checks a required string of at most maxBytes.
func (f *faults) text(pointer, s string, maxBytes int) {
	switch {
	case s == "":
		f.add(pointer, "is required")
	case len(s) > maxBytes:
		f.add(pointer, "has at most "+strconv.Itoa(maxBytes)+" bytes")
	}
}

// bytes checks a required byte string of at most maxBytes.
func (f *faults) bytes(pointer string, b []byte, maxBytes int) {
	switch {
	case len(b) == 0:
		f.add(pointer, "is required")
	case len(b) > maxBytes:
		f.add(pointer, "has at most "+strconv.Itoa(maxBytes)+" bytes")
	}
}

// result is nil or the collected faults.
func (f *faults) result() error {
	if len(f.err.Errors) == 0 {
		return nil
	}
	return &f.err
}

// escapePointer writes one reference token of a JSON pointer (RFC 6901, 3),
// shortened: it may be a stranger's text.
func escapePointer(token string) string {
	if len(token) > 64 {
		token = strings.ToValidUTF8(token[:64], "")
	}
	return strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1")
}

func at(pointer string, index int) string { return pointer + "/" + strconv.Itoa(index) }
