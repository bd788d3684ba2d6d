package core_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a test leaves a goroutine behind: Run promises that all
// of its own have ended.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
