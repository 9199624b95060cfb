package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
)

// Loc is a place in the namespace: a name in a directory. The root itself is the zero Loc.
type Loc struct {
	Dir  DirID
	Name string
}

// Index answers what names stand for, live and at every instant, from the records it was given. It is
// derived from the journal and may be deleted.
//
// Concurrency: Apply and Freeze are serialized by their caller (the vault's lock); everything else may
// run at any time and sees whole records: callers that need several lookups to agree hold the
// vault's lock.
type Index struct {
	t     *table
	dirs  *dirCache
	state state // owned by the caller of Apply
	daily daily
	todo  []pair // what the record in hand changes; owned by the caller of Apply

	live, past, records, files, fresh atomic.Int64 // state.Totals, readable by anyone
}

// state is what the index keeps beside its table's rows; written at every freeze.
type state struct {
	Head    Head
	Epoch   Seq   // the record that began the present epoch of the clock
	Second  int64 // newest second that has a time mark
	Totals  Totals
	Changed Seq    // the newest record that a client caused
	Snapped Seq    // the newest snapshot
	Boot    string // of the machine when SetEnding was last called
	Clean   bool   // the vault was closed in order
}

const indexFormat = 1

type storedState struct {
	Format int
	State  state
	Daily  storedDaily
}

// The tables, by the first byte of a key; doc.go describes keys and values.
const (
	tabLive  = 'L'
	tabPast  = 'P'
	tabLinks = 'K'
	tabDirs  = 'D'
	tabSnap  = 'S'
	tabTime  = 'T'
	tabEpoch = 'E'
	tabHash  = 'H'
	tabVoid  = 'V'
	tabFreed = 'X'
	tabFresh = 'F'
	tabState = 'M'
)

// OpenIndex opens or makes the index at path. Head tells which record it has seen last.
func OpenIndex(path string) (*Index, error) {
	t, err := openTable(path)
	if err != nil {
		return nil, err
	}
	x := &Index{t: t, dirs: newDirCache()}
	b, err := t.get([]byte{tabState})
	if err == nil && b != nil {
		var s storedState
		if err = json.Unmarshal(b, &s); err == nil && s.Format != indexFormat {
			err = fmt.Errorf("index has format %d, want %d", s.Format, indexFormat)
		}
		x.state = s.State
		x.daily.day, x.daily.keys = s.Daily.Day, s.Daily.Keys
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read index: %w", err), t.close())
	}
	x.publishTotals()
	return x, nil
}

// Close closes the database. What was not flushed is in the journal.
func (x *Index) Close() error { return x.t.close() }

// Head returns the newest record that was applied.
func (x *Index) Head() Head { return x.state.Head }

// Newest returns when the newest record was made, to the second, by the server's clock in its present epoch. The caller of Apply is not running.
func (x *Index) Newest() time.Time { return time.Unix(x.state.Second, 0) }

// Totals returns the account as of the newest record applied. Anyone may ask at any time.
func (x *Index) Totals() Totals {
	return Totals{Live: x.live.Load(), Past: x.past.Load(), Records: x.records.Load(), Files: x.files.Load(), Fresh: x.fresh.Load()}
}

// Ending returns what SetEnding said last: on which boot of the machine, and whether the vault was
// closed in order.
func (x *Index) Ending() (boot string, clean bool) { return x.state.Boot, x.state.Clean }

// Unnamed reports whether something changed since the newest snapshot. The caller of Apply is not running.
func (x *Index) Unnamed() bool { return x.state.Changed > x.state.Snapped }

// SetEnding notes it for the next Freeze.
func (x *Index) SetEnding(boot string, clean bool) { x.state.Boot, x.state.Clean = boot, clean }

func (x *Index) publishTotals() {
	t := x.state.Totals
	x.live.Store(t.Live)
	x.past.Store(t.Past)
	x.records.Store(t.Records)
	x.files.Store(t.Files)
	x.fresh.Store(t.Fresh)
}

// Pending returns the number of changes that only the journal and memory hold.
func (x *Index) Pending() int { return x.t.pending() }

