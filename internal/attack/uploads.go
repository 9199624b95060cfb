package attack

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"
)

// uploadSpecs attack what is still being written, and what was opened before it was sealed.
func uploadSpecs() []spec {
	return []spec{
		{name: "claim-before-close", promise: P2, want: harmless, files: []string{},
			story: "Opens a name, waits until the owner has stored a file by it, and then writes and closes.",
			do:    claimBeforeClose},
		{name: "claim-many", promise: P2, want: harmless, who: thief, files: []string{},
			story: "Opens many names that the owner will use, so that the owner can not: an open upload reserves nothing.",
			do:    claimMany},
		{name: "two-handles", promise: P1, want: harmless, files: []string{},
			story: "Opens one new name twice and closes both with different content: the first close wins.",
			do:    twoHandles},
		{name: "write-after-close", promise: P1, want: harmless, files: []string{},
			story: "Writes through a handle that was closed.",
			do:    writeAfterClose},
		{name: "fsetstat-by-path", promise: P1, want: harmless, who: thief, files: []string{},
			story: "Opens a free name; the owner stores a file by it; length and times set through the old handle must not reach it.",
			do:    fsetstatByPath},
		{name: "handle-across-rename", promise: P1, want: harmless, who: thief,
			story: "Opens its own temporary upload again, renames the name away under the handle and sets the length through it.",
			do:    handleAcrossRename},
		{name: "put-race", promise: P1, want: harmless, who: thief, files: []string{},
			story: "Two keys put different files of one new name at the same time: one wins and the loser is told.",
			do:    putRace},
		{name: "resume-other-key", promise: P1, want: harmless, who: thief, files: []string{},
			story: "Looks for, reads and resumes another key's interrupted upload.",
			do:    resumeOther},
		{name: "resume-too-early", promise: P4, want: harmless, who: twin, files: []string{},
			story: "Resumes the owner's upload while the server still believes in the connection that began it: whole or refused, never with a hole.",
			do:    resumeEarly},
		{name: "remove-other-key-upload", promise: P1, want: harmless, who: thief, files: []string{},
			story: "Removes, renames and cuts another key's interrupted upload.",
			do:    removeOther},
		{name: "finish-other-key-upload", promise: P2, want: harmless, who: thief, files: []string{},
			story: "Stores a file by the name that another key is uploading: that key must be told, and the stored file stays.",
			do:    finishOther},
	}
}

func claimBeforeClose(a *act) error {
	p := a.dir + "/claimed"
	h, err := a.c.Open(p, Write|Create|Truncate, Attrs{})
	if err != nil {
		return setup("open", err)
	}
	if err := a.env.Owner.Put(p, content(p)); err != nil {
		return setup("the owner's put", err)
	}
	err = errors.Join(h.WriteAt(junk(p), 0), h.Close())
	if err == nil && a.env.Versioned {
		return a.env.hasVersion(p, content(p))
	}
	if err == nil {
		return broken("the later close was answered with success")
	}
	return errors.Join(err, a.env.holds(p, content(p)))
}

func claimMany(a *act) error {
	var open []Handle
	for i := range 20 {
		h, err := a.c.Open(fmt.Sprintf("%s/day-%02d", a.dir, i), Write|Create|Truncate, Attrs{})
		if err != nil {
			return setup("open", err)
		}
		open = append(open, h)
	}
	for i := range open {
		p := fmt.Sprintf("%s/day-%02d", a.dir, i)
		if err := a.env.Owner.Put(p, content(p)); err != nil {
			return broken("an open upload keeps the owner from %s: %w", p, err)
		}
	}
	if err := a.c.Drop(); err != nil {
		return setup("drop", err)
	}
	for i := range open {
		p := fmt.Sprintf("%s/day-%02d", a.dir, i)
		if err := a.env.holds(p, content(p)); err != nil {
			return err
		}
	}
	return nil
}

