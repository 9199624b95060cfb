package attack_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"vaultd/internal/attack"
)

// model is a vault in memory that keeps the promises of DESIGN.md §2 in the plainest way: per path a
// list of what it stood for. It exists to judge the suite: sound, every case must hold; with a fault
// built in, the cases that are there for it must notice.
type model struct {
	mu        sync.Mutex
	versioned bool
	limit     int64
	used      int64
	fault     map[string]bool
	now       func() time.Time
	times     []time.Time         // of sequence number i
	hist      map[string][]span   // by absolute path
	names     map[string][]string // every name that a directory ever had
	views     int
	pending   map[string]*upload // interrupted uploads by path
	open      []*upload          // for the fault "claim"
	snaps     map[string]int
	neighbour *model // reachable with the fault "escape"
	inos      int
}

// span: from sequence number seq on, the path stood for n (nil: nothing).
type span struct {
	seq int
	n   *node
}

// node is never changed once it is in a span.
type node struct {
	mode     uint32 // with type bits
	uid, gid uint32
	mtime    uint32
	data     []byte // or a link's target
	key      string // who made it
	ino      int
	mutable  bool // fresh or scratch
}

const (
	regular = 0o100000
	dir     = 0o040000
	symlink = 0o120000
	live    = 1 << 30
)

var (
	errDenied = fmt.Errorf("denied: %w", fs.ErrPermission)
	errQuota  = errors.New("quota exceeded")
	tempName  = regexp.MustCompile(`(\.filepart|\.partial|-restic-temp-[0-9a-f]{32})$|^\.in\.`)
	hostPath  = regexp.MustCompile(`^/(etc|proc|dev|usr|tmp)(/|$)`)
	lockPath  = regexp.MustCompile(`^(.*)/locks/[0-9a-f]{64}$`)
)

// clock advances by 1/8 s whenever it is read, so that nobody waits for the next second.
func clock() func() time.Time {
	t, mu := time.Unix(1_700_000_000, 0), sync.Mutex{}
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		t = t.Add(time.Second / 8)
		return t
	}
}

func newModel(versioned bool, now func() time.Time, limit int64, faults ...string) *model {
	m := &model{versioned: versioned, limit: limit, now: now, fault: map[string]bool{}, hist: map[string][]span{}, names: map[string][]string{},
		pending: map[string]*upload{}, snaps: map[string]int{}, inos: 1}
	for _, f := range faults {
		m.fault[f] = true
	}
	m.set("/", &node{mode: dir | 0o755})
	return m
}

func (m *model) set(p string, n *node) {
	if m.hist[p] == nil {
		m.names[path.Dir(p)] = append(m.names[path.Dir(p)], path.Base(p))
	}
	m.hist[p] = append(m.hist[p], span{len(m.times), n})
	m.times = append(m.times, m.now())
	if m.fault["past-follows"] { // the past is a copy of the present
		m.hist[p] = []span{{0, n}}
	}
}

func (m *model) at(p string, seq int) *node {
	h := m.hist[p]
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].seq <= seq {
			return h[i].n
		}
	}
	return nil
}

func (m *model) children(p string, seq int) []string {
	var names []string
	for _, n := range m.names[p] {
		if n != "/" && m.at(path.Join(p, n), seq) != nil {
			names = append(names, n)
		}
	}
	return names
}

// view splits a cleaned path into the instant it speaks of and the path there.
func (m *model) view(p string) (seq int, rest string, err error) {
	f := strings.SplitN(strings.TrimPrefix(p, "/"), "/", 4)
	if f[0] != ".vault" {
		return live, p, nil
	}
	if len(f) < 3 {
		return 0, "", fs.ErrNotExist
	}
	rest = "/" + strings.Join(f[3:], "/")
	switch f[1] {
	case "snapshots":
		if s, ok := m.snaps[f[2]]; ok {
			return s, rest, nil
		}
	case "at":
		t, err := time.Parse(time.RFC3339, f[2])
		if s, serr := strconv.Atoi(strings.TrimSuffix(f[2], "s")); serr == nil && s >= 0 {
			m.views++
			t, err = m.now().Add(-time.Duration(s)*time.Second), nil
		}
		if err != nil && m.fault["odd-instants"] || m.views > 100 && m.fault["views-leak"] {
			return 0, "", attack.ErrLost
		}
		if err != nil {
			break
		}
		return sort.Search(len(m.times), func(i int) bool { return m.times[i].After(t) }) - 1, rest, nil
	}
	return 0, "", fs.ErrNotExist
}

// clean is the only way from a client's path to a path here.
func (m *model) clean(p string) (string, error) {
	if i := strings.IndexByte(p, 0); i >= 0 {
		if m.fault["nul-ends-session"] {
			return "", attack.ErrLost
		}
		if !m.fault["nul-cuts"] {
			return "", errors.New("bad name")
		}
		p = p[:i]
	}
	if len(p) > 4095 {
		return "", errors.New("path too long")
	}
	for _, c := range strings.Split(p, "/") {
		if len(c) > 255 {
			if !m.fault["long-cuts"] {
				return "", errors.New("name too long")
			}
			p = strings.Replace(p, c, c[:255], 1)
		}
	}
	return path.Clean("/" + p), nil
}

