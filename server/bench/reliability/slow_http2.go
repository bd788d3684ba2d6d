package main

import (
	"encoding/binary"
	"io"
	"math"
)

// The slow clients speak as little HTTP/2 as they need, frame by frame (RFC
// 9113): no library is slow in the middle of a frame.
const (
	h2Data, h2Headers, h2Reset, h2Settings, h2Ping, h2GoAway, h2WindowUpdate = 0, 1, 3, 4, 6, 7, 8

	h2Preface    = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	h2EndStream  = 1
	h2EndHeaders = 4
	h2Ack        = 1
)

func h2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(head, stream), payload...)
}

// h2Opening is what a client says first. window is how many bytes of each
// answer it takes.
func h2Opening(window uint32) []byte {
	const initialWindowSize = 4
	settings := binary.BigEndian.AppendUint32([]byte{0, initialWindowSize}, window)
	out := append([]byte(h2Preface), h2Frame(h2Settings, 0, 0, settings)...)
	return append(out, h2Frame(h2WindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, math.MaxInt32-1<<16))...)
}

// h2Request is a header block in HPACK (RFC 7541): indexed where the static
// table has all of it, else literal without indexing and without Huffman codes.
func h2Request(post bool, host, path string, more ...string) []byte {
	const get, postMethod, https, pathName, authorityName = 0x82, 0x83, 0x87, 4, 1
	block := []byte{get, https}
	if post {
		block[0] = postMethod
	}
	literal := func(name []byte, value string) {
		block = append(append(append(block, name...), byte(len(value))), value...)
	}
	literal([]byte{pathName}, path)
	literal([]byte{authorityName}, host)
	for i := 0; i+1 < len(more); i += 2 {
		literal(append([]byte{0, byte(len(more[i]))}, more[i]...), more[i+1])
	}
	return block
}

// h2Attend reads what comes, answers as a client that is alive must, and
// returns when stream 1 or the connection has ended.
func h2Attend(conn io.ReadWriter) {
	var head [9]byte
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, payload); err != nil {
			return
		}
		kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
		switch {
		case kind == h2GoAway, stream == 1 && (kind == h2Reset || flags&h2EndStream != 0 && (kind == h2Headers || kind == h2Data)):
			return
		case (kind == h2Settings || kind == h2Ping) && flags&h2Ack == 0:
			if kind == h2Settings {
				payload = nil
			}
			if _, err := conn.Write(h2Frame(kind, h2Ack, 0, payload)); err != nil {
				return
			}
		}
	}
}
