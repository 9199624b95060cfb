package main

import (
	"math/bits"
	"path/filepath"

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
}

func (z *ZFSConfig) check(bad checker) {
	if z.Dataset != "" {
		if err := zfs.CheckDataset(z.Dataset); err != nil {
			bad("zfs.dataset", -1, "%v", err)
		}
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
