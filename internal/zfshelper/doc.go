// Package zfshelper is all that a vaultd server lets be done to ZFS.
//
// The verbs (Verbs) are few: make a tenant's dataset, let its refquota grow, take the bodies of snapshots (package snapshot), start a
// scrub, and read what there is. Helper carries them out with package zfs; where the server is not root, Helper is another process ("vaultd zfs-helper"), which
// Serve answers for on a socket, and Client asks. Both ways pass through the same checks. That process may be kept where it can not mount; then
// a third one does ("vaultd zfs-mount", ServeMounter), which reads nothing from anybody.
//
// It guarantees, whoever asks for whatever:
//
//   - no verb destroys, rolls back, renames, releases, sends or lowers anything, sets a property that is asked for, or touches a dataset that
//     is not directly below the one that Config names; nothing is unmounted but the dataset of a tenant whose removal is due, once it is empty,
//     and that only for the expire process (Leaver), as is the end of its key, once the dataset is destroyed;
//   - names of datasets and mount points are made here, of tenants' ids and snapshots' names, which are checked; a dataset that is there
//     is never made again, and a snapshot never replaced;
//   - nothing is made while the root dataset is not mounted where tenants belong: no byte lands below a mount point;
//   - a body that is reported was held and read back, and came to be in the time in which names stood still;
//   - who floods it is refused: snapshots per minute and datasets per hour are bounded, and scrubs per day.
//
// It does not stop the server's user from letting quotas grow, from taking snapshots as fast as the bounds allow, or from filling the pool
// with datasets up to the bound: these are what it is for. The socket answers root, the server's user, and
// expire's user for Leaver alone; nobody else (SO_PEERCRED).
//
// The wire is package supervise's: lines of JSON, bounded.
//
// Concurrency: everything may be used by many goroutines.
package zfshelper
