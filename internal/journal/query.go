package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"strings"
	"sync"
	"time"
)

// Named is an entry with its name.
type Named struct {
	Name string
	*Entry
}

// List returns up to n entries of a directory, live or at an instant, sorted by name, that come after
// the name after ("" for the first).
func (x *Index) List(dir DirID, when Seq, after string, n int) ([]Named, error) {
	var out []Named
	err := x.Each(dir, when, after, func(name string, e *Entry) bool {
		kept := *e
		out = append(out, Named{name, &kept})
		return len(out) < n
	})
	return out, err
}

// Each calls f with the entries that List would return, without a bound, until f returns false. The entry is valid until f
// returns (what it refers to stays valid), and f may not use the index.
func (x *Index) Each(dir DirID, when Seq, after string, f func(name string, e *Entry) bool) error {
	return x.t.view(func(v *view) error {
		if when == Now {
			return eachLive(v, dir, after, f)
		}
		live := &listing{v: v, table: tabLive, dir: dir, when: when}
		live.seek(after)
		past := &listing{v: v, table: tabPast, dir: dir, when: when}
		past.seek(after)
		for {
			from := live
			if live.cur == nil || past.cur != nil && past.name < live.name {
				from = past
			}
			if from.cur == nil || !f(from.name, from.cur) {
				break
			}
			from.advance()
		}
		if live.err != nil {
			return live.err
		}
		return past.err
	})
}

// eachLive is Each for what is live, without a copy of anything.
func eachLive(v *view, dir DirID, after string, f func(name string, e *Entry) bool) error {
	prefix := dirKey(tabLive, dir)
	var e Entry
	var err error
	v.ascend(startKey(tabLive, dir, after), func(k, b []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		err = e.decode(b)
		return err == nil && f(string(k[len(prefix):]), &e)
	})
	return err
}

// startKey is before the rows of the first name after after.
func startKey(table byte, dir DirID, after string) []byte {
	key := dirKey(table, dir)
	if after == "" {
		return key
	}
	key = append(append(key, after...), 0) // no name contains 0, and a past key's name ends with one
	if table == tabPast {
		key[len(key)-1] = 1
	}
	return key
}

// listing walks one directory's rows of one table in batches, giving those that stand at an instant.
// A name has at most one version at an instant, so live and past never both show it.
type listing struct {
	v     *view
	table byte
	dir   DirID
	when  Seq

	batch []Named
	next  []byte // where the next batch starts; nil: nowhere
	i     int
	name  string
	cur   *Entry // nil at the end
	err   error
}

const listBatch = 256

// seek goes to the first name after after.
func (l *listing) seek(after string) {
	l.next = startKey(l.table, l.dir, after)
	l.advance()
}

func (l *listing) advance() {
	l.cur = nil
	for {
		if l.i < len(l.batch) {
			l.name, l.cur = l.batch[l.i].Name, l.batch[l.i].Entry
			l.i++
			return
		}
		if l.next == nil || l.err != nil {
			return
		}
		l.fill()
	}
}

func (l *listing) fill() {
	l.batch, l.i = l.batch[:0], 0
	prefix := dirKey(l.table, l.dir)
	from := l.next
	l.next = nil
	skips := 0
	var skip string // past versions of this name are of no interest
	l.v.ascend(from, func(k, b []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		if len(l.batch) == listBatch {
			l.next = append([]byte(nil), k...)
			return false
		}
		name := string(k[len(prefix):])
		if l.table == tabLive {
			l.err = l.take(name, b)
			return l.err == nil
		}
		name = name[:len(name)-9]
		if name == skip {
			if skips++; skips > 8 { // many versions: seek to the next name
				l.next = append(append(append([]byte(nil), prefix...), name...), 1)
				return false
			}
			return true
		}
		if seq := Seq(^binary.BigEndian.Uint64(k[len(k)-8:])); seq > l.when {
			// Younger than the instant: seek to the version that could have stood.
			if next := pastKey(Loc{l.dir, name}, l.when); skips > 8 {
				l.next, skips = next, 0
				return false
			}
			skips++
			return true
		}
		skip, skips = name, 0
		l.err = l.take(name, b)
		return l.err == nil
	})
}

