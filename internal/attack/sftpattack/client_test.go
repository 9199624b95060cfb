package sftpattack_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"vaultd/internal/attack"
	"vaultd/internal/attack/sftpattack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const opensshServer = "/usr/lib/openssh/sftp-server"

// servers are plain SFTP servers over the real file system: what the adapter says, they must understand.
// OpenSSH's is the reference; where it is missing that row is skipped, and in CI it must not be.
func servers(t *testing.T) map[string]func() (io.ReadWriteCloser, error) {
	all := map[string]func() (io.ReadWriteCloser, error){
		"pkg/sftp": func() (io.ReadWriteCloser, error) {
			here, there := net.Pipe()
			s, err := sftp.NewServer(there)
			if err != nil {
				return nil, err
			}
			done := make(chan struct{})
			go func() { defer close(done); s.Serve(); there.Close() }()
			t.Cleanup(func() { here.Close(); <-done })
			return here, nil
		},
	}
	if _, err := os.Stat(opensshServer); err == nil {
		all["openssh"] = func() (io.ReadWriteCloser, error) { return startServer(t) }
	} else if os.Getenv("CI") != "" {
		t.Fatalf("%s is needed in CI: %v", opensshServer, err)
	} else {
		t.Logf("not run against OpenSSH: %v", err)
	}
	return all
}

type process struct {
	io.Reader
	io.WriteCloser
}

func startServer(t *testing.T) (io.ReadWriteCloser, error) {
	cmd := exec.Command(opensshServer)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	return process{out, in}, nil
}

func each(t *testing.T, f func(t *testing.T, c *sftpattack.Client, dir string)) {
	for name, dial := range servers(t) {
		t.Run(name, func(t *testing.T) {
			c := sftpattack.New(sftpattack.Config{Dial: dial, Timeout: 10 * time.Second})
			t.Cleanup(func() { c.Close() })
			f(t, c, t.TempDir())
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWholeFiles(t *testing.T) {
	each(t, func(t *testing.T, c *sftpattack.Client, dir string) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 40<<10) // 640 KiB: many requests under way
		must(t, c.Put(dir+"/big\xff\n", data))
		got, err := c.Read(dir + "/big\xff\n")
		must(t, err)
		if !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, put %d", len(got), len(data))
		}
		if _, err := c.Read(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read of a missing file: %v", err)
		}
		list, err := c.List(dir)
		must(t, err)
		if len(list) != 1 || list[0].Name != "big\xff\n" || list[0].Size != uint64(len(data)) || !list[0].IsRegular() {
			t.Errorf("list %+v", list)
		}
		if _, err := c.List(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("list of a missing directory: %v", err)
		}
	})
}

func TestHandles(t *testing.T) {
	each(t, func(t *testing.T, c *sftpattack.Client, dir string) {
		p := dir + "/f"
		h, err := c.Open(p, attack.Write|attack.Create|attack.Exclusive, attack.Attrs{})
		must(t, err)
		must(t, h.WriteAt(bytes.Repeat([]byte("x"), 100<<10), 0))
		must(t, h.WriteAt([]byte("end"), 100<<10))
		n := uint64(100<<10 + 1)
		must(t, h.Setstat(attack.Attrs{Size: &n}))
		i, err := h.Stat()
		must(t, err)
		if i.Size != n {
			t.Errorf("size %d, want %d", i.Size, n)
		}
		must(t, h.Close())
		if err := h.WriteAt([]byte("late"), 0); err == nil || errors.Is(err, attack.ErrLost) {
			t.Errorf("write after close: %v", err)
		}
		if _, err := c.Open(p, attack.Write|attack.Create|attack.Exclusive, attack.Attrs{}); err == nil {
			t.Error("exclusive open of a taken name succeeded")
		}
		h, err = c.Open(p, attack.Read, attack.Attrs{})
		must(t, err)
		must(t, c.Drop())
		if err := h.Close(); err == nil {
			t.Error("a handle outlives its connection")
		}
		if _, err := c.Stat(p); err != nil {
			t.Errorf("no new connection after Drop: %v", err)
		}
	})
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, c *sftpattack.Client, dir string) {
		if strings.Contains(t.Name(), "pkg/sftp") {
			t.Skip("pkg/sftp's plain server removes directories with REMOVE, files with RMDIR, and renames over what is there")
		}
		must(t, c.Mkdir(dir+"/d"))
		must(t, c.Put(dir+"/a", []byte("a")))
		must(t, c.Put(dir+"/b", []byte("b")))
		must(t, c.Link(dir+"/a", dir+"/hard"))
		must(t, c.Symlink("a", dir+"/soft"))
		if target, err := c.Readlink(dir + "/soft"); err != nil || target != "a" {
			t.Errorf("readlink %q, %v", target, err)
		}
		soft, err := c.Stat(dir + "/soft")
		must(t, err)
		file, err := c.Follow(dir + "/soft")
		must(t, err)
		if !soft.IsSymlink() || !file.IsRegular() {
			t.Errorf("modes %#o and %#o", soft.Mode, file.Mode)
		}
		if err := c.Rename(dir+"/a", dir+"/b"); err == nil || errors.Is(err, attack.ErrLost) {
			t.Errorf("rename to a taken name: %v", err)
		}
		must(t, c.PosixRename(dir+"/a", dir+"/b"))
		if err := c.Rmdir(dir + "/b"); err == nil || errors.Is(err, attack.ErrLost) {
			t.Errorf("rmdir of a file: %v", err)
		}
		if err := c.Remove(dir + "/d"); err == nil || errors.Is(err, attack.ErrLost) {
			t.Errorf("remove of a directory: %v", err)
		}
		must(t, c.Rmdir(dir+"/d"))
		must(t, c.Remove(dir+"/hard"))
		sec, perm := uint32(86400), uint32(0o600)
		must(t, c.Setstat(dir+"/b", attack.Attrs{Mode: &perm, ATime: &sec, MTime: &sec}))
		i, err := c.Stat(dir + "/b")
		must(t, err)
		if i.Mode&0o7777 != perm || i.MTime.Unix() != 86400 {
			t.Errorf("after setstat %+v", i)
		}
		s, err := c.Statvfs(dir)
		must(t, err)
		if s.Total == 0 || s.Free > s.Total {
			t.Errorf("statvfs %+v", s)
		}
	})
}

