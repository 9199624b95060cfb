package attack

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Env is what the suite runs in. Owner, Thief and Twin are required. All keys may read and write.
type Env struct {
	Owner Client // the victim
	Thief Client // another key of the same tenant
	Twin  Client // the owner's key, from elsewhere
	// Neighbour is another tenant; nil leaves out what needs one.
	Neighbour Client
	// Jailed says that the thief's key has a root in which nothing of the owner's is: whatever it is answered, it has reached
	// only what is its own. Then the answers do not count, and all victims must live as they were, in both modes.
	Jailed bool
	// Versioned says in which mode the tenant is; strict otherwise.
	Versioned bool
	// Limit is the tenant's hard quota in bytes; 0 when it has none: what needs one is left out.
	Limit int64
	// Small is a client of a tenant with nothing in it and the hard quota SmallLimit (bytes, at most
	// 48 MiB); nil leaves out what fills a quota. The tenant is full afterwards.
	Small      Client
	SmallLimit int64
	// Snapshot makes a snapshot of the tenant, where the caller can; nil leaves the snapshots' checks out.
	Snapshot func(ctx context.Context, name string) error
	// Now is the server's clock; nil is this machine's.
	Now func() time.Time
	// Patience is how long the suite waits for the server to notice a lost connection; default 5 s.
	Patience time.Duration
	// Root is the directory below which the suite works; it must exist. Default: the tenant's root.
	Root string

	// Set by prepare, by the goroutine that runs the suite; not guarded.
	id     string          // of this run, in its directory's name
	sets   map[string]*set // by case and attacker
	before string          // RFC 3339: all victims are sealed, nothing is attacked
	start  string          // RFC 3339: no victim existed
	snap   string          // name of the snapshot, if any
}

// set is what one attacker attacks in one case.
type set struct {
	key     string // case/attacker
	dir     string
	victims []victim
	before  string // the instant at which they are intact
	snap    string
}

// victim is a sealed file of the owner's.
type victim struct {
	path   string
	data   []byte
	info   Info // as it was after it was stored
	before string
	snap   string
}

func (e *Env) attacker(key string) Client {
	if key == "twin" {
		return e.Twin
	}
	return e.Thief
}

func (e *Env) now() time.Time {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now()
}