// take adds a row if it stands at the instant.
func (l *listing) take(name string, b []byte) error {
	if l.table == tabPast {
		p, err := decodePast(b)
		if err == nil && p.To > l.when {
			l.batch = append(l.batch, Named{name, p.Entry})
		}
		return err
	}
	e, err := decodeEntry(b)
	if err == nil && !e.Fresh && e.From <= l.when {
		l.batch = append(l.batch, Named{name, e})
	}
	return err
}

// Version is what a name stood for, until To (Now: it still does).
type Version struct {
	*Entry
	To   Seq
	Gone time.Time
}

// Versions lists everything that at stood for, newest first.
func (x *Index) Versions(at Loc) ([]Version, error) {
	var out []Version
	err := x.t.view(func(v *view) error {
		if b := v.get(liveKey(at)); b != nil {
			e, err := decodeEntry(b)
			if err != nil {
				return err
			}
			out = append(out, Version{e, Now, time.Time{}})
		}
		prefix := pastKey(at, 0)
		prefix = prefix[:len(prefix)-8]
		var derr error
		v.ascend(prefix, func(k, b []byte) bool {
			if len(k) != len(prefix)+8 || string(k[:len(prefix)]) != string(prefix) {
				return false
			}
			var p pastEntry
			if p, derr = decodePast(b); derr != nil {
				return false
			}
			out = append(out, Version(p))
			return true
		})
		return derr
	})
	return out, err
}

// EachPast calls f with everything that names stood for and do not any more, by directory and name, until f returns
// false. What it is given is valid until f returns, and f may not use the index.
func (x *Index) EachPast(f func(at Loc, v Version) bool) error {
	return x.eachRow(tabPast, func(k, b []byte) (bool, error) {
		p, err := decodePast(b)
		if err != nil || len(k) < 18 {
			return false, cmp.Or(err, errEntry)
		}
		return f(Loc{DirID(binary.BigEndian.Uint64(k[1:])), string(k[9 : len(k)-9])}, Version(p)), nil
	})
}

// EachLive is EachPast for what names stand for now.
func (x *Index) EachLive(f func(at Loc, e *Entry) bool) error {
	var e Entry
	return x.eachRow(tabLive, func(k, b []byte) (bool, error) {
		if err := e.decode(b); err != nil || len(k) < 9 {
			return false, cmp.Or(err, errEntry)
		}
		return f(Loc{DirID(binary.BigEndian.Uint64(k[1:])), string(k[9:])}, &e), nil
	})
}

// Stored is a version with content and where it is, or was.
type Stored struct {
	At Loc
	Version
}

// Stored returns up to n versions that have content, live ones first, that come after a position ("" for the first), and the
// position for the rest; "" at the end. Positions stay valid whatever changes.
func (x *Index) Stored(after string, n int) (out []Stored, next string, err error) {
	from := []byte(after + "\x00")
	if after == "" {
		from = []byte{tabLive}
	}
	err = x.t.view(func(v *view) error {
		var derr error
		take := func(k, b []byte) bool {
			if k[0] != tabLive && k[0] != tabPast {
				return false
			}
			if len(out) == n {
				return false
			}
			next = string(k)
			var s Stored
			if k[0] == tabLive {
				s.To = Now
				s.Entry, derr = decodeEntry(b)
				s.At = Loc{DirID(binary.BigEndian.Uint64(k[1:])), string(k[9:])}
			} else {
				var p pastEntry
				p, derr = decodePast(b)
				s.Version, s.At = Version(p), Loc{DirID(binary.BigEndian.Uint64(k[1:])), string(k[9 : len(k)-9])}
			}
			if derr == nil && s.Kind.HasContent() && !s.Fresh {
				out = append(out, s)
			}
			return derr == nil
		}
		v.ascend(from, take)
		if derr == nil && len(out) < n && from[0] == tabLive {
			v.ascend([]byte{tabPast}, take)
		}
		return derr
	})
	if len(out) < n {
		next = ""
	}
	return out, next, err
}

