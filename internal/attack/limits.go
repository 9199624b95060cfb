package attack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
)

// limitSpecs attack by taking everything there is.
func limitSpecs() []spec {
	return []spec{
		{name: "handles-1000", promise: P7, want: harmless,
			story: "Holds 1,000 files open at once: an error at some point or none, and the owner works on.",
			do:    manyHandles},
		{name: "views-many", promise: P7, want: harmless,
			story: "Reads the same names over and over in views of many instants: the owner works on.",
			do: func(a *act) error {
				for i := range 200 {
					if _, err := a.c.Stat(fmt.Sprintf("/.vault/at/%ds%s", i, a.dump)); errors.Is(err, ErrLost) {
						return err
					}
				}
				return nil
			}},
		{name: "sparse-bomb", promise: P7, want: refused, files: []string{},
			story: "Makes a new file of 2^62 bytes by its length alone.",
			do: func(a *act) error {
				if a.env.Limit == 0 {
					return ErrUnsupported
				}
				return a.handle(a.dir+"/bomb", Write|Create|Truncate, func(h Handle) error { return h.Setstat(size(1 << 62)) })
			}},
		{name: "sparse-far-write", promise: P7, want: refused, files: []string{},
			story: "Writes one byte of a new file at offset 2^63-1.",
			do: func(a *act) error {
				return a.write(a.dir+"/far", Write|Create|Truncate, 1<<63-1, []byte("!"))
			}},
		{name: "statvfs-own", promise: P5, want: harmless, files: []string{},
			story: "Asks for the free space: the answer is the tenant's own, not the host's.",
			do: func(a *act) error {
				if a.env.Limit == 0 {
					return ErrUnsupported
				}
				s, err := a.c.Statvfs("/")
				switch {
				case err != nil:
					return err
				case s.Total > uint64(a.env.Limit):
					return broken("statvfs tells %d bytes in total, the quota is %d", s.Total, a.env.Limit)
				case s.Free > s.Total || s.Avail > s.Free:
					return broken("statvfs contradicts itself: %+v", s)
				}
				return nil
			}},
		{name: "quota-blocks-nothing-else", promise: P7, want: harmless, files: []string{}, who: thief,
			story: "Fills the tenant's quota: the write fails, reading, listing and stat go on.",
			do:    fillQuota},
	}
}

func manyHandles(a *act) error {
	var open []Handle
	for i := range 1000 {
		h, err := a.c.Open(fmt.Sprintf("%s/open-%04d", a.dir, i), Write|Create|Truncate, Attrs{})
		if errors.Is(err, ErrLost) || errors.Is(err, ErrUnsupported) {
			return err
		}
		if err != nil {
			break
		}
		open = append(open, h)
	}
	if len(open) < 16 {
		return broken("only %d files may be open at once", len(open))
	}
	p := a.dir + "/meanwhile"
	if err := a.env.Owner.Put(p, content(p)); err != nil {
		return broken("the owner can not store while %d files are open: %w", len(open), err)
	}
	if err := a.env.holds(p, content(p)); err != nil {
		return err
	}
	if _, err := a.c.Stat(a.dump); err != nil {
		return broken("stat while %d files are open: %w", len(open), err)
	}
	return setup("drop", a.c.Drop())
}

// fillQuota stores random bytes (nothing to compress or to share) until the quota says no, and reads.
func fillQuota(a *act) error {
	c, limit := a.env.Small, a.env.SmallLimit
	if c == nil || limit == 0 {
		return ErrUnsupported
	}
	first := "/first-" + a.env.id
	if err := c.Put(first, content(first)); err != nil {
		return setup("put the first file", err)
	}
	src := rand.NewChaCha8([32]byte{1})
	piece := make([]byte, 1<<20)
	var refusal error
	var stored int64
	for i := 0; refusal == nil; i++ {
		src.Read(piece)
		refusal = c.Put(fmt.Sprintf("/fill-%s-%03d", a.env.id, i), piece)
		if refusal == nil {
			stored += int64(len(piece))
		}
		if stored > limit {
			return broken("%d bytes are stored with a quota of %d", stored, limit)
		}
	}
	if errors.Is(refusal, ErrLost) {
		return broken("the full quota cost the session: %w", refusal)
	}
	if errors.Is(refusal, fs.ErrPermission) {
		return broken("a full quota is told as a refusal, which clients take for permanent: %w", refusal)
	}
	got, err := c.Read(first)
	if err != nil || !bytes.Equal(got, content(first)) {
		return broken("a full tenant can not read: %v", err)
	}
	if list, err := c.List("/"); err != nil || len(list) < 1 {
		return broken("a full tenant can not list: %v", err)
	}
	if _, err := c.Stat(first); err != nil {
		return broken("a full tenant can not stat: %w", err)
	}
	s, err := c.Statvfs("/")
	if err == nil && s.Avail > uint64(len(piece)) {
		return broken("a full tenant is told that %d bytes are free", s.Avail)
	}
	if err != nil && !errors.Is(err, ErrUnsupported) {
		return broken("a full tenant can not ask for its space: %w", err)
	}
	return nil
}