func twoHandles(a *act) error {
	p := a.dir + "/twice"
	one, err := a.c.Open(p, Write|Create|Truncate, Attrs{})
	if err != nil {
		return setup("open", err)
	}
	two, err := a.c.Open(p, Write|Create|Truncate, Attrs{})
	if err != nil {
		return errors.Join(err, one.Close())
	}
	if err := errors.Join(one.WriteAt(content(p), 0), two.WriteAt(junk(p), 0), one.Close()); err != nil {
		return setup("write and close the first", err)
	}
	if err := two.Close(); err == nil {
		if a.env.Versioned {
			return a.env.hasVersion(p, content(p))
		}
		return broken("the second close was answered with success")
	}
	return a.env.holds(p, content(p))
}

func writeAfterClose(a *act) error {
	p := a.dir + "/closed"
	h, err := a.c.Open(p, Write|Create|Truncate, Attrs{})
	if err != nil {
		return setup("open", err)
	}
	if err := errors.Join(h.WriteAt(content(p), 0), h.Close()); err != nil {
		return setup("write and close", err)
	}
	for name, late := range map[string]error{"write": h.WriteAt(junk(p), 0), "set length": h.Setstat(size(0)), "close": h.Close()} {
		if errors.Is(late, ErrLost) || late == nil {
			return broken("%s through a closed handle: %v", name, late)
		}
	}
	return a.env.holds(p, content(p))
}

func fsetstatByPath(a *act) error {
	p := a.dir + "/named"
	h, err := a.c.Open(p, Write|Create|Truncate, Attrs{})
	if err != nil {
		return setup("open", err)
	}
	if err := a.env.Owner.Put(p, content(p)); err != nil {
		return setup("the owner's put", err)
	}
	before, err := a.env.Owner.Stat(p)
	if err != nil {
		return setup("stat", err)
	}
	err = errors.Join(h.Setstat(size(0)), h.Setstat(times(1)), h.Setstat(mode(0)))
	after, serr := a.env.Owner.Stat(p)
	if serr != nil || after != before {
		return broken("attributes through the handle reached the stored file: %+v became %+v (%v)", before, after, serr)
	}
	if info, herr := h.Stat(); herr == nil && info.Size == uint64(len(content(p))) {
		return broken("a stat of the handle tells of the stored file")
	}
	return errors.Join(err, a.c.Drop(), a.env.holds(p, content(p)))
}

func handleAcrossRename(a *act) error {
	temp, final := a.dir+"/up.filepart", a.dir+"/up"
	if err := a.c.Put(temp, content(temp)); err != nil {
		return setup("put a temporary file", err)
	}
	h, err := a.c.Open(temp, Write, Attrs{})
	if err != nil {
		return setup("open it again", err)
	}
	if err := a.c.Rename(temp, final); err != nil {
		return setup("rename it to its name", err)
	}
	err = errors.Join(h.Setstat(size(0)), h.WriteAt(junk(temp), 0), h.Close())
	return errors.Join(err, a.env.holds(final, content(temp)))
}

func putRace(a *act) error {
	for i := range 12 {
		p := fmt.Sprintf("%s/race-%02d", a.dir, i)
		done := make(chan error, 1)
		go func() { done <- a.env.Twin.Put(p, content(p)) }()
		mine := a.c.Put(p, junk(p))
		theirs := <-done
		got, err := a.env.Owner.Read(p)
		switch {
		case err != nil:
			return broken("read %s: %w (answers %v and %v)", p, err, mine, theirs)
		case errors.Is(mine, ErrLost) || errors.Is(theirs, ErrLost):
			return broken("the race cost a session: %v, %v", mine, theirs)
		case mine != nil && theirs != nil:
			return broken("nobody got %s: %v, %v", p, mine, theirs)
		case mine == nil && theirs == nil && !a.env.Versioned:
			return broken("both were told that %s is theirs", p)
		case mine != nil && string(got) == string(junk(p)), theirs != nil && string(got) == string(content(p)):
			return broken("%s has the bytes of whoever was refused", p)
		case string(got) != string(junk(p)) && string(got) != string(content(p)):
			return broken("%s is torn: %d bytes of neither", p, len(got))
		}
		if mine == nil && theirs == nil {
			if err := errors.Join(a.env.hasVersion(p, junk(p)), a.env.hasVersion(p, content(p))); err != nil {
				return err
			}
		}
	}
	return nil
}