// EachVoid calls f with the contents that are not what was recorded: found by verification (damaged), or lost in a crash
// before they were acknowledged. f may not use the index.
func (x *Index) EachVoid(f func(id ID, damaged bool) bool) error {
	return x.eachRow(tabVoid, func(k, b []byte) (bool, error) {
		if len(k) != 1+len(ID{}) {
			return false, errEntry
		}
		return f(ID(k[1:]), string(b) == string(damaged)), nil
	})
}

func (x *Index) eachRow(table byte, f func(k, b []byte) (bool, error)) error {
	return x.t.view(func(v *view) error {
		var derr error
		v.ascend([]byte{table}, func(k, b []byte) bool {
			if k[0] != table {
				return false
			}
			var more bool
			more, derr = f(k, b)
			return more && derr == nil
		})
		return derr
	})
}

// EverDir returns the directory that path is, or was when it was last one: for asking about the
// history of what is gone.
func (x *Index) EverDir(path string) (DirID, error) {
	var dir DirID
	if path == "" {
		return 0, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		vs, err := x.Versions(Loc{dir, name})
		if err != nil {
			return 0, err
		}
		found := false
		for _, v := range vs {
			if v.Kind == KindDir {
				dir, found = v.Dir, true
				break
			}
		}
		if !found {
			return 0, fs.ErrNotExist
		}
	}
	return dir, nil
}

// Fresh lists the names that are not sealed.
func (x *Index) Fresh() ([]Loc, error) {
	var out []Loc
	err := x.t.view(func(v *view) error {
		v.ascend([]byte{tabFresh}, func(k, _ []byte) bool {
			if k[0] != tabFresh || len(k) < 9 {
				return false
			}
			out = append(out, Loc{DirID(binary.BigEndian.Uint64(k[1:])), string(k[9:])})
			return true
		})
		return nil
	})
	return out, err
}

// EverNames returns up to n names, sorted, that a directory has or had, after the name after.
func (x *Index) EverNames(dir DirID, after string, n int) ([]string, error) {
	var out []string
	err := x.t.view(func(v *view) error {
		live := &names{v: v, table: tabLive, dir: dir, last: after}
		past := &names{v: v, table: tabPast, dir: dir, last: after}
		l, lok := live.next()
		p, pok := past.next()
		for len(out) < n && (lok || pok) {
			switch {
			case !pok || lok && l < p:
				out = append(out, l)
				l, lok = live.next()
			case !lok || p < l:
				out = append(out, p)
				p, pok = past.next()
			default:
				out = append(out, l)
				l, lok = live.next()
				p, pok = past.next()
			}
		}
		return nil
	})
	return out, err
}

// names walks the distinct names of one directory's rows of one table, one seek each.
type names struct {
	v     *view
	table byte
	dir   DirID
	last  string
}

func (s *names) next() (string, bool) {
	prefix := dirKey(s.table, s.dir)
	from := prefix
	if s.last != "" {
		end := byte(0)
		if s.table == tabPast {
			end = 1
		}
		from = append(append(append([]byte(nil), prefix...), s.last...), end)
	}
	found := false
	s.v.ascend(from, func(k, _ []byte) bool {
		if found = len(k) > len(prefix) && string(k[:len(prefix)]) == string(prefix); found {
			k = k[len(prefix):]
			if s.table == tabPast {
				k = k[:len(k)-9]
			}
			s.last = string(k)
		}
		return false
	})
	return s.last, found
}

