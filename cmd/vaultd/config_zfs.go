package main

import (
	"fmt"
	"math/bits"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/tenant"
	"vaultd/internal/zfs"
)

// ZFSConfig is the [zfs] section: tenants' datasets on ZFS. Where Dataset is empty, they are directories and nothing else here counts.
type ZFSConfig struct {
	// Dataset is the one that holds the tenants' datasets, such as "tank/vaultd", mounted at tenants/ in the store. Default "", directories.
	// `vaultd init --pool` makes it and writes this key. Trusted: a server that is pointed at another one finds no tenant there, and says so.
	Dataset string `toml:"dataset"`
	// Helper is the socket of `vaultd zfs-helper`, an absolute path: it runs zfs(8) as root for a server that is not. Default "": the
	// supervisor runs zfs itself, and must be root. Trusted: whoever answers there makes the datasets and takes the snapshots.
	Helper string `toml:"helper"`
	// Compression of new datasets: "lz4" (default; costs next to nothing, also on what clients have compressed or encrypted) or "zstd"
	// (for dumps that come uncompressed).
	Compression string `toml:"compression"`
	// RecordSize is the largest block of new datasets, a power of 2 from 16KiB to 1MiB. Default 128KiB: contents are written once and
	// would gain a little from 1MiB, but each tenant's index is changed in pages of 4 KiB, and each of those writes a whole block.
	RecordSize Size `toml:"recordsize"`
	// Encryption is "on" (each new dataset has a key of its own, in Keys) or "off" (default).
	Encryption string `toml:"encryption"`
	// Keys is the directory of the keys, ID.key, 32 random bytes each, which the helper makes. Default "/etc/vaultd/keys". Only root
	// may read it; the server never does. Keep a copy off this machine: without its key a dataset is lost, which is also how it is erased.
	Keys string `toml:"keys"`
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
	return ZFSConfig{Compression: "lz4", RecordSize: 128 << 10, Encryption: "off", Keys: "/etc/vaultd/keys", Reserve: Share{Percent: 5}, Scrub: "@monthly", Poll: Duration{10 * time.Second}}
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
	if z.Helper != "" && !filepath.IsAbs(z.Helper) {
		bad("zfs.helper", -1, "%q is not an absolute path", z.Helper)
	}
	oneOf(bad, "zfs.compression", -1, z.Compression, []string{"lz4", "zstd"})
	if n := uint64(z.RecordSize); bits.OnesCount64(n) != 1 || n < 16<<10 || n > 1<<20 {
		bad("zfs.recordsize", -1, "want a power of 2 from 16KiB to 1MiB")
	}
	oneOf(bad, "zfs.encryption", -1, z.Encryption, []string{"off", "on"})
	if !filepath.IsAbs(z.Keys) {
		bad("zfs.keys", -1, "%q is not an absolute path", z.Keys)
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
