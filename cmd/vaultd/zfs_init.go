package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/term"

	"vaultd/internal/admin"
	"vaultd/internal/confine"
	"vaultd/internal/tenant"
	"vaultd/internal/zfs"
	"vaultd/internal/zfshelper"
)

// initStep is one thing that init does.
type initStep struct {
	what string
	do   func(context.Context) error
}

// initFlags are those of init that are about ZFS.
type initFlags struct {
	pool, dataset string
	yes           bool
}

// root is the dataset that is meant, "" for a store of directories.
func (f *initFlags) root() (string, error) {
	switch {
	case f.pool != "" && f.dataset != "":
		return "", &usageError{errors.New("--pool and --dataset name the same thing: want one of them")}
	case f.pool != "" && strings.Contains(f.pool, "/"):
		return "", &usageError{fmt.Errorf("--pool %q: want a pool; --dataset names a dataset", f.pool)}
	case f.pool != "":
		f.dataset = f.pool + "/vaultd"
	}
	if f.dataset == "" {
		return "", nil
	}
	if err := zfs.CheckDataset(f.dataset); err != nil {
		return "", &usageError{err}
	}
	if !strings.Contains(f.dataset, "/") {
		return "", &usageError{fmt.Errorf("--dataset %s is a pool: want a dataset in it, such as %[1]s/vaultd", f.dataset)}
	}
	return f.dataset, nil
}

// initZFS makes what is missing of a store on ZFS, after it showed what that is.
func (a *app) initZFS(ctx context.Context, f *initFlags) error {
	root, err := f.root()
	if err != nil {
		return err
	}
	conf, err := a.loadConfig()
	if err != nil {
		return err
	}
	steps, err := a.planZFS(ctx, conf, root)
	if err != nil {
		return err
	}
	if len(steps) == 0 {
		fmt.Fprintf(a.stdout, "store in %s, tenants in %s: all is there\n", a.dir, root)
		return nil
	}
	verb := "to do"
	if a.dryRun {
		verb = "would be done"
	}
	fmt.Fprintf(a.stdout, "%s:\n", verb)
	for _, s := range steps {
		fmt.Fprintf(a.stdout, "  %s\n", s.what)
	}
	if a.dryRun {
		return nil
	}
	if err := a.agree(f.yes); err != nil {
		return err
	}
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	fmt.Fprintf(a.stdout, "store in %s, tenants in %s\n\nnext:\n  vaultd tenant add NAME --key FILE.pub --quota 500G --dir %[1]s\n  vaultd serve --dir %[1]s\n", a.dir, root)
	return nil
}

// agree has the operator say yes, at a terminal or by --yes.
func (a *app) agree(yes bool) error {
	if yes {
		return nil
	}
	if in, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(a.stderr, "Go on? [y/N] ")
		line, _ := bufio.NewReader(in).ReadString('\n')
		if l := strings.ToLower(strings.TrimSpace(line)); l == "y" || l == "yes" {
			return nil
		}
		return &statusError{exitFailed}
	}
	return &usageError{errors.New("nothing was done: --yes does it")}
}

// formerDir is where tenants are that were there before the root dataset was, until they are moved into it.
const formerDir = confine.FormerDir

