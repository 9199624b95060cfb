package rsync

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/glob"
	"vaultd/internal/rsync/filter"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
	"vaultd/internal/shellwords"
)

// walker makes the list of a pull (flist.c: send_file_list).
type walker struct {
	rules   *filter.Set
	bases   []string // where the names of an argument are relative to
	build   *flist.Builder
	total   int64 // bytes of all files
	sent    int64 // bytes that were sent as they are
	failed  int32 // what the list says could not be read
	implied map[string]bool
}

// Bounds of a pull's arguments.
const (
	maxArguments = 65535    // directories that names are relative to
	maxNames     = 64 << 20 // bytes of --files-from
)

// argument is one thing that the user asked for.
type argument struct {
	base  string // directory in the vault
	name  string // below it; "." is the directory itself
	slash bool   // the name ended with a slash: what is in it, and links to directories are followed
}

// walk sends the list.
func (s *sender) walk(ctx context.Context) error {
	s.build = flist.NewBuilder(s.out, s.listConfig())
	s.implied = map[string]bool{}
	args, err := s.arguments()
	if err != nil {
		return err
	}
	for _, a := range args {
		if err := s.argument(ctx, a); err != nil {
			return err
		}
	}
	if s.opt.IgnoreErrors {
		s.failed = 0
	}
	s.list = s.build.Finish(s.failed)
	for _, name := range s.list.Odd {
		s.report.error(s.out, "send "+appendonly.QuotePath(name)+": --iconv can not convert this name")
	}
	return nil
}

// arguments are the paths of the command line, or the names of --files-from.
func (s *sender) arguments() ([]argument, error) {
	paths := s.opt.Paths
	if s.opt.FilesFrom != "" {
		root := "."
		if len(paths) > 0 {
			root = shellwords.Literal(paths[0])
		}
		names, err := s.filesFrom()
		if err != nil {
			return nil, err
		}
		args := make([]argument, 0, len(names))
		for _, n := range names {
			args = append(args, s.split(s.at(root), n))
		}
		return args, nil
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	var args []argument
	for _, p := range paths {
		if p == "~" || strings.HasPrefix(p, "~/") { // the home directory is the tenant's root
			p = "./" + strings.TrimPrefix(p[1:], "/")
		}
		found, err := glob.Expand(s.FS, s.at, []string{p})
		if errors.Is(err, glob.ErrMany) {
			return nil, wire.Errorf("%v", err)
		}
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			args = append(args, s.split(s.top, f))
		}
	}
	if len(args) > maxArguments {
		return nil, wire.Errorf("more than %d names", maxArguments)
	}
	return args, nil
}

// filesFrom reads the names of --files-from: from the client, or out of a file in the vault.
func (s *conn) filesFrom() ([]string, error) {
	var data []byte
	zero := s.opt.From0
	if s.opt.FilesFrom == "-" {
		zero = true
		for {
			b, err := s.in.Byte()
			if err != nil {
				return nil, err
			}
			if b == 0 && (len(data) == 0 || data[len(data)-1] == 0) {
				break
			}
			if data = append(data, b); len(data) > maxNames {
				return nil, wire.Errorf("more than %d bytes of names", maxNames)
			}
		}
	} else {
		f, err := s.FS.Open(s.at(s.opt.FilesFrom))
		if err != nil {
			return nil, s.fatal(exitFile, errors.New(s.line("read", s.opt.FilesFrom, err)))
		}
		defer f.Close()
		if data, err = io.ReadAll(io.NewSectionReader(f, 0, min(f.Stat().Size, maxNames))); err != nil {
			return nil, err
		}
	}
	end := byte('\n')
	if zero {
		end = 0
	}
	var names []string
	for line := range bytes.SplitSeq(data, []byte{end}) {
		if !zero {
			line = bytes.TrimSuffix(line, []byte{'\r'})
		}
		if len(line) == 0 || !zero && (line[0] == '#' || line[0] == ';') {
			continue
		}
		names = append(names, string(line))
	}
	return names, nil
}

// split says which part of a path is in the names of the list.
func (s *sender) split(root, p string) argument {
	slash := p == "" || strings.HasSuffix(p, "/") || p == "." || strings.HasSuffix(p, "/.") || p == ".." || strings.HasSuffix(p, "/..")
	if s.opt.Relative {
		base := root
		if i := strings.Index(p, "/./"); i >= 0 {
			base, p = path.Join(root, p[:i]), p[i+3:]
		}
		name := strings.TrimPrefix(path.Clean("/"+p), "/")
		if name == "" {
			name = "."
		}
		return argument{path.Join("/", base), name, slash}
	}
	full := path.Join("/", root, p)
	if slash {
		return argument{full, ".", true}
	}
	return argument{path.Dir(full), path.Base(full), false}
}

