// Package appendonly is the core: what a client may do to a tenant's data, and the only way to do it.
//
//	policy.go      Decide: the whole policy, pure: mode, role, operation, state -> effect
//	fs.go          FS, one session's view: what a path stands for, and what may be done to it; create.go: opening for writing
//	namespace.go   FS: directories, links, removing, attributes; rename.go: renaming
//	body.go        what the file system keeps of a snapshot; body_view.go: reading there; body_compare.go: against the index
//	view.go        FS: looking up, live and in the past (/.vault); dir.go: listing; versions.go: everything a name stood for
//	root.go        a session's root: the one place where its paths become the tenant's
//	ceiling.go     what a key may add in a day
//	upload.go      a content being written; upload_end.go: published or given up; upload_notes.go: what outlives the process; digest.go, extents.go: its
//	               hash and its ranges
//	publish.go     a content gets its name; sealing what was fresh
//	vault.go       Vault: one tenant; barrier.go: what makes changes stable, and what is done from time to time
//	recover.go     what a crash left; tree.go: the live tree as the index says
//	undo.go        the operator undoes what a key did; undo_steps.go: one name at a time
//	explain.go     what Decide would say, and why
//	scratch.go     locks of repositories
//	volume.go      what the core needs of a dataset
//
// # Glossary
//
// A content is bytes under an id that is never used again. It is staged while it can be written, and
// sealed for ever after. A name stands for a content, a directory or a symlink. An upload is a staged
// content that has no name yet: open while its client writes, interrupted when that is gone. A fresh
// file has been closed under a temporary name and is not sealed yet: its key may rename, remove or write it
// again, for a day. A sealed name never stands for less: in strict mode it does not move on at
// all, in versioned mode what it stood for stays readable at every instant at which it did. An instant
// is a record's number in the journal. A snapshot is a name for one; its body is the dataset as the file
// system kept it then, where it does. A barrier makes everything before it stable.
//
// # Guarantees
//
// P1, P2, P3 and P5 of DESIGN.md §1, and P4 for what Barrier covered. There is no verb that ends a
// sealed content. Every change is in the journal before its reply (P6). A refusal is a *DeniedError, which
// names its promise. Two guards stand behind each other: Decide refuses; and the volume, which
// knows nothing of it, gives a name only by link(2), never drops the last link of a content, and has
// no write descriptor of what was sealed.
//
// It does not free anything, authenticate anybody, or keep what is on disk from whoever has the
// server's rights there.
//
// Concurrency: see Vault for the locks and their order.
package appendonly