// Freeze sets what was applied so far aside for Flush. Everything up to here must be on stable storage
// before Flush: the index never knows more than the journal does. It reports false when Flush has not
// dealt with the previous Freeze.
func (x *Index) Freeze() bool {
	b, err := json.Marshal(storedState{indexFormat, x.state, x.daily.stored()})
	if err != nil {
		panic("internal error: encode index state: " + err.Error())
	}
	x.t.put([]byte{tabState}, b)
	return x.t.freeze()
}

// Flush writes what Freeze set aside.
func (x *Index) Flush() error { return x.t.flush(true) }

// RemoveIndex deletes the index at path, which must not be open: the next one starts from nothing.
func RemoveIndex(path string) error {
	for _, p := range []string{path, path + newSuffix} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove index: %w", err)
		}
	}
	return nil
}

// InUse reports whether OpenIndex failed with err because another process has the index open.
func InUse(err error) bool { return errors.Is(err, bolterrors.ErrTimeout) }

// replayBatch is how many changes a replay keeps in memory.
const replayBatch = 1 << 14

// ReplayBatched is Replay for long journals: it writes the database as it goes, a new one without
// waiting for the disk. The first Flush after it makes all of it stable.
func (x *Index) ReplayBatched(r *Record) error {
	if err := x.Replay(r); err != nil || x.t.pending() < replayBatch {
		return err
	}
	x.Freeze()
	return x.t.flush(false)
}

func dirKey(table byte, dir DirID) []byte {
	k := make([]byte, 9, 64)
	k[0] = table
	binary.BigEndian.PutUint64(k[1:], uint64(dir))
	return k
}

func liveKey(l Loc) []byte { return append(dirKey(tabLive, l.Dir), l.Name...) }

// pastKey sorts newest first within a name: the seek for an instant lands on the version that was live.
func pastKey(l Loc, from Seq) []byte {
	k := append(dirKey(tabPast, l.Dir), l.Name...)
	return binary.BigEndian.AppendUint64(append(k, 0), ^uint64(from))
}

func seqKey(table byte, seq Seq) []byte {
	return binary.BigEndian.AppendUint64([]byte{table}, uint64(seq))
}

func idKey(table byte, id ID) []byte { return append([]byte{table}, id[:]...) }

func linkKey(id ID, l Loc) []byte {
	k := binary.BigEndian.AppendUint64(idKey(tabLinks, id), uint64(l.Dir))
	return append(k, l.Name...)
}

var present = []byte{1}

// Replay applies r, finding the places it speaks of by its paths.
func (x *Index) Replay(r *Record) error {
	var at, to Loc
	var err error
	if r.Path != "" {
		if at, err = x.Locate(r.Path); err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrCorrupt, r.Seq, err)
		}
	}
	if r.To != "" {
		if to, err = x.Locate(r.To); err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrCorrupt, r.Seq, err)
		}
	}
	return x.Apply(r, at, to)
}

// Check reports why r could not be applied: what it speaks of is not there, or is where a client has
// no place. A record that can not be applied must not be written, as no index could be made from the journal again.
func (x *Index) Check(r *Record, at, to Loc) error {
	var there, free bool
	switch r.Op {
	case OpCreate:
	case OpRestore:
		return x.checkRestore(r, at)
	case OpMkdir, OpSymlink, OpNode:
		free = true
	case OpSeal, OpRemove, OpMeta, OpLink, OpMove:
		there = true
	default:
		return nil
	}
	if at == (Loc{}) || (r.Op == OpLink || r.Op == OpMove) && to == (Loc{}) {
		return fmt.Errorf("check record (%s %q): it has no place", r.Op, r.Path)
	}
	if !there && !free {
		return nil
	}
	e, err := x.live1(at)
	if err == nil && (there && e == nil || free && e != nil) {
		err = fmt.Errorf("check record (%s %q): %w", r.Op, r.Path, fs.ErrInvalid)
	}
	return err
}

// checkRestore is Check for a content of the past. That no live name has it is the caller's to know.
func (x *Index) checkRestore(r *Record, at Loc) error {
	freed, err := x.Freed(r.ID)
	if err == nil && (at == (Loc{}) || freed || r.ID.IsZero() || !r.Kind.HasContent()) {
		err = fmt.Errorf("check record (%s %q): %w", r.Op, r.Path, fs.ErrInvalid)
	}
	return err
}