// resolve follows links for reading, inside the tenant.
func (m *model) resolve(p string, last bool) (string, int, *node, error) {
	p, err := m.clean(p)
	if err != nil {
		return "", 0, nil, err
	}
	for range 20 {
		seq, rest, err := m.view(p)
		if err != nil {
			return "", 0, nil, err
		}
		next := ""
		done, todo := "/", strings.Split(strings.Trim(rest, "/"), "/")
		for i, c := range todo {
			done = path.Join(done, c)
			n := m.at(done, seq)
			if n == nil && m.fault["host"] && hostPath.MatchString(rest) {
				return rest, seq, hostNode(rest), nil
			}
			if n == nil {
				return "", 0, nil, fs.ErrNotExist
			}
			if n.mode&0o170000 == symlink && (last || i < len(todo)-1) {
				next = path.Join(append([]string{path.Dir(done), string(n.data)}, todo[i+1:]...)...)
				if path.IsAbs(string(n.data)) {
					next = path.Join(append([]string{string(n.data)}, todo[i+1:]...)...)
				}
				break
			}
			if n.mode&0o170000 != dir && i < len(todo)-1 {
				return "", 0, nil, errors.New("not a directory")
			}
		}
		if next == "" {
			return done, seq, m.at(done, seq), nil
		}
		p = path.Clean(next)
	}
	if m.fault["loops-hang"] {
		return "", 0, nil, attack.ErrLost
	}
	return "", 0, nil, errors.New("too many links")
}

// hostNode is what the fault "host" lets be seen of the host.
func hostNode(p string) *node {
	if slices.Contains([]string{"etc", "usr", "tmp", "fd", "shm", "cwd"}, path.Base(p)) {
		return &node{mode: dir | 0o755}
	}
	return &node{mode: regular | 0o644, data: []byte("root:x:0:0")}
}

// target cleans a path that is to be changed: no link is followed to it and nothing reserved is it.
func (m *model) target(p string) (string, error) {
	if strings.Count(p, "/d") > 50 && m.fault["deep-crashes"] {
		return "", attack.ErrLost
	}
	if q, seq, _, err := m.resolve(p, true); m.fault["views-writable"] && err == nil && seq != live {
		return q, nil
	}
	if m.fault["follow"] && path.Clean("/"+p) != "/" {
		if q, seq, n, err := m.resolve(p, true); err == nil && seq == live && n.mode&0o170000 == regular {
			return q, nil
		}
		if q, seq, _, err := m.resolve(path.Dir(path.Clean("/"+p)), true); err == nil && seq == live {
			return path.Join(q, path.Base(p)), nil
		}
	}
	p, err := m.clean(p)
	if err != nil {
		return "", err
	}
	if p == "/" {
		return "", errDenied
	}
	if top := strings.Split(p, "/")[1]; top == ".vault" || slices.Contains([]string{".at", ".snapshots", ".versions"}, top) {
		if m.fault["views-answer-ok"] {
			return "", nil
		}
		if !m.fault["reserved"] {
			return "", errDenied
		}
	}
	for d := path.Dir(p); ; d = path.Dir(d) {
		n := m.at(d, live)
		if n == nil && !m.fault["reserved"] {
			return "", fs.ErrNotExist
		}
		if n != nil && n.mode&0o170000 != dir {
			return "", errors.New("not a directory")
		}
		if d == "/" {
			return p, nil
		}
	}
}

// may says whether key may let the name go that stands for n.
func (m *model) may(p, key string, n *node, fault string) error {
	lock := lockPath.MatchString(p) && m.fault["locks-by-name"]
	switch {
	case m.fault[fault] || lock, n.mutable && (n.key == key || m.fault["fresh"]):
		return nil
	case m.versioned && !n.mutable:
		return nil
	}
	return errDenied
}

func (m *model) inRepo(p string) bool {
	f := lockPath.FindStringSubmatch(p)
	if f == nil {
		return false
	}
	for _, n := range []string{"config", "data", "keys", "snapshots", "index"} {
		if m.at(f[1]+"/"+n, live) == nil {
			return false
		}
	}
	return true
}

// publish is what CLOSE does.
func (m *model) publish(p, key string, data []byte) error {
	old := m.at(p, live)
	n := &node{mode: regular | 0o644, data: data, key: key, ino: m.inos, mtime: uint32(m.now().Unix())}
	m.inos++
	if m.inRepo(p) && (old == nil || old.mutable) {
		if n.mutable = true; len(data) > 1<<20 && !m.fault["big-locks"] {
			return errDenied
		}
	}
	n.mutable = n.mutable || tempName.MatchString(path.Base(p))
	if old != nil {
		same := bytes.Equal(old.data, data)
		longer := old.key == key && bytes.HasPrefix(data, old.data) || m.fault["longer-by-length"] && len(data) > len(old.data)
		if m.fault["prefix-by-any-key"] {
			longer = bytes.HasPrefix(data, old.data)
		}
		switch {
		case old.mode&0o170000 == dir && !m.fault["made-over"]:
			return errors.New("is a directory")
		case same && old.mode&0o170000 == regular && !m.fault["reput-refused"]:
			return nil
		case longer && !m.fault["reput-refused"]:
		default:
			if err := m.may(p, key, old, "overwrite"); err != nil {
				return err
			}
		}
		if m.fault["in-place"] { // the inode is written, by whatever names it has
			for q := range m.hist {
				if o := m.at(q, live); o != nil && o.ino == old.ino {
					c := *o
					c.data = data
					m.set(q, &c)
				}
			}
			return nil
		}
	}
	if m.used += int64(len(data)) + 4096; m.limit > 0 && m.used > m.limit {
		m.used -= int64(len(data)) + 4096
		return errQuota
	}
	m.set(p, n)
	delete(m.pending, p)
	return nil
}

// versions of a path, oldest first.
func (m *model) versions(p string) []*node {
	var v []*node
	for _, s := range m.hist[p] {
		if s.n != nil {
			v = append(v, s.n)
		}
	}
	if m.fault["versions-forgotten"] && len(v) > 1 {
		v = v[len(v)-1:]
	}
	return v
}
