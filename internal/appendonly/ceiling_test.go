package appendonly_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// ceiled is a session of key with a daily ceiling.
func (b *bench) ceiled(key string, c appendonly.Ceiling) *appendonly.FS {
	f := b.vault.Session(appendonly.Who{Key: key, Root: b.root, Daily: c, Session: "s-" + key})
	b.t.Cleanup(func() { f.Close(b.t.Context()) })
	return f
}

func wantCeiling(t *testing.T, what string, err error) {
	t.Helper()
	var c *appendonly.CeilingError
	if !errors.As(err, &c) || c.What != what || !errors.Is(err, syscall.EDQUOT) || !strings.Contains(err.Error(), "daily ceiling reached: ") {
		t.Fatalf("got %v, want the daily ceiling of %s", err, what)
	}
}

const block = 4096

// The ceiling of bytes holds for all sessions of a key together, for what is being written, over a restart, over a
// new index, and until midnight; others go on, and so do reading, locks and tidying up.
func TestCeilingOfBytes(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	c := appendonly.Ceiling{Bytes: 10 * block}
	k1, k2, other := b.ceiled("k", c), b.ceiled("k", c), b.as("other")
	data := strings.Repeat("x", 4*block)
	ok(t, put(k1, "a", data))
	ok(t, put(k1, "tiny", "")) // costs a block
	u, err := k2.Create("b", create)
	ok(t, err)
	_, err = u.WriteAt([]byte(data), 0)
	ok(t, err)
	if got := b.vault.Today("k"); got.Bytes != 9*block {
		t.Fatalf("%+v", got)
	}
	wantCeiling(t, "bytes", put(k1, "c", strings.Repeat("y", 2*block))) // b is not even closed
	ok(t, u.Close())
	ok(t, put(k1, "d.partial", "z"))
	for _, err := range []error{put(k1, "e", ""), put(k2, "e", "e"), put(k2, "a", data), k1.Mknod("fifo", appendonly.KindFifo, appendonly.NoMeta()), k1.Replace("m", nil, appendonly.NoMeta())} {
		wantCeiling(t, "bytes", err)
	}
	ok(t, k1.Mkdir("dir", appendonly.NoMeta())) // no bytes
	ok(t, k1.Remove("d.partial"))
	want(t, k1, "a", data)
	ok(t, put(other, "o", data))

	b.reopen()
	k1 = b.ceiled("k", c)
	wantCeiling(t, "bytes", put(k1, "e", "e"))
	ok(t, b.vault.Close())
	ok(t, journal.RemoveIndex(b.index))
	b.open()
	k1 = b.ceiled("k", c)
	wantCeiling(t, "bytes", put(k1, "e", "e"))
	b.clock.Add(13*time.Hour + 59*time.Minute) // 23:59
	wantCeiling(t, "bytes", put(k1, "e", "e"))
	b.clock.Add(2 * time.Minute)
	ok(t, put(k1, "e", data))
	if got := b.vault.Today("k"); got.Bytes != 4*block {
		t.Fatalf("%+v", got)
	}
	// A raised ceiling holds from the next session on.
	k1 = b.ceiled("k", appendonly.Ceiling{Bytes: 100 * block})
	ok(t, put(k1, "f", strings.Repeat("x", 20*block)))
}