// Apply makes the index follow one record, in order. at and to are the places of its Path and To.
func (x *Index) Apply(r *Record, at, to Loc) error {
	if r.Seq != x.state.Head.Seq+1 {
		return fmt.Errorf("%w: record %d applied after %d", ErrCorrupt, r.Seq, x.state.Head.Seq)
	}
	before := x.state
	x.todo = x.todo[:0]
	if err := x.apply(r, at, to); err != nil {
		x.state = before
		return fmt.Errorf("apply record %d (%s): %w", r.Seq, r.Op, err)
	}
	x.mark(r)
	x.t.putAll(x.todo)
	x.daily.count(r)
	x.state.Head = Head{r.Seq, r.Chain}
	x.publishTotals()
	return nil
}

// put adds a change to those of the record in hand. They take place together when it is applied:
// until then the table does not show them.
func (x *Index) put(key, value []byte) { x.todo = append(x.todo, pair{key, value}) }

// mark keeps the way from times to instants: the first record of each second.
func (x *Index) mark(r *Record) {
	if x.state.Head.Seq == 0 || r.Op == OpEpoch {
		x.state.Epoch, x.state.Second = r.Seq, -1<<62
		x.put(seqKey(tabEpoch, r.Seq), present)
	}
	if sec := r.Time.Unix(); sec > x.state.Second {
		x.state.Second = sec
		k := binary.BigEndian.AppendUint64(seqKey(tabTime, x.state.Epoch), uint64(max(sec, 0)))
		x.put(k, binary.BigEndian.AppendUint64(nil, uint64(r.Seq)))
	}
}

func (x *Index) apply(r *Record, at, to Loc) error {
	switch r.Op {
	case OpSegment, OpBarrier, OpEpoch, OpPolicy:
		return nil
	case OpSession:
		x.state.Totals.Records++
		return nil
	case OpSnapshot:
		x.state.Snapped = r.Seq
		b, err := json.Marshal(Snapshot{Name: r.Note, Kind: r.What, At: r.Seq, Time: r.Time})
		x.put(seqKey(tabSnap, r.Seq), b)
		return err
	case OpHash:
		x.put(idKey(tabHash, r.ID), append([]byte(nil), r.SHA256[:]...))
		return nil
	case OpVoid:
		return x.applyVoid(r, at)
	case OpFree:
		return x.applyFree(r)
	case OpDamage:
		return x.applyDamage(r)
	}
	x.state.Totals.Records++
	x.state.Changed = r.Seq
	old, err := x.live1(at)
	if err != nil {
		return err
	}
	switch r.Op {
	case OpCreate, OpMkdir, OpSymlink, OpNode:
		return x.applyNew(r, at, old)
	case OpRestore:
		if err := x.applyNew(r, at, old); err != nil {
			return err
		}
		x.state.Totals.Past -= Charge(r.Size) // it was charged as what no name stood for
		return nil
	}
	if old == nil {
		return fmt.Errorf("%w: %q is not there", ErrCorrupt, r.Path)
	}
	switch r.Op {
	case OpRemove:
		if old.Kind == KindDir {
			x.dirs.clear()
		}
		x.put(liveKey(at), nil)
		return x.end(r, at, old)
	case OpSeal:
		if !old.Fresh { // it would stand since now, and not at the instants before: who writes the journal could cut its past off
			return nil
		}
		x.notFresh(at, old)
		e := *old
		e.Fresh, e.From, e.Since = false, r.Seq, r.Time
		x.putLive(at, &e)
		return nil
	case OpMeta:
		return x.applyMeta(r, at, old)
	case OpLink:
		return x.applyLink(at, to, old, r)
	case OpMove:
		return x.applyMove(r, at, to, old)
	}
	return fmt.Errorf("%w: unknown operation", ErrCorrupt)
}

// applyNew lets at stand for what r brings; what it stood for before becomes the past.
func (x *Index) applyNew(r *Record, at Loc, old *Entry) error {
	e := &Entry{Kind: r.Kind, Fresh: r.Fresh, Managed: r.Managed, From: r.Seq, Since: r.Time, Received: r.Time, ID: r.ID,
		Size: r.Size, SHA256: r.SHA256, Meta: r.Meta, Target: r.Target, Key: r.Key}
	if old != nil {
		if err := x.end(r, at, old); err != nil {
			return err
		}
		if old.Fresh && e.Fresh { // writing again does not make it younger
			e.Received = old.Received
		}
	}
	if e.Fresh {
		x.putFresh(at)
	}
	switch r.Op {
	case OpMkdir:
		e.Kind, e.Dir = KindDir, DirID(r.Seq)
		x.putParent(e.Dir, at)
	case OpSymlink:
		e.Kind = KindSymlink
	}
	if e.Kind.HasContent() {
		x.state.Totals.Live += Charge(e.Size)
	}
	x.state.Totals.Files++
	x.putLive(at, e)
	return nil
}