// prepare stores the victims of those cases that have none yet, and waits until an instant (they have
// the resolution of a second) lies between the last of them and the first attack.
func (e *Env) prepare(ctx context.Context, cases []Case) error {
	if e.sets == nil {
		var b [5]byte
		rand.Read(b[:])
		e.id = hex.EncodeToString(b[:])
		e.sets = make(map[string]*set)
		// Views are of whole seconds: start one before anything of this run exists.
		e.start = e.now().Add(-time.Second).UTC().Format(time.RFC3339)
		if err := e.Owner.Mkdir(e.top()); err != nil {
			return fmt.Errorf("make directory %s: %w", e.top(), err)
		}
	}
	var fresh []*set
	for _, c := range cases {
		for _, key := range c.who.keys() {
			name := c.Name + "/" + key
			if c.files == nil || e.sets[name] != nil {
				continue
			}
			s, err := e.store(name, c.files)
			if err != nil {
				return fmt.Errorf("store victims of %s: %w", name, err)
			}
			e.sets[name] = s
			fresh = append(fresh, s)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := e.mark(ctx); err != nil {
		return err
	}
	for _, s := range fresh {
		s.before, s.snap = e.before, e.snap
		for i := range s.victims {
			v := &s.victims[i]
			v.before, v.snap = e.before, e.snap
			if err := e.check(*v, stays, false); err != nil {
				return fmt.Errorf("victims are not as stored before any attack: %w", err)
			}
		}
	}
	return nil
}

// mark waits for the next whole second and makes the snapshot, so that e.before and e.snap name a
// state between what was and what comes.
func (e *Env) mark(ctx context.Context) error {
	at := e.now().Truncate(time.Second).Add(time.Second)
	for e.now().Before(at.Add(20 * time.Millisecond)) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	e.before = at.UTC().Format(time.RFC3339)
	if e.Snapshot == nil {
		return nil
	}
	var b [3]byte
	rand.Read(b[:])
	e.snap = "attack-" + e.id + "-" + hex.EncodeToString(b[:])
	if err := e.Snapshot(ctx, e.snap); err != nil {
		return fmt.Errorf("make snapshot %s: %w", e.snap, err)
	}
	return nil
}

func (e *Env) top() string { return path.Join("/", e.Root, "attack-"+e.id) }

func (e *Env) store(name string, files []string) (*set, error) {
	s := &set{key: name, dir: path.Join(e.top(), strings.ReplaceAll(name, "/", "-"))}
	made := map[string]bool{s.dir: true}
	if err := e.Owner.Mkdir(s.dir); err != nil {
		return nil, fmt.Errorf("make directory %s: %w", s.dir, err)
	}
	for _, f := range files {
		v := victim{path: s.dir + "/" + f}
		if err := e.makeParents(v.path, made); err != nil {
			return nil, err
		}
		v.data = content(e.id + v.path)
		if err := e.Owner.Put(v.path, v.data); err != nil {
			return nil, fmt.Errorf("put %s: %w", v.path, err)
		}
		info, err := e.Owner.Stat(v.path)
		if err != nil {
			return nil, fmt.Errorf("stat %s: %w", v.path, err)
		}
		v.info = info
		s.victims = append(s.victims, v)
	}
	return s, nil
}

func (e *Env) makeParents(p string, made map[string]bool) error {
	dir := path.Dir(p)
	if dir == e.top() || made[dir] {
		return nil
	}
	if err := e.makeParents(dir, made); err != nil {
		return err
	}
	made[dir] = true
	if err := e.Owner.Mkdir(dir); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	return nil
}

// liveRule says what the live name of a victim may be after the attack.
type liveRule int

const (
	stays   liveRule = iota // as it was
	grows                   // its bytes are the beginning of what is there
	movesOn                 // anything; then the versions must have it
)

// check reads one victim as the owner: live as the rule says, and its past.
func (e *Env) check(v victim, rule liveRule, meta bool) error {
	return errors.Join(e.checkLive(v, rule, meta), e.checkPast(v))
}

func (e *Env) checkLive(v victim, rule liveRule, meta bool) error {
	got, err := e.Owner.Read(v.path)
	switch {
	case rule == movesOn && (err != nil || !bytes.Equal(got, v.data)):
		return e.checkVersions(v)
	case err != nil:
		return broken("read %s: %w", v.path, err)
	case rule == grows && bytes.HasPrefix(got, v.data):
		return e.checkListed(v)
	case !bytes.Equal(got, v.data):
		return broken("the bytes of %s changed: %s", v.path, differ(v.data, got))
	}
	if err := e.checkListed(v); err != nil {
		return err
	}
	now, err := e.Owner.Stat(v.path)
	switch {
	case err != nil:
		return broken("stat %s: %w", v.path, err)
	case !now.IsRegular():
		return broken("%s is no regular file any more (mode %#o)", v.path, now.Mode)
	case now.Size != uint64(len(v.data)):
		return broken("size of %s is told as %d, it is %d", v.path, now.Size, len(v.data))
	case meta && (now.Mode != v.info.Mode || !now.MTime.Equal(v.info.MTime) || now.UID != v.info.UID || now.GID != v.info.GID):
		return broken("metadata of %s changed from %+v to %+v", v.path, v.info, now)
	}
	return nil
}

func (e *Env) checkListed(v victim) error {
	list, err := e.Owner.List(path.Dir(v.path))
	if err != nil {
		return broken("list %s: %w", path.Dir(v.path), err)
	}
	n := 0
	for _, i := range list {
		if i.Name == path.Base(v.path) {
			n++
		}
	}
	if n != 1 {
		return broken("%s is listed %d times", v.path, n)
	}
	return nil
}

// checkPast reads the victim in the views of the state before the attack, by the long names, which no
// client can hide.
func (e *Env) checkPast(v victim) error {
	views := []string{"/.vault/at/" + v.before}
	if v.snap != "" {
		views = append(views, "/.vault/snapshots/"+v.snap)
	}
	for _, root := range views {
		got, err := e.Owner.Read(root + v.path)
		if err != nil {
			return broken("read the past %s%s: %w", root, v.path, err)
		}
		if !bytes.Equal(got, v.data) {
			return broken("the past %s%s changed: %s", root, v.path, differ(v.data, got))
		}
	}
	// It must not be seen at an instant before it existed either: time stamps do not move views.
	if _, err := e.Owner.Stat("/.vault/at/" + e.start + v.path); !errors.Is(err, fs.ErrNotExist) {
		return broken("%s is seen at %s, before it was stored (%v)", v.path, e.start, err)
	}
	return nil
}

// checkVersions wants the victim's bytes among the versions of its name. Where its directory is gone
// from the live tree too, there is no name to ask for: the views must do, and they are checked.
func (e *Env) checkVersions(v victim) error {
	if _, err := e.Owner.Stat(path.Dir(v.path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return e.hasVersion(v.path, v.data)
}

func (e *Env) hasVersion(p string, data []byte) error {
	dir := "/.vault/versions" + p
	list, err := e.Owner.List(dir)
	if err != nil {
		return broken("list %s: %w", dir, err)
	}
	for _, i := range list {
		got, err := e.Owner.Read(dir + "/" + i.Name)
		if err == nil && bytes.Equal(got, data) {
			return nil
		}
	}
	return broken("none of the %d versions of %s has the old bytes", len(list), p)
}

// content returns 2 KiB of printable bytes that depend on seed.
func content(seed string) []byte {
	var b bytes.Buffer
	sum := sha256.Sum256([]byte(seed))
	for b.Len() < 2048 {
		b.WriteString(hex.EncodeToString(sum[:]) + "\n")
		sum = sha256.Sum256(sum[:])
	}
	return b.Bytes()[:2048]
}

// junk is what an attacker writes: no prefix of it or it of a victim.
func junk(seed string) []byte { return append([]byte("pay 5 bitcoin\n"), content("junk"+seed)...) }

func differ(want, got []byte) string {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return fmt.Sprintf("%d bytes instead of %d, the first other one at %d", len(got), len(want), i)
		}
	}
	return fmt.Sprintf("%d bytes instead of %d", len(got), len(want))
}

// eventually repeats f until it succeeds or patience ends: for what follows a lost connection, which the
// server notices when it does.
func (e *Env) eventually(f func() error) error {
	deadline := time.Now().Add(e.patience())
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (e *Env) patience() time.Duration {
	if e.Patience > 0 {
		return e.Patience
	}
	return 5 * time.Second
}
