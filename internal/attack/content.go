package attack

import (
	"bytes"
	"errors"
)

// contentSpecs attack the bytes of sealed files by writing.
func contentSpecs() []spec {
	return []spec{
		{name: "overwrite-truncate", promise: P1, want: refusedInStrict,
			story: "Opens a sealed file with TRUNC, writes other bytes and closes.",
			do:    func(a *act) error { return a.write(a.dump, Write|Create|Truncate, 0, junk(a.dir)) }},
		{name: "overwrite-in-place", promise: P1, want: refusedInStrict,
			story: "Opens a sealed file without TRUNC, as modern scp does, and writes other bytes at offset 0.",
			do:    func(a *act) error { return a.write(a.dump, Write, 0, junk(a.dir)) }},
		{name: "overwrite-read-write", promise: P1, want: refusedInStrict,
			story: "Opens a sealed file for reading and writing and changes it.",
			do:    func(a *act) error { return a.write(a.dump, Read|Write, 16, []byte("ransom")) }},
		{name: "overwrite-one-byte", promise: P1, want: refusedInStrict,
			story: "Flips one byte in the middle of a sealed file.",
			do:    func(a *act) error { return a.write(a.dump, Write, 1000, []byte("!")) }},
		{name: "overwrite-last-byte", promise: P1, want: refusedInStrict,
			story: "Writes over the last byte of a sealed file and beyond it.",
			do:    func(a *act) error { return a.write(a.dump, Write, 2047, []byte("!!")) }},
		{name: "overwrite-put", promise: P1, want: refusedInStrict,
			story: "Puts another file of the same name, as any client does.",
			do:    func(a *act) error { return a.c.Put(a.dump, junk(a.dir)) }},
		{name: "overwrite-same-size", promise: P1, want: refusedInStrict,
			story: "Puts other content of the same length, so that size and time tell nothing.",
			do:    func(a *act) error { return a.c.Put(a.dump, content("other"+a.dir)) }},
		{name: "overwrite-empty", promise: P1, want: refusedInStrict,
			story: "Puts an empty file over a full one.",
			do:    func(a *act) error { return a.c.Put(a.dump, nil) }},
		{name: "overwrite-prefix", promise: P1, want: refusedInStrict,
			story: "Puts the first half of the file's own content: a cut that looks like a copy.",
			do:    func(a *act) error { return a.c.Put(a.dump, a.set.victims[0].data[:1024]) }},
		{name: "overwrite-create-only", promise: P1, want: refusedInStrict,
			story: "Opens a sealed file with CREAT alone, without TRUNC or WRITE's usual company, and writes.",
			do:    func(a *act) error { return a.write(a.dump, Write|Create, 0, junk(a.dir)) }},
		{name: "overwrite-exclusive", promise: P2, want: refused,
			story: "Opens a taken name with EXCL.",
			do:    func(a *act) error { return a.write(a.dump, Write|Create|Exclusive, 0, junk(a.dir)) }},
		{name: "append-flag", promise: P1, want: refusedInStrict, grow: true,
			story: "Opens a sealed file with APPEND and adds a tail.",
			do:    func(a *act) error { return a.write(a.dump, Write|Append, 0, []byte("tail\n")) }},
		{name: "append-offset", promise: P1, want: refusedInStrict, grow: true,
			story: "Writes behind the end of a sealed file without the APPEND flag.",
			do:    func(a *act) error { return a.write(a.dump, Write, 2048, []byte("tail\n")) }},
		{name: "append-other-content", promise: P1, want: refusedInStrict,
			story: "Puts the file's content with one early byte changed and a tail added, hoping that only the length is compared.",
			do: func(a *act) error {
				longer := append(bytes.Clone(a.set.victims[0].data), "tail\n"...)
				longer[10] ^= 1
				return a.c.Put(a.dump, longer)
			}},
		{name: "append-then-rewrite-start", promise: P1, want: refusedInStrict,
			story: "Adds a tail through a handle and then, through the same handle, changes the start.",
			do: func(a *act) error {
				return a.handle(a.dump, Write, func(h Handle) error {
					return errors.Join(h.WriteAt([]byte("tail\n"), 2048), h.WriteAt([]byte("!"), 0))
				})
			}},
		{name: "sparse-end", promise: P1, want: refused,
			story: "Writes one byte of a sealed file at offset 2^63-1.",
			do:    func(a *act) error { return a.write(a.dump, Write, 1<<63-1, []byte("!")) }},
		{name: "offset-wraps", promise: P1, want: refused,
			story: "Writes at offset 2^64-4, hoping that the sum wraps to the file's start.",
			do:    func(a *act) error { return a.write(a.dump, Write, 1<<64-4, junk(a.dir)) }},
		{name: "write-open-close", promise: P1, want: harmless, meta: true, who: thief,
			story: "Opens a sealed file for writing and closes it without a write.",
			do:    func(a *act) error { return a.handle(a.dump, Write, func(Handle) error { return nil }) }},
		{name: "write-open-drop", promise: P1, want: harmless,
			story: "Opens a sealed file with TRUNC, writes and loses the connection before CLOSE.",
			do: func(a *act) error {
				h, err := a.c.Open(a.dump, Write|Create|Truncate, Attrs{})
				if err == nil {
					err = h.WriteAt(junk(a.dir), 0)
				}
				return errors.Join(err, setup("drop", a.c.Drop()))
			}},
		{name: "reput-same", promise: P1, want: harmless,
			story: "Puts the identical content again, as a retry does: it must be answered with success and change nothing.",
			do: func(a *act) error {
				if err := a.c.Put(a.dump, a.set.victims[0].data); err != nil {
					return broken("an identical put is refused: %w", err)
				}
				return nil
			}},
		{name: "reput-same-metadata", promise: P1, want: harmlessInStrict, who: thief, meta: true,
			story: "Puts the identical content again and sets other times and mode through that handle.",
			do: func(a *act) error {
				return a.handle(a.dump, Write|Create|Truncate, func(h Handle) error {
					return errors.Join(h.WriteAt(a.set.victims[0].data, 0), h.Setstat(times(1)), h.Setstat(mode(0)))
				})
			}},
		{name: "copy-data-onto", promise: P1, want: refusedInStrict,
			story: "Lets the server copy another file's bytes onto a sealed one (copy-data).",
			do: func(a *act) error {
				from, err := a.mine("copy-source")
				if err != nil {
					return err
				}
				return a.handle(from, Read, func(src Handle) error {
					return a.handle(a.dump, Write, func(dst Handle) error { return dst.CopyFrom(src, 0, 0, 0) })
				})
			}},
		{name: "write-read-handle", promise: P1, want: refused,
			story: "Opens a sealed file for reading and writes through that handle.",
			do:    func(a *act) error { return a.write(a.dump, Read, 0, junk(a.dir)) }},
		{name: "truncate-read-handle", promise: P1, want: refused,
			story: "Opens a sealed file for reading and sets its length through that handle.",
			do: func(a *act) error {
				return a.handle(a.dump, Read, func(h Handle) error { return h.Setstat(size(0)) })
			}},
		{name: "open-read-truncate", promise: P1, want: refusedInStrict,
			story: "Opens a sealed file for reading with TRUNC set, hoping that only WRITE is looked at.",
			do: func(a *act) error {
				err := a.handle(a.dump, Read|Truncate, func(Handle) error { return nil })
				return ignoredFlag(a, err)
			}},
	}
}