// argument sends what one argument names.
func (s *sender) argument(ctx context.Context, a argument) error {
	tag := len(s.bases)
	for i, b := range s.bases {
		if b == a.base {
			tag = i
		}
	}
	if tag == len(s.bases) {
		s.bases = append(s.bases, a.base)
	}
	s.rules.SetRoot(a.base)
	stat := s.FS.Stat
	if a.slash || s.opt.CopyLinks || s.opt.CopyDirLinks {
		stat = s.FS.StatFollow
	}
	full := path.Join(a.base, a.name)
	info, err := stat(full)
	if err == nil && !info.Sealed && info.From == 0 && info.Kind == appendonly.KindFile && !info.Received.IsZero() {
		err = fs.ErrNotExist // an unfinished upload
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && s.opt.IgnoreMissingArgs {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			s.failed |= ioGeneral
		}
		s.report.error(s.out, s.line("find", full, err))
		return nil
	}
	dir := info.Kind == appendonly.KindDir
	if a.name != "." && s.rules.Hidden(a.name, dir) {
		return nil
	}
	if dir && !s.opt.Recursive && !s.opt.Dirs {
		s.out.Message(wire.CodeInfo, []byte("skipping directory "+printable(a.name)+"\n"))
		return nil
	}
	if s.opt.Relative && !s.opt.NoImpliedDirs {
		s.way(a, tag)
	}
	whole := s.opt.Recursive || s.opt.Dirs && a.slash
	s.add(&info, a.name, tag, func(it *flist.Item) {
		it.Top = dir && whole
		it.NoContent = dir && !whole
	})
	if !dir || !whole {
		return nil
	}
	if !a.slash && s.opt.Dirs && !s.opt.Recursive {
		return nil
	}
	return s.directory(ctx, a.base, a.name, tag, 0)
}

// way sends the directories on the way to a name (-R).
func (s *sender) way(a argument, tag int) {
	for i := 0; i < len(a.name); i++ {
		if a.name[i] != '/' || s.implied[a.base+"\x00"+a.name[:i]] {
			continue
		}
		s.implied[a.base+"\x00"+a.name[:i]] = true
		if info, err := s.FS.StatFollow(path.Join(a.base, a.name[:i])); err == nil && info.Kind == appendonly.KindDir {
			s.add(&info, a.name[:i], tag, func(it *flist.Item) { it.Implied = true })
		}
	}
}

// maxDepth bounds how deep links to directories may lead (-L).
const maxDepth = 1024

// directory sends what is in a directory, and in those below it.
func (s *sender) directory(ctx context.Context, base, name string, tag, depth int) error {
	if err := ctx.Err(); err != nil || depth > maxDepth {
		return err
	}
	if err := s.rules.Enter(name); err != nil {
		return err
	}
	full := path.Join(base, name)
	d, err := s.FS.OpenDir(full)
	if err != nil {
		s.failed |= ioGeneral
		s.report.error(s.out, s.line("list", full, err))
		return nil
	}
	var dirs []string
	for {
		infos, err := d.Next(batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for i := range infos {
			info := &infos[i]
			rel := path.Join(name, info.Name)
			if !s.follow(info, path.Join(full, info.Name), rel) {
				continue
			}
			dir := info.Kind == appendonly.KindDir
			if s.rules.Hidden(rel, dir) {
				continue
			}
			s.add(info, rel, tag, func(it *flist.Item) { it.NoContent = dir && !s.opt.Recursive })
			if dir && s.opt.Recursive {
				dirs = append(dirs, rel)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for _, rel := range dirs {
		if err := s.directory(ctx, base, rel, tag, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// follow replaces a symlink by what it leads to, where the options say so. It reports whether there is something to send.
func (s *sender) follow(info *appendonly.Info, full, rel string) bool {
	if info.Kind != appendonly.KindSymlink {
		return true
	}
	to, err := s.FS.StatFollow(full)
	switch {
	case s.opt.CopyLinks, s.opt.CopyUnsafeLinks && unsafeLink(info.Target, rel):
		if err != nil {
			s.failed |= ioGeneral
			s.report.error(s.out, "a symlink that leads nowhere: "+appendonly.QuotePath(full))
			return false
		}
	case s.opt.CopyDirLinks && err == nil && to.Kind == appendonly.KindDir:
	default:
		return true
	}
	to.Name = info.Name
	*info = to
	return true
}

// add sends one name, of what kind ever: the client skips those that its options do not have, and keeps their names from --delete.
func (s *sender) add(info *appendonly.Info, name string, tag int, more func(*flist.Item)) {
	it := &flist.Item{
		Path: name, Mode: modeOf(info) | typeOf(info.Kind), Size: info.Size, MTime: info.MTime.Sec(), NSec: info.MTime.Nsec(),
		UID: s.opt.UserMap.Map(ownerOf(info.UID), ""), GID: s.opt.GroupMap.Map(ownerOf(info.GID), ""),
		Major: uint32(info.RDev >> 32), Minor: uint32(info.RDev), ATime: info.ATime.Sec(), Target: info.Target,
		XAttrs: s.xattrs(info), Access: info.XAttrs[aclAccess], Def: info.XAttrs[aclDefault], Tag: uint16(tag),
	}
	if info.ATime.IsZero() {
		it.ATime = it.MTime
	}
	if s.opt.MungeLinks {
		it.Target = strings.TrimPrefix(it.Target, mungePrefix)
	}
	if s.opt.CRTimes {
		it.CRTime = createdAt(info)
	}
	if info.Linked && info.Kind.HasContent() {
		it.Links = info.Content
	}
	if s.opt.Checksum && info.Kind == appendonly.KindFile {
		if f, err := s.FS.Open(path.Join(s.bases[tag], name)); err == nil {
			it.Sum, _ = s.sums.OfFile(f, info.Size)
			f.Close()
		}
	}
	more(it)
	if info.Kind == appendonly.KindFile || info.Kind == appendonly.KindSymlink {
		s.total += info.Size
	}
	s.build.Add(it)
}

// xattrs are the extended attributes that are sent of an entry.
func (s *sender) xattrs(info *appendonly.Info) map[string][]byte {
	if !s.opt.XAttrs {
		return nil
	}
	all := shown(info.XAttrs)
	for name := range all {
		if s.rules.HidesXAttr(name) {
			delete(all, name)
		}
	}
	return all
}
