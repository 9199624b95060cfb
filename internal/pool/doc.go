// Package pool looks after the ZFS pool that a store is on: how it is, and what to do about it.
//
// Care looks every so often (a few processes of internal/zfs, each within its time, and /proc/self/mountinfo, which never
// hangs), keeps the last Reading with its time, and has a Judge make a Report of it: Problems, each a State with words for who is
// woken at night. Report is one value for status, metrics and pages. A look that brings nothing leaves the last reading where it
// was, with its time: that it is frozen can be seen. Problems are logged once when they begin and once when they end. Care
// also starts the scrubs that are due.
//
// The words: a pool is out when nothing can be stored on it or read from it (suspended, gone, unusable, silent, failing,
// not mounted). It is full when less than the reserve is left, and new data is refused before ZFS does. Everything else is an alarm
// and no more.
//
// It guarantees that a state which turns a server away ends only after some looks in a row without it, so that a pool that comes and goes does not
// make servers come and go; and that Report never waits for a process.
//
// It does not: repair a pool, clear errors, import or mount anything, or free a byte. Capacity and health are ZFS's own
// words and are trusted. What becomes of a server whose pool is out is cmd/vaultd's business.
//
// Concurrency: Judge is for one goroutine; Care's methods may be called by many.
package pool
