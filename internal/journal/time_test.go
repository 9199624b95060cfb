package journal_test

import (
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

// The instant of a time is the newest record of an earlier second; where the clock was set back, of
// the newest stretch that reaches back before that second. Times within a stretch never decrease.
func TestAtModel(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		sub := filepath.Join(dir, time.Unix(int64(runs), 0).UTC().Format("150405"))
		must(rt, mkdir(sub))
		x, err := journal.OpenIndex(filepath.Join(sub, "index.db"))
		must(rt, err)
		defer x.Close()
		now := time.Unix(1_700_000_000, 0)
		l, _, err := journal.Open(journal.Config{Segments: volumetest.New(t), Now: func() time.Time { return now }, Boot: "b"}, journal.Head{}, x.Replay)
		must(rt, err)
		defer l.Close()
		type mark struct {
			at    time.Time
			epoch bool
		}
		var all []mark
		for range rapid.IntRange(1, 40).Draw(rt, "records") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, 300 * time.Millisecond, time.Second, 3 * time.Second, time.Hour,
				-time.Second, -3 * time.Second, -time.Hour, -50 * time.Hour}).Draw(rt, "step"))
			r := &journal.Record{Op: journal.OpPolicy}
			if rapid.IntRange(0, 5).Draw(rt, "rotate") == 0 {
				must(rt, l.Rotate())
			}
			own, err := l.Append(r)
			must(rt, err)
			for _, o := range append(own, r) {
				must(rt, x.Apply(o, journal.Loc{}, journal.Loc{}))
				if last := len(all) - 1; last >= 0 && o.Op == journal.OpPolicy && o.Time.Before(all[last].at) {
					rt.Fatalf("record %d is older than the one before it, in one stretch", o.Seq)
				}
				all = append(all, mark{o.Time, o.Op == journal.OpEpoch || len(all) == 0})
			}
			if rapid.IntRange(0, 5).Draw(rt, "flush") == 0 {
				x.Freeze()
				must(rt, x.Flush())
			}
		}
		for _, m := range all {
			for _, d := range []time.Duration{-time.Hour, -time.Second, 0, time.Second, 10 * time.Minute} {
				asked := m.at.Add(d)
				got, err := x.At(asked)
				must(rt, err)
				want := journal.Seq(0)
				for end := len(all); end > 0 && want == 0; { // stretches, newest first
					begin := end - 1
					for !all[begin].epoch {
						begin--
					}
					for i := end - 1; i >= begin; i-- {
						if all[i].at.Unix() < asked.Unix() {
							want = journal.Seq(i + 1)
							if end == len(all) && i == end-1 {
								want = journal.Now
							}
							break
						}
					}
					end = begin
				}
				if got != want {
					rt.Fatalf("at %s: instant %d, want %d of %v", asked, got, want, all)
				}
			}
		}
	})
}
