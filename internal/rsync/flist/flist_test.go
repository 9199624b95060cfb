package flist_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
)

var paths = rapid.Custom(func(t *rapid.T) string {
	parts := rapid.SliceOfN(rapid.OneOf(rapid.StringMatching(`[a-c.\-]{1,3}`), rapid.StringMatching(`[\x01-\x2e\x30-\xff]{1,40}`)), 1, 4).Draw(t, "parts")
	for i, p := range parts {
		if p == "." || p == ".." {
			parts[i] = "x" + p
		}
	}
	return strings.Join(parts, "/")
})

var configs = rapid.Custom(func(t *rapid.T) *flist.Config {
	b := func(n string) bool { return rapid.Bool().Draw(t, n) }
	c := &flist.Config{Proto: rapid.IntRange(29, 32).Draw(t, "proto"), Owner: b("owner"), Group: b("group"), Links: true, Devices: true,
		Specials: true, HardLinks: b("links"), ATimes: b("atimes"), NumericIDs: b("numeric"), Recursive: true, Unsorted: b("unsorted")}
	if b("sums") {
		c.SumLength = 16
	}
	if c.Proto >= 30 {
		c.SafeEnd, c.VarintFlags, c.ID0Names, c.XAttrs, c.ACLs = b("safe"), b("varint"), b("id0"), b("xattrs"), b("acls")
		c.CRTimes = c.VarintFlags && b("crtimes")
	}
	return c
})

// item draws one name and all that is said of it.
func item(t *rapid.T, c *flist.Config, path string) *flist.Item {
	kind := rapid.SampledFrom([]uint32{0o100000, 0o100000, 0o040000, 0o120000, 0o060000, 0o010000}).Draw(t, "kind")
	it := &flist.Item{Path: path, Mode: kind | rapid.Uint32Max(0o7777).Draw(t, "mode"), MTime: int64(rapid.Uint32().Draw(t, "mtime"))}
	if c.Proto >= 30 {
		it.MTime = rapid.Int64().Draw(t, "mtime64")
	}
	if c.Proto >= 31 {
		it.NSec = rapid.Uint32Max(999_999_999).Draw(t, "nsec")
	}
	if c.ATimes {
		it.ATime = int64(rapid.Int32().Draw(t, "atime"))
	}
	if c.CRTimes {
		it.CRTime = it.MTime + int64(rapid.IntRange(0, 1).Draw(t, "crtime"))
	}
	it.UID, it.GID = rapid.Uint32().Draw(t, "uid"), rapid.Uint32Max(3).Draw(t, "gid")
	switch kind {
	case 0o100000:
		it.Size = rapid.Int64Min(0).Draw(t, "size")
		if c.SumLength > 0 {
			it.Sum = rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "sum")
		}
		if c.HardLinks && rapid.Bool().Draw(t, "linked") {
			it.Links = rapid.IntRange(0, 3).Draw(t, "inode")
		}
	case 0o120000:
		it.Target = rapid.StringMatching(`[a-z/.]{1,300}`).Draw(t, "target")
	case 0o060000:
		it.Major, it.Minor = rapid.Uint32Max(4095).Draw(t, "major"), rapid.Uint32Max(1<<20-1).Draw(t, "minor")
	}
	if c.XAttrs {
		it.XAttrs = rapid.MapOfN(rapid.StringMatching(`user\.[a-c]{1,2}`), rapid.SliceOfN(rapid.Byte(), 0, 40), 0, 3).Draw(t, "xattrs")
	}
	return it
}

// What a Builder sends, Decode reads, and both have the same order.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := configs.Draw(t, "config")
		names := rapid.SliceOfNDistinct(paths, 0, 30, rapid.ID).Draw(t, "names")
		items := map[string]*flist.Item{}
		byInode := map[any]*flist.Item{}
		var pipe bytes.Buffer
		w := wire.NewWriter(&pipe, 1000)
		b := flist.NewBuilder(w, c)
		for _, n := range names {
			it := item(t, c, n)
			if it.Links != nil { // names of one file say the same
				if first := byInode[it.Links]; first != nil {
					same := *first
					same.Path = n
					it = &same
				} else {
					byInode[it.Links] = it
				}
			}
			items[n] = it
			b.Add(it)
		}
		ioError := int32(rapid.IntRange(0, 1).Draw(t, "error"))
		sent := b.Finish(ioError)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		r := wire.NewReader(&pipe, 100)
		got, err := flist.Decode(r, c)
		if err != nil {
			t.Fatal(err)
		}
		if pipe.Len() > 0 || got.Len() != len(names) {
			t.Fatalf("%d entries of %d, %d bytes left", got.Len(), len(names), pipe.Len())
		}
		if got.IOError != ioError && (c.SafeEnd || c.VarintFlags || c.Proto < 30) {
			t.Fatalf("io error %d, want %d", got.IOError, ioError)
		}
		for i := range got.Len() {
			e, s := got.At(i), sent.At(i)
			if e.Path() != s.Path() || got.Wire(i) != sent.Wire(i) || e.Group() != s.Group() {
				t.Fatalf("entry %d: %q %d group %d, sent as %q %d %d", i, e.Path(), got.Wire(i), e.Group(), s.Path(), sent.Wire(i), s.Group())
			}
			if j, ok := got.FromWire(got.Wire(i)); !ok || j != i {
				t.Fatalf("entry %d is %d on the wire and %d from it", i, got.Wire(i), j)
			}
			checkEntry(t, c, got, e, items[e.Path()])
		}
	})
}