// Every way in which an upload grows is a way up to the ceiling and no further; what it held is given back when it is dropped.
func TestCeilingOfUploads(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	c := appendonly.Ceiling{Bytes: 10 * block}
	k := b.ceiled("k", c)
	ok(t, put(b.as("other"), "big", strings.Repeat("x", 12*block)))
	grow := map[string]func(u *appendonly.Upload) error{
		"write":    func(u *appendonly.Upload) error { _, err := u.WriteAt(make([]byte, 11*block), 0); return err },
		"far":      func(u *appendonly.Upload) error { _, err := u.WriteAt([]byte("x"), 11*block); return err },
		"truncate": func(u *appendonly.Upload) error { return u.Truncate(11 * block) },
		"copy": func(u *appendonly.Upload) error {
			r, err := k.Open("big")
			ok(t, err)
			defer r.Close()
			return u.CopyFrom(r, 0, 0, 11*block)
		},
	}
	for name, how := range grow {
		u, err := k.Create(name, create)
		ok(t, err)
		wantCeiling(t, "bytes", how(u))
		wantCeiling(t, "bytes", u.Close()) // never half
		if got := b.vault.Today("k").Bytes; got != 0 {
			t.Fatalf("%s: %d are held", name, got)
		}
	}
	u, err := k.Create("big", appendonly.CreateOptions{Meta: appendonly.NoMeta()}) // a changed byte is a version of its own
	ok(t, err)
	_, err = u.WriteAt([]byte("y"), 0)
	ok(t, err)
	wantCeiling(t, "bytes", u.Close())

	// An interrupted upload is held as long as it is kept, also by another process.
	u, err = k.Create("part", create)
	ok(t, err)
	_, err = u.WriteAt(make([]byte, 6*block), 0)
	ok(t, err)
	u.Abort()
	wantCeiling(t, "bytes", put(k, "more", strings.Repeat("x", 5*block)))
	b.reopen()
	k = b.ceiled("k", c)
	wantCeiling(t, "bytes", put(k, "more", strings.Repeat("x", 5*block)))
	u, err = k.Create("part", appendonly.CreateOptions{Create: true, Append: true, Meta: appendonly.NoMeta()})
	ok(t, err)
	_, err = u.WriteAt(make([]byte, 4*block), 6*block)
	ok(t, err)
	ok(t, u.Close())
	if got := b.vault.Today("k").Bytes; got != 10*block {
		t.Fatal(got)
	}
	b.clock.Add(24 * time.Hour)
	u, err = k.Create("part2", create)
	ok(t, err)
	_, err = u.WriteAt(make([]byte, 6*block), 0)
	ok(t, err)
	u.Abort()
	ok(t, k.Remove("part2"))
	if got := b.vault.Today("k").Bytes; got != 0 {
		t.Fatal(got)
	}
}

// The ceiling of records holds for every change; the session's own record counts; an own temporary file can be removed.
func TestCeilingOfRecords(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	var log bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	b.reopen()
	k := b.ceiled("k", appendonly.Ceiling{Records: 10})
	ok(t, put(k, "f", "1")) // and the session's
	ok(t, k.Mkdir("d", appendonly.NoMeta()))
	ok(t, k.Symlink("f", "l", appendonly.NoMeta()))
	ok(t, k.Link("f", "g"))
	if strings.Contains(log.String(), "near its daily ceiling") {
		t.Error("told too early")
	}
	ok(t, k.Rename("g", "h", false))
	ok(t, k.Remove("h"))
	ok(t, k.Rmdir("d"))
	ok(t, put(k, "t.partial", "1"))
	m := appendonly.NoMeta()
	m.UID = 1
	ok(t, k.SetMeta("f", m, false))
	m.UID = 2
	for _, err := range []error{put(k, "g", "1"), k.Mkdir("d", m), k.Symlink("f", "l2", m), k.Link("f", "g"), k.Rename("f", "g", false), k.Remove("f"),
		k.SetMeta("f", m, false), k.Rename("t.partial", "t", true), k.Mknod("n", appendonly.KindFifo, m), k.Replace("r", nil, m)} {
		wantCeiling(t, "records", err)
	}
	ok(t, k.Remove("t.partial"))
	want(t, k, "f", "1")
	if n := strings.Count(log.String(), "near its daily ceiling"); n != 1 {
		t.Errorf("told %d times: %s", n, &log)
	}
	b.kill()
	b.wantTree()
}

// The clock goes forward and back: in sum no key gets more than its days.
func TestCeilingAndClock(t *testing.T) {
	for name, jump := range map[string]time.Duration{"a day": 24 * time.Hour, "a century": 100 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, appendonly.Policy{})
			k := b.ceiled("k", appendonly.Ceiling{Bytes: block})
			n := 0
			try := func() bool {
				err := put(k, strings.Repeat("n", n+1), "x")
				if err == nil {
					n++
				}
				return err == nil
			}
			all := func() {
				for try() {
				}
			}
			all()
			b.clock.Add(jump)
			all()
			b.clock.Add(-jump)
			all()
			b.clock.Add(24 * time.Hour)
			all()
			if n > 3 { // three days were seen, one of them only by the clock
				t.Fatalf("%d blocks in two days with a ceiling of one", n)
			}
			b.clock.Add(24 * time.Hour)
			before := n
			all()
			if n != before+1 {
				t.Fatalf("%d blocks on the day after", n-before)
			}
		})
	}
}
