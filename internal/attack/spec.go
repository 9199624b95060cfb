package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
)

// want is what must hold of the answer and of the victims' live names. Their past must hold always.
type want int

const (
	// refused: an error, and the victims live as they were, in both modes.
	refused want = iota
	// refusedInStrict: in versioned it may succeed, and the live name may then move on.
	refusedInStrict
	// harmless: whatever the answer, the victims live as they were, in both modes.
	harmless
	// harmlessInStrict: whatever the answer; in versioned the live name may move on.
	harmlessInStrict
)

// who attacks: each attacker gets victims of its own.
type who int

const (
	both  who = iota
	thief     // another key: for what the creating key may do
	twin      // the owner's key
)

func (w who) keys() []string {
	switch w {
	case thief:
		return []string{"thief"}
	case twin:
		return []string{"twin"}
	}
	return []string{"thief", "twin"}
}

// spec is a case as the tables write it.
type spec struct {
	name, promise, story string
	want                 want
	who                  who
	// grow: the owner's key may make the file longer (DESIGN.md §2, same or longer); the old bytes stay its beginning.
	grow bool
	// meta: in strict, mode, owner and times must be as they were, too.
	meta  bool
	files []string // default: plainFiles
	// do attacks and returns the attacked operation's error; broken and setup mark other errors.
	do func(a *act) error
}

var plainFiles = []string{"dump.sql", "deep/archive.tar"}

// act is one attacker at work on its victims.
type act struct {
	env  *Env
	c    Client // the attacker's
	own  bool   // c has the owner's key
	dir  string // where the victims are
	dump string // path of the first victim, if any
	set  *set
}

// errBroken marks an error that is not an answer to the attack but a broken promise.
var errBroken = errors.New("broken")

// errSetup marks an attack that could not be tried: what came before it failed, though the vault allows it.
var errSetup = fmt.Errorf("%w: could not be tried", errBroken)

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errBroken, fmt.Errorf(format, args...))
}

// setup wraps the error of a step that must succeed before the attack; nil stays nil.
func setup(step string, err error) error {
	if err == nil || errors.Is(err, ErrUnsupported) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", errSetup, step, err)
}

func (s spec) build() Case {
	c := Case{Name: s.name, Promise: s.promise, Story: s.story, files: s.files, who: s.who}
	if c.files == nil {
		c.files = plainFiles
	}
	c.Run = func(ctx context.Context, e *Env) error {
		if err := e.prepare(ctx, []Case{c}); err != nil {
			return fmt.Errorf("%w: %w", errSetup, err)
		}
		for _, key := range s.who.keys() {
			set := e.sets[s.name+"/"+key]
			a := &act{env: e, c: e.attacker(key), own: key == "twin", dir: set.dir, set: set}
			if len(set.victims) > 0 {
				a.dump = set.victims[0].path
			}
			if err := s.run(a); err != nil {
				return fmt.Errorf("by the %s: %w", key, err)
			}
		}
		return nil
	}
	return c
}

// run attacks and judges.
func (s spec) run(a *act) error {
	if a.env.Jailed && !a.own {
		return s.fromInside(a)
	}
	err := s.do(a)
	if errors.Is(err, errBroken) || errors.Is(err, ErrUnsupported) {
		return err
	}
	var errs []error
	if errors.Is(err, ErrLost) {
		errs = append(errs, broken("the attack cost the session: %w", err))
	}
	strictly := s.want == refused || s.want == harmless
	grown := err == nil && s.grow && a.own
	mustRefuse := s.want == refused || s.want == refusedInStrict && !a.env.Versioned
	if err == nil && mustRefuse && !grown {
		errs = append(errs, broken("it was answered with success"))
	}
	live := stays
	switch {
	case a.env.Versioned && !strictly && (err == nil || s.want == harmlessInStrict):
		live = movesOn
	case grown:
		live = grows
	}
	for _, v := range a.set.victims {
		errs = append(errs, a.env.check(v, live, s.meta && !a.env.Versioned))
	}
	return errors.Join(errs...)
}

// fromInside attacks from inside a root in which nothing of the victims' is: the thief reads nothing of them, neither now nor in
// the past, and whatever it is told when it does its worst, they stay as they were.
func (s spec) fromInside(a *act) error {
	var errs []error
	reads := func(p string, v victim) {
		if got, err := a.c.Read(p); err == nil && bytes.Equal(got, v.data) {
			errs = append(errs, broken("%s was read from inside the root", p))
		}
	}
	for _, v := range a.set.victims {
		for _, view := range []string{"", "/.vault/at/0s", "/.vault/at/" + v.before, "/.vault/snapshots/latest"} {
			reads(view+v.path, v)
		}
		versions := "/.vault/versions" + v.path
		if list, err := a.c.List(versions); err == nil {
			for _, i := range list {
				reads(versions+"/"+i.Name, v)
			}
		}
	}
	if err := s.do(a); errors.Is(err, ErrLost) {
		errs = append(errs, broken("the attack cost the session: %w", err))
	}
	for _, v := range a.set.victims {
		errs = append(errs, a.env.check(v, stays, true))
	}
	return errors.Join(errs...)
}

// write opens, writes data at off and closes; the first error is the answer. It closes in any case: an
// attacker would.
func (a *act) write(path string, f Flag, off uint64, data []byte) error {
	return a.handle(path, f, func(h Handle) error { return h.WriteAt(data, off) })
}

func (a *act) handle(path string, f Flag, do func(Handle) error) error {
	h, err := a.c.Open(path, f, Attrs{})
	if err != nil {
		return err
	}
	err = do(h)
	return errors.Join(err, h.Close())
}

// mine stores a file of the attacker's beside the victims and returns its path.
func (a *act) mine(name string) (string, error) {
	p := a.dir + "/" + name
	return p, setup("store "+name, a.c.Put(p, junk(p)))
}

// makeDirs makes directories below the victims'.
func (a *act) makeDirs(names ...string) error {
	for _, n := range names {
		if err := a.c.Mkdir(a.dir + "/" + n); err != nil {
			return setup("make directory "+n, err)
		}
	}
	return nil
}

// all runs every one of fs and wants an error from each: one that succeeds is broken.
func all(fs map[string]func() error) error {
	names := make([]string, 0, len(fs))
	for n := range fs {
		names = append(names, n)
	}
	slices.Sort(names)
	var last error
	for _, n := range names {
		err := fs[n]()
		switch {
		case errors.Is(err, ErrUnsupported):
			continue
		case errors.Is(err, ErrLost):
			return broken("%s cost the session: %w", n, err)
		case err == nil:
			return broken("%s was answered with success", n)
		}
		last = err
	}
	if last == nil {
		return ErrUnsupported
	}
	return last
}