// end lets at stand for e no more. A fresh entry leaves no trace: no instant shows it.
func (x *Index) end(r *Record, at Loc, e *Entry) error {
	x.state.Totals.Files--
	x.notFresh(at, e)
	if e.Kind.HasContent() {
		last, err := x.dropLink(at, e)
		if err != nil {
			return err
		}
		if last {
			x.state.Totals.Live -= Charge(e.Size)
			if !e.Fresh {
				x.state.Totals.Past += Charge(e.Size)
			}
		}
	}
	x.putPast(r, at, e)
	return nil
}

func (x *Index) putFresh(at Loc) {
	x.put(append(dirKey(tabFresh, at.Dir), at.Name...), present)
	x.state.Totals.Fresh++
}

func (x *Index) notFresh(at Loc, e *Entry) {
	if e.Fresh {
		x.put(append(dirKey(tabFresh, at.Dir), at.Name...), nil)
		x.state.Totals.Fresh--
	}
}

func (x *Index) putPast(r *Record, at Loc, e *Entry) {
	if e.Fresh {
		return
	}
	v := binary.BigEndian.AppendUint64(nil, uint64(r.Seq))
	v = binary.BigEndian.AppendUint64(v, uint64(r.Time.UnixNano()))
	x.put(pastKey(at, e.From), e.append(v))
}

// dropLink forgets that at is a name of e's content and reports whether it was the last one.
func (x *Index) dropLink(at Loc, e *Entry) (bool, error) {
	if !e.Linked {
		return true, nil
	}
	x.put(linkKey(e.ID, at), nil)
	links, err := x.Links(e.ID)
	return !slices.ContainsFunc(links, func(l Loc) bool { return l != at }), err
}

func (x *Index) putLive(at Loc, e *Entry) {
	x.put(liveKey(at), e.append(nil))
}

func (x *Index) putParent(dir DirID, at Loc) {
	x.put(dirKey(tabDirs, dir), append(binary.BigEndian.AppendUint64(nil, uint64(at.Dir)), at.Name...))
}

func (x *Index) applyMeta(r *Record, at Loc, old *Entry) error {
	places := []Loc{at}
	if old.Linked {
		var err error
		if places, err = x.Links(old.ID); err != nil {
			return err
		}
	}
	for _, l := range places { // the names of one content share its metadata, as links share an inode
		e, err := x.live1(l)
		if err != nil || e == nil {
			return errors.Join(err, fmt.Errorf("%w: link without a name", ErrCorrupt))
		}
		if r.Keep && !old.Fresh || !old.Settling(r.Key, r.Time) {
			x.putPast(r, l, e)
			e.From, e.Since = r.Seq, r.Time
		}
		e.Meta = r.Meta
		x.putLive(l, e)
	}
	return nil
}

func (x *Index) applyLink(at, to Loc, old *Entry, r *Record) error {
	target, err := x.live1(to)
	if err != nil {
		return err
	}
	if target != nil {
		if err := x.end(r, to, target); err != nil {
			return err
		}
	}
	if !old.Linked {
		old.Linked = true
		x.putLive(at, old)
		x.put(linkKey(old.ID, at), present)
	}
	// The content's key stays: who links to it may do no more with it than before.
	e := *old
	e.From, e.Since = r.Seq, r.Time
	x.put(linkKey(e.ID, to), present)
	x.putLive(to, &e)
	x.state.Totals.Files++
	return nil
}

func (x *Index) applyMove(r *Record, at, to Loc, old *Entry) error {
	target, err := x.live1(to)
	if err != nil {
		return err
	}
	if target != nil {
		if err := x.end(r, to, target); err != nil {
			return err
		}
	}
	x.put(liveKey(at), nil)
	x.putPast(r, at, old)
	x.notFresh(at, old)
	e := *old
	e.Fresh, e.From, e.Since = r.Fresh, r.Seq, r.Time
	if e.Fresh {
		x.putFresh(to)
	}
	if e.Linked {
		x.put(linkKey(e.ID, at), nil)
		x.put(linkKey(e.ID, to), present)
	}
	if e.Kind == KindDir {
		x.dirs.clear()
		x.putParent(e.Dir, to)
	}
	x.putLive(to, &e)
	return nil
}