// planZFS is what is missing. It changes nothing.
func (a *app) planZFS(ctx context.Context, conf *Config, root string) ([]initStep, error) {
	was := conf.ZFS.Dataset
	conf.ZFS.Dataset = root
	var steps []initStep
	if _, err := os.Stat(filepath.Join(a.dir, tenant.FileName)); errors.Is(err, fs.ErrNotExist) {
		steps = append(steps, initStep{"make the store in " + a.dir, func(context.Context) error { return a.initStore(conf) }})
	} else if err != nil {
		return nil, err
	}
	former, err := a.planFormer(ctx, conf, was, root)
	if err != nil {
		return nil, err
	}
	steps = append(steps, former...)
	h, err := a.rootHelper(conf)
	if err != nil {
		return nil, err
	}
	todo, err := h.Root(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range todo {
		steps = append(steps, initStep{s.What, func(ctx context.Context) error { // the owner is known only when the store is made
			h, err := a.rootHelper(conf)
			if err != nil {
				return err
			}
			again, err := h.Root(ctx)
			for _, x := range again {
				if err == nil && sameStep(x.What, s.What) {
					return x.Do(ctx)
				}
			}
			return err
		}})
	}
	if conf.ZFS.Encryption == "on" {
		if _, err := os.Stat(conf.ZFS.Keys); errors.Is(err, fs.ErrNotExist) {
			steps = append(steps, initStep{"make the directory of keys, " + conf.ZFS.Keys, func(context.Context) error { return os.MkdirAll(conf.ZFS.Keys, 0o700) }})
		}
	}
	allow, err := a.planAllow(ctx, conf, root)
	if err != nil {
		return nil, err
	}
	steps = append(steps, allow...)
	if was != root {
		path := a.configPath()
		steps = append(steps, initStep{fmt.Sprintf("write [zfs] dataset = %q to %s", root, path), func(context.Context) error { return setDataset(path, root) }})
	}
	return steps, nil
}

// sameStep compares two steps by their first two words.
func sameStep(a, b string) bool {
	first := func(s string) string { f := strings.Fields(s); return strings.Join(f[:min(2, len(f))], " ") }
	return first(a) == first(b)
}

// rootHelper is the helper for the operator, who is root.
func (a *app) rootHelper(conf *Config) (*zfshelper.Helper, error) {
	log := newLogger(a.stderr, "text", "warn")
	if _, err := os.Stat(a.dir); err == nil {
		return a.ownHelper(conf, log)
	}
	client, err := newZFS(log)
	if err != nil {
		return nil, err
	}
	dir, err := a.tenantsDir()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return zfshelper.New(a.helperConfig(conf, client, dir, os.Geteuid(), os.Getegid(), log))
}

// planFormer puts aside what is in the place of the root dataset: tenants that are directories, or the root dataset that was. They are served
// from there until each is moved (vaultd tenant move).
func (a *app) planFormer(ctx context.Context, conf *Config, was, root string) ([]initStep, error) {
	dir, err := a.tenantsDir()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	former := filepath.Join(filepath.Dir(dir), formerDir)
	at, err := a.mountedAt(dir)
	if err != nil || at == root {
		return nil, err
	}
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 && (was == "" || was == root) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c, err := admin.Dial(a.dir); err == nil {
		c.Close()
		return nil, fmt.Errorf("tenants are to be put aside, and %w: stop it first", admin.ErrRunning)
	}
	if left, err := os.ReadDir(former); !errors.Is(err, fs.ErrNotExist) && (err != nil || len(left) > 0) {
		return nil, errors.Join(fmt.Errorf("%s is there from an earlier time: move its tenants first (vaultd tenant move), and remove what is left of those that were: %w", former, tenant.ErrConflict), err)
	}
	if at != "" {
		client, err := newZFS(newLogger(a.stderr, "text", "warn"))
		if err != nil {
			return nil, err
		}
		return []initStep{{fmt.Sprintf("zfs set mountpoint=%s %s (its tenants are served from there until they are moved)", former, at), func(ctx context.Context) error {
			return client.Set(ctx, at, map[string]string{"mountpoint": former})
		}}}, nil
	}
	return []initStep{{fmt.Sprintf("rename %s to %s (%d tenants are served from there until they are moved)", dir, former, len(list)), func(context.Context) error {
		if err := os.Rename(dir, former); err != nil {
			return err
		}
		return os.Mkdir(dir, 0o750)
	}}}, nil
}

// configPath is the file that configures this store.
func (a *app) configPath() string {
	if a.config != "" {
		return a.config
	}
	path := filepath.Join(a.dir, ConfigName)
	if real, err := filepath.EvalSymlinks(path); err == nil { // the package has it in /etc
		return real
	}
	return path
}

var (
	zfsSection = regexp.MustCompile(`(?m)^[ \t]*\[zfs\][ \t]*(#.*)?$`)
	datasetKey = regexp.MustCompile(`(?m)^([ \t]*dataset[ \t]*=[ \t]*).*$`)
	anySection = regexp.MustCompile(`(?m)^[ \t]*\[`)
)

// setDataset writes the key into a configuration, and changes nothing else of it. What comes out is read again before it counts.
func setDataset(path, dataset string) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	line := fmt.Sprintf("dataset = %q", dataset)
	next := text
	if at := zfsSection.FindIndex(text); at == nil {
		if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
			next = append(bytes.Clone(next), '\n')
		}
		next = append(bytes.Clone(next), []byte("\n[zfs]\n"+line+"\n")...)
	} else {
		end := len(text)
		if more := anySection.FindIndex(text[at[1]:]); more != nil {
			end = at[1] + more[0]
		}
		section := text[at[1]:end]
		if datasetKey.Match(section) {
			section = datasetKey.ReplaceAll(section, []byte("${1}"+fmt.Sprintf("%q", dataset)))
		} else {
			section = append([]byte("\n"+line), section...)
		}
		next = bytes.Join([][]byte{text[:at[1]], section, text[end:]}, nil)
	}
	c, err := ParseConfig(path, next)
	if err != nil {
		return err
	}
	if c.ZFS.Dataset != dataset {
		return fmt.Errorf("write %s: its [zfs] is not understood: set %s in it yourself", path, line)
	}
	mode := fs.FileMode(0o644)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, next, mode); err != nil {
		return err
	}
	if st, err := statOwner(path); err == nil {
		if err := os.Chown(tmp, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Rename(tmp, path)
}
