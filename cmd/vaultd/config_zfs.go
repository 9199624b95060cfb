package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/tenant"
	"vaultd/internal/zfs"
)

// ZFSConfig is the [zfs] section: a store whose tenants are datasets.
type ZFSConfig struct {
	// Dataset is the root dataset, mounted at the store's tenants/; each tenant is a child of it. Default "", none: tenants are directories.
	// Trusted: it says what is looked after.
	Dataset string `toml:"dataset"`
	// Reserve is how much of the pool stays free, as a share ("5%") or a size: new data is refused below it, before ZFS does, and before a pool that
	// is full to the last block can not even remove. Reads, locks and restores go on. Default "5%"; store.free_bytes counts, too.
	Reserve Share `toml:"reserve"`
	// Scrub is when the whole pool is read again, a cron line as for snapshots. Default "@monthly"; "": scrubs are
	// started by somebody else, and nobody says that one is overdue.
	Scrub string `toml:"scrub"`
	// Poll is how often the pool is looked at. Default 10s. It is also how long a pool that went away may stay unnoticed.
	Poll Duration `toml:"poll"`
}

func defaultZFS() ZFSConfig {
	return ZFSConfig{Reserve: Share{Percent: 5}, Scrub: "@monthly", Poll: Duration{10 * time.Second}}
}

func (z *ZFSConfig) check(bad checker) {
	if z.Dataset != "" {
		if err := zfs.CheckDataset(z.Dataset); err != nil {
			bad("zfs.dataset", -1, "%q is no dataset's name, like tank/vaultd", z.Dataset)
		}
	}
	if z.Scrub != "" {
		if err := tenant.CheckCron(z.Scrub); err != nil {
			bad("zfs.scrub", -1, "%v", err)
		}
	}
	if z.Poll.Duration < time.Second || z.Poll.Duration > time.Hour {
		bad("zfs.poll", -1, "%v: want 1s to 1h", z.Poll)
	}
}

// Share is a part of something: per cent of it, or bytes.
type Share struct {
	Percent float64
	Bytes   Size
}

// Of is how many bytes that is of whole.
func (s Share) Of(whole uint64) uint64 {
	if s.Percent > 0 {
		return uint64(float64(whole) * s.Percent / 100)
	}
	return uint64(s.Bytes)
}

// UnmarshalText reads "5%", or a size.
func (s *Share) UnmarshalText(text []byte) error {
	if p, ok := strings.CutSuffix(strings.TrimSpace(string(text)), "%"); ok {
		n, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil || !(n >= 0 && n <= 50) {
			return fmt.Errorf(`share %q: want 0%% to 50%%, or a size`, text)
		}
		*s = Share{Percent: n}
		return nil
	}
	n, err := parseSize(string(text))
	*s = Share{Bytes: Size(n)}
	return err
}

// MarshalText writes what UnmarshalText reads.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Share) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'f', -1, 64) + "%"
	}
	return s.Bytes.String()
}
