package appendonly_test

import (
	"io"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
)

// change does one of the things that clients do.
func (m *machine) change() {
	k := m.key()
	f := m.fs[k]
	p := m.path("path")
	switch m.draw("op", "put", "put", "put", "mkdir", "mkdir", "symlink", "mknod", "link", "remove", "rmdir", "rename", "rename",
		"meta", "truncate", "replace", "open", "write", "write", "close", "close", "abort") {
	case "put":
		data := m.data()
		m.do(func() error { return put(f, p, data) }, func(w world) { m.published(w, k, p, data) })
	case "mkdir":
		m.do(func() error { return f.Mkdir(p, appendonly.NoMeta()) }, func(w world) { w[p] = thing{kind: appendonly.KindDir, key: k} })
	case "symlink":
		m.do(func() error { return f.Symlink("target", p, appendonly.NoMeta()) },
			func(w world) { w[p] = thing{kind: appendonly.KindSymlink, data: "target", key: k} })
	case "mknod":
		m.do(func() error { return f.Mknod(p, appendonly.KindFifo, appendonly.NoMeta()) },
			func(w world) { w[p] = thing{kind: appendonly.KindFifo, key: k} })
	case "link":
		to := m.path("to")
		m.do(func() error { return f.Link(p, to) }, func(w world) { w[to] = w[p] })
	case "remove":
		m.do(func() error { return f.Remove(p) }, func(w world) {
			if _, there := w[p]; !there {
				m.abandon(k, p)
			}
			m.removed(w, k, p)
		})
	case "rmdir":
		m.do(func() error { return f.Rmdir(p) }, func(w world) { m.removed(w, k, p) })
	case "rename":
		m.rename(f, k, p)
	case "meta":
		meta := appendonly.NoMeta()
		meta.Mode = rapid.Int32Range(0, 0o777).Draw(m.rt, "mode")
		m.do(func() error { return f.SetMeta(p, meta, false) }, func(world) {})
	case "truncate":
		m.truncate(f, k, p)
	case "replace":
		m.replace(f, k, p)
	default:
		m.upload(f, k, p)
	}
}

func (m *machine) rename(f *appendonly.FS, k, from string) {
	to := m.path("to")
	if _, there := m.world[from]; !there {
		return // unfinished uploads are renamed elsewhere
	}
	m.do(func() error { return f.Rename(from, to, rapid.Bool().Draw(m.rt, "replace")) }, func(w world) {
		if w[from].kind == appendonly.KindDir {
			m.moved = true
			for _, h := range m.handles {
				if strings.HasPrefix(h.path, from+"/") {
					h.path = to + h.path[len(from):]
				}
			}
		}
		m.renamed(w, k, from, to)
	})
}

func (m *machine) truncate(f *appendonly.FS, k, p string) {
	size := rapid.IntRange(0, 4).Draw(m.rt, "size")
	m.do(func() error { return f.Truncate(p, int64(size)) }, func(w world) {
		x, there := w[p]
		if !there || size > 0 && m.writing(k, p) { // what is being written changes, not what is there
			m.abandon(k, p)
			return
		}
		data := x.data + "\x00\x00\x00\x00"
		m.published(w, k, p, data[:size])
	})
}

func (m *machine) replace(f *appendonly.FS, k, p string) {
	if _, taken := m.world[p]; taken || !strings.HasSuffix(p, "a") {
		return // one that is there must have been made so: see TestReplace
	}
	m.do(func() error { return f.Replace(p, []byte("managed"), appendonly.NoMeta()) }, func(w world) {
		w[p] = thing{kind: appendonly.KindFile, data: "managed", key: "server"}
	})
}

// upload opens, writes, closes or aborts an upload.
func (m *machine) upload(f *appendonly.FS, k, p string) {
	if len(m.handles) == 0 || rapid.IntRange(0, 2).Draw(m.rt, "new handle") == 0 {
		trunc := rapid.Bool().Draw(m.rt, "truncate")
		var h *handle
		m.do(func() error {
			u, err := f.Create(p, appendonly.CreateOptions{Create: true, Truncate: trunc, Meta: appendonly.NoMeta()})
			if err != nil {
				return err
			}
			h = &handle{u: u, key: k, path: p}
			h.data, err = io.ReadAll(io.NewSectionReader(u, 0, 1<<20))
			return err
		}, func(world) {})
		if h != nil && !slices.ContainsFunc(m.handles, func(x *handle) bool { return x.u == h.u }) {
			m.handles = append(m.handles, h)
		} else if h != nil {
			h.u.Close() // one handle for each upload is enough for the model
		}
		return
	}
	h := m.handles[rapid.IntRange(0, len(m.handles)-1).Draw(m.rt, "handle")]
	switch m.draw("do", "write", "write", "close", "abort") {
	case "write":
		off, data := rapid.IntRange(0, 4).Draw(m.rt, "offset"), m.data()
		m.do(func() error { _, err := h.u.WriteAt([]byte(data), int64(off)); return err }, func(world) {
			if data == "" {
				return
			}
			for len(h.data) < off+len(data) {
				h.data = append(h.data, 0)
			}
			copy(h.data[off:], data)
		})
	case "close":
		m.drop(h)
		m.do(h.u.Close, func(w world) { m.published(w, h.key, h.path, string(h.data)) })
	case "abort":
		m.drop(h)
		m.do(func() error { h.u.Abort(); return nil }, func(world) {})
	}
}

func (m *machine) writing(k, p string) bool {
	return slices.ContainsFunc(m.handles, func(h *handle) bool { return h.key == k && h.path == p })
}

// abandon ends the uploads of a name: which of them an operation on the name met is not the model's to know.
func (m *machine) abandon(k, p string) {
	m.handles = slices.DeleteFunc(m.handles, func(h *handle) bool {
		if h.key != k || h.path != p {
			return false
		}
		h.u.Discard()
		return true
	})
}

func (m *machine) drop(h *handle) {
	m.handles = slices.DeleteFunc(m.handles, func(x *handle) bool { return x == h })
}
