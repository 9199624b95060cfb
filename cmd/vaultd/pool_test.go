package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"vaultd/internal/admin"
	"vaultd/internal/pool"
	"vaultd/internal/store"
	"vaultd/internal/supervise"
	"vaultd/internal/zfs"
)

func TestShare(t *testing.T) {
	for _, x := range []struct {
		text, back string
		of         uint64 // of 1000
	}{
		{"5%", "5%", 50}, {"0.5 %", "0.5%", 5}, {"0%", "0", 0}, {"50%", "50%", 500}, {"2KiB", "2KiB", 2048}, {"0", "0", 0},
		{"51%", "", 0}, {"-1%", "", 0}, {"NaN%", "", 0}, {"%", "", 0}, {"5 percent", "", 0}, {"", "", 0},
	} {
		var s Share
		err := s.UnmarshalText([]byte(x.text))
		if x.back == "" {
			if err == nil {
				t.Errorf("%q is taken for %v", x.text, s)
			}
			continue
		}
		if err != nil || s.String() != x.back || s.Of(1000) != x.of {
			t.Errorf("%q: %v, %d of 1000, %v", x.text, s, s.Of(1000), err)
		}
	}
}

// fakePool is a pool that says what it is told to.
type fakePool struct {
	mu     sync.Mutex
	health string
	load   uint64
}

func (f *fakePool) Pool(_ context.Context, name string) (*zfs.Pool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &zfs.Pool{Name: name, Health: f.health, Size: 100, Free: 100, Vdevs: []zfs.Vdev{{Name: name, State: f.health}}}, nil
}
func (f *fakePool) LoadGUID(context.Context, string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.load, nil
}
func (*fakePool) List(_ context.Context, root string, _ int, _ ...string) ([]*zfs.Dataset, error) {
	return []*zfs.Dataset{{Name: root, Available: 1 << 30}}, nil
}
func (*fakePool) Scrub(context.Context, string) error { return nil }
func (*fakePool) Hung() int                           { return 0 }

func (f *fakePool) set(health string, load uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health, f.load = health, load
}

func fakeCare(f *fakePool) *pool.Care {
	return pool.New(pool.Config{ZFS: f, Dataset: "tank/v", Dir: "/nowhere/tenants", Reserve: func(n uint64) uint64 { return n / 4 },
		Mounts: func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("1 1 0:1 / /nowhere/tenants rw - zfs tank/v rw\n")), nil
		},
		Space: func(string) (uint64, error) { return 1 << 29, nil }})
}

