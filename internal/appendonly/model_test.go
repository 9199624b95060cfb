package appendonly_test

import (
	"fmt"
	"maps"
	"path"
	"strings"
	"time"

	"vaultd/internal/appendonly"
)

// thing is what a name stands for, as a client can tell.
type thing struct {
	kind   appendonly.Kind
	data   string // content, or target
	fresh  bool
	key    string
	closed time.Time // when its content was
}

func (x thing) String() string {
	s := fmt.Sprintf("%s %q", x.kind, x.data)
	if x.fresh {
		s += " fresh"
	}
	return s
}

// same compares what a reader sees.
func (x thing) same(y thing) bool { return x.kind == y.kind && x.data == y.data }

// world is the live tree: paths, and what they stand for.
type world map[string]thing

func (w world) clone() world { return maps.Clone(w) }

// sealed is what an instant shows.
func (w world) sealed() world {
	out := world{}
	for p, x := range w {
		if !x.fresh {
			out[p] = x
		}
	}
	return out
}

func (w world) empty(dir string) bool {
	for p := range w {
		if strings.HasPrefix(p, dir+"/") {
			return false
		}
	}
	return true
}

// move takes a name, with everything below it, elsewhere.
func (w world) move(from, to string, fresh bool) {
	x := w[from]
	x.fresh = fresh
	for p := range w.clone() {
		if strings.HasPrefix(p, from+"/") {
			w[to+p[len(from):]] = w[p]
			delete(w, p)
		}
	}
	delete(w, from)
	w[to] = x
}

// difference tells the first path in which two worlds differ for a reader; "" if in none.
func (w world) difference(x world) string {
	for p := range w {
		if y, ok := x[p]; !ok || !y.same(w[p]) {
			return fmt.Sprintf("%q is %v, should be %v", p, w[p], y)
		}
	}
	for p := range x {
		if _, ok := w[p]; !ok {
			return fmt.Sprintf("%q is missing, should be %v", p, x[p])
		}
	}
	return ""
}

// look reads all of a tree: the live one for "", or that of an instant.
func look(f *appendonly.FS, root string) (world, error) {
	w := world{}
	var walk func(dir string) error
	walk = func(dir string) error {
		d, err := f.OpenDir(path.Join("/", root, dir))
		if err != nil {
			return err
		}
		for {
			infos, err := d.Next(3)
			if err != nil {
				return nil
			}
			for _, i := range infos {
				p := path.Join(dir, i.Name)
				if _, twice := w[p]; twice {
					return fmt.Errorf("%q is listed twice", p)
				}
				x := thing{kind: i.Kind, data: i.Target, fresh: !i.Sealed}
				switch i.Kind {
				case appendonly.KindFile:
					if x.data, err = get(f, path.Join("/", root, p)); err != nil {
						return err
					}
					if int64(len(x.data)) != i.Size {
						return fmt.Errorf("%q has %d bytes, its size is %d", p, len(x.data), i.Size)
					}
				case appendonly.KindDir:
					if err := walk(p); err != nil {
						return err
					}
				}
				w[p] = x
			}
		}
	}
	return w, walk("")
}

// history is what the model knows beside the live tree.
type past struct {
	seq  appendonly.Seq
	name string // under /.vault
	show world
}

// modeAt is the model's own reading of a policy: the deepest prefix counts.
func modeAt(p appendonly.Policy, rel string) appendonly.Mode {
	mode, best := p.Mode, -1
	for _, x := range p.Prefixes {
		if (rel == x.Path || strings.HasPrefix(rel, x.Path+"/")) && len(x.Path) > best {
			mode, best = x.Mode, len(x.Path)
		}
	}
	return mode
}

func (m *machine) mode(p string) appendonly.Mode {
	return modeAt(m.b.pol, strings.TrimPrefix(m.b.root+"/"+p, "/"))
}

// temporary is the model's own list of names that stay unsealed.
func isTemporary(p string) bool {
	name := path.Base(p)
	return strings.HasSuffix(name, ".partial") || strings.HasPrefix(name, ".in.")
}

// published checks and carries out a successful CLOSE of data under p.
func (m *machine) published(w world, key, p, data string) {
	now := m.b.clock.Now()
	old, there := w[p]
	mode := m.mode(p)
	fresh := isTemporary(p) && (!there || old.fresh)
	next := thing{kind: appendonly.KindFile, data: data, fresh: fresh, key: key, closed: now}
	switch {
	case !there:
	case old.fresh:
		if old.key != key {
			m.fatalf("%s wrote over %q, which %s is still writing", key, p, old.key)
		}
		next.closed = old.closed
	case old.kind == appendonly.KindDir, old.kind != appendonly.KindFile && mode == appendonly.Strict:
		m.fatalf("a %s at %q was written over", old.kind, p)
	case old.kind == appendonly.KindFile && old.data == data:
		return
	case mode == appendonly.Strict && (!strings.HasPrefix(data, old.data) || old.key != key):
		m.fatalf("strict: %q was %v of %s, %s wrote %q over it", p, old, old.key, key, data)
	case mode == appendonly.Strict && now.Sub(old.closed) > 24*time.Hour+time.Minute:
		m.fatalf("strict: %q was extended after %v", p, now.Sub(old.closed))
	}
	w[p] = next
}

// removed checks and carries out a successful removal.
func (m *machine) removed(w world, key, p string) {
	old, there := w[p]
	switch {
	case !there:
		return // an unfinished upload
	case old.fresh && old.key != key:
		m.fatalf("%s removed %q, which %s is still writing", key, p, old.key)
	case !old.fresh && m.mode(p) == appendonly.Strict && old.kind != appendonly.KindDir:
		m.fatalf("strict: %q was removed", p)
	case old.kind == appendonly.KindDir && !w.empty(p):
		m.fatalf("%q was removed with what is in it", p)
	}
	delete(w, p)
}

// renamed checks and carries out a successful rename.
func (m *machine) renamed(w world, key, from, to string) {
	old, there := w[from]
	if !there || from == to {
		return // a lost reply's second try, or nothing to do
	}
	over, taken := w[to]
	if old.fresh {
		if old.key != key {
			m.fatalf("%s renamed %q, which %s is still writing", key, from, old.key)
		}
		if taken && !over.fresh && over.same(old) {
			delete(w, from)
			return
		}
		if taken && !over.fresh && m.mode(to) == appendonly.Strict && !strings.HasPrefix(old.data, over.data) {
			m.fatalf("strict: %q was renamed over %q", from, to)
		}
		w.move(from, to, isTemporary(to) && (!taken || over.fresh))
		return
	}
	if m.mode(from) == appendonly.Strict || taken && !over.fresh && m.mode(to) == appendonly.Strict {
		m.fatalf("strict: %q was renamed to %q", from, to)
	}
	if taken && old.kind == appendonly.KindFile && m.linked(w, from, to) {
		return // two names of one content
	}
	w.move(from, to, false)
}
