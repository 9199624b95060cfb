// Package confine takes from the server what it does not need, so that code execution inside it can not cut, change or
// remove what is sealed. Nothing here is asked for at run time: once entered, the kernel refuses.
//
// # What the server may still do
//
//	<store>/tenants/*/store, journal     make new entries and read them; nothing else: no opening for writing, no
//	                                     cutting, removing, renaming over or away, no second name where it could be written
//	<store>/tenants/*/files              make and remove names, directories and symlinks; not write
//	<store>/tenants/*/staging, scratch, derived   everything but making what is no file
//	<store>/tenants/*                    read (the format file)
//	<store>/spare/*                      the same, for tenants that come later (package spare)
//	<store>/server                       everything: its own state
//	<store>/vaultd.db, host keys         read
//	time zones, /proc/self               read
//	its own program                      execute (it is entered before an exec, see below)
//
// All else is refused: expire's state, the rest of the store, other programs, every other file, device and directory. It makes no
// sockets (those it listens on are handed to it), so that it can connect to nothing: not over the network, and not to the
// sockets of service managers and container engines, which would do for root what Landlock refuses it. It sends no signals to, traces,
// and sets limits of nobody but itself. It has no capabilities, also when it runs as root, and can not get any.
//
// # Which layer stops what
//
//   - Landlock: everything that goes by a path, and mounting. Its rules are bound to the inodes that are there when it is
//     entered; they follow a directory that is renamed. From ABI 4 also TCP, from ABI 6 signals and abstract sockets.
//   - A filter of system calls (seccomp): what Landlock does not know or an old kernel's did not: sockets of all kinds, io_uring, namespaces,
//     handles (open_by_handle_at), signals, ioctl, cutting by path, modes, owners and attributes by path, set-id modes, and all calls that
//     need a capability. Calls that are newer than it, and other calling conventions, are refused.
//   - No capabilities, and no_new_privs: root is an ordinary user that owns its files.
//
// Nothing covers modes and attributes of files that the server can open, or times of files that its user owns; it may read all tenants, drop names
// from files/ (content and journal stay; "vaultd rebuild --tree" makes them again), and write what is not sealed yet: contents in staging until the
// next barrier has moved them, and the open journal segment. docs/confinement.md has the table, which a test makes.
//
// # Kernels
//
// Linux 6.2 (Landlock ABI 3) has all that P1 needs. With ABI 2 (5.19: Debian 12's 6.1) the filter refuses what Landlock does not know about cutting.
// Below, or where Landlock is switched off, P1 is kept by the program and not by the kernel: Report says so.
//
// # How it is entered
//
// Landlock, capabilities and filters belong to threads, and a Go program has several before main begins. So Enter restricts one
// locked thread, which then executes the program again: exec(2) leaves that one thread, and all later ones come from it.
// Check tries the forbidden afterwards.
package confine
