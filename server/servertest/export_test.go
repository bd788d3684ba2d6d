package servertest

import (
	"github.com/clearbox-im/clearbox/clients/core"
)

// Line is a way to a house for a test that speaks its frames by itself.
func (w *World) Line(host string, h *House) (n core.Network, end func()) {
	l := newLine(w.Wires, host, "https://"+string(h.Name), w.clientTLS())
	return l, l.close
}
