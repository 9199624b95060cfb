package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Op is what a record tells.
type Op string

// The records. Path, To and the other fields that each uses are listed in doc.go.
const (
	OpSegment  Op = "segment"  // first line of a segment
	OpSession  Op = "session"  // who is behind the following records with this Session
	OpCreate   Op = "create"   // content under a name, new or over an earlier one
	OpSeal     Op = "seal"     // a fresh name is sealed where it is
	OpMove     Op = "move"     // a name, or a directory with all below it, goes elsewhere
	OpLink     Op = "link"     // a further name for the content of Path
	OpMkdir    Op = "mkdir"    //
	OpSymlink  Op = "symlink"  //
	OpNode     Op = "node"     // fifo, socket or device
	OpRemove   Op = "remove"   // a name ends; content stays
	OpMeta     Op = "meta"     // mode, owner, times, attributes: all of them, as they are now
	OpHash     Op = "hash"     // the digest of a content that was published without
	OpSnapshot Op = "snapshot" // this instant has a name
	OpBarrier  Op = "barrier"  // everything before is on stable storage
	OpEpoch    Op = "epoch"    // the server's clock was set
	OpVoid     Op = "void"     // after a crash: the content is not what was recorded; it was never acknowledged
	OpPolicy   Op = "policy"   // what the operator changed
	OpDamage   Op = "damage"   // verification found a content wrong, or (what: good) right again
	OpFree     Op = "free"     // retention let go of contents and of snapshots' names
	OpRestore  Op = "restore"  // a name stands again for a content that had no live name any more
)

// Hash is a SHA-256; zero means not known (yet).
type Hash [sha256.Size]byte

// IsZero reports whether the digest is not known.
func (h Hash) IsZero() bool { return h == Hash{} }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Record is one line of the journal.
type Record struct {
	Seq     Seq
	Time    time.Time // server's clock, UTC
	Op      Op
	Path    string // cleaned, relative to the tenant's root, any bytes but NUL
	To      string // move, link: the new name
	ID      ID
	Kind    Kind
	Size    int64
	SHA256  Hash
	Meta    Meta
	Target  string // symlink
	Fresh   bool   // create, move: the name is not sealed
	Keep    bool   // meta: what was before becomes a version, though its key could still amend it
	Managed bool   // create: a generation of a file that a protocol manages
	Key     string // id of the key that asked; "operator", "server"
	Session string
	Note    string // session: fingerprint, remote and protocol; snapshot: its name; free text otherwise
	What    string // snapshot: its kind; segment: the machine's boot id
	Prev    Hash   // segment: the chain before it
	Format  int    // segment
	Covers  Seq    // barrier: the newest record whose content was stable before this one was written
	Freed   []Freed
	Dropped []Seq // free: snapshots whose names ended

	Chain Hash // over the chain before and this line; computed on appending, checked on reading
}

// Freed is a content that retention let go of: its bytes are gone, what is known of it stays.
type Freed struct {
	ID   ID    `json:"id"`
	Size int64 `json:"size"`
}

// line is a Record's JSON. Bytes that are not UTF-8 travel in the *64 twin of a field.
type line struct {
	Seq      Seq               `json:"seq"`
	Time     time.Time         `json:"time"`
	Op       Op                `json:"op"`
	Path     string            `json:"path,omitempty"`
	Path64   []byte            `json:"path64,omitempty"`
	To       string            `json:"to,omitempty"`
	To64     []byte            `json:"to64,omitempty"`
	ID       string            `json:"id,omitempty"`
	Kind     string            `json:"kind,omitempty"`
	Size     int64             `json:"size,omitempty"`
	SHA256   string            `json:"sha256,omitempty"`
	Mode     string            `json:"mode,omitempty"`
	UID      *int64            `json:"uid,omitempty"`
	GID      *int64            `json:"gid,omitempty"`
	MTime    string            `json:"mtime,omitempty"`
	ATime    string            `json:"atime,omitempty"`
	RDev     uint64            `json:"rdev,omitempty"`
	XAttrs   map[string][]byte `json:"xattrs,omitempty"`
	XAttrs64 []xattr64         `json:"xattrs64,omitempty"`
	Target   string            `json:"target,omitempty"`
	Target64 []byte            `json:"target64,omitempty"`
	Fresh    bool              `json:"fresh,omitempty"`
	Keep     bool              `json:"keep,omitempty"`
	Managed  bool              `json:"managed,omitempty"`
	Key      string            `json:"key,omitempty"`
	Session  string            `json:"session,omitempty"`
	Note     string            `json:"note,omitempty"`
	What     string            `json:"what,omitempty"`
	Prev     string            `json:"prev,omitempty"`
	Format   int               `json:"format,omitempty"`
	Covers   Seq               `json:"covers,omitempty"`
	Freed    []Freed           `json:"freed,omitempty"`
	Dropped  []Seq             `json:"dropped,omitempty"`
}