func checkEntry(t *rapid.T, c *flist.Config, l *flist.List, e *flist.Entry, it *flist.Item) {
	major, minor := e.RDev()
	have := fmt.Sprint(e.Mode, e.MTime, e.NSec, e.Target(), major, minor, e.ATime(), e.CRTime(), e.Sum())
	atime := it.ATime
	if e.IsDir() {
		atime = 0
	}
	if want := fmt.Sprint(it.Mode, it.MTime, it.NSec, it.Target, it.Major, it.Minor, atime, it.CRTime, it.Sum); have != want {
		t.Fatalf("%q: got %s, want %s", e.Path(), have, want)
	}
	if c.Owner && e.UID() != it.UID || c.Group && e.GID() != it.GID || e.IsRegular() && e.Size != it.Size {
		t.Fatalf("%q: got %d %d %d, want %d %d %d", e.Path(), e.UID(), e.GID(), e.Size, it.UID, it.GID, it.Size)
	}
	if c.XAttrs {
		if !l.SameXAttrs(e, it.XAttrs) || l.NeedsValues(e) {
			t.Fatalf("%q: attributes differ", e.Path())
		}
		if got := l.XAttrValues(e); !maps.EqualFunc(got, it.XAttrs, bytes.Equal) {
			t.Fatalf("%q: attributes %q, want %q", e.Path(), got, it.XAttrs)
		}
	}
}

// The order of f_name_cmp: what is no directory first, directories with a slash at the end.
func TestOrder(t *testing.T) {
	want := []string{".", "b", "z", "a-b/", "a-b/x", "a/", "a/y", "a/z", "a/b/", "a/b/c", "a/b.d/", "a0/"}
	slices.Sort(want[9:10])
	shuffled := slices.Clone(want)
	slices.Reverse(shuffled)
	var pipe bytes.Buffer
	w := wire.NewWriter(&pipe, 1000)
	b := flist.NewBuilder(w, &flist.Config{Proto: 31})
	for _, p := range shuffled {
		mode := uint32(0o100644)
		if p == "." || strings.HasSuffix(p, "/") {
			mode = 0o040755
		}
		b.Add(&flist.Item{Path: strings.TrimSuffix(p, "/"), Mode: mode})
	}
	l := b.Finish(0)
	var got []string
	for i := range l.Len() {
		p := l.At(i).Path()
		if l.At(i).IsDir() && p != "." {
			p += "/"
		}
		got = append(got, p)
	}
	want = []string{".", "b", "z", "a-b/", "a-b/x", "a/", "a/y", "a/z", "a/b.d/", "a/b/", "a/b/c", "a0/"}
	if !slices.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	var pipe bytes.Buffer
	w := wire.NewWriter(&pipe, 1000)
	b := flist.NewBuilder(w, &flist.Config{Proto: 31, VarintFlags: true, XAttrs: true, ACLs: true, HardLinks: true, Links: true})
	b.Add(&flist.Item{Path: "a/b", Mode: 0o100644, Links: 1, XAttrs: map[string][]byte{"user.x": make([]byte, 40)}})
	b.Add(&flist.Item{Path: "a/c", Mode: 0o100644, Links: 1})
	b.Add(&flist.Item{Path: "a", Mode: 0o040755})
	b.Finish(0)
	w.Flush()
	f.Add(uint8(31), uint16(0xffff), pipe.Bytes())
	f.Fuzz(func(t *testing.T, proto uint8, bits uint16, data []byte) {
		bit := func(i int) bool { return bits>>i&1 != 0 }
		c := &flist.Config{Proto: 29 + int(proto%4), VarintFlags: bit(0), SafeEnd: bit(1), ID0Names: bit(2), Owner: bit(3), Group: bit(4), Links: bit(5),
			Devices: bit(6), Specials: bit(7), HardLinks: bit(8), ATimes: bit(9), XAttrs: bit(10), ACLs: bit(11), NumericIDs: bit(12), Relative: bit(13), CRTimes: bit(14), Unsorted: bit(15)}
		l, err := flist.Decode(wire.NewReader(bytes.NewReader(data), 64), c)
		if err != nil {
			return
		}
		l.PruneEmptyDirs(func(string) bool { return false })
		for i := range l.Len() {
			e := l.At(i)
			if e == nil {
				continue
			}
			for part := range strings.SplitSeq(e.Path(), "/") {
				if part == ".." || part == "" {
					t.Fatalf("path %q", e.Path())
				}
			}
			if g := e.Group(); g >= l.Len() {
				t.Fatalf("group %d of %d", g, l.Len())
			}
			l.Children(i, func(*flist.Entry) {})
			l.ACL(e)
			l.XAttrValues(e)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	const n = 1_000_000
	c := &flist.Config{Proto: 31, VarintFlags: true, Owner: true, Group: true, Links: true}
	var pipe bytes.Buffer
	w := wire.NewWriter(&pipe, 64<<10)
	bl := flist.NewBuilder(w, c)
	for i := range n {
		bl.Add(&flist.Item{Path: fmt.Sprintf("dir%03d/sub%02d/file-%06d.dat", i%1000/10, i%10, i), Mode: 0o100644, Size: 4096, MTime: int64(1700000000 + i), NSec: uint32(i)})
	}
	bl.Finish(0)
	w.Flush()
	data := pipe.Bytes()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := flist.Decode(wire.NewReader(bytes.NewReader(data), 256<<10), c); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}
