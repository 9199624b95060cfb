package appendonly

import "errors"

// Tick does what the vault does from time to time.
func (v *Vault) Tick() { v.tick() }

// Kill ends v as kill -9 does, as far as the process itself is concerned: nothing more is written. The
// volume must have been killed before.
func (v *Vault) Kill() {
	v.fail(errors.New("killed"))
	v.stop()
	v.done.Wait()
	v.idx.Close()
}

// NameInstant lets /.vault/at/name be the instant s for this session.
func (f *FS) NameInstant(name string, s Seq) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instants[name] = s
}

// Ops and States are all there are.
func Ops() []Op {
	out := make([]Op, numOps)
	for i := range out {
		out[i] = Op(i)
	}
	return out
}

func States() []State {
	out := make([]State, numStates)
	for i := range out {
		out[i] = State(i)
	}
	return out
}

// StateAt is what f's key finds under path, for an operation that changes something.
func (f *FS) StateAt(path string) (State, error) {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	s, err := f.spot(OpCreate, path)
	return s.state, err
}

// InodeAt is the inode of what path stands for live; 0 where that is no content.
func (f *FS) InodeAt(path string) (uint64, error) {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	s, err := f.spot(OpCreate, path)
	if err != nil || s.entry == nil || !s.entry.Kind.HasContent() {
		return 0, err
	}
	return f.v.vol.Inode(s.entry.ID)
}

// Vault returns the session's vault.
func (f *FS) Vault() *Vault { return f.v }

// The names under which uploads stay unsealed.
var (
	Temporary   = temporary
	IsTemporary = isTemporary
)

// Clean is clean.
func Clean(p string) (string, error) { return clean(OpStat, p) }

// Inline lets everything of v happen in the call that causes it. It comes before any other use.
func Inline(v *Vault) *Vault {
	v.inline = true
	return v
}
