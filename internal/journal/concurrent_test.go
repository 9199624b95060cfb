package journal_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vaultd/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// While records are applied, frozen and flushed, nobody sees half of one: a name that moves to and fro is, at
// each instant before, exactly where it was, live it is in one place, and no version is told twice.
func TestReadersSeeWholeRecords(t *testing.T) {
	x, err := journal.OpenIndex(filepath.Join(t.TempDir(), "index.db"))
	ok(t, err)
	defer x.Close()
	now := time.Unix(1e9, 0)
	seq := journal.Seq(0)
	apply := func(r *journal.Record, at, to journal.Loc) {
		seq++
		r.Seq, r.Time, r.Meta, r.Key = seq, now, journal.NoMeta(), "k"
		if err := x.Apply(r, at, to); err != nil {
			t.Error(err)
		}
	}
	a, b := journal.Loc{Name: "a"}, journal.Loc{Name: "b"}
	apply(&journal.Record{Op: journal.OpCreate, Path: "a", Kind: journal.KindFile, ID: journal.ID{1}}, a, journal.Loc{})
	first := seq
	stop := make(chan struct{})
	var wg sync.WaitGroup
	reader := func(look func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := look(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	reader(func() error {
		if e, err := x.Lookup(a, first); err != nil || e.ID != (journal.ID{1}) {
			return fmt.Errorf("a at %d: %v, %v", first, e, err)
		}
		return nil
	})
	reader(func() error {
		if l, err := x.List(0, journal.Now, "", 9); err != nil || len(l) != 1 {
			return fmt.Errorf("live: %v, %v", l, err)
		}
		return nil
	})
	reader(func() error {
		if l, err := x.List(0, first, "", 9); err != nil || len(l) != 1 || l[0].Name != "a" {
			return fmt.Errorf("at %d: %v, %v", first, l, err)
		}
		return nil
	})
	reader(func() error {
		vs, err := x.Versions(a)
		for i := range vs {
			if i > 0 && (vs[i].From >= vs[i-1].From || vs[i].To == journal.Now) {
				return fmt.Errorf("versions %v", vs)
			}
		}
		return err
	})
	wg.Go(func() { // flushes beside everything else, as the vault does
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := x.Flush(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	deadline := time.Now().Add(300 * time.Millisecond)
	for i := 0; time.Now().Before(deadline); i++ {
		if i%2 == 0 {
			apply(&journal.Record{Op: journal.OpMove, Path: "a", To: "b"}, a, b)
		} else {
			apply(&journal.Record{Op: journal.OpMove, Path: "b", To: "a"}, b, a)
		}
		if i%16 == 0 {
			x.Freeze()
		}
	}
	close(stop)
	wg.Wait()
}
