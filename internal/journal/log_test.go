package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

func config(m *volumetest.Memory, now func() time.Time) journal.Config {
	return journal.Config{Segments: m, Now: now, Boot: "boot"}
}

func sampleRecords() []*journal.Record {
	meta := journal.Meta{Mode: 0o600, UID: 0, GID: journal.Unset, MTime: journal.Unix(-5, 7), XAttrs: map[string][]byte{"user.x": {0, 1}}}
	return []*journal.Record{
		{Op: journal.OpSession, Key: "k", Session: "s", Note: "SHA256:x 127.0.0.1:1 sftp"},
		{Op: journal.OpMkdir, Path: "d", Meta: journal.NoMeta(), Key: "k"},
		{Op: journal.OpCreate, Path: "d/f\xff\n", Kind: journal.KindFile, ID: journal.ID{1}, Size: 3, SHA256: journal.Hash{1}, Meta: meta, Key: "k"},
		{Op: journal.OpBarrier, Covers: 4},
		{Op: journal.OpMove, Path: "d/f\xff\n", To: "g", ID: journal.ID{1}, Key: "k"},
	}
}

// discard is a replay that does nothing.
func discard(*journal.Record) error { return nil }

func open(t testing.TB, m *volumetest.Memory, from journal.Head) (*journal.Log, *journal.Tail) {
	t.Helper()
	l, tail, err := journal.Open(config(m, time.Now), from, discard)
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	return l, tail
}

func appendAll(t testing.TB, l *journal.Log, rs []*journal.Record) {
	t.Helper()
	for _, r := range rs {
		_, err := l.Append(r)
		ok(t, err)
	}
}

func readOpen(t testing.TB, m *volumetest.Memory) []byte {
	t.Helper()
	f, err := m.OpenSegment()
	ok(t, err)
	defer f.Close()
	n, err := f.Size()
	ok(t, err)
	b, err := io.ReadAll(io.NewSectionReader(f, 0, n))
	ok(t, err)
	return b
}

func writeOpen(t testing.TB, m *volumetest.Memory, b []byte) {
	t.Helper()
	f, err := m.OpenSegment()
	ok(t, err)
	_, err = f.Write(b)
	ok(t, err)
	ok(t, f.Sync())
	ok(t, f.Close())
}

// journalBytes is an open segment that holds rs.
func journalBytes(t testing.TB, rs []*journal.Record) []byte {
	m := volumetest.New(t)
	l, _ := open(t, m, journal.Head{})
	appendAll(t, l, rs)
	return readOpen(t, m)
}

// A segment cut at any byte keeps the whole lines before, says how much is torn, and goes on from there.
func TestTornTail(t *testing.T) {
	whole := journalBytes(t, sampleRecords())
	for cut := range len(whole) + 1 {
		m := volumetest.New(t)
		writeOpen(t, m, whole[:cut])
		l, tail := open(t, m, journal.Head{})
		lines := bytes.Count(whole[:cut], []byte("\n"))
		if l.Head().Seq != journal.Seq(lines) {
			t.Fatalf("cut at %d: head %d, want %d", cut, l.Head().Seq, lines)
		}
		if kept := bytes.LastIndexByte(whole[:cut], '\n') + 1; tail.Torn != int64(cut-kept) || tail.Dirty != (cut > 0) {
			t.Fatalf("cut at %d: %+v", cut, tail)
		}
		if tail.SameBoot != (lines > 0) {
			t.Fatalf("cut at %d: same boot %v", cut, tail.SameBoot)
		}
		wantUnproven := map[int]int{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 0, 6: 1}[lines]
		if len(tail.Unproven) != wantUnproven {
			t.Fatalf("cut at %d: %d unproven records, want %d", cut, len(tail.Unproven), wantUnproven)
		}
		appendAll(t, l, []*journal.Record{{Op: journal.OpPolicy}})
		ok(t, l.Rotate())
		if head, torn, err := journal.NewReader(m).All(func(*journal.Record, []byte) error { return nil }); err != nil || torn != 0 || head != l.Head() {
			t.Fatalf("cut at %d: %+v, %d, %v", cut, head, torn, err)
		}
	}
}

