package appendonly_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// pattern is n bytes that differ everywhere.
func pattern(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// Many write one upload at once, in any order, as the workers of a protocol do: it has the right bytes
// and the right digest.
func TestWritersOutOfOrder(t *testing.T) {
	for _, c := range []struct {
		name    string
		overlap int
	}{{"in pieces", 0}, {"overlapping", 100}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, appendonly.Policy{})
			a := b.as("alice")
			data := pattern(64 << 10)
			u, err := a.Create("f", create)
			ok(t, err)
			const piece = 1000
			pieces := make(chan int)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for off := range pieces {
						from := max(0, off-c.overlap)
						if _, err := u.WriteAt(data[from:min(len(data), off+piece)], int64(from)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for base := 0; base < len(data); base += 8 * piece { // shuffled a little, as a pipeline is
				for _, i := range rand.Perm(8) {
					if off := base + i*piece; off < len(data) {
						pieces <- off
					}
				}
			}
			close(pieces)
			wg.Wait()
			ok(t, u.Close())
			want(t, a, "f", string(data))
			b.reopen() // waits for digests that are still being made
			wantDigest(t, b.as("alice"), "f", data)
		})
	}
}

func wantDigest(t *testing.T, f *appendonly.FS, path string, data []byte) {
	t.Helper()
	vs, err := f.Versions(path)
	ok(t, err)
	if sum := fmt.Sprintf("%x", sha256.Sum256(data)); vs[0].SHA256 != sum {
		t.Fatalf("the journal has %q for %s, it is %s", vs[0].SHA256, path, sum)
	}
}

// Holes are zeros, and are part of the digest.
func TestGaps(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	u, err := a.Create("f", create)
	ok(t, err)
	for _, off := range []int64{5000, 100, 9000} {
		_, err = u.WriteAt([]byte("data"), off)
		ok(t, err)
	}
	ok(t, u.Truncate(10000))
	ok(t, u.Close())
	data := make([]byte, 10000)
	for _, off := range []int{5000, 100, 9000} {
		copy(data[off:], "data")
	}
	want(t, a, "f", string(data))
	b.reopen()
	wantDigest(t, b.as("alice"), "f", data)
}