// Superseded reports which of these contents are, or were, what a sealed name stood for, among the
// versions that are past: a scan, for recovery only.
func (x *Index) Superseded(ids map[ID]bool) error {
	return x.t.view(func(v *view) error {
		var derr error
		v.ascend([]byte{tabPast}, func(k, b []byte) bool {
			if k[0] != tabPast {
				return false
			}
			var p pastEntry
			if p, derr = decodePast(b); derr != nil {
				return false
			}
			if _, asked := ids[p.ID]; asked {
				ids[p.ID] = true
			}
			return true
		})
		return derr
	})
}

// Snapshot is a name for an instant.
type Snapshot struct {
	Name string
	Kind string // push, manual, or the schedule
	At   Seq
	Time time.Time
}

// Snapshots lists the snapshots, oldest first.
func (x *Index) Snapshots() ([]Snapshot, error) {
	var out []Snapshot
	err := x.t.view(func(v *view) error {
		var derr error
		v.ascend([]byte{tabSnap}, func(k, b []byte) bool {
			if k[0] != tabSnap {
				return false
			}
			var s Snapshot
			if derr = json.Unmarshal(b, &s); derr != nil {
				return false
			}
			out = append(out, s)
			return true
		})
		return derr
	})
	return out, err
}

// SnapshotAt returns the snapshot of an instant; ok is false where there is none, or none any more.
func (x *Index) SnapshotAt(at Seq) (s Snapshot, ok bool, err error) {
	b, err := x.t.get(seqKey(tabSnap, at))
	if err != nil || b == nil {
		return s, false, err
	}
	err = json.Unmarshal(b, &s)
	return s, err == nil, err
}

// At returns the instant of a time, rounded down to the second: the newest record before it. Where
// the clock was set back, the newest stretch that contains the time counts.
func (x *Index) At(t time.Time) (Seq, error) {
	var at Seq
	err := x.t.view(func(v *view) error {
		var epochs []Seq
		v.ascend([]byte{tabEpoch}, func(k, _ []byte) bool {
			if k[0] != tabEpoch {
				return false
			}
			epochs = append(epochs, Seq(binary.BigEndian.Uint64(k[1:])))
			return true
		})
		for i := len(epochs) - 1; i >= 0; i-- {
			end := Now
			if i+1 < len(epochs) {
				end = epochs[i+1] - 1
			}
			sec := uint64(max(t.Unix(), 0))
			if first, ok := firstMark(v, epochs[i], 0); !ok || first.sec >= sec {
				continue
			}
			at = end
			if m, ok := firstMark(v, epochs[i], sec); ok {
				at = m.seq - 1
			}
			return nil
		}
		return nil
	})
	return at, err
}

type timeMark struct {
	sec uint64
	seq Seq
}

func firstMark(v *view, epoch Seq, sec uint64) (m timeMark, ok bool) {
	prefix := seqKey(tabTime, epoch)
	v.ascend(binary.BigEndian.AppendUint64(append([]byte(nil), prefix...), sec), func(k, b []byte) bool {
		if ok = string(k[:len(prefix)]) == string(prefix); ok {
			m = timeMark{binary.BigEndian.Uint64(k[len(prefix):]), Seq(binary.BigEndian.Uint64(b))}
		}
		return false
	})
	return m, ok
}

// dirCache remembers the ids of live directories by path.
type dirCache struct {
	mu sync.Mutex
	m  map[string]DirID
}

// maxDirCache bounds it; when it is full it starts anew.
const maxDirCache = 4096

func newDirCache() *dirCache { return &dirCache{m: map[string]DirID{}} }

func (c *dirCache) get(path string) (DirID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.m[path]
	return id, ok
}

func (c *dirCache) put(path string, id DirID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= maxDirCache {
		clear(c.m)
	}
	c.m[path] = id
}

// clear forgets everything: a directory moved or ended.
func (c *dirCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.m)
}
