package volumetest_test

import (
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

func TestSuite(t *testing.T) {
	volumetest.Suite(t, func(t testing.TB) appendonly.Volume { return volumetest.New(t) })
	volumetest.SegmentSuite(t, func(t testing.TB) journal.Segments { return volumetest.New(t) })
}