// A server hears of its pool: its reserve, and that it is out, which counts for good: sessions are abandoned once, the store refuses, and commands that wait are cut off.
func TestPoolWatch(t *testing.T) {
	f := &fakePool{health: "ONLINE"}
	s := &supervisor{care: fakeCare(f)}
	s.care.Look(t.Context())
	here, there, err := supervise.Pair()
	if err != nil {
		t.Fatal(err)
	}
	seen := &presence{look: s.care.Places, log: slog.New(slog.DiscardHandler)}
	go supervise.Serve(here, s.poolVerbs(seen))
	c, err := net.FileConn(there)
	if err != nil {
		t.Fatal(err)
	}
	there.Close()
	w := &poolWatch{parent: supervise.NewClient(c), out: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
	if err := w.hear(); err != nil || w.isOut() || w.report().Reserve != 1<<30/4 {
		t.Fatalf("%v %+v", err, w.report())
	}
	guarded := w.guard(store.Config{})
	if err := guarded.Available("t"); err != nil {
		t.Error(err)
	}
	hang := make(chan struct{})
	console := &admin.Server{Calls: map[string]admin.Call{
		"hangs": func(context.Context, json.RawMessage) (any, error) { <-hang; return nil, nil },
		"works": func(context.Context, json.RawMessage) (any, error) { return 1, nil },
	}, Streams: map[string]admin.Stream{"hangs": func(_ context.Context, _ json.RawMessage, w io.Writer) error {
		<-hang
		_, err := io.WriteString(w, "late")
		if err == nil {
			t.Error("somebody who was given up writes to the connection")
		}
		return err
	}}}
	w.bound(console)
	var ended sync.WaitGroup
	var away *store.UnavailableError
	ended.Go(func() {
		if _, err := console.Calls["hangs"](t.Context(), nil); !errors.As(err, &away) {
			t.Errorf("a command that hangs: %v", err)
		}
	})
	ended.Go(func() {
		var away *store.UnavailableError
		if err := console.Streams["hangs"](t.Context(), nil, io.Discard); !errors.As(err, &away) {
			t.Errorf("a stream that hangs: %v", err)
		}
	})
	f.set("SUSPENDED", 0)
	s.care.Look(t.Context())
	if err := w.hear(); err != nil || !w.isOut() {
		t.Errorf("%v %+v", err, w.report())
	}
	ended.Wait()
	if v, err := console.Calls["works"](t.Context(), nil); v != 1 || err != nil {
		t.Errorf("a command that needs no pool: %v, %v", v, err)
	}
	close(hang)
	f.set("ONLINE", 0)
	s.care.Look(t.Context())
	s.care.Look(t.Context())
	if err := w.hear(); err != nil || w.report().Out || !w.isOut() || w.renew(nil) {
		t.Errorf("what was out is not to be trusted again by this server: %v %+v", err, w.report())
	}
	if err := guarded.Available("t"); !errors.As(err, &away) {
		t.Error(err)
	}
	c.Close()
	here.Close()
}

// The supervisor ends a server whose pool was out and is back, and one whose pool was imported anew unseen; no other.
func TestWatchPool(t *testing.T) {
	for _, x := range []struct {
		name  string
		looks []fakePool
		end   int // after which look it is ended; 0: not at all
	}{
		{"well", []fakePool{{health: "ONLINE"}, {health: "DEGRADED"}, {health: "ONLINE"}}, 0},
		{"out", []fakePool{{health: "SUSPENDED"}, {health: "SUSPENDED"}}, 0},
		{"out and back", []fakePool{{health: "SUSPENDED"}, {health: "ONLINE"}, {health: "ONLINE"}}, 3},
		{"imported anew", []fakePool{{health: "ONLINE"}, {health: "ONLINE", load: 2}}, 2},
		{"imported anew and out", []fakePool{{health: "FAULTED", load: 2}, {health: "ONLINE", load: 2}, {health: "ONLINE", load: 2}}, 3},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := &fakePool{health: "ONLINE"}
			s := &supervisor{care: fakeCare(f), log: slog.New(slog.DiscardHandler)}
			began := s.care.Look(t.Context())
			ctx, cancel := context.WithCancel(t.Context())
			ended, done := make(chan struct{}), make(chan struct{})
			go func() { defer close(done); s.watchPool(ctx, began, func() { close(ended) }) }()
			for i := range x.looks {
				f.set(x.looks[i].health, x.looks[i].load)
				s.care.Look(t.Context())
				if i+1 == x.end {
					<-ended
				}
			}
			cancel()
			<-done
			select {
			case <-ended:
				if x.end == 0 {
					t.Error("it was ended")
				}
			default:
			}
		})
	}
}

// What the pool is shows in the verdict of status, before what follows from it.
func TestPoolVerdict(t *testing.T) {
	server := &serverStatus{}
	server.Confinement.Physical = true
	for state, want := range map[pool.State]int{pool.Suspended: 2, pool.Full: 2, pool.Degraded: 1, pool.OK: 0} {
		r := &pool.Report{Pool: "tank", State: state, Level: state.Level()}
		if state != pool.OK {
			r.Problems = []pool.Problem{{State: state, Level: state.Level(), Words: "words"}}
		}
		st := statusReply{Server: server, Pool: r}
		st.judge()
		if v := st.Verdict; v.Exit != want || want > 0 && !strings.HasPrefix(v.Text, "pool tank is "+string(state)) {
			t.Errorf("%s: %+v", state, v)
		}
	}
}
