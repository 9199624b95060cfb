package appendonly

import (
	"errors"
	"io/fs"

	"vaultd/internal/journal"
)

// Ask says what an operation on path would be told, and changes nothing: nil, or the refusal. OpExtend also
// asks whether this key may still go on with the file.
func (f *FS) Ask(op Op, path string) error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	s, err := f.spot(op, path)
	if err != nil {
		return err
	}
	if op == OpExtend && s.entry != nil && s.mode == Strict && !f.v.goesOn(s.entry, f.who.Key) {
		op = OpOverwrite
	}
	_, err = f.decide(op, &s)
	return err
}

// AskMeta is Ask for SetMeta(path, m, false).
func (f *FS) AskMeta(path string, m Meta) error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	s, err := f.spot(OpSetMeta, path)
	if err != nil || s.entry == nil {
		return err
	}
	merged, err := mergeMeta(s.entry.Meta, m)
	if err == nil {
		_, err = f.decide(metaOp(s.entry.Meta, merged, &s), &s)
	}
	return err
}

// goesOn says whether a longer content with the same beginning is an extension: only the key that made
// the shorter one, and only within the resume window, extends. mu is held.
func (v *Vault) goesOn(there *journal.Entry, key string) bool {
	age := v.cfg.Now().Sub(there.Received)
	return there.Key == key && age >= 0 && age < v.policy.resumeWindow()
}

// Basis opens a file to compare with what a client has (block sums, digests) or to copy from, on its own
// tenant's side. Keys that may not read get what they made themselves: what is compared can be guessed.
func (f *FS) Basis(path string) (*File, error) { return f.open(OpHash, path) }

// Interrupted opens what arrived of this key's interrupted upload under path, whether or not something else stands
// there; fs.ErrNotExist when there is none. It can be read on after Create took the upload up, or dropped it.
func (f *FS) Interrupted(path string) (*File, error) {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	missing := pathError(OpHash, path, fs.ErrNotExist)
	if f.v.uploadCount == 0 {
		return nil, missing
	}
	s, err := f.spot(OpCreate, path)
	if err != nil {
		return nil, err
	}
	up := f.v.ownUpload(s.loc, f.who.Key)
	if up == nil || !up.interrupted {
		return nil, missing
	}
	c, err := f.v.vol.Open(up.id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	return &File{content: c, info: Info{Name: s.loc.Name, Kind: KindFile, Size: up.size, Meta: up.meta, Nlink: 1}}, nil
}
