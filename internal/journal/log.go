package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Format is the journal's format, written in every segment's first line. A newer one is refused. Format 2 added
// "free", format 3 "restore"; what has an earlier one is read as it is.
const Format = 3

// clockStep is how far the wall clock may run away from the monotonic one, or run backwards,
// before an epoch record says so.
const clockStep = 2 * time.Second

// Head is the end of a chain.
type Head struct {
	Seq   Seq
	Chain Hash
}

// Config is what a Log needs. Now and Boot are the server's clock and the machine's boot id; neither
// is a client's.
type Config struct {
	Segments Segments
	Now      func() time.Time
	Boot     string
}

// Log is one tenant's journal, open for appending.
//
// Concurrency: Append calls are ordered by mu; Sync may run beside them and covers every record
// whose Append returned before Sync was called. Rotate excludes both.
type Log struct {
	cfg Config

	syncMu sync.Mutex // taken before mu; held while file is synced or replaced

	mu    sync.Mutex  // guards what follows
	file  SegmentFile // nil until the first record of a segment
	first Seq         // of the open segment
	size  int64       // bytes of whole lines in file
	head  Head
	last  time.Time // of the newest record, as read from the clock
	buf   []byte
	fail  error // set when the file's end is unknown: no more records are taken
}

// Tail is what the open segment held when the log was opened.
type Tail struct {
	Unproven []*Record // records after the newest barrier: their contents may not have reached the disk
	SameBoot bool      // this machine has not restarted since they were written
	Torn     int64     // bytes after the last whole record; they are cut off
	Dirty    bool      // there was an open segment: the last process did not end cleanly
}

// Open reads the journal after from and calls replay for each record in order. It fails with
// ErrCorrupt when the chain does not continue from. What stands torn at the end of the open segment
// was never acknowledged and is cut off.
func Open(cfg Config, from Head, replay func(*Record) error) (*Log, *Tail, error) {
	l := &Log{cfg: cfg, head: from}
	r := &Reader{segs: cfg.Segments}
	end, err := r.closed(from, func(rec *Record, _ []byte) error { return l.replayed(rec, replay) })
	if err != nil {
		return nil, nil, err
	}
	tail, err := l.openSegment(end, from, replay)
	if err != nil {
		if l.file != nil {
			l.file.Close()
		}
		return nil, nil, err
	}
	return l, tail, nil
}

func (l *Log) replayed(rec *Record, replay func(*Record) error) error {
	l.head, l.last = Head{rec.Seq, rec.Chain}, rec.Time
	return replay(rec)
}

// openSegment reads the open segment, if there is one, and cuts off its torn end. end is where the
// closed ones end.
func (l *Log) openSegment(end, from Head, replay func(*Record) error) (*Tail, error) {
	f, err := l.cfg.Segments.OpenSegment()
	if err != nil {
		return nil, fmt.Errorf("open journal segment: %w", err)
	}
	l.file = f
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("open journal segment: %w", err)
	}
	tail := &Tail{Dirty: size > 0}
	sc := newScanner(io.NewSectionReader(f, 0, size), end, true)
	for {
		rec, _, err := sc.next()
		if err != nil {
			if err == io.EOF {
				break
			}
			if sc.head.Seq < from.Seq || !isTorn(err) {
				return nil, err // what the index saw was stable
			}
			tail.Torn = size - sc.offset
			break
		}
		if l.first == 0 {
			l.first = rec.Seq
			if rec.Op != OpSegment || rec.Format > Format {
				return nil, fmt.Errorf("%w: open segment starts with %q of format %d", ErrCorrupt, rec.Op, rec.Format)
			}
			tail.SameBoot = rec.What == l.cfg.Boot
		}
		if rec.Seq == from.Seq && rec.Chain != from.Chain {
			return nil, fmt.Errorf("%w: record %d is not the one the index saw", ErrCorrupt, rec.Seq)
		}
		if rec.Op == OpBarrier {
			tail.Unproven = slices.DeleteFunc(tail.Unproven, func(r *Record) bool { return r.Seq <= rec.Covers })
		} else {
			tail.Unproven = append(tail.Unproven, rec)
		}
		if rec.Seq <= from.Seq {
			continue
		}
		if err := l.replayed(rec, replay); err != nil {
			return nil, err
		}
	}
	if sc.head.Seq < from.Seq {
		return nil, fmt.Errorf("%w: it ends at record %d, the index saw %d", ErrCorrupt, sc.head.Seq, from.Seq)
	}
	if tail.Torn > 0 {
		if err := f.Truncate(sc.offset); err != nil {
			return nil, fmt.Errorf("cut torn journal: %w", err)
		}
	}
	l.size = sc.offset
	if l.first == 0 {
		f.Close()
		l.file = nil
	}
	return tail, nil
}

