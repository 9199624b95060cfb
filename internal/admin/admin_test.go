package admin_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		victim(dir)
	}
	goleak.VerifyTestMain(m)
}

// start serves s on dir until the test ends.
func start(t *testing.T, dir string, s *admin.Server) (stop func()) {
	t.Helper()
	l, err := admin.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, l, s)
}

func serve(t *testing.T, l *admin.Listener, s *admin.Server) (stop func()) {
	t.Helper()
	if s.Log == nil {
		s.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func dial(t *testing.T, dir string) *admin.Client {
	t.Helper()
	c, err := admin.Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type question struct{ A, B int }

var errOdd = errors.New("odd one")

func arithmetic() *admin.Server {
	return &admin.Server{
		Calls: map[string]admin.Call{
			"add": admin.Handle(func(_ context.Context, q question) (int, error) { return q.A + q.B, nil }),
			"odd": admin.Handle(func(context.Context, question) (int, error) { return 0, fmt.Errorf("count: %w", errOdd) }),
			"own": admin.Handle(func(context.Context, question) (int, error) {
				return 0, fmt.Errorf("wrapped: %w", &admin.Error{Code: 77, Text: "refused: \u2026 \"no\""})
			}),
			"panic": admin.Handle(func(context.Context, question) (int, error) { panic("secret") }),
			"badjson": admin.Handle(func(context.Context, question) (any, error) {
				return func() {}, nil
			}),
			"peer": admin.Handle(func(ctx context.Context, _ question) (admin.Peer, error) {
				p, ok := admin.PeerOf(ctx)
				if !ok {
					return p, errOdd
				}
				return p, nil
			}),
		},
		ExitCode: func(err error) int {
			if errors.Is(err, errOdd) {
				return 5
			}
			return 1
		},
	}
}

func TestCall(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, arithmetic())
	c := dial(t, dir)
	tests := []struct {
		call string
		in   any
		code int
		text string // part of the error
	}{
		{"add", question{2, 3}, 0, ""},
		{"odd", question{}, 5, "count: odd one"},
		{"own", question{}, 77, "refused: \u2026 \"no\""},
		{"panic", question{}, 1, "internal error"},
		{"badjson", question{}, 1, "unsupported type"},
		{"nosuch", question{}, admin.ExitUnavailable, "does not know it"},
		{"no/such", question{}, admin.ExitUnavailable, "unexpected answer 404"},
		{"add", map[string]int{"A": 1, "C": 1}, 2, `unknown field "C"`},
		{"add", "text", 2, "cannot unmarshal"},
		{"add", strings.Repeat("x", 2<<20), 2, "too large"},
	}
	for _, tt := range tests {
		t.Run(tt.call+" "+tt.text, func(t *testing.T) {
			var sum int
			err := c.Call(t.Context(), tt.call, tt.in, &sum)
			if tt.code == 0 {
				if err != nil || sum != 5 {
					t.Errorf("got %d, %v", sum, err)
				}
				return
			}
			var e *admin.Error
			if !errors.As(err, &e) || e.Code != tt.code || !strings.Contains(e.Text, tt.text) || strings.Contains(e.Text, "secret") {
				t.Errorf("got %#v, want %d %q", err, tt.code, tt.text)
			}
		})
	}
	var p admin.Peer
	if err := c.Call(t.Context(), "peer", question{}, &p); err != nil || p.PID != int32(os.Getpid()) || p.UID != uint32(os.Geteuid()) {
		t.Errorf("peer %+v, %v", p, err)
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	if _, err := admin.Dial(dir); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("never started: %v", err)
	}
	// A store that is not there is another answer: nobody knows whether a server runs on it.
	if _, err := admin.Dial(filepath.Join(dir, "no")); err == nil || errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("no directory: %v", err)
	}
	stop := start(t, dir, arithmetic())
	c := dial(t, dir)
	stop()
	if err := c.Call(t.Context(), "add", question{}, nil); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("call after the end: %v", err)
	}
	if _, err := admin.Dial(dir); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("ended: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "admin.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stayed: %v", err)
	}
	start(t, dir, arithmetic())
	dial(t, dir)
}

