// Package zfs is what must hold on real OpenZFS: tests that run as root inside the virtual machine of
// ./vm, started by ./run (README.md tells how, and how to run one by hand).
//
//	facts_test.go    what the rest of vaultd takes for granted about ZFS and the kernel
//	devices_test.go  a pool whose disks go away and come back
//	vaultd_test.go   the real program on a dataset, with real clients
//	expire_test.go   how snapshots and datasets end
//	attackers_test.go  who can do what: attackers.go has the table, docs/zfs-attackers.md shows it
//	power_test.go    the power is cut, and the server killed, in the middle of pushes and snapshots
//
// Outside of the machine they fail and never skip.
package zfs