// xattr64 is an attribute whose name is not UTF-8.
type xattr64 struct {
	Name  []byte `json:"name"`
	Value []byte `json:"value"`
}

// The chain stands last on every line, so that the rest of the line is what was hashed.
const (
	chainKey = `,"chain":"`
	chainLen = len(chainKey) + 2*sha256.Size + len(`"}`)
)

// maxLine bounds a line: a path and a target of 4,096 bytes in base64, and 64 KiB of attributes.
const maxLine = 256 << 10

var encoders = sync.Pool{New: func() any {
	e := &encoder{}
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)
	return e
}}

type encoder struct {
	buf  bytes.Buffer
	json *json.Encoder
}

// appendLine appends r's line, with its newline, to dst and sets r.Chain, which follows prev.
func appendLine(dst []byte, r *Record, prev Hash) ([]byte, error) {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	e.buf.Reset()
	l := r.line()
	if err := e.json.Encode(&l); err != nil {
		return dst, fmt.Errorf("encode record: %w", err)
	}
	body := e.buf.Bytes()
	body = body[:len(body)-len("}\n")]
	if len(body)+chainLen > maxLine {
		return dst, fmt.Errorf("encode record: line of %d bytes is too long", len(body))
	}
	r.Chain = link(prev, body)
	dst = append(dst, body...)
	dst = append(dst, chainKey...)
	dst = hex.AppendEncode(dst, r.Chain[:])
	return append(dst, "\"}\n"...), nil
}

// link is the chain's step: SHA-256 over the chain before and the line up to its chain.
func link(prev Hash, body []byte) Hash {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(body)
	var out Hash
	h.Sum(out[:0])
	return out
}

// parseLine reads one line without its newline. The chain is checked against prev; a segment's first
// line brings its own prev, which the caller compares with what it knows.
func parseLine(b []byte, prev Hash) (*Record, error) {
	if len(b) < chainLen || len(b) > maxLine {
		return nil, fmt.Errorf("%w: line of %d bytes", ErrCorrupt, len(b))
	}
	body, tail := b[:len(b)-chainLen], b[len(b)-chainLen:]
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	r, err := l.record()
	if err != nil {
		return nil, fmt.Errorf("%w: record %d: %w", ErrCorrupt, l.Seq, err)
	}
	if err := r.Chain.parse(tail); err != nil {
		return nil, fmt.Errorf("%w: record %d: %w", ErrCorrupt, r.Seq, err)
	}
	if r.Op == OpSegment {
		prev = r.Prev
	}
	if link(prev, body) != r.Chain {
		return nil, fmt.Errorf("%w: record %d does not follow from the one before it", ErrCorrupt, r.Seq)
	}
	return r, nil
}

// parse reads the chain at the end of a line.
func (h *Hash) parse(tail []byte) error {
	if string(tail[:len(chainKey)]) != chainKey || string(tail[chainLen-2:]) != `"}` {
		return errors.New("line has no chain")
	}
	if _, err := hex.Decode(h[:], tail[len(chainKey):chainLen-2]); err != nil {
		return fmt.Errorf("chain: %w", err)
	}
	return nil
}

func (r *Record) line() line {
	l := line{Seq: r.Seq, Time: r.Time, Op: r.Op, Size: r.Size, RDev: r.Meta.RDev, Fresh: r.Fresh, Keep: r.Keep,
		Managed: r.Managed, Key: r.Key, Session: r.Session, Note: r.Note, What: r.What, Format: r.Format, Covers: r.Covers,
		Freed: r.Freed, Dropped: r.Dropped}
	l.XAttrs, l.XAttrs64 = splitXAttrs(r.Meta.XAttrs)
	l.Path, l.Path64 = splitBytes(r.Path)
	l.To, l.To64 = splitBytes(r.To)
	l.Target, l.Target64 = splitBytes(r.Target)
	if !r.ID.IsZero() {
		l.ID = r.ID.String()
	}
	if r.Kind != KindNone {
		l.Kind = r.Kind.String()
	}
	if !r.SHA256.IsZero() {
		l.SHA256 = r.SHA256.String()
	}
	if !r.Prev.IsZero() {
		l.Prev = r.Prev.String()
	}
	if r.hasMeta() {
		if r.Meta.Mode != Unset {
			l.Mode = fmt.Sprintf("%04o", r.Meta.Mode)
		}
		if r.Meta.UID != Unset {
			l.UID = &r.Meta.UID
		}
		if r.Meta.GID != Unset {
			l.GID = &r.Meta.GID
		}
		l.MTime, l.ATime = r.Meta.MTime.decimal(), r.Meta.ATime.decimal()
	}
	return l
}