// Fifty uploads of one name, all different: one CLOSE wins, and it keeps winning.
func TestFirstCloseWins(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	var wg sync.WaitGroup
	won := make(chan string, 50)
	start := make(chan struct{})
	for i := range cap(won) {
		f := b.as(fmt.Sprintf("key%d", i%5))
		data := fmt.Sprintf("content %02d", i)
		u, err := f.Create("f", create)
		ok(t, err)
		_, err = u.WriteAt([]byte(data), 0)
		ok(t, err)
		wg.Go(func() {
			<-start
			switch err := u.Close(); {
			case err == nil:
				won <- data
			case !errors.Is(err, fs.ErrPermission):
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	close(won)
	if len(won) != 1 {
		t.Fatalf("%d uploads won", len(won))
	}
	data := <-won
	want(t, b.as("x"), "f", data)
	b.kill()
	want(t, b.as("x"), "f", data)
	b.wantTree()
}

// Everybody puts and asks for a barrier at once; whoever was answered has everything after a power cut.
func TestBarrierStorm(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	var wg sync.WaitGroup
	for i := range 16 {
		f := b.as(fmt.Sprintf("key%d", i))
		wg.Go(func() {
			for j := range 10 {
				if err := put(f, fmt.Sprintf("f%d-%d", i, j), "data"); err != nil {
					t.Error(err)
				}
				if err := f.Barrier(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.crash(none)
	f := b.as("x")
	for i := range 16 {
		for j := range 10 {
			want(t, f, fmt.Sprintf("f%d-%d", i, j), "data")
		}
	}
	b.wantTree()
}

// With durability "close", what CLOSE answered survives a power cut; also where others do the same.
func TestSyncClose(t *testing.T) {
	b := newBench(t, appendonly.Policy{SyncClose: true})
	var wg sync.WaitGroup
	for i := range 8 {
		f := b.as(fmt.Sprintf("key%d", i))
		wg.Go(func() {
			for j := range 5 {
				if err := put(f, fmt.Sprintf("f%d-%d", i, j), "data"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.crash(none)
	for i := range 8 {
		for j := range 5 {
			want(t, b.as("x"), fmt.Sprintf("f%d-%d", i, j), "data")
		}
	}
}

// A vault is closed while it is still reading contents for their digests, and has them in its journal.
func TestCloseWaitsForDigests(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	data := map[string][]byte{}
	for i := range 4 {
		name := fmt.Sprintf("f%d", i)
		data[name] = pattern(100_000 + i)
		u, err := a.Create(name, create)
		ok(t, err)
		_, err = u.WriteAt(data[name][50_000:], 50_000)
		ok(t, err)
		_, err = u.WriteAt(data[name][:60_000], 0)
		ok(t, err)
		ok(t, u.Close())
	}
	b.reopen()
	for name, d := range data {
		wantDigest(t, b.as("alice"), name, d)
	}
}

// Clients, the operator and the keeper at once: whatever they do to each other, the tree and the index
// agree afterwards, nobody saw a content that was never written, and the journal verifies.
func TestEverybodyAtOnce(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	forever := func(f func(r *rand.Rand)) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, rand.Uint64()))
			for {
				select {
				case <-stop:
					return
				default:
					f(r)
				}
			}
		})
	}
	names := []string{"a", "b", "d/a", "d/b", "a.partial", "e/x", "d", "e"}
	name := func(r *rand.Rand) string { return names[r.IntN(len(names))] }
	for i := range 4 {
		f := b.as(fmt.Sprintf("key%d", i%2))
		forever(func(r *rand.Rand) {
			switch r.IntN(11) {
			case 10: // directories and links to others take turns, while paths lead through them
				f.Symlink([]string{"e", "d", "/", "..", "/.vault/at/0s"}[r.IntN(5)], name(r), appendonly.NoMeta())
			case 0:
				f.Mkdir(name(r), appendonly.NoMeta())
			case 1:
				f.Remove(name(r))
			case 2:
				f.Rmdir(name(r))
			case 3, 4:
				f.Rename(name(r), name(r), r.IntN(2) == 0)
			case 5:
				f.Link(name(r), name(r))
			case 6:
				if u, err := patch(f, name(r), "xx", int64(r.IntN(3))); err == nil {
					if r.IntN(2) == 0 {
						u.Close()
					} else {
						u.Abort()
					}
				}
			case 7:
				f.SetMeta(name(r), appendonly.Meta{Mode: int32(r.IntN(0o777)), UID: 0, GID: 0}, false)
			default:
				put(f, name(r), "xxxx"[:r.IntN(5)])
			}
		})
	}
	reader := b.as("reader")
	forever(func(r *rand.Rand) {
		data, err := get(reader, name(r))
		if len(bytes.Trim([]byte(data), "x\x00")) > 0 || errors.Is(err, appendonly.ErrQuarantined) {
			t.Errorf("read %q, %v", data, err)
		}
		list(reader, "d")
		reader.Versions(name(r))
	})
	n := 0
	forever(func(r *rand.Rand) {
		n++
		b.vault.SetPolicy(appendonly.Policy{Mode: appendonly.Versioned, Suspended: n%7 == 0, SyncClose: n%3 == 0})
		b.vault.Snapshot(context.Background(), fmt.Sprintf("s%d", n), "manual")
		b.vault.Tick()
		b.vault.Usage()
		time.Sleep(time.Millisecond)
	})
	time.Sleep(500 * time.Millisecond)
	close(stop)
	wg.Wait()
	b.vault.SetPolicy(b.pol)
	b.wantTree()
	live, err := look(b.as("x"), "")
	ok(t, err)
	b.kill()
	b.wantTree()
	again, err := look(b.as("x"), "")
	ok(t, err)
	if diff := again.difference(live); diff != "" {
		t.Fatal(diff)
	}
	if _, torn, err := journal.NewReader(b.mem).All(func(*journal.Record, []byte) error { return nil }); err != nil || torn != 0 {
		t.Fatal(torn, err)
	}
}

// Two sessions of one key and one name: the second takes over what the first, lost one has written, and
// neither waits for the other for ever.
func TestTakeOverWhileWriting(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	var wg sync.WaitGroup
	for range 6 {
		f := b.as("alice")
		wg.Go(func() {
			for range 50 {
				u, err := f.Create("f", appendonly.CreateOptions{Create: true, Meta: appendonly.NoMeta()})
				if err != nil {
					t.Error(err)
					return
				}
				u.WriteAt([]byte("x"), 0)
				u.Abort()
			}
		})
	}
	wg.Wait()
	info, err := b.as("alice").Stat("f")
	ok(t, err)
	if info.Size != 1 || info.Sealed {
		t.Fatalf("%+v", info)
	}
}
