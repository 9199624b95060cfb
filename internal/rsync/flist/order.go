package flist

import (
	"slices"
	"strings"
)

// compare orders two entries as flist.c's f_name_cmp does from protocol 29 on: in a directory first what is no
// directory, then directories, each with what is in it; by bytes, a directory's name with a slash at its end. The top comes first.
func compare(a, b *Entry) int {
	if a.dir == b.dir {
		return compareIn(a, b)
	}
	if a.IsRoot() {
		return -1
	}
	if b.IsRoot() {
		return 1
	}
	return comparePaths(a, b)
}

// compareIn compares two entries of one directory.
func compareIn(a, b *Entry) int {
	ad, bd := a.IsDir(), b.IsDir()
	if ad && a.base == "." {
		ad = false
		if bd && b.base == "." {
			return 0
		}
		if !bd {
			return strings.Compare("", b.base)
		}
		return -1
	}
	if bd && b.base == "." {
		if !ad {
			return strings.Compare(a.base, "")
		}
		return 1
	}
	switch {
	case ad != bd && ad:
		return 1
	case ad != bd:
		return -1
	case !ad:
		return strings.Compare(a.base, b.base)
	}
	return compareDirs(a.base, b.base)
}

// compareDirs compares two names as if each had a slash at its end.
func compareDirs(a, b string) int {
	n := min(len(a), len(b))
	if c := strings.Compare(a[:n], b[:n]); c != 0 || len(a) == len(b) {
		return c
	}
	if len(a) > n {
		return cmpByte(a[n], '/')
	}
	return cmpByte('/', b[n])
}

func cmpByte(a, b byte) int { return int(a) - int(b) }

// comparePaths compares entries of different directories, part by part.
func comparePaths(a, b *Entry) int {
	pa, pb := walker{dir: a.dir, base: a.base, isDir: a.IsDir()}, walker{dir: b.dir, base: b.base, isDir: b.IsDir()}
	for {
		x, xd, xok := pa.next()
		y, yd, yok := pb.next()
		switch {
		case !xok && !yok:
			return 0
		case !xok:
			return -1
		case !yok:
			return 1
		case xd != yd && xd:
			return 1
		case xd != yd:
			return -1
		case !xd:
			return strings.Compare(x, y) // the last part of both
		case x != y:
			return compareDirs(x, y)
		}
	}
}

// walker takes the parts off a path.
type walker struct {
	dir, base string
	isDir     bool // what base is
	ended     bool
}

// next returns the next part and whether it is a directory.
func (w *walker) next() (string, bool, bool) {
	if w.dir != "" {
		part, rest, _ := strings.Cut(w.dir, "/")
		w.dir = rest
		return part, true, true
	}
	if w.ended {
		return "", false, false
	}
	w.ended = true
	if w.isDir && w.base == "." {
		return "", false, true
	}
	return w.base, w.isDir, true
}

// sort puts the entries in order and drops duplicates, which keep their numbers (flist.c: flist_sort_and_clean).
// receiving: a sender keeps them.
func (l *List) sort(unsorted, receiving bool) {
	l.order = make([]int32, l.Len())
	for i := range l.order {
		l.order[i] = int32(i)
	}
	slices.SortStableFunc(l.order, func(i, j int32) int { return compare(l.entry(int(i)), l.entry(int(j))) })
	l.regroup()
	if unsorted {
		l.place = make([]int32, len(l.order))
		for to, from := range l.order {
			l.place[from] = int32(to)
		}
	}
	l.live = len(l.order)
	for i := range l.order {
		if l.at(i).flags&flagOdd != 0 {
			l.live--
		}
	}
	if receiving {
		l.dropDuplicates()
	}
}

// regroup turns the groups from arrival numbers of some member to the place of the first one in order.
func (l *List) regroup() {
	first := map[int32]int32{}
	for i := range l.order {
		e := l.at(i)
		if e.group < 0 {
			continue
		}
		at, ok := first[e.group]
		if !ok {
			at = int32(i)
			first[e.group] = at
		}
		e.group = at
	}
}

// dropDuplicates keeps of each name the directory, or else the first.
func (l *List) dropDuplicates() {
	prev := -1
	for i := range l.Len() {
		e := l.at(i)
		if e.flags&flagOdd != 0 {
			continue
		}
		j := -1
		if prev >= 0 && compare(l.at(prev), e) == 0 {
			j = prev
		} else if e.IsDir() {
			j = l.findFile(e, i)
		}
		switch {
		case j < 0:
			prev = i
		case e.IsDir() && !l.at(j).IsDir():
			l.drop(j, flagDuplicate)
			prev = i
		default:
			if e.IsDir() {
				k := l.at(j)
				k.flags |= e.flags & (flagTopDir | flagContent)
				if e.flags&flagImplied == 0 {
					k.flags &^= flagImplied
				}
			}
			l.drop(i, flagDuplicate)
		}
	}
}

func (l *List) drop(i int, why uint8) {
	l.at(i).flags |= why
	l.live--
}

// findFile returns the entry before end that has e's name and is no directory; -1 when there is none.
func (l *List) findFile(e *Entry, end int) int {
	file := Entry{dir: e.dir, base: e.base, Mode: typeRegular}
	i, found := slices.BinarySearchFunc(l.order[:end], &file, func(x int32, f *Entry) int { return compare(l.entry(int(x)), f) })
	if !found || l.at(i).flags&flagDuplicate != 0 {
		return -1
	}
	return i
}

// PruneEmptyDirs drops directories in which there is nothing but such directories (-m), unless keep says otherwise.
func (l *List) PruneEmptyDirs(keep func(dir string) bool) {
	type open struct {
		at   int
		path string
	}
	var stack []open // directories that have nothing so far
	pop := func(p string) {
		for len(stack) > 0 && (p == "\x00" || !below(p, stack[len(stack)-1].path)) {
			l.drop(stack[len(stack)-1].at, flagPruned)
			stack = stack[:len(stack)-1]
		}
	}
	for i := range l.Len() {
		e := l.At(i)
		if e == nil || e.IsRoot() {
			continue
		}
		p := e.Path()
		pop(e.dir)
		if !e.IsDir() || keep(p) {
			stack = stack[:0]
			continue
		}
		stack = append(stack, open{i, p})
	}
	pop("\x00")
}
