// Package sshd is the door: it listens, lets in whoever proves a key, and hands each session to a
// protocol.
//
// It stands on gliderlabs/ssh for the life of a connection (Server.HandleConn, ServerConfig, the
// routing of channels and requests) and replaces the parts of it that trust too much: who is behind
// a connection is decided in VerifiedPublicKeyCallback and nowhere else, the accept loop and the
// session channels are its own, and no connection outlives its login grace without a login.
//
// A user name is a tenant's name. Public keys and user certificates only; passwords, keyboard-interactive and
// "none" never work. What a certificate may do is Access's to say; a security key's touch and verification are enforced
// here (seckey.go). One session is one channel: a subsystem, an exec, or a shell (an exec with an
// empty command). Ports, agent and X11 are refused; who asks for a terminal gets line ends for one and no
// input; of the environment only LANG and LC_* get in. When a handler has returned, the FS is closed (the barrier of DESIGN.md §6), then the exit
// status is sent, then the channel is closed.
//
// Before a byte is exchanged, gate.go decides by the address alone whether a connection is worth a key exchange.
//
// It guarantees that a handler runs only for a key whose signature was checked, with that key's
// tenant and role; that a panic in Serve ends that session alone; that Stdin ends in io.EOF only when
// the client said so (a lost connection is io.ErrUnexpectedEOF: a dump cut short is not a dump).
//
// It does not recover panics in goroutines that a handler starts; it does not hide from somebody who
// has a public key whether that key may log in (no SSH server does). A client that is logged in can make
// the server hold up to 2 MiB per channel by sending what no handler reads (x/crypto's window).
//
// Concurrency: one goroutine per connection, per global request stream and per channel, one per running
// handler, one janitor per Server. Server.mu guards every count and is never held across I/O.
package sshd
