package retention_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// push is one of a simulated year: at 01:00, 09:00 and 17:00 of every day.
type push struct {
	name string
	at   time.Time
	tree map[string]string // what it left: name -> content
}

// tree is what the i-th push leaves: a file that is different each time, one that is different every week, and the logs of the
// last ten pushes.
func tree(i int) map[string]string {
	t := map[string]string{"db": fmt.Sprint("dump ", i), "etc": fmt.Sprint("week ", i/21)}
	for n := max(0, i-9); n <= i; n++ {
		t[fmt.Sprint("log-", n)] = fmt.Sprint("log of ", n)
	}
	return t
}

// stays says whether the schedule of the year keeps a push, at the end of a day: by the calendar, not by a search.
func stays(at, today time.Time) bool {
	date := func(t time.Time) time.Time { return t.Truncate(day) }
	days := int(date(today).Sub(date(at)) / day)
	if days < 8 { // hourly=24: three a day for eight days; the lock's seven days lie within
		return true
	}
	if at.Hour() != 17 { // the others are never the newest of a day
		return false
	}
	monday := func(t time.Time) time.Time { return date(t).AddDate(0, 0, -(int(t.Weekday())+6)%7) }
	weeks := int(monday(today).Sub(monday(at)) / (7 * day))
	months := (today.Year()-at.Year())*12 + int(today.Month()) - int(at.Month())
	last := at.AddDate(0, 0, 1).Month() != at.Month()
	switch {
	case days < 30:
		return true
	case weeks < 12 && at.Weekday() == time.Sunday:
		return true
	case months < 24 && last:
		return true
	}
	return today.Year()-at.Year() < 5 && last && at.Month() == time.December
}

// A year and a month of pushes, three a day, and an expire every day: what is left is exactly what the schedule says, every
// snapshot that is left reads as it was pushed, and the disk holds nothing else.
func TestYear(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "year") // 1,200 pushes that wait for a disk are slow
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	w := newWorld(t, dir)
	defer func() { w.close() }()
	w.forged = true // the calendar is the oracle
	w.policy = tenant.Retention{Lock: 7 * day, Keep: &tenant.Keep{Hourly: 24, Daily: 30, Weekly: 12, Monthly: 24, Yearly: 5}}
	w.wall = time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	var pushes []push
	const days = 400
	for d := range days {
		for range 3 {
			i := len(pushes)
			p := push{fmt.Sprint("push-", i), w.wall, tree(i)}
			w.pushTree(p, i)
			pushes = append(pushes, p)
			w.pass(8 * time.Hour)
		}
		w.wall, w.up = w.wall.Add(-8*time.Hour+time.Minute), w.up-8*time.Hour+time.Minute // 17:01
		if _, err := w.tryExpire(); err != nil {
			t.Fatal(err)
		}
		if slices.Contains([]int{0, 9, 44, 99, 180, 299, 363, 364, 365, days - 1}, d) {
			w.checkYear(t, pushes)
		}
		w.pass(8*time.Hour - time.Minute)
	}
}

func (w *world) pushTree(p push, i int) {
	w.as(func(f *appendonly.FS) error {
		var errs error
		for name, content := range p.tree {
			if i > 0 && tree(i - 1)[name] == content {
				continue
			}
			u, err := f.Create("/"+name, appendonly.CreateOptions{Create: true, Truncate: true})
			if err == nil {
				_, err = u.WriteAt([]byte(content), 0)
				err = errors.Join(err, u.Close())
			}
			errs = errors.Join(errs, err)
		}
		if i >= 10 {
			errs = errors.Join(errs, f.Remove(fmt.Sprint("/log-", i-10)))
		}
		return errs
	})
	w.snapshot(p.name)
}

func (w *world) checkYear(t *testing.T, pushes []push) {
	t.Helper()
	today := w.wall
	var want, have []string
	contents := map[string]bool{}
	var kept []push
	for _, p := range pushes {
		if stays(p.at, today) {
			want = append(want, p.name)
			kept = append(kept, p)
			for _, c := range p.tree {
				contents[c] = true
			}
		}
	}
	list, err := w.vault.Snapshots()
	w.must(err)
	for _, s := range list {
		have = append(have, s.Name)
	}
	if !slices.Equal(have, want) {
		t.Fatalf("%s: snapshots\nhave %v\nwant %v", today.Format(time.DateOnly), have, want)
	}
	if n := len(w.contents()); n != len(contents) {
		t.Errorf("%s: %d contents on the disk, want %d", today.Format(time.DateOnly), n, len(contents))
	}
	f := w.vault.Session(appendonly.Who{Key: "key"})
	defer f.Close(context.Background())
	for _, p := range kept {
		if got := w.read(f, filepath.Join("/.vault/snapshots", p.name)); !maps.Equal(got, p.tree) {
			t.Errorf("%s: %s reads %v, want %v", today.Format(time.DateOnly), p.name, got, p.tree)
		}
	}
	if got := w.read(f, "/"); !maps.Equal(got, pushes[len(pushes)-1].tree) {
		t.Errorf("%s: the live tree is %v", today.Format(time.DateOnly), got)
	}
	t.Logf("%s: %d of %d snapshots, %d contents", today.Format(time.DateOnly), len(kept), len(pushes), len(contents))
}

// read reads all files of a directory.
func (w *world) read(f *appendonly.FS, dir string) map[string]string {
	out := map[string]string{}
	d, err := f.OpenDir(dir)
	w.must(err)
	for {
		list, err := d.Next(100)
		for _, n := range list {
			file, err := f.Open(filepath.Join(dir, n.Name))
			w.must(err)
			b, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
			w.must(errors.Join(err, file.Close()))
			out[n.Name] = string(b)
		}
		if err != nil || len(list) == 0 {
			return out
		}
	}
}