// hasMeta reports whether r's Meta is said at all: in other records a zero Meta is not mode 0.
func (r *Record) hasMeta() bool {
	switch r.Op {
	case OpCreate, OpMkdir, OpSymlink, OpNode, OpMeta:
		return true
	}
	return false
}

func (l *line) record() (*Record, error) {
	r := &Record{Seq: l.Seq, Time: l.Time, Op: l.Op, Size: l.Size, Fresh: l.Fresh, Keep: l.Keep, Managed: l.Managed, Key: l.Key,
		Session: l.Session, Note: l.Note, What: l.What, Format: l.Format, Covers: l.Covers, Freed: l.Freed, Dropped: l.Dropped,
		Path: joinBytes(l.Path, l.Path64), To: joinBytes(l.To, l.To64), Target: joinBytes(l.Target, l.Target64)}
	r.Meta = NoMeta()
	r.Meta.RDev, r.Meta.XAttrs = l.RDev, joinXAttrs(l.XAttrs, l.XAttrs64)
	var err error
	if l.ID != "" {
		if r.ID, err = ParseID(l.ID); err != nil {
			return nil, err
		}
	}
	if l.Kind != "" {
		if err := r.Kind.UnmarshalText([]byte(l.Kind)); err != nil {
			return nil, err
		}
	}
	for _, h := range []struct {
		hex string
		to  *Hash
	}{{l.SHA256, &r.SHA256}, {l.Prev, &r.Prev}} {
		if h.hex == "" {
			continue
		}
		if len(h.hex) != 2*len(h.to) {
			return nil, fmt.Errorf("digest of %d characters", len(h.hex))
		}
		if _, err := hex.Decode(h.to[:], []byte(h.hex)); err != nil {
			return nil, err
		}
	}
	if l.Mode != "" {
		m, err := strconv.ParseUint(l.Mode, 8, 12)
		if err != nil {
			return nil, err
		}
		r.Meta.Mode = int32(m)
	}
	if l.UID != nil {
		r.Meta.UID = *l.UID
	}
	if l.GID != nil {
		r.Meta.GID = *l.GID
	}
	if r.Meta.MTime, err = parseDecimal(l.MTime); err != nil {
		return nil, err
	}
	if r.Meta.ATime, err = parseDecimal(l.ATime); err != nil {
		return nil, err
	}
	return r, nil
}

func splitBytes(s string) (string, []byte) {
	if utf8.ValidString(s) {
		return s, nil
	}
	return "", []byte(s)
}

func joinBytes(s string, b []byte) string {
	if len(b) > 0 {
		return string(b)
	}
	return s
}

func splitXAttrs(all map[string][]byte) (map[string][]byte, []xattr64) {
	var odd []xattr64
	for name, value := range all {
		if !utf8.ValidString(name) {
			odd = append(odd, xattr64{[]byte(name), value})
		}
	}
	if len(odd) == 0 {
		return all, nil
	}
	slices.SortFunc(odd, func(a, b xattr64) int { return bytes.Compare(a.Name, b.Name) })
	plain := maps.Clone(all)
	for _, x := range odd {
		delete(plain, string(x.Name))
	}
	return plain, odd
}

func joinXAttrs(plain map[string][]byte, odd []xattr64) map[string][]byte {
	for _, x := range odd {
		if plain == nil {
			plain = make(map[string][]byte, len(odd))
		}
		plain[string(x.Name)] = x.Value
	}
	return plain
}

// decimal is the journal's form of a time: seconds with nine decimals where they are not zero.
func (t Time) decimal() string {
	switch {
	case t.IsZero():
		return ""
	case t.nsec == 0:
		return strconv.FormatInt(t.sec, 10)
	}
	return fmt.Sprintf("%d.%09d", t.sec, t.nsec)
}

func parseDecimal(s string) (Time, error) {
	if s == "" {
		return Time{}, nil
	}
	sec, frac, dot := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || !dot {
		return Unix(n, 0), err
	}
	if len(frac) != 9 {
		return Time{}, fmt.Errorf("time %q: want nine decimals", s)
	}
	ns, err := strconv.ParseUint(frac, 10, 32)
	return Unix(n, uint32(ns)), err
}
