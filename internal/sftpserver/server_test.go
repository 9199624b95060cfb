package sftpserver_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/quota"
	"vaultd/internal/sftpserver"
)

// The file server as a real client library sees it.
func TestClient(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{UID: 33, GID: 34})
	c := p.client()

	want := make([]byte, 3<<20+17)
	rand.NewChaCha8([32]byte{}).Read(want)
	w, err := c.Create("/big")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.ReadFromWithConcurrency(bytes.NewReader(want), 16); err != nil || n != int64(len(want)) {
		t.Fatalf("upload: %d, %v", n, err)
	}
	if _, ok := f.content("/big"); ok {
		t.Error("published before CLOSE")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := c.Open("big")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("download: %v, equal: %v", err, bytes.Equal(got.Bytes(), want))
	}
	r.Close()

	for _, err := range []error{c.Mkdir("d"), c.Symlink("../big", "d/l"), c.Link("big", "d/h"), c.Rename("d/h", "d/i"), c.PosixRename("d/i", "d/j")} {
		if err != nil {
			t.Error(err)
		}
	}
	if l, err := c.ReadLink("d/l"); l != "../big" || err != nil {
		t.Errorf("readlink: %q, %v", l, err)
	}
	if fi, err := c.Lstat("d/l"); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("lstat: %v, %v", fi, err)
	}
	if fi, err := c.Stat("d/l"); err != nil || fi.Size() != int64(len(want)) {
		t.Errorf("stat follows: %v, %v", fi, err)
	}
	if wd, err := c.RealPath("a/.././d"); wd != "/d" || err != nil {
		t.Errorf("realpath: %q, %v", wd, err)
	}
	if l, err := c.ReadDir("d"); err != nil || len(l) != 2 || l[0].Name() != "j" {
		t.Errorf("readdir: %v, %v", l, err)
	}
	if v, err := c.StatVFS("/"); err != nil || v.FreeSpace() != 1<<29 || v.Favail == 0 {
		t.Errorf("statvfs: %+v, %v", v, err)
	}
	if err := c.Chmod("big", 0o400); err != nil {
		t.Error(err)
	}
	if err := c.Chtimes("big", time.Unix(5, 0), time.Unix(0, 0)); err != nil {
		t.Error(err)
	}
	if m := f.nodes["/big"].Meta; m.Mode != 0o400 || m.MTime != appendonly.Unix(0, 0) || m.ATime != appendonly.Unix(5, 0) {
		t.Errorf("setstat: %+v", m)
	}
	if err := c.Remove("big"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("remove: %v", err)
	}
	if _, err := c.Stat("missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of what is not there: %v", err)
	}
	if f.open != 0 {
		t.Errorf("%d files left open", f.open)
	}
}

func TestOpenAttributes(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.opened(p.do(3, "f", create, 2|4|8, 11, 12, 0100640, 100, 200))
	p.want(p.do(4, h), 0)
	want := appendonly.Meta{Mode: 0o640, UID: 11, GID: 12, ATime: appendonly.Unix(100, 0), MTime: appendonly.Unix(200, 0)}
	if m := f.nodes["/f"].Meta; m.Mode != want.Mode || m.UID != want.UID || m.GID != want.GID || m.ATime != want.ATime || m.MTime != want.MTime {
		t.Errorf("OPEN: %+v, want %+v", m, want)
	}
	p.want(p.do(14, "open", 4, 0777), 0) // as OpenSSH's client always does
	if m := f.nodes["/open"].Meta; m.Mode != 0o755 {
		t.Errorf("MKDIR with 0777: %+v", m)
	}
	p.want(p.do(14, "d", 4, 0700), 0)
	if m := f.nodes["/d"].Meta; m.Mode != 0o700 || m.UID != appendonly.Unset {
		t.Errorf("MKDIR: %+v", m)
	}
}

