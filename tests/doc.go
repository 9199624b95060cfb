// Package tests is vaultd end to end: the real program, built with the race detector, and the real
// clients of the machine it runs on.
//
//	testdata/*.txtar   one behaviour each, as a shell session: alice and bob are tenants, mallory has a
//	                   stolen key of alice's (ids_test.go: what `alice sftp ...` runs)
//	attack_test.go     the attack suite of internal/attack over SSH against the real program
//	replay_test.go     clients that can not be had here, as the requests they are known to send
//	crash_test.go      kill -9 in the middle of uploads, again and again
//	full_test.go       a full disk, a full quota
//	imports_test.go    who may import whom, and why
//
// A client that is missing is a failure and never a skip: tests/run installs what is needed, or says
// what to install. Every server listens on 127.0.0.1 on a free port, and no process outlives its test.
package tests
