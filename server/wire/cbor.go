package wire

import (
	"bytes"
	"errors"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// The CBOR modes are built once and never change.
var (
	cborIn     = mustDecMode(cbor.ExtraDecErrorUnknownField)
	cborAnswer = mustDecMode(cbor.ExtraDecErrorNone)
	cborOut    = mustEncMode()
)

// mustDecMode panics when the options contradict each other, which is a
// mistake in this file.
func mustDecMode(extra cbor.ExtraDecErrorCond) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   maxDepth,
		MaxArrayElements:  maxElements,
		MaxMapPairs:       maxPairs,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		UTF8:              cbor.UTF8RejectInvalid,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
		BignumTag:         cbor.BignumTagForbidden,
		BinaryUnmarshaler: cbor.BinaryUnmarshalerNone,
		TextUnmarshaler:   cbor.TextUnmarshalerTextString,
		ExtraReturnErrors: extra,
	}.DecMode()
	if err != nil {
		panic("wire: " + err.Error())
	}
	return m
}

func mustEncMode() cbor.UserBufferEncMode {
	o := cbor.CoreDetEncOptions() // RFC 8949, 4.2.1
	o.TextMarshaler = cbor.TextMarshalerTextString
	o.NilContainers = cbor.NilContainerAsEmpty
	o.BinaryMarshaler = cbor.BinaryMarshalerNone
	m, err := o.UserBufferEncMode()
	if err != nil {
		panic("wire: " + err.Error())
	}
	return m
}

func appendCBOR(dst []byte, v any) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	if err := cborOut.MarshalToBuffer(v, buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func decodeCBOR(data []byte, into any, lenient bool) error {
	mode := cborIn
	if lenient {
		mode = cborAnswer
	}
	err := mode.Unmarshal(data, into)
	if err == nil {
		return nil
	}
	var (
		wrongType *cbor.UnmarshalTypeError
		unknown   *cbor.UnknownFieldError
		twice     *cbor.DupMapKeyError
		depth     *cbor.MaxNestedLevelError
		elements  *cbor.MaxArrayElementsError
		pairs     *cbor.MaxMapPairsError
		extra     *cbor.ExtraneousDataError
		semantic  *cbor.SemanticError
	)
	switch {
	case errors.As(err, &wrongType):
		return invalid(cborPointer(wrongType.StructFieldName), "has the wrong type")
	case errors.As(err, &unknown):
		return invalid("", "has a field that is not known")
	case errors.As(err, &twice):
		return invalid("", "has a field twice")
	case errors.As(err, &depth):
		return invalid("", "is nested too deeply")
	case errors.As(err, &elements):
		return invalid("", "has a list with too many elements")
	case errors.As(err, &pairs):
		return invalid("", "has an object with too many fields")
	case errors.As(err, &extra):
		return invalid("", "there is something after the value")
	case errors.As(err, &semantic):
		return invalid("", "is not valid UTF-8")
	}
	if in := fromError("", err); in.cause != nil { // an UnmarshalText of ours
		return in
	}
	return invalid("", "is not valid CBOR")
}

// cborPointer turns the decoder's "wire.Type.field" into a pointer. The
// decoder knows the innermost field only.
func cborPointer(field string) string {
	if i := strings.LastIndexByte(field, '.'); i >= 0 {
		field = field[i+1:]
	}
	if field == "" {
		return ""
	}
	return "/" + escapePointer(field)
}