// interrupted leaves an unfinished upload of the owner's: the first half of content(p).
func (a *act) interrupted(name string) (string, error) {
	p := a.dir + "/" + name
	h, err := a.env.Owner.Open(p, Write|Create|Truncate, Attrs{})
	if err != nil {
		return p, setup("open", err)
	}
	if err := h.WriteAt(content(p)[:1024], 0); err != nil {
		return p, setup("write", err)
	}
	if err := a.env.Owner.Drop(); err != nil {
		return p, setup("drop", err)
	}
	err = setup("see the own interrupted upload", a.env.eventually(func() error {
		info, err := a.env.Owner.Stat(p)
		if err == nil && info.Size != 1024 {
			err = fmt.Errorf("it has %d bytes", info.Size)
		}
		return err
	}))
	// The answer may come before the server has noticed the loss; resume-too-early is about that.
	time.Sleep(a.env.patience() / 20)
	return p, err
}

// resumeEarly is what a client does that has lost its connection and is back before the server noticed:
// STAT tells how much is there, OPEN without TRUNC, and the rest from there on.
func resumeEarly(a *act) error {
	p := a.dir + "/early"
	h, err := a.env.Owner.Open(p, Write|Create|Truncate, Attrs{})
	if err != nil {
		return setup("open", err)
	}
	if err := h.WriteAt(content(p)[:1024], 0); err != nil {
		return setup("write", err)
	}
	info, err := a.c.Stat(p)
	if err == nil {
		err = a.write(p, Write, info.Size, content(p)[info.Size:])
	}
	if err == nil {
		return errors.Join(a.env.holds(p, content(p)), setup("drop", a.env.Owner.Drop()))
	}
	if err := errors.Join(h.WriteAt(content(p)[1024:], 1024), h.Close()); err != nil {
		return broken("the refused resumption has cost the upload: %w", err)
	}
	return errors.Join(err, a.env.holds(p, content(p)))
}

// finish lets the owner resume what interrupted left, and wants the whole content in the end.
func (a *act) finish(p string) error {
	h, err := a.env.Owner.Open(p, Write, Attrs{})
	if err != nil {
		return broken("the owner can not resume %s: %w", p, err)
	}
	if err := errors.Join(h.WriteAt(content(p)[1024:], 1024), h.Close()); err != nil {
		return broken("the owner can not finish %s: %w", p, err)
	}
	return a.env.holds(p, content(p))
}

func resumeOther(a *act) error {
	p, err := a.interrupted("resumed")
	if err != nil {
		return err
	}
	if _, err := a.c.Stat(p); errors.Is(err, ErrUnsupported) {
		return err
	} else if !errors.Is(err, fs.ErrNotExist) {
		return broken("another key sees the unfinished %s (%v)", p, err)
	}
	if _, err := a.c.Read(p); err == nil {
		return broken("another key reads the unfinished %s", p)
	}
	if err := a.write(p, Write, 1024, junk(p)); err == nil {
		return broken("another key resumes %s", p)
	}
	list, err := a.c.List(a.dir)
	if err != nil {
		return broken("list: %w", err)
	}
	for _, i := range list {
		if i.Name == path.Base(p) {
			return broken("the unfinished %s is listed", p)
		}
	}
	return a.finish(p)
}

func removeOther(a *act) error {
	p, err := a.interrupted("unfinished")
	if err != nil {
		return err
	}
	for name, err := range map[string]error{"remove": a.c.Remove(p), "rename": a.c.Rename(p, p+".mine"), "set length": a.c.Setstat(p, size(0))} {
		if err == nil {
			return broken("%s of another key's unfinished upload was answered with success", name)
		}
	}
	return a.finish(p)
}

func finishOther(a *act) error {
	p, err := a.interrupted("taken")
	if err != nil {
		return err
	}
	if err := a.c.Put(p, junk(p)); err != nil {
		return broken("an unfinished upload reserves its name: %w", err)
	}
	h, err := a.env.Owner.Open(p, Write, Attrs{})
	if err == nil {
		err = errors.Join(h.WriteAt(content(p)[1024:], 1024), h.Close())
	}
	if err == nil && !a.env.Versioned {
		return broken("the owner was not told that %s is taken", p)
	}
	if err == nil {
		return a.env.hasVersion(p, junk(p))
	}
	return a.env.holds(p, junk(p))
}

