// Command bench compares vaultd with OpenSSH's sshd and internal-sftp: same clients, same cipher,
// same file system, one run, ratios. bench/run builds and starts it; bench/README.md says how to
// read what it prints.
//
// Each work starts both servers afresh on empty stores and runs A B A B …; the table shows medians.
// A server is a child of a small supervisor (this program again), to which orphans fall, so that the
// CPU of every process a server ever forked is found in /proc once they have ended.
//
// It does not drop caches, pin processors or change the machine; it prints the machine's noise instead.
package main
