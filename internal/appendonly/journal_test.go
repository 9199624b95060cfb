package appendonly_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

// tampered is a journal that somebody with the disk in hand changed.
type tampered struct {
	*volumetest.Memory
	names func([]string) []string
	bytes func(name string, b []byte) []byte
}

func (s tampered) Segments() ([]string, error) {
	names, err := s.Memory.Segments()
	if s.names != nil {
		names = s.names(names)
	}
	return names, err
}

func (s tampered) ReadSegment(name string) (io.ReadCloser, error) {
	r, err := s.Memory.ReadSegment(name)
	if err != nil || s.bytes == nil {
		return r, err
	}
	b, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(s.bytes(name, b))), err
}

// history makes a vault with three closed segments: f0, f1 and f2.
func history(t *testing.T) *bench {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	for i := range 3 {
		ok(t, put(a, fmt.Sprintf("f%d", i), "content"))
		b.clock.Add(time.Minute)
		_, err := b.vault.Snapshot(context.Background(), fmt.Sprintf("s%d", i), "manual")
		ok(t, err)
	}
	ok(t, b.vault.Close())
	return b
}

// A journal that was rewritten, or lacks what was in it before, is not taken for the truth (P6): the
// vault is read-only, shows what is known, and stays so until somebody looks after it.
func TestDamagedJournal(t *testing.T) {
	for _, c := range []struct {
		name    string
		segs    tampered
		noIndex bool
		list    string
	}{
		{"newest segment removed", tampered{names: func(n []string) []string { return n[:len(n)-1] }}, false, "f0 f1 f2"},
		{"all removed", tampered{names: func([]string) []string { return nil }}, false, "f0 f1 f2"},
		{"newest segment cut", tampered{bytes: func(name string, b []byte) []byte {
			if name > "000000000010.jsonl" {
				b = b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1]
			}
			return b
		}}, false, "f0 f1 f2"},
		{"edited, no index", tampered{bytes: func(_ string, b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"path":"f1"`), []byte(`"path":"fX"`))
		}}, true, "f0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := history(t)
			if c.noIndex {
				ok(t, journal.RemoveIndex(b.index))
			}
			c.segs.Memory = b.mem
			b.segs = c.segs
			before := treeOf(t, b.mem, "")
			for range 2 { // the second start is no wiser
				b.open()
				if err := b.vault.Err(); !errors.Is(err, appendonly.ErrReadOnly) || !errors.Is(err, journal.ErrCorrupt) {
					t.Fatalf("the vault is not read-only: %v", err)
				}
				a := b.as("alice")
				wantList(t, a, "", c.list)
				want(t, a, "f0", "content")
				for _, err := range []error{put(a, "new", "x"), a.Mkdir("d", appendonly.NoMeta()), a.Link("f0", "l")} {
					if !errors.Is(err, appendonly.ErrReadOnly) {
						t.Fatal(err)
					}
				}
				if got := treeOf(t, b.mem, ""); strings.Join(got, " ") != strings.Join(before, " ") {
					t.Fatalf("the tree became %q", got)
				}
				ok(t, ignore(b.vault.Close(), appendonly.ErrReadOnly))
			}
			b.segs = nil
			if !c.noIndex { // the segment is found again
				b.open()
				ok(t, b.vault.Err())
				wantList(t, b.as("alice"), "", "f0 f1 f2")
				ok(t, put(b.as("alice"), "new", "x"))
			}
		})
	}
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// An index that is missing, damaged or of another time is made anew and says the same.
func TestIndexIsMadeAnew(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(path string) error
	}{
		{"missing", os.Remove},
		{"empty", func(p string) error { return os.Truncate(p, 0) }},
		{"cut", func(p string) error { return os.Truncate(p, 5000) }},
		{"garbage", func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("garbage "), 4096), 0o600) }},
		{"overwritten behind its head", func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, int(st.Size())-8192), 8192)
			return err
		}},
		{"left unfinished", func(p string) error {
			if err := os.Rename(p, p+".new"); err != nil {
				return err
			}
			return os.Truncate(p+".new", 20000)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := history(t)
			ok(t, c.damage(b.index))
			b.open()
			ok(t, b.vault.Err())
			a := b.as("alice")
			wantList(t, a, "", "f0 f1 f2")
			wantList(t, a, ".snapshots/s1", "f0 f1")
			ok(t, put(a, "new", "x"))
		})
	}
}
