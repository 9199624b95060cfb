package attack

import (
	"path"
	"strings"
)

// Jail makes of a client whose key has a root of its own one that attacks what is outside: every path is said with a
// prefix that would lead there if anything did ("/../..", a link), and directories that are missing in the root are made, so
// that what is attacked is no more than a step away. See Env.Jailed.
func Jail(c Client, prefix string) Client { return &jail{c, prefix, map[string]bool{"/": true}} }

type jail struct {
	c      Client
	prefix string
	made   map[string]bool
}

var _ Client = (*jail)(nil)

// at is where p is said to be; above it directories are made, as far as the root lets them.
func (j *jail) at(p string) string {
	if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "/.vault") {
		return p
	}
	j.makeDir(path.Dir(p))
	return j.prefix + p
}

func (j *jail) makeDir(dir string) {
	if j.made[dir] || len(dir) > 200 {
		return
	}
	j.made[dir] = true
	j.makeDir(path.Dir(dir))
	j.c.Mkdir(dir)
}

func (j *jail) Put(p string, data []byte) error                { return j.c.Put(j.at(p), data) }
func (j *jail) Open(p string, f Flag, a Attrs) (Handle, error) { return j.c.Open(j.at(p), f, a) }
func (j *jail) Read(p string) ([]byte, error)                  { return j.c.Read(j.at(p)) }
func (j *jail) List(p string) ([]Info, error)                  { return j.c.List(j.at(p)) }
func (j *jail) Stat(p string) (Info, error)                    { return j.c.Stat(j.at(p)) }
func (j *jail) Follow(p string) (Info, error)                  { return j.c.Follow(j.at(p)) }
func (j *jail) Readlink(p string) (string, error)              { return j.c.Readlink(j.at(p)) }
func (j *jail) Setstat(p string, a Attrs) error                { return j.c.Setstat(j.at(p), a) }
func (j *jail) Remove(p string) error                          { return j.c.Remove(j.at(p)) }
func (j *jail) Rmdir(p string) error                           { return j.c.Rmdir(j.at(p)) }
func (j *jail) Mkdir(p string) error                           { return j.c.Mkdir(j.at(p)) }
func (j *jail) Rename(from, to string) error                   { return j.c.Rename(j.at(from), j.at(to)) }
func (j *jail) PosixRename(from, to string) error              { return j.c.PosixRename(j.at(from), j.at(to)) }
func (j *jail) Symlink(target, p string) error                 { return j.c.Symlink(target, j.at(p)) }
func (j *jail) Link(old, p string) error                       { return j.c.Link(j.at(old), j.at(p)) }
func (j *jail) Statvfs(p string) (Space, error)                { return j.c.Statvfs(j.at(p)) }
func (j *jail) Drop() error                                    { return j.c.Drop() }
