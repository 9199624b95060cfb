package attack_test

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"vaultd/internal/attack"
)

func (c *modelClient) Rename(from, to string) error      { return c.rename(from, to, false) }
func (c *modelClient) PosixRename(from, to string) error { return c.rename(from, to, true) }

func (c *modelClient) rename(from, to string, replace bool) error {
	defer c.lock(&from)()
	m := c.m
	from, err := m.target(from)
	if err != nil || from == "" {
		return c.answer(err)
	}
	if to, err = m.target(to); err != nil || to == "" {
		return c.answer(err)
	}
	n, old := m.at(from, live), m.at(to, live)
	switch {
	case n == nil:
		return fs.ErrNotExist
	case m.fault["rename-self"] && (from == to || replace && old != nil && old.ino == n.ino):
		m.set(from, nil)
		m.set(to, nil)
		return nil
	case from == to:
		return nil
	case strings.HasPrefix(to, from+"/") && !m.fault["rename-into-itself"]:
		return errors.New("into itself")
	case old != nil && !replace && !m.fault["rename-over"]:
		return fs.ErrExist
	}
	isDir := n.mode&0o170000 == dir
	if old != nil && (isDir || old.mode&0o170000 == dir) && !m.fault["rename-over"] {
		return errors.New("directory involved")
	}
	if old != nil {
		if err := m.may(to, c.key, old, "rename-over"); err != nil {
			return c.answer(err)
		}
	}
	if !m.fault["rename-away"] && !m.versioned && !n.mutable && (!isDir || len(m.children(from, live)) > 0) {
		return c.answer(errDenied)
	}
	if err := m.may(from, c.key, n, "rename-away"); err != nil && !isDir {
		return c.answer(err)
	}
	m.move(from, to, n)
	return nil
}

func (m *model) move(from, to string, n *node) {
	for q := range m.hist {
		if rest, ok := strings.CutPrefix(q, from+"/"); ok {
			below := m.at(q, live)
			m.set(q, nil)
			if below != nil {
				m.set(to+"/"+rest, below)
			}
		}
	}
	moved := *n
	moved.mutable = n.mutable && tempName.MatchString(path.Base(to)) || m.fault["fresh-by-name"] && tempName.MatchString(path.Base(to))
	m.set(from, nil)
	m.set(to, &moved)
}

func (c *modelClient) Statvfs(string) (attack.Space, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.m.fault["host-space"] {
		return attack.Space{Total: 1 << 50, Free: 1 << 49, Avail: 1 << 49}, nil
	}
	free := uint64(max(0, c.m.limit-c.m.used))
	return attack.Space{Total: uint64(c.m.limit), Free: free, Avail: free}, nil
}

func (c *modelClient) Drop() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for u := range c.open {
		if u.closed = true; c.m.fault["drop-publishes"] {
			if err := c.m.publish(u.p, c.key, u.data); err != nil {
				continue
			}
		}
		if c.m.at(u.p, live) == nil {
			c.m.pending[u.p] = u
		}
		delete(c.open, u)
	}
	if c.m.fault["drop-loses"] {
		for p := range c.m.hist {
			if path.Base(p) == "acknowledged" {
				c.m.set(p, nil)
			}
		}
	}
	return nil
}

func (u *upload) WriteAt(p []byte, off uint64) error {
	m := u.c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case u.closed && m.fault["late-writes"]:
		m.set(u.p, &node{mode: regular, data: p})
		return nil
	case u.closed:
		return fs.ErrClosed
	case !u.write && m.fault["read-handles-write"]:
		n := *m.at(path.Clean("/"+u.p), live)
		n.data = p
		m.set(path.Clean("/"+u.p), &n)
		return nil
	case !u.write:
		return u.c.answer(errDenied)
	case off > 1<<30 && m.fault["offset-wraps"]:
		off = 0
	case off > 1<<30:
		return errors.New("offset too large")
	}
	if u.append >= 0 {
		off += uint64(u.append)
	}
	if end := int(off) + len(p); end > len(u.data) {
		u.data = append(u.data, make([]byte, end-len(u.data))...)
	}
	copy(u.data[off:], p)
	return nil
}

func (u *upload) Setstat(a attack.Attrs) error {
	m := u.c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.at(u.p, live); m.fault["handle-by-path"] && n != nil {
		if a.Size != nil {
			c := *n
			c.data = n.data[:min(uint64(len(n.data)), *a.Size)]
			n = &c
		}
		m.setMeta(u.p, n, a)
		return nil
	}
	switch {
	case u.closed && m.fault["late-writes"]:
		return nil
	case u.closed:
		return fs.ErrClosed
	case !u.write && m.fault["read-handles-write"]:
		n := *m.at(path.Clean("/"+u.p), live)
		m.setMeta(path.Clean("/"+u.p), &n, a)
		return nil
	case !u.write:
		return u.c.answer(errDenied)
	case a.Size == nil:
		return nil
	case *a.Size > 1<<30 && m.fault["offset-wraps"]:
		u.data = nil
	case *a.Size > 1<<30:
		return errors.New("too long")
	case *a.Size < uint64(len(u.data)):
		u.data = u.data[:*a.Size:*a.Size]
	default:
		u.data = append(u.data, make([]byte, *a.Size-uint64(len(u.data)))...)
	}
	return nil
}

func (u *upload) Stat() (attack.Info, error) {
	u.c.m.mu.Lock()
	defer u.c.m.mu.Unlock()
	return attack.Info{Mode: regular, Size: uint64(len(u.data))}, nil
}

func (u *upload) CopyFrom(src attack.Handle, srcOff, n, dstOff uint64) error {
	return u.WriteAt(src.(*upload).data, dstOff)
}

func (u *upload) Close() error {
	m := u.c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if u.closed && !m.fault["late-writes"] {
		return fs.ErrClosed
	}
	u.closed = true
	delete(u.c.open, u)
	if !u.write {
		return nil
	}
	return u.c.answer(m.publish(u.p, u.c.key, u.data))
}
