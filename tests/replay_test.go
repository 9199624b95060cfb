package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"vaultd/internal/attack"
	"vaultd/internal/attack/sftpattack"
)

// The tests here send what clients that can not be had on this machine are known to send, from their
// sources (protocols/clients.md tells which). They are not seen with the real client, and say so.

// replayed is one client's session.
type replayed struct {
	testing.TB
	*sftpattack.Client
}

func replay(t *testing.T, v *vault, key string) *replayed {
	return &replayed{t, v.raw(t, key, "alice")}
}

// ok wants that a request was granted.
func (r *replayed) ok(what string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

// refused wants SSH_FX_PERMISSION_DENIED: the code that clients take as final.
func (r *replayed) refused(what string, err error) {
	r.Helper()
	if !errors.Is(err, fs.ErrPermission) {
		r.Fatalf("%s: %v, want permission denied", what, err)
	}
}

// upload opens with flags, writes data from off on in pieces of 32 KiB and closes.
func (r *replayed) upload(path string, f attack.Flag, data []byte, off int) {
	r.Helper()
	h, err := r.Open(path, f, attack.Attrs{})
	r.ok("open "+path, err)
	r.send(h, data, off, len(data))
	r.ok("close "+path, h.Close())
}

func (r *replayed) send(h attack.Handle, data []byte, from, to int) {
	r.Helper()
	for off := from; off < to; off += 32 << 10 {
		r.ok(fmt.Sprintf("write at %d", off), h.WriteAt(data[off:min(off+32<<10, to)], uint64(off)))
	}
}

// holds wants that path has these bytes.
func (r *replayed) holds(path string, want []byte) {
	r.Helper()
	got, err := r.Read(path)
	r.ok("read "+path, err)
	if !bytes.Equal(got, want) {
		r.Fatalf("%s has %d bytes, want %d others", path, len(got), len(want))
	}
}

func (r *replayed) absent(path string) {
	r.Helper()
	if _, err := r.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		r.Fatalf("stat %s: %v, want no such file", path, err)
	}
}

func mode(m uint32) attack.Attrs { return attack.Attrs{Mode: &m} }

func times(at time.Time) attack.Attrs {
	sec := uint32(at.Unix())
	return attack.Attrs{ATime: &sec, MTime: &sec}
}

const create = attack.Write | attack.Create

// bothModes runs a replay in a strict and in a versioned vault.
func bothModes(t *testing.T, f func(t *testing.T, v *vault, versioned bool)) {
	for _, m := range []string{"strict", "versioned"} {
		t.Run(m, func(t *testing.T) {
			t.Parallel()
			f(t, startVault(t, "--mode", m), m == "versioned")
		})
	}
}

// restic 0.19 and later sets the mode of what it has renamed, and fails on any error but "unsupported".
func TestReplayRestic019NotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, _ bool) {
		r := replay(t, v, "alice")
		for _, d := range []string{"/repo", "/repo/data", "/repo/data/00", "/repo/keys", "/repo/locks", "/repo/snapshots", "/repo/index"} {
			r.ok("mkdir", r.Mkdir(d))
			r.ok("chmod of a directory", r.Setstat(d, mode(0o700)))
		}
		r.absent("/repo/config")
		save := func(final string, n int) []byte {
			data := noise(final, n)
			temp := final + "-restic-temp-0123456789abcdef0123456789abcdef"
			h, err := r.Open(temp, create|attack.Exclusive, attack.Attrs{})
			r.ok("open "+temp, err)
			r.ok("fsetstat mode", h.Setstat(mode(0o600)))
			r.send(h, data, 0, len(data))
			r.ok("close", h.Close())
			r.ok("posix-rename", r.PosixRename(temp, final))
			i, err := r.Stat(final)
			r.ok("stat", err)
			r.ok("setstat without write bits", r.Setstat(final, mode(i.Mode&0o777&^0o222)))
			r.ok("the same again, after a lost reply", r.Setstat(final, mode(i.Mode&0o777&^0o222)))
			r.holds(final, data)
			return data
		}
		save("/repo/config", 155)
		id := "/repo/data/00/00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa"
		data := save(id, 300_000)
		// A rename whose reply was lost is sent again.
		temp := id + "11-restic-temp-00"
		r.upload(temp, create|attack.Exclusive, data, 0)
		r.ok("posix-rename", r.PosixRename(temp, id+"11"))
		r.ok("posix-rename again", r.PosixRename(temp, id+"11"))

		lock := "/repo/locks/11bb11bb11bb11bb11bb11bb11bb11bb11bb11bb11bb11bb11bb11bb11bb11bb"
		save(lock, 150)
		r.ok("remove own lock", r.Remove(lock))
		r.absent(lock)
	})
}

