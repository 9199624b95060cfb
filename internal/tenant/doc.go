// Package tenant keeps tenants, their keys and their policy.
//
// A tenant is an account: a name to log in with, an id that names its dataset's directory, a policy, a
// quota, a snapshot schedule and keys. A key belongs to exactly one tenant, for ever. All of it lies in
// one bbolt file, vaultd.db in the store's directory (mode 0600). The operator's CLI writes it: every
// change opens the file, makes one transaction together with its line in the audit log, and closes. The
// server opens it read-only, copies everything into a Snapshot and closes at once; a reload is the
// same again, so that a login never waits for a disk.
//
// What promises less than before is refused (WeakeningError), or waits for a cool-down in which everybody can see it and the operator
// can take it back: a policy (Pending), what is kept of the past (Eased), a tenant's end (Removal).
//
// It guarantees that a policy is never weakened without that, that no tenant, key or audit line is ever taken out (of a removed
// tenant the entry stays, and its id and keys are nobody else's), that a revoked key never comes back, and that a key shared
// by two tenants can not exist, so that a verified key names its tenant. A certificate lets in who holds its key, as a tenant
// that names its CA and on that CA's terms, narrowed by what the certificate says (AuthenticateCert).
//
// It does not decide what a client may do to a file: that is appendonly's Decide, which is given the
// policy. It does not protect the file from whoever can write to it: vaultd.db is trusted, and an
// attacker who can modify it can add keys and weaken policy.
//
// What the server itself learns (last use of keys) is in another file, state.db (State). It is not trusted
// with anything: an attacker who can modify it can lie about when a key was used.
//
// # Format of vaultd.db
//
//	meta     "format" -> "3"
//	tenants  name     -> Tenant as JSON; "/" and the id, when a removed tenant's name went to another
//	keys     key id   -> Key as JSON
//	cas      tenant id/key id -> CA as JSON
//	revoked  tenant id/key id -> Revocation as JSON: keys that only ever came with certificates
//	audit    big-endian sequence number -> Entry as JSON
//
// A catalog of an older format is read as it is. Its next change makes it one of today's, with a copy of what was beside it
// (vaultd.db.format-N) and a line in the audit log. A newer one is refused: what this program does not know could be what
// keeps a key out.
//
// Concurrency: a DB may be used by many goroutines and processes (bbolt's flock(2) serializes them, a
// change waits 5 s for it); a Snapshot is immutable; a State may be used by many goroutines.
package tenant