// applyVoid ends a name whose content a crash spoiled before it was acknowledged. What the name stood
// for until that content came may well have been acknowledged: the name stands for it again.
func (x *Index) applyVoid(r *Record, at Loc) error {
	x.put(idKey(tabVoid, r.ID), present)
	e, err := x.live1(at)
	if err != nil || e == nil || e.ID != r.ID {
		return err
	}
	x.put(liveKey(at), nil)
	if err := x.end(r, at, e); err != nil {
		return err
	}
	return x.restore(r, at, e.From)
}

var damaged = []byte{2}

// applyDamage flags a content, or takes the flag back: not that of a crash.
func (x *Index) applyDamage(r *Record) error {
	b, err := x.t.get(idKey(tabVoid, r.ID))
	switch {
	case err != nil:
	case r.What != "good" && b == nil:
		x.put(idKey(tabVoid, r.ID), damaged)
	case r.What == "good" && string(b) == string(damaged):
		x.put(idKey(tabVoid, r.ID), nil)
	}
	return err
}

// applyFree notes what retention let go of. What is said twice counts once.
func (x *Index) applyFree(r *Record) error {
	said := make(map[ID]bool, len(r.Freed))
	for _, f := range r.Freed {
		freed, err := x.Freed(f.ID)
		if err != nil {
			return err
		}
		if !freed && !said[f.ID] {
			said[f.ID] = true
			x.put(idKey(tabFreed, f.ID), present)
			x.state.Totals.Past -= Charge(f.Size)
		}
	}
	for _, seq := range r.Dropped {
		x.put(seqKey(tabSnap, seq), nil)
	}
	return nil
}

// restore lets at stand for what it stood for until the record until, or if that was void too, for
// what was there before it without a break.
func (x *Index) restore(r *Record, at Loc, until Seq) error {
	versions, err := x.Versions(at)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v.To == Now { // the one that has just ended
			continue
		}
		if v.To != until {
			return nil
		}
		until = v.From
		if !v.Kind.HasContent() {
			return x.revive(r, at, v.Entry)
		}
		void, err := x.Void(v.ID)
		if err != nil {
			return err
		}
		if !void && v.ID != r.ID {
			return x.revive(r, at, v.Entry)
		}
	}
	return nil
}

// revive lets at stand for e, a version of it, again.
func (x *Index) revive(r *Record, at Loc, e *Entry) error {
	e.From, e.Since = r.Seq, r.Time
	x.state.Totals.Files++
	x.putLive(at, e)
	if !e.Kind.HasContent() {
		return nil
	}
	links, err := x.Links(e.ID)
	if err != nil {
		return err
	}
	if e.Linked {
		x.put(linkKey(e.ID, at), present)
	}
	if len(links) == 0 {
		x.state.Totals.Past -= Charge(e.Size)
		x.state.Totals.Live += Charge(e.Size)
	}
	return nil
}

func (x *Index) live1(at Loc) (*Entry, error) {
	b, err := x.t.get(liveKey(at))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeEntry(b)
}

// Root is what "/" stands for.
func Root() *Entry { return &Entry{Kind: KindDir, Meta: NoMeta()} }

// Lookup returns what at stands for, live (Now) or at an instant; fs.ErrNotExist when nothing.
func (x *Index) Lookup(at Loc, when Seq) (*Entry, error) {
	if at == (Loc{}) {
		return Root(), nil
	}
	e, err := x.live1(at)
	if err != nil {
		return nil, err
	}
	if when == Now || e != nil && !e.Fresh && e.From <= when {
		if e == nil {
			return nil, fs.ErrNotExist
		}
		return e, nil
	}
	var found *Entry
	err = x.t.view(func(v *view) error {
		var derr error
		prefix := pastKey(at, 0)
		prefix = prefix[:len(prefix)-8]
		v.ascend(pastKey(at, when), func(k, b []byte) bool {
			if len(k) != len(prefix)+8 || string(k[:len(prefix)]) != string(prefix) {
				return false
			}
			var p pastEntry
			if p, derr = decodePast(b); derr == nil && p.To > when {
				found = p.Entry
			}
			return false
		})
		return derr
	})
	if err == nil && found == nil {
		err = fs.ErrNotExist
	}
	return found, err
}

