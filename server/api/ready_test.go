package api_test

import (
	"context"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/wire"
)

// What will not be ready any more is named before, and nothing is refused for it.
func TestReadyNamesWhatEnds(t *testing.T) {
	until := clearbox.Millis(0)
	w := newWorld(t, setup{api: api.Options{Checks: []api.Check{{Name: "identity", Probe: func(context.Context) error {
		if until == 1 {
			return &clearbox.Error{Code: clearbox.CodeExpired}
		}
		return nil
	}, Until: func() clearbox.Millis { return until }}}}})
	for _, c := range []struct {
		until  clearbox.Millis
		status int
		code   clearbox.Code
	}{{0, 200, ""}, {1893456000000, 200, ""}, {1, 503, clearbox.CodeExpired}} {
		until = c.until
		var r wire.Ready
		res := w.do("GET", "/readyz", "", nil)
		if err := wire.DecodeAnswer(wire.JSON, res.body, &r); err != nil {
			t.Fatal(err)
		}
		if got := r.Checks[0]; res.status != c.status || got.Until != c.until || got.Code != c.code || r.Checks[1].Until != 0 {
			t.Errorf("%d: %d %+v", c.until, res.status, r)
		}
	}
}