// Head returns the newest record's place in the chain.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Append writes r and gives it its Seq, Time and Chain. The record is on stable storage after the
// next Sync. Records of the log's own that had to come before it (a segment's first line, an epoch)
// are returned. After an error nothing of r is in the journal; when that can not be made sure of,
// every later call fails too.
func (l *Log) Append(r *Record) ([]*Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	var own []*Record
	now := l.cfg.Now()
	l.buf = l.buf[:0]
	head, last := l.head, l.last
	if l.file == nil {
		if err := l.begin(); err != nil {
			return nil, err
		}
	}
	if l.size == 0 {
		own = append(own, &Record{Op: OpSegment, Prev: head.Chain, Format: Format, What: l.cfg.Boot})
	}
	if at, step := clock(last, now); step {
		own = append(own, &Record{Op: OpEpoch, Note: "clock was " + at.UTC().Format(time.RFC3339Nano)})
	} else {
		now = at
	}
	for _, rec := range append(own, r) {
		if err := l.encode(rec, now, &head); err != nil {
			return nil, err
		}
	}
	if l.size == 0 {
		l.first = own[0].Seq
	}
	if err := l.write(); err != nil {
		return nil, err
	}
	l.head, l.last = head, now
	return own, nil
}

// clock returns the time to record and whether the clock was set since last. Within an epoch times never decrease.
func clock(last, now time.Time) (time.Time, bool) {
	if last.IsZero() {
		return now, false
	}
	wall := now.Round(0).Sub(last.Round(0))
	if wall < -clockStep {
		return last, true
	}
	if off := wall - now.Sub(last); off > clockStep || off < -clockStep { // both readings monotonic
		return last, true
	}
	if wall < 0 {
		return last, false
	}
	return now, false
}

func (l *Log) encode(r *Record, now time.Time, head *Head) error {
	r.Seq, r.Time = head.Seq+1, now.UTC()
	buf, err := appendLine(l.buf, r, head.Chain)
	if err != nil {
		return err
	}
	l.buf, *head = buf, Head{r.Seq, r.Chain}
	return nil
}

func (l *Log) begin() error {
	f, err := l.cfg.Segments.OpenSegment()
	if err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	l.file, l.size = f, 0
	return nil
}

// write appends buf as a whole or not at all.
func (l *Log) write() error {
	n, err := l.file.Write(l.buf)
	if err == nil {
		l.size += int64(n)
		return nil
	}
	err = fmt.Errorf("append journal: %w", err)
	// Also where nothing is said to be written: bytes that are there all the same would be taken for
	// the record, and for a break in the chain what follows them.
	if terr := l.file.Truncate(l.size); terr != nil {
		l.fail = errors.Join(err, fmt.Errorf("cut journal: %w", terr))
	}
	return err
}

// Sync puts every record appended so far on stable storage. After an error the log takes no more records.
func (l *Log) Sync() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	f, fail := l.file, l.fail
	l.mu.Unlock()
	if f == nil || fail != nil {
		return fail
	}
	if err := f.Sync(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.fail = fmt.Errorf("sync journal: %w", err)
		return l.fail
	}
	return nil
}

// Rotate closes the open segment for ever, stable; the next record begins another. Without an open segment it does nothing.
func (l *Log) Rotate() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.fail != nil {
		return l.fail
	}
	if l.first == 0 || l.size == 0 {
		return nil // a segment that never got its first line
	}
	if err := l.file.Sync(); err != nil {
		l.fail = fmt.Errorf("sync journal: %w", err)
		return l.fail
	}
	l.file.Close()
	if err := l.cfg.Segments.CloseSegment(segmentName(l.first)); err != nil {
		l.fail = fmt.Errorf("close journal segment: %w", err)
		return l.fail
	}
	l.file, l.first, l.size = nil, 0, 0
	return nil
}

// Close releases the file and leaves the open segment as it is.
func (l *Log) Close() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail == nil {
		l.fail = errors.New("journal is closed")
	}
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

func segmentName(first Seq) string { return fmt.Sprintf("%012d.jsonl", uint64(first)) }
