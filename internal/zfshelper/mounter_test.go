package zfshelper_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vaultd/internal/zfs/zfstest"
	"vaultd/internal/zfshelper"
)

// mounter answers with ready until the test ends, and returns its socket. It takes root alone.
func mounter(t testing.TB, ready func(context.Context) error) string {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run as root: the mounter answers nobody else")
		}
		t.Skip("the mounter answers root alone: run as root to see this one")
	}
	path := filepath.Join(t.TempDir(), "mount.sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- zfshelper.ServeMounter(ctx, l, ready, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

// A helper that can not mount has another process do it, and gives what is there then to the server's user.
func TestMounter(t *testing.T) {
	var config zfshelper.Config
	var other atomic.Pointer[zfshelper.Helper]
	path := mounter(t, func(ctx context.Context) error { return other.Load().Ready(ctx) })
	h, fake, dir := newHelper(t, func(c *zfshelper.Config) {
		config = *c
		c.Place = zfshelper.Mounter(path)
	})
	second, err := zfshelper.New(config)
	must(t, err)
	other.Store(second)
	ctx := t.Context()
	id := tenantID(1)
	must(t, h.Create(ctx, id, 1<<20))
	made, mounted := 0, 0
	for _, argv := range fake.Argv() {
		switch {
		case argv[1] == "create":
			made++
			if argv[2] != "-u" || !slices.Contains(argv, "refquota=1048576") || !slices.Contains(argv, "setuid=off") {
				t.Errorf("made by %q", argv)
			}
		case argv[1] == "mount":
			mounted++
		}
	}
	if made != 1 || mounted != 1 {
		t.Errorf("made %d times, mounted %d times", made, mounted)
	}
	if st, err := os.Stat(filepath.Join(dir, id)); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", st, err)
	}
	wants(t, "again", h.Create(ctx, id, 0), fs.ErrExist)

	// One that is not mounted is not handed over, and the reason is told.
	fake.Change(func(s *zfstest.State) { s.Fail = map[string]string{"mount": "cannot mount: out of luck"} })
	err = h.Create(ctx, tenantID(2), 0)
	wants(t, "not mounted", err, zfshelper.ErrAbsent)
	if err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("%v", err)
	}
}

// What the mounter says arrives, bounded; nothing that is sent to it matters.
func TestMounterWire(t *testing.T) {
	answers := make(chan error, 1)
	path := mounter(t, func(context.Context) error { return <-answers })
	ask := zfshelper.Mounter(path)
	answers <- nil
	must(t, ask(t.Context()))
	answers <- errors.New("two\nlines " + strings.Repeat("x", 1<<20))
	if err := ask(t.Context()); !errors.Is(err, zfshelper.ErrMounter) || len(err.Error()) > 5000 || !strings.Contains(err.Error(), "two\nlines") {
		t.Errorf("%.100v", err)
	}
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("umount everything\n"))
	must(t, err)
	answers <- nil
	if b, err := io.ReadAll(c); string(b) != "ok\n" && err == nil {
		t.Errorf("answered %q, %v", b, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wants(t, "a mounter that hangs", ask(ctx), context.DeadlineExceeded)
	answers <- nil
	wants(t, "no mounter", zfshelper.Mounter(path+"x")(t.Context()), zfshelper.ErrMounter)
}