// restic 0.15 and later asks for the free space after a failed write, and ends at once when there is too
// little of it and Favail is not 0; 0.14 has that code too, and never reaches it.
func TestReplayResticNoSpaceNotSeenWithTheRealClient(t *testing.T) {
	v := startVault(t, "--quota", "12M")
	r := replay(t, v, "alice")
	r.ok("mkdir", r.Mkdir("/repo"))
	pack := noise("pack", 16<<20)
	temp := "/repo/aa-restic-temp-0123456789abcdef"
	h, err := r.Open(temp, create|attack.Exclusive, attack.Attrs{})
	r.ok("open", err)
	for off := 0; err == nil && off < len(pack); off += 32 << 10 {
		err = h.WriteAt(pack[off:off+32<<10], uint64(off))
	}
	var status *sftpattack.StatusError
	if !errors.As(err, &status) || status.Code != 4 || !strings.Contains(status.Text, "quota exceeded: 12 MiB of 12 MiB used") {
		t.Errorf("write over the quota: %v, want a failure (4) that says so", err)
	}
	h.Close()
	space, err := r.Statvfs("/repo")
	r.ok("statvfs", err)
	if space.Avail >= uint64(len(pack)) || space.Avail == 0 || space.Total > 12<<20 {
		t.Errorf("statvfs says %+v", space)
	}
	r.absent(temp)
}

// rclone 1.63 and later uploads beside the name, sets times, and renames over another connection.
func TestReplayRclone163NotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, versioned bool) {
		a, b := replay(t, v, "alice"), replay(t, v, "alice")
		data := noise("rclone", 500_000)
		a.upload("/f.1a2b3c4d.partial", create|attack.Truncate, data, 0)
		b.ok("set times of the partial", b.Setstat("/f.1a2b3c4d.partial", times(time.Unix(1e9, 0))))
		b.ok("posix-rename", b.PosixRename("/f.1a2b3c4d.partial", "/f"))
		i, err := a.Stat("/f")
		a.ok("stat", err)
		if i.MTime.Unix() != 1e9 || i.Size != uint64(len(data)) {
			t.Errorf("renamed file is %+v", i)
		}
		a.holds("/f", data)
		// A failed upload is removed.
		a.upload("/g.1a2b3c4d.partial", create|attack.Truncate, data[:1000], 0)
		a.ok("remove the partial", a.Remove("/g.1a2b3c4d.partial"))
		a.absent("/g.1a2b3c4d.partial")
		// An update renames over the name.
		a.upload("/f.5e6f7a8b.partial", create|attack.Truncate, data[:400_000], 0)
		err = a.PosixRename("/f.5e6f7a8b.partial", "/f")
		if !versioned {
			a.refused("update", err)
			a.ok("remove the partial", a.Remove("/f.5e6f7a8b.partial"))
			a.holds("/f", data)
			return
		}
		a.ok("update", err)
		a.holds("/f", data[:400_000])
	})
}

// kopia makes parents when it is told that they are missing, renames without looking, and must be able
// to remove its session markers: in versioned it can.
func TestReplayKopiaNotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, versioned bool) {
		r := replay(t, v, "alice")
		put := func(blob string, data []byte) error {
			temp := blob + ".tmp.0123456789abcdef"
			h, err := r.Open(temp, create|attack.Exclusive, attack.Attrs{})
			if err != nil {
				return err
			}
			r.send(h, data, 0, len(data))
			r.ok("close", h.Close())
			return r.PosixRename(temp, blob)
		}
		data := noise("kopia", 200_000)
		blob := "/p01/23/pack.f"
		if err := put(blob, data); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("open without a parent: %v, want no such file", err)
		}
		r.ok("mkdir", r.Mkdir("/p01"))
		r.ok("mkdir", r.Mkdir("/p01/23"))
		r.ok("put", put(blob, data))
		r.ok("set times", r.Setstat(blob, times(time.Unix(1e9, 0))))
		r.ok("put the same again", put(blob, data))
		r.holds(blob, data)
		r.ok("put kopia.maintenance", put("/kopia.maintenance.f", data[:100]))
		r.ok("put session marker", put("/s0123.f", data[:50]))
		if !versioned {
			r.refused("overwrite kopia.maintenance", put("/kopia.maintenance.f", data[100:300]))
			r.refused("remove session marker", r.Remove("/s0123.f"))
			r.holds("/kopia.maintenance.f", data[:100])
			return
		}
		r.ok("overwrite kopia.maintenance", put("/kopia.maintenance.f", data[100:300]))
		r.ok("remove session marker", r.Remove("/s0123.f"))
		r.ok("remove pack", r.Remove(blob))
		r.kept("/kopia.maintenance.f", data[:100])
	})
}

// kept wants that some version of path has these bytes.
func (r *replayed) kept(path string, want []byte) {
	r.Helper()
	dir := "/.vault/versions" + path
	list, err := r.List(dir)
	r.ok("list "+dir, err)
	for _, i := range list {
		got, err := r.Read(dir + "/" + i.Name)
		r.ok("read version "+i.Name, err)
		if bytes.Equal(got, want) {
			return
		}
	}
	r.Fatalf("none of the %d versions of %s has the bytes", len(list), path)
}

