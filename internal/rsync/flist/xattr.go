package flist

import (
	"crypto/md5"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vaultd/internal/rsync/wire"
)

// Bounds of extended attributes (3.5.0 has its own, larger ones; a file system takes 64 KiB).
const (
	fullValue     = 32 // longer values travel as digests
	maxSet        = 1024
	maxAttrName   = 512
	maxAttrValue  = 1 << 20
	maxAttrsTotal = 256 << 20 // of one list
)

// xattrSet is the attributes of one or more entries.
type xattrSet []xattr

// xattr is one of them. Its number is its place in the set, from 1.
type xattr struct {
	name   string
	size   int
	value  []byte // when it is known
	digest [md5.Size]byte
	state  xattrState
}

type xattrState uint8

const (
	whole xattrState = iota
	unknown
	asked
)

// readSet reads the attributes of an entry: a set that came before, or one of its own (xattrs.c: receive_xattr).
func (l *List) readSet(r *wire.Reader, e *Entry) error {
	n, err := r.Varint()
	if err != nil {
		return err
	}
	if n < 0 || int(n) > len(l.xattrs) {
		return wire.Errorf("set %d of %d of attributes", n, len(l.xattrs))
	}
	if n != 0 {
		e.more().xattrs = n
		return nil
	}
	count, err := r.Varint()
	if err != nil {
		return err
	}
	if count < 0 || count > maxSet {
		return wire.Errorf("%d attributes", count)
	}
	set := make(xattrSet, 0, min(count, 16))
	for range count {
		x, err := readAttr(r)
		if err != nil {
			return err
		}
		set = append(set, x)
	}
	l.xattrs = append(l.xattrs, set)
	e.more().xattrs = int32(len(l.xattrs))
	return nil
}

func readAttr(r *wire.Reader) (x xattr, err error) {
	length, err := r.Varint()
	if err != nil {
		return x, err
	}
	size, err := r.Varint()
	if err != nil {
		return x, err
	}
	if size < 0 || size > maxAttrValue {
		return x, wire.Errorf("an attribute of %d bytes", size)
	}
	name, err := r.Bytes(int(length), maxAttrName)
	if err != nil {
		return x, err
	}
	text, ended := strings.CutSuffix(string(name), "\x00")
	if !ended || text == "" || strings.IndexByte(text, 0) >= 0 {
		return x, wire.Errorf("an attribute's name that can not be one")
	}
	x.name, x.size = text, int(size)
	if size > fullValue {
		x.state = unknown
		return x, r.Full(x.digest[:])
	}
	x.value, err = r.Bytes(int(size), fullValue)
	return x, err
}

// set returns the attributes of e. mu is held.
func (l *List) set(e *Entry) xattrSet {
	if e.x == nil || e.x.xattrs == 0 {
		return nil
	}
	return l.xattrs[e.x.xattrs-1]
}

// HasXAttrs says whether e has attributes.
func (l *List) HasXAttrs(e *Entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.set(e)) > 0
}

// SameXAttrs says whether e's attributes are just those of have. Long values that have knows are known from then on.
func (l *List) SameXAttrs(e *Entry, have map[string][]byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.set(e)
	same := len(set) == len(have)
	for i := range set {
		x := &set[i]
		value, ok := have[x.name]
		switch {
		case !ok:
			same = false
		case x.state == whole:
			same = same && string(value) == string(x.value)
		case len(value) == x.size && md5.Sum(value) == x.digest:
			x.value, x.state = value, whole
		default:
			same = false
		}
	}
	return same
}

// NeedsValues says whether long values of e's attributes are not known yet.
func (l *List) NeedsValues(e *Entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.set(e), func(x xattr) bool { return x.state != whole })
}

// XAttrValues returns e's attributes, as far as their values are known.
func (l *List) XAttrValues(e *Entry) map[string][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string][]byte{}
	for _, x := range l.set(e) {
		if x.state == whole {
			out[x.name] = x.value
		}
	}
	return out
}

// RequestXAttrs asks the sender for the values of e that are neither known nor asked for (send_xattr_request).
func (l *List) RequestXAttrs(w *wire.Writer, e *Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := 0
	set := l.set(e)
	for i := range set {
		if set[i].state == unknown {
			set[i].state = asked
			w.Varint(int32(i + 1 - before))
			before = i + 1
		}
	}
	w.Byte(0)
}

// ReadXAttrs reads the values that were asked for (recv_xattr_request, receiving).
func (l *List) ReadXAttrs(r *wire.Reader, e *Entry) error {
	num := 0
	for {
		rel, err := r.Varint()
		if err != nil || rel == 0 {
			return err
		}
		size, err := r.Varint()
		if err != nil {
			return err
		}
		value, err := r.Bytes(int(size), maxAttrValue)
		if err != nil {
			return err
		}
		num += int(rel)
		if err := l.got(e, num, value); err != nil {
			return err
		}
	}
}

func (l *List) got(e *Entry, num int, value []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.set(e)
	if num < 1 || num > len(set) || set[num-1].state != asked {
		return wire.Errorf("attribute %d was not asked for", num)
	}
	set[num-1].value, set[num-1].state = value, whole
	return nil
}

// ReadXAttrRequest reads which values of e the other side asks for, as places in the set (recv_xattr_request, sending).
func (l *List) ReadXAttrRequest(r *wire.Reader, e *Entry) ([]int, error) {
	var nums []int
	num := 0
	for {
		rel, err := r.Varint()
		if err != nil || rel == 0 {
			return nums, err
		}
		num += int(rel)
		l.mu.Lock()
		set := l.set(e)
		ok := num >= 1 && num <= len(set) && set[num-1].size > fullValue
		l.mu.Unlock()
		if !ok || len(nums) >= maxSet {
			return nil, wire.Errorf("there is no attribute %d to ask for", num)
		}
		nums = append(nums, num)
	}
}

// SendXAttrs answers a request with values out of have (send_xattr_request, sending).
func (l *List) SendXAttrs(w *wire.Writer, e *Entry, nums []int, have map[string][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.set(e)
	before := 0
	for _, num := range nums {
		value := have[set[num-1].name]
		w.Varint(int32(num - before))
		before = num
		w.Varint(int32(len(value)))
		w.Write(value)
	}
	w.Byte(0)
}

// writeSet writes e's attributes, or the number of a set that is the same (send_xattr).
func (l *List) writeSet(w *wire.Writer, e *Entry, have map[string][]byte) {
	names := slices.Sorted(maps.Keys(have))
	set := make(xattrSet, len(names))
	var key strings.Builder
	for i, name := range names {
		x := xattr{name: name, size: len(have[name])}
		if x.size > fullValue {
			x.digest = md5.Sum(have[name])
			fmt.Fprintf(&key, "%q=%d:%x;", name, x.size, x.digest)
		} else {
			x.value = have[name]
			fmt.Fprintf(&key, "%q=%q;", name, x.value)
		}
		set[i] = x
	}
	if l.xattrID == nil {
		l.xattrID = map[string]int32{}
	}
	n := l.xattrID[key.String()]
	w.Varint(n)
	if n == 0 {
		w.Varint(int32(len(set)))
		for _, x := range set {
			w.Varint(int32(len(x.name) + 1))
			w.Varint(int32(x.size))
			w.Write([]byte(x.name))
			w.Byte(0)
			if x.size > fullValue {
				w.Write(x.digest[:])
			} else {
				w.Write(x.value)
			}
		}
		l.xattrs = append(l.xattrs, set)
		n = int32(len(l.xattrs))
		l.xattrID[key.String()] = n
	}
	e.more().xattrs = n
}
