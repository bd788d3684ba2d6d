package api

import (
	"net"
	"testing"
)

// over is a connection over another one, as TLS is.
type over struct {
	net.Conn
	closed *bool
}

func (o over) NetConn() net.Conn { return o.Conn }
func (o over) Close() error      { *o.closed = true; return o.Conn.Close() }

// A connection that is not read from is cut below TLS, whose goodbye would
// wait for the reader.
func TestCutPassesTLSBy(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	said := false
	w := &frameWriter{conn: over{near, &said}}
	w.cut()
	if said {
		t.Error("goodbye was said")
	}
	if _, err := near.Write([]byte{1}); err == nil {
		t.Error("the connection is open")
	}
}