// FSTAT and FSETSTAT act on the handle's object, whatever stands under the name of its OPEN.
func TestFstatAfterRename(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.open("tmp", create)
	p.want(p.do(6, h, uint64(0), "12345"), 0)
	f.put("tmp", "another file took the name")
	r := p.do(8, h)
	if r.typ != 105 || !bytes.HasPrefix(r.body, enc(15, uint64(5))) {
		t.Errorf("FSTAT: %v", r)
	}
	p.want(p.do(10, h, 1|4|8, uint64(3), 0600, 1, 2), 0)
	if n := f.nodes["/tmp"]; n.Mode != appendonly.Unset || n.Size != 26 {
		t.Errorf("FSETSTAT hit the name: %+v", n.Info)
	}
	f.mu.Lock()
	delete(f.nodes, "/tmp")
	f.mu.Unlock()
	p.want(p.do(4, h), 0)
	if got, _ := f.content("tmp"); got != "123" || f.nodes["/tmp"].Mode != 0o600 || f.nodes["/tmp"].MTime.Sec() != 2 {
		t.Errorf("published %q, %+v", got, f.nodes["/tmp"].Info)
	}

	// A handle for reading goes through its name as long as that is the same file.
	h = p.open("tmp", rdonly)
	p.want(p.do(10, h, 4, 0400), 0)
	if f.nodes["/tmp"].Mode != 0o400 {
		t.Error("FSETSTAT on a handle for reading did nothing")
	}
	p.want(p.do(10, h, 1, uint64(0)), 4)
	f.put("tmp", "another again")
	p.want(p.do(10, h, 4, 0777), 2)
}

