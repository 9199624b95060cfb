// Package attack is the attack suite: what a thief with a stolen client key tries, as named cases,
// each with the promise (DESIGN.md §1) that must hold and the proof that it did.
//
// A protocol is plugged in by an adapter that implements Client (subpackage sftpattack has SFTP's).
// An Env holds the clients: the owner, whose files are attacked; the thief, with another key of the
// same tenant; the twin, with the owner's own key; a neighbour, who is another tenant. Run lets the
// owner store every case's victims, waits until the second after, so that there is an instant before
// the attacks, runs each case and sweeps over all victims once more at the end.
//
// A case establishes what it attacks, attacks, and then reads as the owner: the bytes and the name
// live, in the view of the instant before, in a snapshot where Env.Snapshot makes one, and among the
// versions where the live name may move on. A refusal must be an error: success that changed
// nothing is reported too, because a client that believes it is worse off than one that was told.
// What a protocol can not say is "not applicable", never passed.
//
// It guarantees that a Held result was observed through the protocol alone, with nothing of the
// server's memory or disk looked at. It does not show what a crash, a clock or an operator does.
//
// The suite adds data and can not remove it, as no client can: run it on a tenant made for it.
package attack
