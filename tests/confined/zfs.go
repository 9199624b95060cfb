package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
	"vaultd/internal/supervise"
)

// The groups of what is tried on a store on ZFS only (tests/zfs/attackers_test.go).
const (
	zfsGroup          = "ZFS"
	zfsPermittedGroup = "what it can do on ZFS"
)

// zfs are attempts on datasets and snapshots; none where the scene has no snapshot. ZFS makes, renames and destroys snapshots also by mkdir(2), rename(2)
// and rmdir(2) in .zfs/snapshot.
func (s Scene) zfs() []attempt {
	if s.Body == "" {
		return nil
	}
	snapshots := s.data(s.Victim, ".zfs", "snapshot")
	body := filepath.Join(snapshots, s.Body)
	inside := filepath.Join(body, "files", "kept")
	list := []attempt{
		{zfsGroup, "execute zfs(8)", func() error { return unix.Exec(s.Program, []string{"zfs", "list"}, nil) }},
		{zfsGroup, "open /dev/zfs", func() error {
			if open("/dev/zfs", unix.O_RDONLY) == nil {
				return nil
			}
			return open("/dev/zfs", unix.O_RDWR)
		}},
		{zfsGroup, "destroy a snapshot (rmdir in .zfs/snapshot)", func() error { return unix.Rmdir(body) }},
		{zfsGroup, "rename a snapshot (rename in .zfs/snapshot)", func() error { return unix.Rename(body, filepath.Join(snapshots, "attack")) }},
		{zfsGroup, "take a snapshot (mkdir in .zfs/snapshot)", func() error { return unix.Mkdir(filepath.Join(snapshots, "attack"), 0o700) }},
		{zfsGroup, "write to a file in a snapshot", func() error { return open(inside, unix.O_WRONLY) }},
		{zfsGroup, "remove a file in a snapshot", func() error { return unix.Unlink(inside) }},
		{zfsGroup, "mount over a tenant's dataset", func() error { return unix.Mount("none", s.data(s.Victim), "tmpfs", 0, "") }},
		{zfsGroup, "mount over all tenants", func() error { return unix.Mount("none", filepath.Join(s.Store, "tenants"), "tmpfs", 0, "") }},
		{zfsGroup, "unmount a tenant's dataset", func() error { return unix.Unmount(s.data(s.Victim), unix.MNT_DETACH) }},
		{zfsGroup, "unmount a snapshot", func() error { return unix.Unmount(body, unix.MNT_DETACH) }},
		{zfsGroup, "connect to the helper's socket", func() error { return connect(s.Helper) }},
		{zfsGroup, "connect to the socket of the commands", func() error { return connect(filepath.Join(s.Store, "run", "admin.sock")) }},
		{zfsPermittedGroup, "read a snapshot's files", func() error { _, err := os.ReadFile(inside); return err }},
	}
	// What ioctl(2) asks of ZFS goes through /dev/zfs, but nothing that the filter lets through is one of ZFS's on a descriptor that it may have.
	for _, c := range []struct {
		name string
		nr   uint
	}{{"destroy", 0x5a0a}, {"roll back", 0x5a19}, {"rename", 0x5a1a}, {"set a property of", 0x5a16}} { // ZFS_IOC_…: sys/fs/zfs.h
		list = append(list, attempt{zfsGroup, c.name + " a dataset by an ioctl on its directory", func() error {
			return reading(s.data(s.Victim), func(fd int) error { return unix.IoctlSetPointerInt(fd, c.nr, 0) })
		}})
	}
	return list
}

func connect(path string) error {
	c, err := net.Dial("unix", path)
	if err == nil {
		err = c.Close()
	}
	return err
}

// question is a line of what ask reads.
type question struct {
	Verb string
	Args json.RawMessage
}

// caller puts a question.
type caller func(verb string, args, out any) error

// dial connects to the helper's socket, or to that of the commands of the store in the directory at.
func dial(at string) (caller, error) {
	if i, err := os.Stat(at); err == nil && i.IsDir() {
		c, err := admin.Dial(at)
		if err != nil {
			return nil, err
		}
		return func(verb string, args, out any) error { return c.Call(context.Background(), verb, args, out) }, nil
	}
	c, err := net.Dial("unix", at)
	if err != nil {
		return nil, err
	}
	return supervise.NewClient(c).Call, nil
}

// ask puts the questions on standard input, as the user that it runs as, unconfined.
func ask(at string) error {
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return fmt.Errorf("read %s: %w", lines.Text(), err)
		}
		call, err := dial(at) // anew: a verb that there is not ends a connection
		if err != nil {
			return err
		}
		var reply json.RawMessage
		var outcome struct{ Error string }
		r := Result{Group: "ask", Name: q.Verb, Worked: true, Detail: "done"}
		err = call(q.Verb, q.Args, &reply)
		if err == nil && json.Unmarshal(reply, &outcome) == nil && outcome.Error != "" { // not all answers are of that shape
			err = errors.New(outcome.Error)
		}
		if err != nil {
			r.Worked, r.Detail = false, err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}