// pastEntry is an entry that a name stood for until To.
type pastEntry struct {
	*Entry
	To   Seq
	Gone time.Time
}

func decodePast(b []byte) (pastEntry, error) {
	if len(b) < 16 {
		return pastEntry{}, errEntry
	}
	e, err := decodeEntry(b[16:])
	return pastEntry{e, Seq(binary.BigEndian.Uint64(b)), time.Unix(0, int64(binary.BigEndian.Uint64(b[8:])))}, err
}

// Locate returns the place of a live path (cleaned, relative, "" for the root) without asking
// whether the last element exists; fs.ErrNotExist when a directory on the way does not.
func (x *Index) Locate(path string) (Loc, error) {
	if path == "" {
		return Loc{}, nil
	}
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	dir, err := x.LiveDir(parent)
	return Loc{dir, name}, err
}

// ErrNotDir is in the way: an element of the path that is not a directory.
var ErrNotDir = errors.New("not a directory")

// LiveDir returns the id of the live directory path.
func (x *Index) LiveDir(path string) (DirID, error) {
	if path == "" {
		return 0, nil
	}
	if id, ok := x.dirs.get(path); ok {
		return id, nil
	}
	at, err := x.Locate(path)
	if err != nil {
		return 0, err
	}
	e, err := x.Lookup(at, Now)
	if err != nil {
		return 0, err
	}
	if e.Kind != KindDir {
		return 0, ErrNotDir
	}
	x.dirs.put(path, e.Dir)
	return e.Dir, nil
}

// Place returns where a directory is, or was last.
func (x *Index) Place(dir DirID) (Loc, error) {
	b, err := x.t.get(dirKey(tabDirs, dir))
	if err != nil {
		return Loc{}, err
	}
	if len(b) < 8 {
		return Loc{}, fmt.Errorf("%w: directory %d has no place", errEntry, dir)
	}
	return Loc{DirID(binary.BigEndian.Uint64(b)), string(b[8:])}, nil
}

// Path returns the live path of at, following the directories' latest names.
func (x *Index) Path(at Loc) (string, error) {
	parts := []string{at.Name}
	for dir := at.Dir; dir != 0; {
		p, err := x.Place(dir)
		if err != nil {
			return "", err
		}
		parts = append(parts, p.Name)
		dir = p.Dir
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "/"), nil
}

// Hash returns the digest of e's content: e's own, or the one that a later record brought. Zero: not known yet.
func (x *Index) Hash(e *Entry) (Hash, error) {
	if !e.SHA256.IsZero() || !e.Kind.HasContent() {
		return e.SHA256, nil
	}
	b, err := x.t.get(idKey(tabHash, e.ID))
	var h Hash
	if len(b) == len(h) {
		h = Hash(b)
	}
	return h, err
}

// Void reports whether a content is known to be damaged.
func (x *Index) Void(id ID) (bool, error) {
	b, err := x.t.get(idKey(tabVoid, id))
	return b != nil, err
}

// Damaged reports whether verification found a content wrong.
func (x *Index) Damaged(id ID) (bool, error) {
	b, err := x.t.get(idKey(tabVoid, id))
	return string(b) == string(damaged), err
}

// Freed reports whether retention let go of a content.
func (x *Index) Freed(id ID) (bool, error) {
	b, err := x.t.get(idKey(tabFreed, id))
	return b != nil, err
}

// Links returns the live names of a linked content.
func (x *Index) Links(id ID) ([]Loc, error) {
	var out []Loc
	prefix := idKey(tabLinks, id)
	err := x.t.view(func(v *view) error {
		v.ascend(prefix, func(k, _ []byte) bool {
			if len(k) < len(prefix)+8 || string(k[:len(prefix)]) != string(prefix) {
				return false
			}
			k = k[len(prefix):]
			out = append(out, Loc{DirID(binary.BigEndian.Uint64(k)), string(k[8:])})
			return true
		})
		return nil
	})
	return out, err
}