// WinSCP uploads what is over 100 kB as .filepart, removes what is there and renames; it resumes a
// .filepart, and sets times at the end.
func TestReplayWinSCPNotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, versioned bool) {
		r := replay(t, v, "alice")
		data := noise("winscp", 400_000)
		r.upload("/f.filepart", create|attack.Truncate, data, 0)
		r.absent("/f")
		r.ok("rename", r.Rename("/f.filepart", "/f"))
		r.ok("set times", r.Setstat("/f", times(time.Unix(1e9, 0))))
		r.ok("set mode and times", r.Setstat("/f", mode(0o644)))
		r.holds("/f", data)

		// The connection is lost in the middle; another one goes on where the file ends.
		h, err := r.Open("/g.filepart", create|attack.Truncate, attack.Attrs{})
		r.ok("open", err)
		r.send(h, data, 0, 200_000)
		r.ok("drop", r.Drop())
		var size uint64
		for range 100 { // the server learns of it on its own time
			if i, err := r.Stat("/g.filepart"); err == nil {
				size = i.Size
			}
			if size == 200_000 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if size == 0 || size > 200_000 {
			t.Fatalf("the interrupted upload has %d bytes, 200000 were answered", size)
		}
		r.upload("/g.filepart", attack.Write, data, int(size))
		r.ok("rename", r.Rename("/g.filepart", "/g"))
		r.holds("/g", data)

		// Uploading over something.
		r.upload("/f.filepart", create|attack.Truncate, data[:150_000], 0)
		err = r.Remove("/f")
		if !versioned {
			r.refused("remove the target", err)
			r.holds("/f", data)
			return
		}
		r.ok("remove the target", err)
		r.ok("rename", r.Rename("/f.filepart", "/f"))
		r.holds("/f", data[:150_000])
		r.kept("/f", data)
	})
}

// FileZilla writes to the name itself, goes on at an offset without truncating, and sets times.
func TestReplayFileZillaNotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, versioned bool) {
		r := replay(t, v, "alice")
		data := noise("filezilla", 400_000)
		h, err := r.Open("/f", create|attack.Truncate, attack.Attrs{})
		r.ok("open", err)
		r.send(h, data, 0, 100_000)
		r.ok("drop", r.Drop())
		time.Sleep(200 * time.Millisecond)
		i, err := r.Stat("/f")
		r.ok("stat of the interrupted upload", err)
		r.upload("/f", create, data, int(i.Size))
		r.ok("set times", r.Setstat("/f", times(time.Unix(1e9, 0))))
		r.holds("/f", data)
		// Uploading the same again succeeds; another file over it only where names may move on.
		r.upload("/f", create|attack.Truncate, data, 0)
		h, err = r.Open("/f", create|attack.Truncate, attack.Attrs{})
		r.ok("open", err)
		if versioned {
			r.send(h, data[1:], 0, 200_000)
			r.ok("overwrite", h.Close())
			return
		}
		r.refused("overwrite", h.WriteAt(data[1:32<<10], 0)) // at the first byte that differs
		r.holds("/f", data)
	})
}

// Cyberduck may open without truncating, or upload to name-uuid and rename over.
func TestReplayCyberduckNotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, versioned bool) {
		r := replay(t, v, "alice")
		data := noise("cyberduck", 300_000)
		r.upload("/f", create, data, 0)
		r.upload("/f", create, data, 0) // the same, without truncating
		r.upload("/f-8d3c7c2e-0000-4000-8000-000000000000", create|attack.Truncate, data[:200_000], 0)
		err := r.PosixRename("/f-8d3c7c2e-0000-4000-8000-000000000000", "/f")
		if !versioned {
			r.refused("rename over", err)
			r.holds("/f", data)
			return
		}
		r.ok("rename over", err)
		r.holds("/f", data[:200_000])
	})
}

// Duplicati tests a connection by writing, reading and removing a file.
func TestReplayDuplicatiNotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, _ bool) {
		r := replay(t, v, "alice")
		r.ok("mkdir", r.Mkdir("/backup"))
		test := "/backup/duplicati-access-privileges-test.tmp"
		r.upload(test, create|attack.Truncate, []byte("This file is used to test access"), 0)
		r.holds(test, []byte("This file is used to test access"))
		r.ok("remove the test file", r.Remove(test))
		r.absent(test)
		data := noise("duplicati", 100_000)
		r.upload("/backup/duplicati-20260101T000000Z.dlist.zip.aes", create|attack.Truncate, data, 0)
		r.holds("/backup/duplicati-20260101T000000Z.dlist.zip.aes", data)
	})
}

// borg 2's store writes to <8 letters>.tmp, renames by posix-rename, and removes the temporary file on failure.
func TestReplayBorgstoreNotSeenWithTheRealClient(t *testing.T) {
	bothModes(t, func(t *testing.T, v *vault, _ bool) {
		r := replay(t, v, "alice")
		r.ok("mkdir", r.Mkdir("/packs"))
		data := noise("borg", 100_000)
		r.upload("/packs/abcdefgh.tmp", create|attack.Truncate, data, 0)
		r.ok("posix-rename", r.PosixRename("/packs/abcdefgh.tmp", "/packs/0123"))
		r.holds("/packs/0123", data)
		r.upload("/packs/hgfedcba.tmp", create|attack.Truncate, data[:10], 0)
		r.ok("remove the temporary file", r.Remove("/packs/hgfedcba.tmp"))
	})
}
