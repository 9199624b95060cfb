package zfshelper_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/snapshot"
	"vaultd/internal/supervise"
	"vaultd/internal/zfs"
	"vaultd/internal/zfshelper"
)

// serve answers for v until the test ends.
func serve(t testing.TB, v zfshelper.Verbs, uid int) string {
	t.Helper()
	return serveAs(t, &zfshelper.Server{Verbs: v, UID: uint32(uid)})
}

func serveAs(t testing.TB, s *zfshelper.Server) string {
	t.Helper()
	s.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	path := filepath.Join(t.TempDir(), "zfs.sock")
	must(t, os.Chmod(filepath.Dir(path), 0o755))
	l, err := zfshelper.Listen(path, os.Getuid(), os.Getgid())
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

func remote(t testing.TB, path string) zfshelper.Remote {
	s := &zfshelper.Socket{Path: path}
	t.Cleanup(func() { s.Close() })
	return zfshelper.Remote{Caller: s}
}

// Through the socket everything is as in the same process, errors too.
func TestServer(t *testing.T) {
	h, _, dir := newHelper(t, nil)
	path := serve(t, h, os.Getuid())
	r := remote(t, path)
	ctx := t.Context()
	if st, err := os.Lstat(path); err != nil || st.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
	must(t, r.Create(ctx, tenantID(1), 1<<30))
	if _, err := os.Stat(filepath.Join(dir, tenantID(1))); err != nil {
		t.Error(err)
	}
	wants(t, "again", r.Create(ctx, tenantID(1), 0), fs.ErrExist)
	wants(t, "lower", r.Raise(ctx, tenantID(1), 5), zfshelper.ErrLower)
	wants(t, "no id", r.Raise(ctx, "../x", 5), zfshelper.ErrInvalid)
	must(t, r.Raise(ctx, tenantID(1), 0))
	bodies, err := r.Take(ctx, []snapshot.Instant{instant(1, "x")}, time.Minute)
	must(t, err)
	list, err := r.Bodies(ctx, tenantID(1))
	must(t, err)
	if len(bodies) != 1 || len(list) != 1 || bodies[0] != list[0] {
		t.Errorf("%+v, %+v", bodies, list)
	}
	_, err = r.Take(ctx, []snapshot.Instant{instant(1, "x")}, time.Minute)
	wants(t, "taken", err, fs.ErrExist)
	all, err := r.Datasets(ctx)
	must(t, err)
	if len(all) != 1 || all[0].ID != tenantID(1) || !all[0].Mounted {
		t.Errorf("%+v", all)
	}
	_, err = zfshelper.Listen(path, os.Getuid(), os.Getgid())
	if err == nil {
		t.Error("a second helper took the socket")
	}
}

// A helper that was started anew is found again.
func TestHelperGoesAndComes(t *testing.T) {
	h, _, _ := newHelper(t, nil)
	path := filepath.Join(t.TempDir(), "zfs.sock")
	r := remote(t, path)
	for range 2 {
		_, err := r.Datasets(t.Context())
		wants(t, "nobody is there", err, zfshelper.ErrNoHelper)
		l, err := zfshelper.Listen(path, os.Getuid(), os.Getgid())
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- (&zfshelper.Server{Verbs: h, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l) }()
		_, err = r.Datasets(t.Context())
		wants(t, "it is there", err, nil)
		cancel()
		must(t, <-ended)
		_, err = r.Datasets(t.Context())
		wants(t, "it is gone", err, zfshelper.ErrNoHelper)
	}
}

// Lines that are none of the verbs end the connection, and run nothing.
func TestHostileClient(t *testing.T) {
	h, fake, _ := newHelper(t, nil)
	path := serve(t, h, os.Getuid())
	for name, line := range map[string]string{
		"no JSON":      "destroy tank\n",
		"another verb": `{"id":1,"verb":"zfs.destroy","args":{"id":"t-aaaaaaaaaaaa"}}` + "\n",
		"long":         `{"id":1,"verb":"` + strings.Repeat("x", 1<<20) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", path)
			must(t, err)
			defer c.Close()
			io.WriteString(c, line)
			c.SetReadDeadline(time.Now().Add(time.Minute))
			if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("answered %q, %v", b, err)
			}
		})
	}
	for name, line := range map[string]string{
		"an option that is not there": `{"id":1,"verb":"zfs.create","args":{"id":"t-aaaaaaaaaaaa","refquota":1,"properties":{"exec":"on"}}}`,
		"a number that is none":       `{"id":1,"verb":"zfs.raise","args":{"id":"t-aaaaaaaaaaaa","refquota":-1}}`,
		"no arguments":                `{"id":1,"verb":"zfs.take"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", path)
			must(t, err)
			defer c.Close()
			io.WriteString(c, line+"\n")
			b := make([]byte, 4096)
			n, err := c.Read(b)
			must(t, err)
			if !bytes.Contains(b[:n], []byte(`"error"`)) {
				t.Errorf("answered %s", b[:n])
			}
		})
	}
	if argv := fake.Argv(); len(argv) > 0 {
		t.Errorf("was run: %q", argv)
	}
}

// Who is neither root nor the server's user is not answered, whatever the socket's mode lets in.
func TestPeer(t *testing.T) {
	h, fake, _ := newHelper(t, nil)
	path := serve(t, h, os.Getuid())
	if os.Getuid() != 0 {
		path = serve(t, h, os.Getuid()+1)
		if _, err := remote(t, path).Datasets(t.Context()); err == nil {
			t.Error("was answered")
		}
		return
	}
	must(t, os.Chmod(path, 0o666))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755))
	cmd := exec.Command(os.Args[0], "-test.run=^TestStranger$")
	cmd.Env = append(os.Environ(), "ZFSHELPER_SOCKET="+path)
	copied := filepath.Join(filepath.Dir(path), "test")
	b, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(copied, b, 0o755))
	cmd.Path = copied
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("not answered")) {
		t.Errorf("%v: %s", err, out)
	}
	if argv := fake.Argv(); len(argv) > 0 {
		t.Errorf("was run: %q", argv)
	}
}

// TestStranger is the other user of TestPeer.
func TestStranger(t *testing.T) {
	path := os.Getenv("ZFSHELPER_SOCKET")
	if path == "" {
		return // TestPeer is the test
	}
	s := &zfshelper.Socket{Path: path}
	defer s.Close()
	_, err := zfshelper.Remote{Caller: s}.Datasets(t.Context())
	if !errors.Is(err, supervise.ErrGone) {
		t.Fatalf("a stranger: %v", err)
	}
	fmt.Println("not answered")
}

// recorder notes which verbs were called.
type recorder struct{ calls []string }

func (r *recorder) Create(_ context.Context, id string, _ uint64) error {
	r.calls = append(r.calls, "create "+id)
	return nil
}
func (r *recorder) Raise(_ context.Context, id string, _ uint64) error { return nil }
func (r *recorder) Take(context.Context, []snapshot.Instant, time.Duration) ([]snapshot.Body, error) {
	return nil, nil
}
func (r *recorder) Bodies(context.Context, string) ([]snapshot.Body, error) { return nil, nil }
func (r *recorder) Datasets(context.Context) ([]zfshelper.Dataset, error)   { return nil, nil }
func (r *recorder) Pool(context.Context) (*zfs.Pool, error)                 { return nil, nil }
func (r *recorder) Load(context.Context) (uint64, error)                    { return 0, nil }
func (r *recorder) Top(context.Context) (*zfs.Dataset, error)               { return nil, nil }
func (r *recorder) Scrub(context.Context) error                             { return nil }

// FuzzServer has any bytes come over the socket: it ends, and answers with whole lines of JSON.
func FuzzServer(f *testing.F) {
	f.Add([]byte(`{"id":1,"verb":"zfs.create","args":{"id":"t-aaaaaaaaaaaa","refquota":1}}` + "\n"))
	f.Add([]byte(`{"id":1,"verb":"zfs.take","args":{"batch":[{"tenant":"t-aaaaaaaaaaaa","name":"x","seq":1,"head":""}],"within":1}}` + "\n"))
	f.Add([]byte(`{"verb":"zfs.datasets","args":{}}` + "\n{}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		supervise.Serve(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in), &out}, zfshelper.Table(context.Background(), &recorder{}))
		if out.Len() > 0 && !bytes.HasSuffix(out.Bytes(), []byte("}\n")) {
			t.Errorf("answered %q", out.Bytes())
		}
	})
}