// temporarySpecs attack what is fresh: temporary names belong to the key that made them.
func temporarySpecs() []spec {
	// fresh stores a temporary file of the owner's and lets another key do something to it.
	fresh := func(do func(a *act, p string) error) func(a *act) error {
		return func(a *act) error {
			p := a.dir + "/upload.filepart"
			if err := a.env.Owner.Put(p, content(p)); err != nil {
				return setup("put a temporary file", err)
			}
			err := do(a, p)
			if err == nil {
				return broken("it was answered with success")
			}
			return errors.Join(err, a.env.holds(p, content(p)))
		}
	}
	// sealed renames a temporary file to its name, and lets the attacker try.
	sealed := func(do func(a *act, temp, p string) error) func(a *act) error {
		return func(a *act) error {
			temp, p := a.dir+"/big.partial", a.dir+"/big"
			if err := a.env.Owner.Put(temp, content(p)); err != nil {
				return setup("put a temporary file", err)
			}
			if err := a.env.Owner.Rename(temp, p); err != nil {
				return setup("rename it to its name", err)
			}
			err := do(a, temp, p)
			if err == nil && a.env.Versioned {
				return a.env.hasVersion(p, content(p))
			}
			if err == nil {
				return broken("it was answered with success")
			}
			return errors.Join(err, a.env.holds(p, content(p)))
		}
	}
	return []spec{
		{name: "fresh-remove", promise: P2, want: harmless, who: thief, files: []string{},
			story: "Removes another key's temporary file.",
			do:    fresh(func(a *act, p string) error { return a.c.Remove(p) })},
		{name: "fresh-rewrite", promise: P1, want: harmless, who: thief, files: []string{},
			story: "Rewrites another key's temporary file.",
			do:    fresh(func(a *act, p string) error { return a.c.Put(p, junk(p)) })},
		{name: "fresh-append", promise: P1, want: harmless, who: thief, files: []string{},
			story: "Adds to another key's temporary file before that key renames it.",
			do:    fresh(func(a *act, p string) error { return a.write(p, Write|Append, 2048, []byte("tail")) })},
		{name: "fresh-truncate", promise: P1, want: harmless, who: thief, files: []string{},
			story: "Cuts another key's temporary file by its path.",
			do:    fresh(func(a *act, p string) error { return a.c.Setstat(p, size(1)) })},
		{name: "fresh-rename", promise: P2, want: harmless, who: thief, files: []string{},
			story: "Renames another key's half-done temporary file to its final name, which would seal it there.",
			do:    fresh(func(a *act, p string) error { return a.c.Rename(p, a.dir+"/upload") })},
		{name: "fresh-rename-over", promise: P2, want: harmless, who: thief, files: []string{},
			story: "Posix-renames its own temporary file over another key's.",
			do: fresh(func(a *act, p string) error {
				own, err := a.mine("mine.filepart")
				if err != nil {
					return err
				}
				return a.c.PosixRename(own, p)
			})},
		{name: "renamed-remove", promise: P2, want: harmless, files: []string{},
			story: "Removes a file that was uploaded by a temporary name and renamed: the rename has sealed it.",
			do:    sealed(func(a *act, _, p string) error { return a.c.Remove(p) })},
		{name: "renamed-back", promise: P2, want: harmless, files: []string{},
			story: "Renames a file back to the temporary name it was uploaded by, where it would be mutable.",
			do:    sealed(func(a *act, temp, p string) error { return a.c.Rename(p, temp) })},
		{name: "renamed-over-again", promise: P2, want: harmless, files: []string{},
			story: "Uploads the temporary name again and renames it over what it became before.",
			do: sealed(func(a *act, temp, p string) error {
				if err := a.c.Put(temp, junk(p)); err != nil {
					return setup("put the temporary file again", err)
				}
				return a.c.PosixRename(temp, p)
			})},
	}
}
