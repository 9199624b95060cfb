package appendonly

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"vaultd/internal/journal"
)

// inVersions finds rest below /.vault/versions: every name that ever was, as a directory that holds
// its versions, and what is below it.
func (f *FS) inVersions(op Op, rel, rest string) (node, error) {
	if _, err := f.inTenant(op, rest); err != nil {
		return node{}, err
	}
	n, err := f.everNode(rest)
	if !errors.Is(err, fs.ErrNotExist) || rest == "" {
		return n, err
	}
	parent, name := split(rest)
	versions, err := f.versions(parent)
	if err != nil {
		return node{}, pathError(op, "/"+rel, fs.ErrNotExist)
	}
	for _, v := range versions {
		if v.Kind == KindFile && versionName(v) == name {
			return node{entry: v.entry, when: v.From, rel: parent, name: name}, nil
		}
	}
	return node{}, pathError(op, "/"+rel, fs.ErrNotExist)
}

// everNode is the directory of a name that is or was.
func (f *FS) everNode(rel string) (node, error) {
	_, name := split(rel)
	var infos []Info
	if rel != "" {
		versions, err := f.versions(rel)
		if err != nil {
			return node{}, err
		}
		if len(versions) == 0 {
			return node{}, fs.ErrNotExist
		}
		for _, v := range versions {
			if v.Kind == KindFile {
				i := v.Info
				i.Name = versionName(v)
				infos = append(infos, i)
			}
		}
	}
	if dir, err := f.everDir(rel); err == nil {
		return node{name: name, list: func(after string, n int) ([]Info, error) {
			return f.listEver(dir, infos, after, n)
		}}, nil
	}
	return listOf(name, infos), nil
}

// everDir is a directory that a path leads to, or led to when it was last one, and the instants at which it did, oldest
// first.
type everDir struct {
	id journal.DirID
	at []span
}

// span is a stretch of instants: from, and the first one after it.
type span struct{ from, to Seq }

// everDir finds own in the session's past. A directory may have been elsewhere for a time, where a session with a root
// has no business: what it held only then is none of its versions.
func (f *FS) everDir(own string) (everDir, error) {
	rel, err := f.inTenant(OpList, own)
	if err != nil {
		return everDir{}, err
	}
	if f.who.Root == "" { // wherever it was, it was in the tenant
		id, err := f.v.idx.EverDir(rel)
		return everDir{id, []span{{0, journal.Now}}}, err
	}
	d := everDir{0, []span{{0, journal.Now}}}
	for name := range strings.SplitSeq(rel, "/") {
		versions, err := f.v.idx.Versions(journal.Loc{Dir: d.id, Name: name})
		if err != nil {
			return d, err
		}
		if d = d.below(versions); d.at == nil {
			return d, fs.ErrNotExist
		}
	}
	return d, nil
}

// below is the last directory among the versions, newest first, of a name in d.
func (d everDir) below(versions []journal.Version) everDir {
	var next everDir
	for _, v := range versions {
		if v.Kind != KindDir || next.at != nil && v.Dir != next.id {
			continue
		}
		if at := d.meet(span{v.From, v.To}); at != nil {
			next = everDir{v.Dir, append(at, next.at...)}
		}
	}
	return next
}

// meet returns what of s the path led to d.
func (d everDir) meet(s span) []span {
	var out []span
	for _, a := range d.at {
		if m := (span{max(a.from, s.from), min(a.to, s.to)}); m.from < m.to {
			out = append(out, m)
		}
	}
	return out
}

// always reports whether the path led to d as long as d was there.
func (d everDir) always() bool {
	return len(d.at) == 1 && d.at[0].from <= Seq(d.id) && d.at[0].to == journal.Now
}

// names lists up to n names that were in d while the path led to it, after the name after.
func (f *FS) names(d everDir, after string, n int) ([]string, error) {
	for {
		names, err := f.v.idx.EverNames(d.id, after, n)
		if err != nil || len(names) == 0 || d.always() {
			return names, err
		}
		after = names[len(names)-1]
		var out []string
		for _, name := range names {
			versions, err := f.v.idx.Versions(journal.Loc{Dir: d.id, Name: name})
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(versions, func(v journal.Version) bool { return d.meet(span{v.From, v.To}) != nil }) {
				out = append(out, name)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

// listEver lists the versions of a name that was both a file and a directory, then what is in the directory.
func (f *FS) listEver(dir everDir, own []Info, after string, n int) ([]Info, error) {
	names, err := f.names(dir, after, n)
	if err != nil {
		return nil, err
	}
	below := virtualDir("", names...)
	out, err := below.list("", len(names))
	if len(own) == 0 || err != nil {
		return out, err
	}
	mine, err := listOf("", own).list(after, n)
	out = append(slices.Clone(out), mine...)
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return out[:min(len(out), n)], err
}

// versionName is the name of a version's file: since when, and the instant that makes it unique.
func versionName(v Version) string {
	return fmt.Sprintf("%s-%d", v.Since.UTC().Format("2006-01-02T15-04-05Z"), v.From)
}

// Version is one thing that a name stood for.
type Version struct {
	Info
	Since  time.Time // server's clock at From
	To     Seq       // instant from which it did not any more; journal.Now while live
	Gone   time.Time // server's clock at To; zero while live
	SHA256 string    // hex; empty for what has no content or no hash yet
	Key    string    // who made it
	entry  *journal.Entry
}

// Live reports whether the name still stands for v.
func (v Version) Live() bool { return v.To == journal.Now }

// Versions lists what path stood for, newest first: what its name in its directory stood for, also
// where name or directory are gone.
func (f *FS) Versions(path string) ([]Version, error) {
	rel, err := clean(OpList, path)
	if err != nil {
		return nil, err
	}
	out, err := f.versions(rel)
	if err == nil && len(out) == 0 {
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = pathError(OpList, "/"+rel, fs.ErrNotExist)
	}
	return out, err
}

func (f *FS) versions(rel string) ([]Version, error) {
	if rel == "" {
		return nil, fs.ErrNotExist
	}
	parent, name := split(rel)
	dir, err := f.everDir(parent)
	if err != nil {
		return nil, err
	}
	have, err := f.v.idx.Versions(journal.Loc{Dir: dir.id, Name: name})
	if err != nil {
		return nil, err
	}
	var out []Version
	for _, h := range have {
		if h.Fresh || dir.meet(span{h.From, h.To}) == nil {
			continue
		}
		v := Version{Info: infoOf(name, h.Entry), Since: h.Since, To: h.To, Gone: h.Gone, Key: h.Key, entry: h.Entry}
		hash, err := f.v.idx.Hash(h.Entry)
		if err != nil {
			return nil, err
		}
		if !hash.IsZero() {
			v.SHA256 = hash.String()
		}
		out = append(out, v)
	}
	return out, nil
}
