package server

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing that a test started may be left.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
