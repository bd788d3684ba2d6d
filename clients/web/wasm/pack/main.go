// Command pack makes a WebAssembly module of the Go linker smaller on the wire:
// pack FILE rewrites it in place. The linker leaves out every run of eight zeros in
// the data and so cuts it into the hundred thousand segments that it may have; each
// head is noise to a compressor, while the zeros are next to nothing. Joining the
// segments makes the module a tenth larger and its brotli a fifteenth smaller.
package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
)

// gap is the longest run of zeros that is written out, in bytes. Longer ones are
// memory that the module only reserves.
const gap = 4096

// idData is the section of data segments (WebAssembly core specification, 5.5.14).
const idData = 11

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: pack FILE")
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	if b, err = module(b); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return os.WriteFile(args[0], b, 0o755) // #nosec G306: what the linker gives it
}

// module copies b with its data segments joined, and everything else as it is.
func module(b []byte) ([]byte, error) {
	if len(b) < 8 || string(b[:4]) != "\x00asm" {
		return nil, errors.New("is no WebAssembly module")
	}
	out := append(make([]byte, 0, len(b)+len(b)/4), b[:8]...)
	r := reader{rest: b[8:]}
	for len(r.rest) > 0 && r.err == nil {
		id, body := r.byte(), r.bytes(r.unsigned())
		if r.err != nil {
			break
		}
		if id == idData {
			segments, err := read(body)
			if err != nil {
				return nil, err
			}
			body = write(join(segments))
		}
		out = binary.AppendUvarint(append(out, id), uint64(len(body)))
		out = append(out, body...)
	}
	return out, r.err
}

// segment is data that lies in memory from at on.
type segment struct {
	at   int
	data []byte
}

func (s segment) end() int { return s.at + len(s.data) }

// The bytes around a segment's address: memory 0, i32.const and end.
const (
	memory   = 0x00
	i32Const = 0x41
	end      = 0x0b
)

func read(body []byte) ([]segment, error) {
	r := reader{rest: body}
	out := make([]segment, 0, 1024)
	for n := r.unsigned(); n > 0 && r.err == nil; n-- {
		kind, op := r.byte(), r.byte()
		at, stop := r.signed(), r.byte()
		if kind != memory || op != i32Const || stop != end {
			return nil, errors.New("a data segment of another kind than the linker's")
		}
		out = append(out, segment{at: at, data: r.bytes(r.unsigned())})
	}
	if len(r.rest) > 0 && r.err == nil {
		return nil, errors.New("something is after the data segments")
	}
	return out, r.err
}

// join sorts the segments by address and puts those together that a gap parts.
func join(segments []segment) []segment {
	slices.SortStableFunc(segments, func(x, y segment) int { return cmp.Compare(x.at, y.at) })
	var out []segment
	for _, s := range segments {
		if n := len(out) - 1; n >= 0 && s.at >= out[n].end() && s.at-out[n].end() <= gap {
			zeros := make([]byte, s.at-out[n].end())
			out[n].data = append(append(out[n].data, zeros...), s.data...)
			continue
		}
		out = append(out, segment{at: s.at, data: slices.Clone(s.data)})
	}
	return out
}

func write(segments []segment) []byte {
	b := binary.AppendUvarint(nil, uint64(len(segments)))
	for _, s := range segments {
		b = appendSigned(append(b, memory, i32Const), s.at)
		b = binary.AppendUvarint(append(b, end), uint64(len(s.data)))
		b = append(b, s.data...)
	}
	return b
}

// appendSigned writes a signed LEB128.
func appendSigned(b []byte, n int) []byte {
	for {
		low := byte(n & 0x7f)
		n >>= 7
		if n == 0 && low&0x40 == 0 || n == -1 && low&0x40 != 0 {
			return append(b, low)
		}
		b = append(b, low|0x80)
	}
}

// reader takes values off the front; the first fault stays, and what follows is zero.
type reader struct {
	rest []byte
	err  error
}

var errShort = errors.New("ends too early")

func (r *reader) bytes(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.rest) {
		r.err = cmp.Or(r.err, errShort)
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) unsigned() int {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > 1<<31 {
		r.err = cmp.Or(r.err, errShort)
		return 0
	}
	r.bytes(size)
	return int(n)
}

// signed reads a signed LEB128 of 32 bits.
func (r *reader) signed() int {
	n := 0
	for shift := 0; shift < 35; shift += 7 {
		b := r.byte()
		n |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			if b&0x40 != 0 {
				n -= 1 << (shift + 7)
			}
			return n
		}
	}
	r.err = cmp.Or(r.err, errShort)
	return 0
}