const victimEnv = "VAULTD_TEST_ADMIN_DIR"

// victim listens until it is killed.
func victim(dir string) {
	if _, err := admin.Listen(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening")
	select {}
}

// A server that was killed leaves its socket. The next one replaces it; while the first lives, it does not.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	buf := make([]byte, 100)
	if n, _ := out.Read(buf); string(buf[:n]) != "listening\n" {
		t.Fatalf("victim says %q", buf[:n])
	}
	if _, err := admin.Listen(dir); !errors.Is(err, admin.ErrRunning) {
		t.Errorf("second server: %v", err)
	}
	dial(t, dir) // the refused second server did no harm to the first
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := os.Lstat(filepath.Join(dir, "admin.sock")); err != nil {
		t.Fatalf("no stale socket to test with: %v", err)
	}
	if _, err := admin.Dial(dir); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("stale: %v", err)
	}
	start(t, dir, arithmetic())
	if err := dial(t, dir).Call(t.Context(), "add", question{}, nil); err != nil {
		t.Error(err)
	}
}

// Of many servers that start at once on a stale socket, one wins and is reachable.
func TestListenRace(t *testing.T) {
	dir := t.TempDir()
	for range 20 {
		var mu sync.Mutex
		var won []*admin.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := admin.Listen(dir)
				if err != nil && !errors.Is(err, admin.ErrRunning) {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, l)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d servers at once", len(won))
		}
		dial(t, dir)
		if err := won[0].Close(); err != nil {
			t.Fatal(err)
		}
		if err := won[0].Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "admin.sock"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // twice: the lock was let go
		if _, err := admin.Listen(dir); err == nil || errors.Is(err, admin.ErrRunning) || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("a file is in the way: %v", err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "admin.sock")); string(text) != "mine" {
		t.Errorf("the file is gone: %v", err)
	}
	if _, err := admin.Listen(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestLongPath(t *testing.T) {
	// The lengths around the limit of 107 bytes, and far over it.
	for _, length := range []int{92, 93, 95, 96, 97, 98, 200, 1000} {
		dir := t.TempDir()
		for len(dir) < length {
			dir = filepath.Join(dir, strings.Repeat("d", min(100, max(1, length-len(dir)-1))))
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		start(t, dir, arithmetic())
		if err := dial(t, dir).Call(t.Context(), "add", question{}, nil); err != nil {
			t.Errorf("%d: %v", len(dir), err)
		}
		if info, err := os.Lstat(filepath.Join(dir, "admin.sock")); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%d: %v, %v", len(dir), info, err)
		}
	}
}

func TestOwnerOrRoot(t *testing.T) {
	self := uint32(os.Geteuid())
	for uid, want := range map[uint32]bool{0: true, self: true, self + 1: false, 65534: self == 65534} {
		if got := admin.OwnerOrRoot(admin.Peer{UID: uid}); got != want {
			t.Errorf("uid %d: %v", uid, got)
		}
	}
}

// A refused peer gets no byte, and a text that says what may be wrong.
func TestPeerRefused(t *testing.T) {
	dir := t.TempDir()
	l, err := admin.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Allow(func(p admin.Peer) bool { return p.PID != int32(os.Getpid()) })
	called := false
	serve(t, l, &admin.Server{Calls: map[string]admin.Call{"x": func(context.Context, json.RawMessage) (any, error) {
		called = true
		return nil, nil
	}}})
	err = dial(t, dir).Call(t.Context(), "x", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "may not command it") || called {
		t.Errorf("got %v, called %v", err, called)
	}
}

// The credentials that count are the kernel's: a thread of another user, past a socket whose mode lets it in, is
// refused. Only root can become another user; anybody else sees the socket's mode checked.
func TestPeerOfAnotherUser(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, arithmetic())
	path := filepath.Join(dir, "admin.sock")
	if os.Geteuid() != 0 {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		return
	}
	for p := dir; strings.HasPrefix(filepath.Base(filepath.Dir(p)), "Test") || p == dir; p = filepath.Dir(p) {
		if err := errors.Join(os.Chmod(p, 0o755), os.Chmod(filepath.Dir(p), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	answer := make(chan string)
	go func() {
		// The thread is thrown away with its goroutine: it stays locked.
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 {
			answer <- "setresuid: " + e.Error()
			return
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			answer <- "dial: " + err.Error()
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /v1/call/add HTTP/1.1\r\nHost: vaultd\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
		text, err := io.ReadAll(c)
		answer <- fmt.Sprintf("%q %v", text, err)
	}()
	if got := <-answer; !strings.HasPrefix(got, `""`) {
		t.Errorf("another user got %s", got)
	}
}

// tarball is a stream of n files.
func tarball(n int, fail error) admin.Stream {
	return admin.HandleStream(func(ctx context.Context, _ question, w io.Writer) error {
		tw := tar.NewWriter(w)
		for i := range n {
			if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprint("f", i), Size: 100_000, Mode: 0o600}); err != nil {
				return err
			}
			if _, err := tw.Write(bytes.Repeat([]byte{byte(i)}, 100_000)); err != nil {
				return err
			}
		}
		if fail != nil {
			return fail
		}
		return tw.Close()
	})
}

func TestStream(t *testing.T) {
	dir := t.TempDir()
	s := arithmetic()
	s.Streams = map[string]admin.Stream{
		"tar":   tarball(20, nil),
		"half":  tarball(20, fmt.Errorf("read f20: %w", errOdd)),
		"none":  tarball(0, errOdd),
		"empty": func(context.Context, json.RawMessage, io.Writer) error { return nil },
		"panic": func(_ context.Context, _ json.RawMessage, w io.Writer) error {
			w.Write([]byte("x"))
			panic("secret")
		},
	}
	start(t, dir, s)
	c := dial(t, dir)

	body, err := c.Stream(t.Context(), "tar", question{})
	if err != nil {
		t.Fatal(err)
	}
	files, tr := 0, tar.NewReader(body)
	for ; ; files++ {
		if _, err := tr.Next(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, tr); n != 100_000 || err != nil {
			t.Fatal(n, err)
		}
	}
	if n, err := io.Copy(io.Discard, body); n != 0 || err != nil || files != 20 {
		t.Errorf("%d files, then %d bytes, %v", files, n, err)
	}
	body.Close()

	tests := []struct {
		name     string
		early    bool // the error comes from Stream itself
		code     int
		text     string
		min, max int
	}{
		{"half", false, 5, "read f20: odd one", 2_000_000, 2_100_000},
		{"none", true, 5, "odd one", 0, 0},
		{"empty", false, 0, "", 0, 0},
		{"panic", false, 1, "internal error", 1, 1},
		{"nosuch", true, admin.ExitUnavailable, "does not know it", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body, err := c.Stream(t.Context(), tt.name, question{})
			if (err != nil) != tt.early {
				t.Fatalf("got %v", err)
			}
			var text []byte
			if err == nil {
				defer body.Close()
				text, err = io.ReadAll(body)
			}
			if len(text) < tt.min || len(text) > tt.max {
				t.Errorf("%d bytes", len(text))
			}
			var e *admin.Error
			switch {
			case tt.code == 0 && err != nil:
				t.Error(err)
			case tt.code != 0 && (!errors.As(err, &e) || e.Code != tt.code || !strings.Contains(e.Text, tt.text)):
				t.Errorf("got %v", err)
			}
		})
	}
}

// endless writes until it may not, and says so.
func endless(ended chan<- error) admin.Stream {
	return func(ctx context.Context, _ json.RawMessage, w io.Writer) error {
		for ctx.Err() == nil {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				break
			}
		}
		<-ctx.Done() // a failed write may be seen first
		ended <- ctx.Err()
		return ctx.Err()
	}
}

