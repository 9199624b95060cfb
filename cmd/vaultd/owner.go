package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
	"vaultd/internal/confine"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// account is a user that has a part of the store.
type account struct {
	name     string
	uid, gid int
}

var root = account{"root", 0, 0}

// lookUp finds a user by name or number.
func lookUp(key, name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if _, numeric := strconv.Atoi(name); numeric == nil {
			u, err = user.LookupId(name)
		}
	}
	if err != nil {
		return account{}, fmt.Errorf("%s: %w", key, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	return account{u.Username, uid, gid}, errors.Join(err, gerr)
}

// owned is something in the store's directory, and whose it is.
type owned struct {
	path  string
	user  account
	group account
	mode  fs.FileMode // with fs.ModeDir for a directory
	make  bool        // by init, where it is missing
}

// shares says whose what is in an installed store: one with a user of its own for the server (store.user), and mostly one for expire. Powers are apart
// because nobody else can write where a power comes from: the catalog and the store's own directory are root's, who gives the commands; expire's state
// is the expire process's. nil: one user has it all.
//
//	.  vaultd.db  vaultd.toml        root, read by the server's group
//	host keys  lock  tenants/ (on ZFS root's)  spare/  server/  run/    the server's
//	expire/                          expire's
func (a *app) shares(conf *Config) ([]owned, error) {
	if conf.Store.User == "" {
		return nil, nil
	}
	serve, err := lookUp("store.user", conf.Store.User)
	if err != nil {
		return nil, err
	}
	expire := serve
	if conf.Expire.User != "" {
		if expire, err = lookUp("expire.user", conf.Expire.User); err != nil {
			return nil, err
		}
	}
	tenants := serve
	if conf.ZFS.Dataset != "" {
		tenants = root // the helper's, which makes datasets below it
	}
	at := func(name string) string { return filepath.Join(a.dir, name) }
	list := []owned{
		// others pass through to the socket of the commands, and to nothing else
		{a.dir, root, serve, fs.ModeDir | 0o751, true},
		{at(tenant.FileName), root, serve, 0o640, false},
		{at(ConfigName), root, serve, 0o640, false},
		{at("lock"), serve, serve, 0o600, true},
		{at(confine.TenantsDir), tenants, serve, fs.ModeDir | 0o750, true},
		{at(confine.SpareDir), serve, serve, fs.ModeDir | 0o750, true},
		{at(confine.ServerDir), serve, serve, fs.ModeDir | 0o750, true},
		{at(expireDir), expire, expire, fs.ModeDir | 0o750, true},
	}
	for _, k := range conf.SSH.HostKeys {
		if !filepath.IsAbs(k) { // the operator's own are the operator's to give
			list = append(list, owned{at(k), serve, serve, 0o600, false})
		}
	}
	return append(list, socketDir(at("run"), serve)...), nil
}

// socketDir is the directory of the commands' socket: a link to below /run, where the package made one, or a directory, whose group and modes say
// who besides the server may give commands (package admin).
func socketDir(path string, serve account) []owned {
	o := owned{path, serve, serve, fs.ModeDir | 0o750, true}
	i, err := os.Lstat(path)
	if err == nil && !i.IsDir() {
		return nil
	}
	if err == nil {
		o.group, o.mode = account{gid: int(i.Sys().(*syscall.Stat_t).Gid)}, i.Mode()&^0o026
	}
	return []owned{o}
}

// share gives each user its part of the store; root makes it so, where it is not.
func (a *app) share(conf *Config) error {
	list, err := a.shares(conf)
	if err != nil || len(list) == 0 {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("store.user is %q: only root can give it the store", conf.Store.User)
	}
	for _, o := range list {
		if err := a.give(o); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) give(o owned) error {
	if o.make {
		if err := o.create(); err != nil {
			return err
		}
	}
	st, err := os.Stat(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.IsDir() && o.user != root {
		if err := a.giveBelow(o); err != nil {
			return err
		}
	}
	if err := os.Chown(o.path, o.user.uid, o.group.gid); err != nil {
		return err
	}
	return os.Chmod(o.path, o.mode&(fs.ModePerm|fs.ModeSetgid))
}

func (o owned) create() error {
	if o.mode.IsDir() {
		return os.MkdirAll(o.path, o.mode.Perm())
	}
	f, err := os.OpenFile(o.path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, o.mode.Perm())
	if err != nil {
		return err
	}
	return f.Close()
}

// giveBelow gives what is in a directory of another user's: a store of one user becomes one of several. No server may run then.
func (a *app) giveBelow(o owned) error {
	list, err := os.ReadDir(o.path)
	if err != nil {
		return err
	}
	for _, d := range list {
		top := filepath.Join(o.path, d.Name())
		i, err := os.Lstat(top)
		if err != nil {
			return err
		}
		if int(i.Sys().(*syscall.Stat_t).Uid) == o.user.uid {
			continue
		}
		lock, err := store.Lock(a.dir)
		if err != nil {
			return fmt.Errorf("give %s to %s: %w", top, o.user.name, err)
		}
		err = filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, o.user.uid, o.group.gid)
		})
		if err = errors.Join(err, lock.Close()); err != nil {
			return err
		}
	}
	return nil
}

// storeOwner is whose data is in the store, the server's user: it has server/, or in a store of one user that was never served everything.
func (a *app) storeOwner() (uid, gid int, err error) {
	st, err := statOwner(filepath.Join(a.dir, confine.ServerDir))
	if errors.Is(err, fs.ErrNotExist) {
		st, err = statOwner(a.dir)
	}
	if err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: a.dir, Err: err}
	}
	return int(st.Uid), int(st.Gid), nil
}

// mayOpen refuses a store that is another user's: what this process would make in it could be closed to that one. Root does
// such work as that user (asServer).
func (a *app) mayOpen() error {
	uid, _, err := a.storeOwner()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Open says what is wrong
	}
	if err == nil && uid != os.Geteuid() {
		err = fmt.Errorf("the store is user %d's, and this is user %d: %w", uid, os.Geteuid(), admin.ErrNotRunning)
	}
	return err
}