// A write that failed, whether its bytes arrived or not, leaves no record, and the next one follows
// the last that was told to have succeeded.
func TestAppendFails(t *testing.T) {
	for _, happened := range []bool{false, true} {
		for at := range 4 {
			t.Run(fmt.Sprintf("happened=%v,record=%d", happened, at), func(t *testing.T) {
				m := volumetest.New(t)
				writes, broken := 0, errors.New("injected")
				m.Fault = func(op, _ string) (bool, error) {
					if op == "SegmentWrite" {
						if writes++; writes == at+1 {
							return happened, broken
						}
					}
					return true, nil
				}
				l, _ := open(t, m, journal.Head{})
				var good []string
				for i, r := range sampleRecords()[:4] {
					_, err := l.Append(r)
					if (i == at) != errors.Is(err, broken) {
						t.Fatalf("record %d: %v", i, err)
					}
					if err == nil {
						good = append(good, string(r.Op))
					}
				}
				var got []string
				head, torn, err := journal.NewReader(m).All(func(r *journal.Record, _ []byte) error {
					if r.Op != journal.OpSegment {
						got = append(got, string(r.Op))
					}
					return nil
				})
				if err != nil || torn != 0 || head != l.Head() || strings.Join(got, " ") != strings.Join(good, " ") {
					t.Fatalf("read %v, torn %d, %v; want %v", got, torn, err, good)
				}
			})
		}
	}
}

// After a write whose trace can not be removed, and after a failed Sync or Rotate, nothing more is taken.
func TestLogFailsForGood(t *testing.T) {
	for _, c := range []struct {
		name string
		ops  []string
		do   func(*journal.Log) error
	}{
		{"truncate", []string{"SegmentWrite", "SegmentTruncate"}, func(l *journal.Log) error { _, err := l.Append(&journal.Record{Op: journal.OpPolicy}); return err }},
		{"sync", []string{"SegmentSync"}, (*journal.Log).Sync},
		{"rotate sync", []string{"SegmentSync"}, (*journal.Log).Rotate},
		{"rotate close", []string{"CloseSegment"}, (*journal.Log).Rotate},
	} {
		for _, happened := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/happened=%v", c.name, happened), func(t *testing.T) {
				m := volumetest.New(t)
				faulty := false
				m.Fault = func(op, _ string) (bool, error) {
					for _, o := range c.ops {
						if faulty && o == op {
							return happened, errors.New("injected")
						}
					}
					return true, nil
				}
				l, _ := open(t, m, journal.Head{})
				appendAll(t, l, sampleRecords()[:3])
				faulty = true
				if err := c.do(l); err == nil {
					t.Fatal("no error")
				}
				faulty = false
				if _, err := l.Append(&journal.Record{Op: journal.OpPolicy}); err == nil {
					t.Fatal("a record was taken")
				}
				if err := l.Sync(); err == nil {
					t.Fatal("a sync succeeded")
				}
				l.Close()
				m = m.Kill()
				again, _ := open(t, m, journal.Head{})
				if got := again.Head().Seq; got < 4 || got > 5 {
					t.Fatalf("head %d", got)
				}
			})
		}
	}
}

// A power cut keeps what was synced, and of the rest only whole lines that follow from it.
func TestCrashKeepsSynced(t *testing.T) {
	for bits := range 256 {
		m := volumetest.New(t)
		l, _ := open(t, m, journal.Head{})
		appendAll(t, l, sampleRecords()[:2])
		ok(t, l.Sync())
		synced := l.Head()
		appendAll(t, l, sampleRecords()[2:])
		n := 0
		m = m.Crash(func(string) bool { n++; return bits>>(n%8)&1 == 1 })
		again, tail := open(t, m, synced)
		if again.Head().Seq < synced.Seq {
			t.Fatalf("head %d, synced %d", again.Head().Seq, synced.Seq)
		}
		appendAll(t, again, []*journal.Record{{Op: journal.OpPolicy}})
		if head, torn, err := journal.NewReader(m).All(func(*journal.Record, []byte) error { return nil }); err != nil || torn != 0 || head != again.Head() {
			t.Fatalf("%+v, %d, %v after %+v", head, torn, err, tail)
		}
	}
}

// A disk that can not be read for a moment has torn nothing: opening fails, and nothing is cut off.
func TestReadErrorIsNoTear(t *testing.T) {
	m := volumetest.New(t)
	l, _ := open(t, m, journal.Head{})
	appendAll(t, l, sampleRecords())
	head := l.Head()
	ok(t, l.Close())
	broken := errors.New("injected")
	m.Fault = func(op, _ string) (bool, error) {
		if op == "SegmentReadAt" {
			return false, broken
		}
		return true, nil
	}
	if _, _, err := journal.Open(config(m, time.Now), journal.Head{}, discard); !errors.Is(err, broken) || errors.Is(err, journal.ErrCorrupt) {
		t.Fatal(err)
	}
	if _, _, err := journal.NewReader(m).All(func(*journal.Record, []byte) error { return nil }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	m.Fault = nil
	again, tail := open(t, m, journal.Head{})
	if again.Head() != head || tail.Torn != 0 {
		t.Fatalf("%+v, %+v", again.Head(), tail)
	}
}
