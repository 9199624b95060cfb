package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
)

// Root gives commands on a store that others serve and expire. Where a command would work on the data itself, it does not do so as root: what it makes
// would be root's, and closed to those who need it. A process of its own does it as the user whose data it is.

// child starts the program again as another user, with that one's groups.
func (a *app) child(ctx context.Context, as account, caps []uintptr, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Args[0] = "vaultd"
	cmd.Stdout, cmd.Stderr = a.stdout, a.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cred := &syscall.Credential{Uid: uint32(as.uid), Gid: uint32(as.gid)}
	if u, err := user.LookupId(strconv.Itoa(as.uid)); err == nil {
		groups, _ := u.GroupIds()
		for _, g := range groups {
			if n, err := strconv.ParseUint(g, 10, 32); err == nil {
				cred.Groups = append(cred.Groups, uint32(n))
			}
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, AmbientCaps: caps, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// storeArgs name the same store and configuration to a child.
func (a *app) storeArgs(command string) []string {
	args := []string{command, "--dir", a.dir}
	if a.config != "" {
		args = append(args, "--config", a.config)
	}
	return args
}

// served reports whose the store's data is, if it is another user's and this is root: who works on it then is that one.
func (a *app) served() (account, bool) {
	uid, gid, err := a.storeOwner()
	return account{uid: uid, gid: gid}, err == nil && os.Geteuid() == 0 && uid != 0
}

// asServer calls f with a client of a process that answers as a server does, as the user that serves. It is for a store on which no server runs.
func (a *app) asServer(ctx context.Context, as account, f func(*admin.Client) error) error {
	dir, err := os.MkdirTemp("", "vaultd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := admin.Listen(dir)
	if err != nil {
		return err
	}
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := a.child(ctx, as, nil, a.storeArgs("serve-commands")...)
	cmd.ExtraFiles = []*os.File{socket}
	runtime.LockOSThread() // Pdeathsig is about the thread that forks
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	socket.Close()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		ended <- err
		l.Close() // who is not answered yet never is
		cancel()
	}()
	c, err := admin.Dial(dir)
	if err == nil {
		err = f(c)
		c.Close()
	}
	cancel()
	if werr := outcome(<-ended); err != nil && werr != nil {
		return werr // it said why itself
	}
	return err
}

// commandsCommand answers the commands of one other command, on a socket that it inherited, until it is told to end.
func (a *app) commandsCommand() *cobra.Command {
	return &cobra.Command{Use: "serve-commands", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		signal.Ignore(syscall.SIGINT) // the terminal sends it to both; the other one says when to end
		l, err := admin.Inherit(os.NewFile(3, "commands"), false)
		if err != nil {
			return err
		}
		return a.local(func(o *operations) error {
			s := &admin.Server{Calls: o.calls(), Streams: o.streams(), ExitCode: exitCode, Log: newLogger(a.stderr, "text", "warn")}
			return s.Serve(cmd.Context(), l)
		})
	}}
}

// asExpire does a command of the expire process as its user, where root gives it on a store where that is another one: with what the service may
// do (vaultd-expire.service) and on ZFS without a helper what only root can, which is to unmount the dataset of a removed tenant. done says that the command is over.
func (a *app) asExpire(ctx context.Context) (done bool, err error) {
	var o account
	if st, serr := statOwner(filepath.Join(a.dir, expireDir)); serr == nil {
		o.uid, o.gid = int(st.Uid), int(st.Gid)
	} else if o.uid, o.gid, err = a.storeOwner(); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if os.Geteuid() != 0 || o.uid == 0 {
		return false, nil
	}
	conf, err := a.loadConfig()
	if err != nil {
		return false, err
	}
	caps := []uintptr{unix.CAP_DAC_OVERRIDE}
	if conf.ZFS.Dataset != "" && conf.ZFS.Helper == "" {
		caps = append(caps, unix.CAP_SYS_ADMIN)
	}
	cmd := a.child(ctx, o, caps, os.Args[1:]...)
	cmd.Stdin = a.stdin
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return true, outcome(cmd.Run())
}

// journals refuses to free what nobody could journal: without a server a process of expire's own user can not write the tenants' journals.
func (a *app) journals() error {
	c, err := admin.Dial(a.dir)
	if err == nil {
		c.Close()
		return nil
	}
	if !errors.Is(err, admin.ErrNotRunning) {
		return err
	}
	if err := a.mayOpen(); err != nil {
		return fmt.Errorf("nothing is freed while no server can journal it: %w", err)
	}
	return nil
}