// Section 3: requests that touch the same bytes take effect in their order, although eight workers serve them.
func TestOverlappingRequests(t *testing.T) {
	f := newFake()
	f.hook = func(op, _ string) error {
		if op == "write" {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		}
		return nil
	}
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.open("f", rdwr)
	want := make([]byte, 64)
	var ids []uint32
	var reads = map[uint32]string{}
	for i := range 400 {
		off := rand.IntN(48)
		if i%5 == 4 {
			end := off + 16
			id := p.send(5, h, uint64(off), 16)
			ids, reads[id] = append(ids, id), string(want[off:end])
			continue
		}
		data := fmt.Sprintf("%016d", i)
		if i == 0 {
			off, data = 0, string(want)
		}
		copy(want[off:], data)
		ids = append(ids, p.send(6, h, uint64(off), data))
	}
	ids = append(ids, p.send(8, h))
	for _, id := range ids {
		r := p.recv(id)
		if exp, ok := reads[id]; ok {
			if r.typ != 103 || r.str(0) != exp {
				t.Fatalf("READ %d: %q, want %q", id, r.body, exp)
			}
		}
	}
	p.want(p.do(4, h), 0)
	if got, _ := f.content("f"); got != string(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Writes arrive in any order, with a size that is known only at CLOSE.
func TestOutOfOrderWrites(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.open("f", create)
	var want []byte
	for i := range 200 {
		want = append(want, bytes.Repeat([]byte{byte(i)}, 1000)...)
	}
	var ids []uint32
	for _, i := range rand.Perm(200) {
		ids = append(ids, p.send(6, h, uint64(i*1000), string(want[i*1000:i*1000+1000])))
	}
	ids = append(ids, p.send(4, h))
	for _, id := range ids {
		p.want(p.recv(id), 0)
	}
	if got, _ := f.content("f"); got != string(want) {
		t.Error("content differs")
	}
}

// What RequestServer would take for something else, or would not survive.
func TestHandleMisuse(t *testing.T) {
	f := newFake()
	f.put("r", "readable")
	p := start(t, f, sftpserver.Config{}).hello()
	w, r, d := p.open("w", create), p.open("r", rdonly), p.opened(p.do(11, "/"))
	p.want(p.do(6, w, uint64(0), "data"), 0)
	p.want(p.do(5, w, uint64(0), 100), 4) // would write a used buffer into the file
	p.want(p.do(6, r, uint64(0), "data"), 4)
	p.want(p.do(6, d, uint64(0), "data"), 4)
	p.want(p.do(5, d, uint64(0), 100), 4)
	p.want(p.do(12, w), 4)
	p.want(p.do(10, r, 1, uint64(0)), 4)
	for _, guess := range []string{"", "4", "99", "\x00", strings.Repeat("h", 256), strings.Repeat("h", 300)} {
		for _, typ := range []byte{4, 5, 6, 8, 10, 12} {
			if r := p.do(typ, guess, uint64(0), 0, 0); r.code() != 4 && r.code() != 5 {
				t.Errorf("type %d on handle %q: %v", typ, guess, r)
			}
		}
	}
	p.want(p.do(4, r), 0)
	p.want(p.do(4, r), 4)
	p.want(p.do(5, r, uint64(0), 1), 4)
	p.want(p.do(4, w), 0)
	if got, _ := f.content("w"); got != "data" {
		t.Errorf("content %q", got)
	}
}

func TestAbsurdOffsets(t *testing.T) {
	f := newFake()
	f.put("r", "readable")
	p := start(t, f, sftpserver.Config{}).hello()
	w, r := p.open("w", create), p.open("r", rdonly)
	for _, off := range []uint64{8, 1 << 40, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		p.want(p.do(5, r, off, 1<<31), 1)
	}
	for _, off := range []uint64{1<<63 - 1, 1 << 63, 1<<64 - 1} {
		p.want(p.do(6, w, off, "x"), 4)
		p.want(p.do(10, w, 1, off|1<<63), 4)
	}
	if r := p.do(5, r, uint64(0), int(^uint32(0)>>1)); r.typ != 103 || r.str(0) != "readable" {
		t.Errorf("a READ of 2 GiB: %v", r)
	}
}

func TestNames(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{}).hello()
	for _, name := range []string{"a\nb", "\xff\xfe", strings.Repeat("n", 255), strings.Repeat("d/", 2047) + "f", "\x1b[2J", "-rf", " "} {
		h := p.open(name, create)
		p.want(p.do(4, h), 0)
		if r := p.do(17, name); r.typ != 105 {
			t.Errorf("stat %q: %q", name, r.body)
		}
		if r := p.do(16, name); r.typ != 104 || r.str(4) != path.Clean("/"+name) {
			t.Errorf("realpath %q: %q", name, r.body)
		}
	}
	bad := "/\x001"
	for i, r := range []reply{
		p.do(3, bad, create, 0), p.do(11, bad), p.do(17, bad), p.do(7, bad), p.do(9, bad, 0), p.do(13, bad), p.do(14, bad, 0),
		p.do(15, bad), p.do(16, bad), p.do(18, "a", bad), p.do(18, bad, "a"), p.do(19, bad), p.do(20, "a", bad), p.do(20, bad, "a"),
		p.do(200, "posix-rename@openssh.com", bad, "a"), p.do(200, "hardlink@openssh.com", "a", bad), p.do(200, "expand-path@openssh.com", bad),
		p.do(200, "lsetstat@openssh.com", bad, 0), p.do(200, "statvfs@openssh.com", bad), p.do(200, "check-file-name", bad, "md5", uint64(0), uint64(0), 0),
	} {
		if r.code() != 4 || r.text() != appendonly.ErrBadName.Error() {
			t.Errorf("row %d: NUL in a name: %q", i, r.body)
		}
	}
}

func TestReaddir(t *testing.T) {
	f := newFake()
	const n = 3000
	for i := range n {
		f.put(fmt.Sprintf("%s%04d", strings.Repeat("long", 50), i), "x")
	}
	m := appendonly.NoMeta()
	m.MTime, m.ATime, m.UID, m.GID, m.Mode = appendonly.Unix(2, 0), appendonly.Unix(1, 0), 5, 6, 0o1700
	f.add("/a", appendonly.KindDir, nil, m)
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.opened(p.do(11, "/"))
	seen := 0
	for {
		r := p.do(12, h)
		if r.typ != 104 {
			p.want(r, 1)
			break
		}
		if len(r.body) > 62<<10 {
			t.Errorf("a reply of %d bytes", len(r.body))
		}
		d := r.body[4:]
		for range int(r.body[2])<<8 | int(r.body[3]) {
			name := reply{body: d}.str(0)
			long := reply{body: d}.str(4 + len(name))
			a := d[8+len(name)+len(long):]
			if !strings.HasSuffix(long, name) {
				t.Fatalf("long name %q of %q", long, name)
			}
			if name == "a" && !bytes.HasPrefix(a, enc(15, uint64(0), 5, 6, 041700, 1, 2)) {
				t.Errorf("attributes of a directory: %v", a[:32])
			}
			d = a[32:]
			seen++
		}
		if len(d) != 0 {
			t.Fatalf("%d bytes after the last name", len(d))
		}
	}
	if seen != n+1 {
		t.Errorf("%d names, want %d", seen, n+1)
	}
	p.want(p.do(12, h), 1)
	p.want(p.do(4, h), 0)
}

func TestHandleLimit(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{MaxHandles: 100}).hello()
	var last uint32
	for i := range 3000 { // no reply is awaited
		last = p.send(3, fmt.Sprint("f", i), create, 0)
	}
	var hs []string
	for id := last - 2999; id <= last; id++ {
		if r := p.recv(id); r.typ == 102 {
			hs = append(hs, r.str(0))
		} else if p.want(r, 4); r.text() != "too many open files in this session" {
			t.Fatalf("text %q", r.text())
		}
	}
	if len(hs) != 100 {
		t.Fatalf("%d handles, want 100", len(hs))
	}
	p.want(p.do(3, "missing", rdonly, 0), 4)
	p.want(p.do(4, hs[0]), 0)
	p.want(p.do(3, "missing", rdonly, 0), 2) // a failed OPEN gives its place back
	p.open("another", create)
	p.want(p.do(11, "/"), 4)
	p.in.Close()
	if err := p.wait(); err != nil {
		t.Error(err)
	}
	if f.open != 0 || len(f.aborted) != 100 {
		t.Errorf("%d left open, %d aborted", f.open, len(f.aborted))
	}
}

