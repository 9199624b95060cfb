package admin

// Allow replaces the check of peers.
func (l *Listener) Allow(f func(Peer) bool) { l.allow = f }

// OwnerOrRoot is the check of peers.
var OwnerOrRoot = ownerOrRoot