// ignoredFlag forgives success where the flag had no effect at all: opening for reading is allowed,
// and SFTP v3 says nothing of TRUNC without WRITE. Whether there was an effect, the checks tell.
func ignoredFlag(a *act, err error) error {
	if err == nil {
		if got, rerr := a.env.Owner.Read(a.dump); rerr == nil && bytes.Equal(got, a.set.victims[0].data) {
			return errors.New("the flag was ignored")
		}
	}
	return err
}

// truncateSpecs attack the length.
func truncateSpecs() []spec {
	return []spec{
		{name: "truncate-open", promise: P1, want: refusedInStrict,
			story: "Opens a sealed file with TRUNC and closes it.",
			do: func(a *act) error {
				return a.handle(a.dump, Write|Truncate, func(Handle) error { return nil })
			}},
		{name: "truncate-setstat", promise: P1, want: refusedInStrict,
			story: "Sets the length of a sealed file to 0 by its path.",
			do:    func(a *act) error { return a.c.Setstat(a.dump, size(0)) }},
		{name: "shrink-setstat", promise: P1, want: refusedInStrict,
			story: "Cuts one byte off a sealed file by its path.",
			do:    func(a *act) error { return a.c.Setstat(a.dump, size(2047)) }},
		{name: "grow-setstat", promise: P1, want: refusedInStrict, grow: true,
			story: "Makes a sealed file longer by its path.",
			do:    func(a *act) error { return a.c.Setstat(a.dump, size(8192)) }},
		{name: "grow-setstat-far", promise: P1, want: refused,
			story: "Sets the length of a sealed file to 2^63-1.",
			do:    func(a *act) error { return a.c.Setstat(a.dump, size(1<<63-1)) }},
		{name: "setstat-negative", promise: P1, want: refused,
			story: "Sets the length of a sealed file to 2^64-1, hoping for a negative number.",
			do:    func(a *act) error { return a.c.Setstat(a.dump, size(1<<64-1)) }},
		{name: "truncate-fsetstat", promise: P1, want: refusedInStrict,
			story: "Opens a sealed file for writing, sets its length to 0 through the handle and closes.",
			do: func(a *act) error {
				return a.handle(a.dump, Write, func(h Handle) error { return h.Setstat(size(0)) })
			}},
		{name: "truncate-fsetstat-rewrite", promise: P1, want: refusedInStrict,
			story: "Sets the length to 0 through a handle and writes other bytes of the same length.",
			do: func(a *act) error {
				return a.handle(a.dump, Write, func(h Handle) error {
					return errors.Join(h.Setstat(size(0)), h.WriteAt(content("other"+a.dir), 0))
				})
			}},
		{name: "truncate-fsetstat-drop", promise: P1, want: harmless,
			story: "Sets the length to 0 through a handle and loses the connection.",
			do: func(a *act) error {
				h, err := a.c.Open(a.dump, Write, Attrs{})
				if err == nil {
					err = h.Setstat(size(0))
				}
				return errors.Join(err, setup("drop", a.c.Drop()))
			}},
		{name: "truncate-in-open", promise: P1, want: harmlessInStrict, who: thief, meta: true,
			story: "Opens a sealed file for writing with the attribute size=0, mode=0 in the OPEN request itself.",
			do: func(a *act) error {
				h, err := a.c.Open(a.dump, Write, Attrs{Size: ptr(uint64(0)), Mode: ptr(uint32(0))})
				if err == nil {
					err = h.Close()
				}
				return err
			}},
		{name: "truncate-all-at-once", promise: P1, want: refusedInStrict, who: thief, meta: true,
			story: "Sets length, mode, owner and times in one request, hoping that it is half done before it is refused.",
			do: func(a *act) error {
				return a.c.Setstat(a.dump, Attrs{Size: ptr(uint64(0)), Mode: ptr(uint32(0)), UID: ptr(uint32(0)), GID: ptr(uint32(0)),
					ATime: ptr(uint32(0)), MTime: ptr(uint32(0))})
			}},
	}
}
