// Package zfs is zfs(8) and zpool(8) with types. It decides nothing.
//
// Each call is one process (two where said), run without a shell: through go-zfs where that has
// the call, by argv of our own where it has not (holds, delegation, lists with properties, several
// snapshots at once, streams that can be ended). Processes cost 5 to 500 ms: nothing on a client's
// path may wait for one. Cache holds lists in memory.
//
// It guarantees:
//
//   - every name, tag, user and property is checked against ZFS's grammar before anything runs, so
//     that none is taken for an option, a list (a@x,y), a range (a@x%y), a path or another dataset;
//   - the only datasets that a call destroys are a read-only clone, and one that its caller found empty while nobody
//     could write to it; no call destroys more than one snapshot; nothing is ever called with destroy -r, -R, -f or -d, rollback, or receive -F;
//   - what is parsed can not be forged by a user property or a hold's tag: those are free text that
//     local users with a delegation may set, line breaks included. Facts come from a listing that has
//     no free text, free text from one whose lines must match it one to one (ErrOutput otherwise);
//   - an error is an *Error that keeps what the tool said, and errors.Is tells its kind;
//   - no more than Config.Processes run at once, and none is waited for beyond its time. A suspended
//     pool holds processes in the kernel, where nothing can end them: the caller gets ErrTimeout, the process
//     keeps its place until it ends, and when all places are taken so, further calls get ErrTimeout at
//     once. Whether a change that ended so was carried out is not known: look, then repeat.
//
// It does not know tenants, policy, or which snapshots may go. It does not make a list and a later change
// one step: who destroys checks GUID and creation transaction first, and a hold is what really refuses.
//
// Names are bytes of [A-Za-z0-9_.: -], so they need no escaping on a terminal; values of
// properties may be anything.
//
// Concurrency: all methods may be called by many goroutines.
//
// Sources: OpenZFS 2.1 lib/libzfs/libzfs_util.c (texts of errors), module/zcommon/zfs_namecheck.c
// (grammar), cmd/zfs/zfs_main.c and cmd/zpool/zpool_main.c (output). testdata/ holds what the real
// ones print; the tests run against them here, and against a real pool in tests/zfs.
package zfs
