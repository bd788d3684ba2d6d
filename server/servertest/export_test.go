package servertest

import (
	"github.com/clearbox-im/clearbox/clients/core"
)

// Silent fails the test if a text holds what must not leave the houses' stores.
func (w *World) Silent(what, text string) {
	w.T.Helper()
	w.checkSilence(what, text+"\n")
}

// Line is a way to a house for a test that speaks its frames by itself.
func (w *World) Line(host string, h *House) (n core.Network, end func()) {
	l := newLine(w.Wires, host, "https://"+string(h.Name), w.clientTLS())
	return l, l.close
}