// copy-data is said as OpenSSH's server (9.0 and later) understands it; pkg/sftp's has none.
func TestCopyData(t *testing.T) {
	each(t, func(t *testing.T, c *sftpattack.Client, dir string) {
		must(t, c.Put(dir+"/src", []byte("0123456789")))
		src, err := c.Open(dir+"/src", attack.Read, attack.Attrs{})
		must(t, err)
		dst, err := c.Open(dir+"/dst", attack.Write|attack.Create, attack.Attrs{})
		must(t, err)
		err = dst.CopyFrom(src, 2, 4, 0)
		must(t, errors.Join(src.Close(), dst.Close()))
		if strings.Contains(t.Name(), "pkg/sftp") {
			if !errors.Is(err, attack.ErrUnsupported) {
				t.Errorf("copy-data: %v, want not applicable", err)
			}
			return
		}
		must(t, err)
		if got, err := c.Read(dir + "/dst"); err != nil || string(got) != "2345" {
			t.Errorf("copied %q, %v", got, err)
		}
	})
}

// A server that says nothing costs the time limit and is lost, not refused.
func TestSilentServer(t *testing.T) {
	c := sftpattack.New(sftpattack.Config{Timeout: 50 * time.Millisecond, Dial: func() (io.ReadWriteCloser, error) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		return here, nil
	}})
	if _, err := c.Stat("/"); !errors.Is(err, attack.ErrLost) {
		t.Errorf("stat: %v", err)
	}
	if err := c.Put("/x", nil); !errors.Is(err, attack.ErrLost) {
		t.Errorf("put: %v", err)
	}
}

// The suite bites over the wire: a plain server keeps nothing, and the cases must say so.
func TestPlainServerIsBroken(t *testing.T) {
	dial := servers(t)["pkg/sftp"]
	if d := servers(t)["openssh"]; d != nil {
		dial = d
	}
	client := func() *sftpattack.Client {
		c := sftpattack.New(sftpattack.Config{Dial: dial})
		t.Cleanup(func() { c.Close() })
		return c
	}
	e := &attack.Env{Owner: client(), Thief: client(), Twin: client(), Root: t.TempDir(), Patience: time.Millisecond}
	_, err := attack.Run(t.Context(), e, attack.Cases()[:3])
	if err == nil || !strings.Contains(err.Error(), "/.vault/at/") {
		t.Errorf("a server without views passes as a vault: %v", err)
	}
}
