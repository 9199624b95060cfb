package attack_test

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/attack"
)

// modelClient is one key's session with a model.
type modelClient struct {
	m    *model
	home *model // m, where the fault "escape" has not led elsewhere
	key  string
	open map[*upload]bool
}

// upload is an open file.
type upload struct {
	c      *modelClient
	p      string
	data   []byte
	write  bool
	append int // with APPEND: where the file ended
	closed bool
}

var _ attack.Client = (*modelClient)(nil)

func (m *model) client(key string) *modelClient {
	return &modelClient{m: m, home: m, key: key, open: map[*upload]bool{}}
}

// lock takes the vault's lock and returns the vault that p leads to: another with the fault "escape".
func (c *modelClient) lock(p *string) func() {
	c.home.mu.Lock()
	if c.home.fault["escape"] && strings.Contains(*p, "..") {
		c.m = c.home.neighbour
		*p = (*p)[strings.LastIndex(*p, "..")+2:]
	}
	return func() { c.m = c.home; c.home.mu.Unlock() }
}

// answer is where the fault "silent" turns refusals into success.
func (c *modelClient) answer(err error) error {
	if c.m.fault["silent"] && errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

func (c *modelClient) Put(p string, data []byte) error {
	h, err := c.Open(p, attack.Write|attack.Create|attack.Truncate, attack.Attrs{})
	if err != nil {
		return c.answer(err)
	}
	return errors.Join(h.WriteAt(data, 0), h.Close())
}

func (c *modelClient) Open(p string, f attack.Flag, a attack.Attrs) (attack.Handle, error) {
	defer c.lock(&p)()
	m := c.m
	if f&attack.Write == 0 {
		q, _, n, err := m.resolve(p, true)
		if err != nil {
			return nil, err
		}
		if n.mode&0o170000 != regular {
			return nil, errors.New("not a file")
		}
		if m.fault["read-truncates"] && f&attack.Truncate != 0 {
			m.set(q, &node{mode: n.mode})
		}
		return &upload{c: c, p: p, data: n.data, append: -1}, nil
	}
	p, err := m.target(p)
	if err != nil {
		return nil, err
	}
	if len(c.open) >= 1200 || m.fault["few-handles"] && len(c.open) >= 4 {
		return nil, errors.New("too many open files")
	}
	u := &upload{c: c, p: p, write: true, append: -1}
	old, mine := m.at(p, live), m.pending[p]
	if mine != nil && mine.c.key != c.key && !m.fault["uploads-shared"] {
		mine = nil
	}
	switch {
	case m.fault["open-reserves"] && m.reserved(p, c):
		return nil, errDenied
	case old == nil && mine == nil && f&attack.Create == 0 && m.opened(p, c.key) == nil:
		return nil, fs.ErrNotExist
	case old != nil && f&attack.Exclusive != 0 && !m.fault["exclusive"]:
		return nil, fs.ErrExist
	case old != nil && old.mode&0o170000 == dir && !m.fault["made-over"]:
		return nil, errors.New("is a directory")
	case old != nil && m.fault["open-empties"]:
	case f&attack.Truncate == 0 && old != nil:
		u.data = append([]byte(nil), old.data...)
	case f&attack.Truncate == 0 && mine != nil:
		u.data = mine.data
	}
	if f&attack.Truncate != 0 && m.fault["truncate-at-open"] && old != nil {
		if err := m.publish(p, c.key, nil); err != nil {
			return nil, err
		}
	}
	if m.fault["open-attrs"] && old != nil && a.Mode != nil {
		m.setMeta(p, old, a)
	}
	if f&attack.Append != 0 {
		u.append = len(u.data)
	}
	c.open[u] = true
	m.open = append(m.open, u)
	return u, nil
}

// opened is, with the fault "resume-empty", what key is writing now by the name p.
func (m *model) opened(p, key string) *upload {
	for _, u := range m.open {
		if m.fault["resume-empty"] && u.p == p && u.c.key == key && !u.closed {
			return u
		}
	}
	return nil
}

func (m *model) reserved(p string, by *modelClient) bool {
	for _, u := range m.open {
		if u.p == p && !u.closed && u.c != by {
			return true
		}
	}
	return false
}

func (c *modelClient) Read(p string) ([]byte, error) {
	defer c.lock(&p)()
	if rest, ok := strings.CutPrefix(p, "/.vault/versions/"); ok {
		v := c.m.versions("/" + path.Dir(rest))
		if i, err := strconv.Atoi(path.Base(rest)); err == nil && i < len(v) {
			return v[i].data, nil
		}
		return nil, fs.ErrNotExist
	}
	_, seq, n, err := c.m.resolve(p, true)
	if err == nil && seq == live && n.mode&0o777 == 0 && c.m.fault["mode-blocks"] {
		return nil, errDenied
	}
	if err != nil || n.mode&0o170000 != regular {
		return nil, errors.Join(err, errors.New("not a file"))
	}
	return n.data, nil
}

func (c *modelClient) List(p string) ([]attack.Info, error) {
	defer c.lock(&p)()
	var list []attack.Info
	if rest, ok := strings.CutPrefix(p, "/.vault/versions/"); ok {
		for i := range c.m.versions("/" + rest) {
			list = append(list, attack.Info{Name: strconv.Itoa(i)})
		}
		return list, nil
	}
	q, seq, n, err := c.m.resolve(p, true)
	if err != nil || n.mode&0o170000 != dir {
		return nil, errors.Join(err, errors.New("not a directory"))
	}
	if (n.mode&0o777 == 0 || c.m.at("/", live).mode&0o777 == 0) && seq == live && c.m.fault["mode-blocks"] {
		return nil, errDenied
	}
	for _, name := range c.m.children(q, seq) {
		i := c.m.at(path.Join(q, name), seq).info()
		if i.Name = name; c.m.fault["names-cleaned"] {
			i.Name = strings.ToValidUTF8(strings.TrimSpace(strings.Map(printable, name)), "?")
			i.Name = i.Name[:min(len(i.Name), 254)]
		}
		list = append(list, i)
	}
	return list, nil
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f || r == '$' || r == '*' {
		return -1
	}
	return r
}

func (n *node) info() attack.Info {
	i := attack.Info{Mode: n.mode, UID: n.uid, GID: n.gid, MTime: time.Unix(int64(n.mtime), 0)}
	if n.mode&0o170000 != dir {
		i.Size = uint64(len(n.data))
	}
	return i
}

func (c *modelClient) stat(p string, follow bool) (attack.Info, error) {
	defer c.lock(&p)()
	_, seq, n, err := c.m.resolve(p, follow)
	if u := c.m.pending[path.Clean("/"+p)]; err != nil && u != nil && (u.c.key == c.key || c.m.fault["uploads-shared"]) {
		return attack.Info{Mode: regular, Size: uint64(len(u.data))}, nil
	}
	if u := c.m.opened(path.Clean("/"+p), c.key); err != nil && u != nil {
		return attack.Info{Mode: regular, Size: uint64(len(u.data))}, nil
	}
	if err == nil && seq != live && c.m.fault["views-by-mtime"] && n.mtime == 1 {
		return n.info(), nil
	}
	if err != nil && c.m.fault["views-by-mtime"] && strings.HasPrefix(p, "/.vault/at/") {
		rest := "/" + strings.SplitN(p, "/", 5)[4]
		if n := c.m.at(rest, live); n != nil && n.mtime == 1 {
			return n.info(), nil
		}
	}
	if err != nil {
		return attack.Info{}, err
	}
	return n.info(), nil
}

func (c *modelClient) Stat(p string) (attack.Info, error)   { return c.stat(p, false) }
func (c *modelClient) Follow(p string) (attack.Info, error) { return c.stat(p, true) }

func (c *modelClient) Readlink(p string) (string, error) {
	defer c.lock(&p)()
	_, _, n, err := c.m.resolve(p, false)
	if err != nil || n.mode&0o170000 != symlink {
		return "", errors.Join(err, errors.New("not a link"))
	}
	return string(n.data), nil
}

func (c *modelClient) Setstat(p string, a attack.Attrs) error {
	if a.Size != nil {
		h, err := c.Open(p, attack.Write, attack.Attrs{})
		if err != nil {
			return c.answer(err)
		}
		err = errors.Join(h.Setstat(attack.Attrs{Size: a.Size}), h.Close())
		if err != nil && !c.m.fault["half-done"] {
			return err
		}
	}
	defer c.lock(&p)()
	m := c.m
	q, seq, n, err := m.resolve(p, true)
	switch {
	case err != nil:
		return err
	case seq != live:
		return c.answer(errDenied)
	case n.key != c.key && !m.versioned && !m.fault["setmeta"]:
		return c.answer(errDenied)
	}
	m.setMeta(q, n, a)
	return nil
}

func (m *model) setMeta(p string, n *node, a attack.Attrs) {
	next := *n
	if a.Mode != nil {
		next.mode = n.mode&0o170000 | *a.Mode
	}
	if a.MTime != nil {
		next.mtime = *a.MTime
	}
	if a.UID != nil {
		next.uid, next.gid = *a.UID, *a.GID
	}
	m.set(p, &next)
	if m.fault["in-place"] {
		for q := range m.hist {
			if o := m.at(q, live); o != nil && q != p && o.ino == n.ino && o.mode&0o170000 == regular {
				m.set(q, &next)
			}
		}
	}
}

func (c *modelClient) Remove(p string) error {
	defer c.lock(&p)()
	m := c.m
	p, err := m.target(p)
	if err != nil || p == "" {
		return c.answer(err)
	}
	n := m.at(p, live)
	switch {
	case n == nil:
		if u := m.pending[p]; u != nil && (u.c.key == c.key || m.fault["uploads-shared"]) {
			delete(m.pending, p)
			return nil
		}
		return fs.ErrNotExist
	case n.mode&0o170000 == dir && !m.fault["tree-removed"]:
		return errors.New("is a directory")
	}
	if err := m.may(p, c.key, n, "remove"); err != nil {
		return c.answer(err)
	}
	for q := range m.hist {
		if o := m.at(q, live); m.fault["remove-by-content"] && o != nil && o.ino == n.ino {
			m.set(q, nil)
		}
	}
	m.set(p, nil)
	return nil
}

func (c *modelClient) Rmdir(p string) error {
	defer c.lock(&p)()
	m := c.m
	p, err := m.target(p)
	if err != nil || p == "" {
		return c.answer(err)
	}
	n := m.at(p, live)
	switch {
	case n == nil:
		return fs.ErrNotExist
	case n.mode&0o170000 != dir && !m.fault["tree-removed"]:
		return errors.New("not a directory")
	case len(m.children(p, live)) > 0 && !m.fault["tree-removed"]:
		return errors.New("not empty")
	}
	for q := range m.hist {
		if strings.HasPrefix(q, p+"/") {
			m.set(q, nil)
		}
	}
	m.set(p, nil)
	return nil
}

// make is for what must find its name free.
func (c *modelClient) make(p string, n *node) error {
	m := c.m
	p, err := m.target(p)
	switch {
	case err != nil || p == "":
		return c.answer(err)
	case m.at(p, live) != nil && !m.fault["made-over"]:
		return fs.ErrExist
	}
	n.key = c.key
	if n.mode&0o170000 != regular {
		n.ino = m.inos
		m.inos++
	}
	m.set(p, n)
	return nil
}

func (c *modelClient) Mkdir(p string) error {
	defer c.lock(&p)()
	return c.make(p, &node{mode: dir | 0o755})
}

func (c *modelClient) Symlink(target, p string) error {
	defer c.lock(&p)()
	return c.make(p, &node{mode: symlink | 0o777, data: []byte(target)})
}

func (c *modelClient) Link(old, p string) error {
	defer c.lock(&old)()
	_, _, n, err := c.m.resolve(old, false)
	c.m = c.home
	if err != nil {
		return err
	}
	if n.mode&0o170000 == dir && !c.m.fault["made-over"] {
		return errors.New("is a directory")
	}
	linked := *n
	if linked.mutable = false; c.m.fault["fresh-by-name"] && tempName.MatchString(path.Base(p)) {
		linked.mutable = true
	}
	key := c.key
	c.key = n.key
	defer func() { c.key = key }()
	return c.make(p, &linked)
}