// What the client gives up ends at the server, whether it cancels or closes.
func TestStreamCancel(t *testing.T) {
	dir := t.TempDir()
	ended := make(chan error, 1)
	start(t, dir, &admin.Server{Streams: map[string]admin.Stream{"endless": endless(ended)}})
	c := dial(t, dir)
	for _, how := range []string{"cancel", "close"} {
		ctx, cancel := context.WithCancel(t.Context())
		body, err := c.Stream(ctx, "endless", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if how == "cancel" {
			cancel()
			if _, err := io.Copy(io.Discard, body); !errors.Is(err, context.Canceled) {
				t.Errorf("read after cancel: %v", err)
			}
		}
		body.Close()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the handler goes on", how)
		}
		cancel()
	}
}

// A call is cancelled the same way.
func TestCallCancel(t *testing.T) {
	dir := t.TempDir()
	began, ended := make(chan bool), make(chan error, 1)
	start(t, dir, &admin.Server{Calls: map[string]admin.Call{"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
		began <- true
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if err := dial(t, dir).Call(ctx, "wait", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("handler: %v", err)
	}
}

// On shutdown handlers are told, a reply in hand is finished, and a stream that is cut short is an error at its reader.
func TestShutdown(t *testing.T) {
	dir := t.TempDir()
	began, ended := make(chan bool), make(chan error, 1)
	stop := start(t, dir, &admin.Server{
		Calls: map[string]admin.Call{"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
			began <- true
			<-ctx.Done()
			return "done", nil
		}},
		Streams: map[string]admin.Stream{"endless": endless(ended)},
	})
	c := dial(t, dir)
	answer, errs := "", make(chan error, 1)
	go func() { errs <- c.Call(context.Background(), "wait", nil, &answer) }()
	<-began
	body, err := c.Stream(t.Context(), "endless", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	copied := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, body); copied <- err }()
	stop()
	if err := <-errs; err != nil || answer != "done" {
		t.Errorf("call in hand: %q, %v", answer, err)
	}
	var e *admin.Error
	if err := <-copied; !errors.As(err, &e) || e.Code != 75 || !strings.Contains(e.Text, "stopping") {
		t.Errorf("stream in hand: %v", err)
	}
}

// A reader that does not read can not keep the server from ending.
func TestShutdownStuck(t *testing.T) {
	dir := t.TempDir()
	deaf := func(_ context.Context, _ json.RawMessage, w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				return err
			}
		}
	}
	stop := start(t, dir, &admin.Server{Drain: 50 * time.Millisecond, Streams: map[string]admin.Stream{"deaf": deaf}})
	body, err := dial(t, dir).Stream(t.Context(), "deaf", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	stop()
	if _, err := io.Copy(io.Discard, body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

// A process that was given the socket answers on it; the name stays with the one that made it.
func TestInherit(t *testing.T) {
	dir := t.TempDir()
	l, err := admin.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	in, err := admin.Inherit(f, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	s := admin.Server{Calls: map[string]admin.Call{"hello": admin.Handle(func(context.Context, struct{}) (string, error) { return "hello", nil })}}
	go func() { served <- s.Serve(ctx, in) }()
	c, err := admin.Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if err := c.Call(ctx, "hello", struct{}{}, &got); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "admin.sock")); err != nil {
		t.Errorf("the name went with the one that inherited: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := admin.Dial(dir); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("after Close: %v", err)
	}
}

// A set-group-id directory lets its group in, and only there is the mode wider; the socket is in run/ where that is.
func TestGroup(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o750); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir  fs.FileMode
		want fs.FileMode
	}{{0o750, 0o600}, {0o750 | fs.ModeSetgid, 0o660}, {0o770, 0o600}} {
		if err := os.Chmod(filepath.Join(dir, "run"), c.dir); err != nil {
			t.Fatal(err)
		}
		l, err := admin.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		stop := serve(t, l, &admin.Server{Calls: map[string]admin.Call{}})
		if i, err := os.Lstat(filepath.Join(dir, "run", "admin.sock")); err != nil || i.Mode().Perm() != c.want || l.Group() != (c.want == 0o660) {
			t.Errorf("%v: %v, %v; group %v", c.dir, i, err, l.Group())
		}
		if _, err := admin.Dial(dir); err != nil {
			t.Errorf("%v: %v", c.dir, err)
		}
		stop()
	}
}