// CLOSE publishes and its error reaches the client; an end without CLOSE does not publish.
func TestClose(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{}).hello()
	a, b, lost := p.open("same", create), p.open("same", create), p.open("lost", create)
	p.want(p.do(6, lost, uint64(0), "bytes"), 0)
	p.want(p.do(4, a), 0)
	if r := p.want(p.do(4, b), 4); !strings.Contains(r.text(), "already exists") {
		t.Errorf("text %q", r.text())
	}
	p.in.Close()
	if err := p.wait(); err != nil {
		t.Error(err)
	}
	if _, ok := f.content("lost"); ok || len(f.aborted) != 1 || f.aborted[0] != "/lost" {
		t.Errorf("a lost upload was published: %v, aborted: %q", ok, f.aborted)
	}
}

// No text leads a client outside of its tenant, and every refusal is said once, on stderr too.
func TestStatus(t *testing.T) {
	const server = "/srv/vault/t1/staging/x"
	for _, tt := range []struct {
		err    error
		code   uint32
		text   string
		stderr bool
	}{
		{&appendonly.DeniedError{Op: appendonly.OpRemove, Path: "/a", Rule: appendonly.P2, Why: "sealed"}, 3, `remove "/a": sealed (P2)`, true},
		{fmt.Errorf("move: %w", &appendonly.DeniedError{Op: appendonly.OpRemove, Path: "/a", Rule: appendonly.P2, Why: "sealed"}), 3, `remove "/a": sealed (P2)`, true},
		{&fs.PathError{Op: "remove", Path: "a\nb", Err: fs.ErrNotExist}, 2, `remove "a\nb": no such file or directory`, false},
		{&fs.PathError{Op: "openat", Path: server, Err: syscall.ENOENT}, 2, "no such file or directory", false},
		{&fs.PathError{Op: "remove", Path: "a", Err: fs.ErrExist}, 4, `remove "a": already exists`, false},
		{&fs.PathError{Op: "remove", Path: "a", Err: appendonly.ErrIsDir}, 4, `remove "a": is a directory`, false},
		{&fs.PathError{Op: "remove", Path: "a", Err: appendonly.ErrLoop}, 4, `remove "a": too many symbolic links`, false},
		{&fs.PathError{Op: "write", Path: server, Err: syscall.ENOSPC}, 4, "no space left on the server", true},
		{fmt.Errorf("charge %s: %w", server, &quota.ExceededError{Used: 9, Limit: 9, What: "files"}), 4, "quota exceeded: 9 of 9 files used", true},
		{fmt.Errorf("charge %s: %w", server, syscall.EDQUOT), 4, "quota exceeded", true},
		{fmt.Errorf("append %s: %w", server, appendonly.ErrReadOnly), 4, appendonly.ErrReadOnly.Error(), true},
		{appendonly.ErrClosed, 4, "already closed", false},
		{&fs.PathError{Op: "read", Path: server, Err: syscall.EIO}, 4, "internal server error", false},
		{&os.LinkError{Op: "link", Old: server, New: server, Err: syscall.EACCES}, 4, "internal server error", false},
		{errors.New("journal " + server + " is damaged"), 4, "internal server error", false},
	} {
		f := newFake()
		f.hook = func(op, _ string) error {
			if op == "remove" || op == "stat" {
				return tt.err
			}
			return nil
		}
		p := start(t, f, sftpserver.Config{}).hello()
		for _, typ := range []byte{13, 17} { // one by RequestServer, one by the framing layer
			if r := p.want(p.do(typ, "a"), tt.code); r.text() != tt.text {
				t.Errorf("%v: text %q, want %q", tt.err, r.text(), tt.text)
			}
		}
		p.stderr.Close()
		said, _ := io.ReadAll(p.stderr)
		if strings.Contains(string(said), tt.text) != tt.stderr || strings.Contains(string(said), "srv") {
			t.Errorf("%v: stderr %q", tt.err, said)
		}
		if internal := strings.Contains(tt.text, "internal"); internal != strings.Contains(p.log.String(), "request failed") {
			t.Errorf("%v: log %q", tt.err, p.log.String())
		}
	}
}
