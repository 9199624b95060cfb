// Package zfstest is a zfs(8) for tests of what is above package zfs: it keeps datasets, properties, snapshots and holds in a file, makes
// directories where datasets are mounted, and writes down each command. It knows what vaultd uses, and the errors that vaultd tells apart; what
// the real one does is shown in tests/zfs.
//
// A test's TestMain calls Main first: the test's own program is the tool. It is no part of vaultd.
package zfstest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const envDir = "ZFSTEST_DIR"

// Main is the tool, when the program was started as one; it does not return then.
func Main() {
	if tool := filepath.Base(os.Args[0]); tool == "zfs" || tool == "zpool" {
		os.Exit(run(append([]string{tool}, os.Args[1:]...)))
	}
}

// Fake is a machine with pools.
type Fake struct {
	t   testing.TB
	dir string
}

// Dataset is one file system, with its snapshots.
type Dataset struct {
	Properties map[string]string
	GUID       uint64
	TXG        uint64
	Mounted    bool
	Locked     bool
	Snapshots  map[string]*Snapshot
}

// Snapshot is one snapshot.
type Snapshot struct {
	Properties map[string]string
	GUID       uint64
	TXG        uint64
	Holds      []string
}

// State is all there is.
type State struct {
	TXG      uint64
	Datasets map[string]*Dataset
	Slow     time.Duration     // each change takes that long
	Fail     map[string]string // verb -> what it prints, instead of doing anything
}

// New makes a machine with a pool, on which Main's tools work in this process's PATH. Tests with it do not run in parallel.
func New(t testing.TB, pool string) *Fake {
	t.Helper()
	f := &Fake{t: t, dir: t.TempDir()}
	self, err := os.Executable()
	f.must(err)
	for _, tool := range []string{"zfs", "zpool"} {
		f.must(os.Symlink(self, filepath.Join(f.dir, tool)))
	}
	t.Setenv("PATH", f.dir+":"+os.Getenv("PATH"))
	t.Setenv(envDir, f.dir)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or each of the tools sleeps a second when it ends
	f.Change(func(s *State) {
		s.Datasets = map[string]*Dataset{pool: {Properties: map[string]string{"mountpoint": filepath.Join(f.dir, "mnt", pool)}, GUID: 1, Mounted: true, Snapshots: map[string]*Snapshot{}}}
	})
	return f
}

func (f *Fake) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// Change changes what there is.
func (f *Fake) Change(change func(*State)) {
	f.t.Helper()
	f.must(with(f.dir, func(s *State) error { change(s); return nil }))
}

// Argv are the commands that ran, and forgets them.
func (f *Fake) Argv() [][]string {
	f.t.Helper()
	name := filepath.Join(f.dir, "argv")
	file, err := os.Open(name)
	if os.IsNotExist(err) {
		return nil
	}
	f.must(err)
	defer file.Close()
	var all [][]string
	for in := json.NewDecoder(bufio.NewReader(file)); ; {
		var argv []string
		if err := in.Decode(&argv); err == io.EOF {
			break
		} else if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, argv)
	}
	f.must(os.Remove(name))
	return all
}

// MountedAt stands for zfs.MountedAt.
func (f *Fake) MountedAt(dir string) (string, error) {
	found := ""
	err := with(f.dir, func(s *State) error {
		for name, d := range s.Datasets {
			if d.Mounted && s.property(name, "mountpoint") == dir {
				found = name
			}
		}
		return nil
	})
	return found, err
}

// MountOf stands for zfs.MountOf.
func (f *Fake) MountOf(dir *os.File) (string, error) { return f.MountedAt(dir.Name()) }

// with calls f with the state, which it may change.
func with(dir string, f func(*State) error) error {
	file, err := os.OpenFile(filepath.Join(dir, "state"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	var s State
	text, err := io.ReadAll(file)
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return err
	}
	before := slices.Clone(text)
	failed := f(&s)
	if text, err = json.Marshal(&s); err != nil || slices.Equal(before, text) {
		return failed
	}
	if err := file.Truncate(0); err != nil {
		return err
	}
	if _, err := file.WriteAt(text, 0); err != nil {
		return err
	}
	return failed
}

// failed is what the tool prints.
type failed string

func (f failed) Error() string { return string(f) }

func run(argv []string) int {
	dir := os.Getenv(envDir)
	line, _ := json.Marshal(argv)
	if log, err := os.OpenFile(filepath.Join(dir, "argv"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		log.Write(append(line, '\n'))
		log.Close()
	}
	stdin := ""
	if argv[1] == "program" || argv[1] == "load-key" {
		b, _ := io.ReadAll(os.Stdin)
		stdin = string(b)
	}
	var out strings.Builder
	var slow time.Duration
	err := with(dir, func(s *State) error {
		if text, ok := s.Fail[argv[1]]; ok {
			return failed(text)
		}
		if argv[1] != "list" && argv[1] != "get" {
			slow = s.Slow
		}
		return s.run(argv, stdin, &out)
	})
	time.Sleep(slow)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Stdout.WriteString(out.String())
	return 0
}

// run carries one command out.
func (s *State) run(argv []string, stdin string, out io.Writer) error {
	if argv[0] == "zpool" {
		if argv[1] != "list" {
			return failed("fake: zpool " + argv[1])
		}
		for name := range s.Datasets {
			if !strings.Contains(name, "/") {
				fmt.Fprintln(out, name)
			}
		}
		return nil
	}
	options, rest := split(argv[2:])
	switch argv[1] {
	case "list":
		return s.list(options, rest, out)
	case "get":
		return s.get(options, rest, out)
	case "create":
		_, unmounted := options["-u"]
		return s.create(options["-o"], rest, !unmounted)
	case "set":
		return s.set(rest)
	case "program":
		return s.program(stdin, rest, out)
	case "hold", "release":
		return s.hold(argv[1], rest[0], rest[1:])
	case "mount", "umount", "unmount", "load-key", "unload-key":
		return s.place(argv[1], rest[len(rest)-1])
	}
	return failed("fake: zfs " + argv[1])
}

// split divides options that have a value, and others, from the rest.
func split(args []string) (map[string][]string, []string) {
	options := map[string][]string{}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; a {
		case "-o", "-t", "-d", "-L":
			i++
			options[a] = append(options[a], args[i])
		case "-":
			return options, args[i:]
		default:
			if !strings.HasPrefix(a, "-") {
				return options, args[i:]
			}
			options[a] = nil
		}
	}
	return options, nil
}

// property is a dataset's own or inherited value.
func (s *State) property(name, p string) string {
	if d := s.Datasets[name]; d != nil && d.Properties[p] != "" {
		return d.Properties[p]
	}
	parent, last, ok := cutLast(name)
	switch {
	case p == "mountpoint" && ok:
		return filepath.Join(s.property(parent, p), last)
	case ok && p != "refquota":
		return s.property(parent, p)
	}
	return map[string]string{"refquota": "0", "canmount": "on"}[p]
}

func cutLast(name string) (before, after string, ok bool) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:], true
	}
	return "", name, false
}

func missing(name string) error {
	return failed("cannot open '" + name + "': dataset does not exist")
}

// each calls f with the datasets that options and roots mean.
func (s *State) each(options map[string][]string, roots []string, f func(name string) error) error {
	_, all := options["-r"]
	for _, root := range roots {
		if s.Datasets[root] == nil {
			return missing(root)
		}
		depth := 0
		if d := options["-d"]; d != nil {
			depth, _ = strconv.Atoi(d[0])
		}
		for _, name := range slices.Sorted(maps.Keys(s.Datasets)) {
			below := strings.HasPrefix(name, root+"/")
			if name != root && (!below || !all && strings.Count(name, "/")-strings.Count(root, "/") > depth) {
				continue
			}
			if err := f(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// column is what list prints of a dataset.
func (s *State) column(name, c string) string {
	d := s.Datasets[name]
	switch c {
	case "name":
		return name
	case "type":
		return "filesystem"
	case "guid":
		return fmt.Sprint(d.GUID)
	case "createtxg":
		return fmt.Sprint(d.TXG)
	case "mounted":
		return map[bool]string{true: "yes", false: "no"}[d.Mounted]
	case "encryption":
		if d.Properties["encryption"] != "" {
			return d.Properties["encryption"]
		}
		return "off"
	case "keystatus":
		if d.Properties["encryption"] == "" {
			return "-"
		}
		return map[bool]string{true: "unavailable", false: "available"}[d.Locked]
	case "origin":
		return "-"
	case "mountpoint", "refquota", "compression":
		return s.property(name, c)
	}
	return "0"
}

func (s *State) list(options map[string][]string, roots []string, out io.Writer) error {
	columns := strings.Split(options["-o"][0], ",")
	row := func(value func(string) string) {
		var f []string
		for _, c := range columns {
			f = append(f, value(c))
		}
		fmt.Fprintln(out, strings.Join(f, "\t"))
	}
	if t := options["-t"]; t == nil || t[0] != "snapshot" {
		return s.each(options, roots, func(name string) error {
			row(func(c string) string { return s.column(name, c) })
			return nil
		})
	}
	return s.eachSnapshot(options, roots, func(name string, x *Snapshot) {
		row(func(c string) string {
			switch c {
			case "name":
				return name
			case "guid":
				return fmt.Sprint(x.GUID)
			case "createtxg":
				return fmt.Sprint(x.TXG)
			case "userrefs":
				return fmt.Sprint(len(x.Holds))
			case "defer_destroy":
				return "off"
			}
			return "0"
		})
	})
}

func (s *State) eachSnapshot(options map[string][]string, roots []string, f func(string, *Snapshot)) error {
	for _, root := range roots {
		if ds, snap, ok := strings.Cut(root, "@"); ok {
			if s.Datasets[ds] == nil || s.Datasets[ds].Snapshots[snap] == nil {
				return missing(root)
			}
			f(root, s.Datasets[ds].Snapshots[snap])
			continue
		}
		o := maps.Clone(options)
		if o["-d"] != nil {
			o["-d"] = []string{"0"} // snapshots are one deeper
		}
		if err := s.each(o, []string{root}, func(name string) error {
			for _, snap := range slices.Sorted(maps.Keys(s.Datasets[name].Snapshots)) {
				f(name+"@"+snap, s.Datasets[name].Snapshots[snap])
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) get(options map[string][]string, rest []string, out io.Writer) error {
	properties := strings.Split(rest[0], ",")
	print := func(name, p, value string) {
		source := "local"
		if value == "" {
			value, source = "-", "-"
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", name, p, source, value)
	}
	if options["-t"][0] == "snapshot" {
		return s.eachSnapshot(options, rest[1:], func(name string, x *Snapshot) {
			for _, p := range properties {
				print(name, p, x.Properties[p])
			}
		})
	}
	return s.each(options, rest[1:], func(name string) error {
		for _, p := range properties {
			print(name, p, s.property(name, p))
		}
		return nil
	})
}

func pairs(list []string) map[string]string {
	out := map[string]string{}
	for _, x := range list {
		k, v, _ := strings.Cut(x, "=")
		out[k] = v
	}
	return out
}

func id(name string, txg uint64) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, name, txg)
	return h.Sum64()
}

func (s *State) create(options, rest []string, mounted bool) error {
	name := rest[0]
	if s.Datasets[name] != nil {
		return failed("cannot create '" + name + "': dataset already exists")
	}
	if parent, _, _ := cutLast(name); s.Datasets[parent] == nil {
		return failed("cannot create '" + name + "': parent does not exist")
	}
	s.TXG++
	s.Datasets[name] = &Dataset{Properties: pairs(options), GUID: id(name, s.TXG), TXG: s.TXG, Mounted: mounted, Snapshots: map[string]*Snapshot{}}
	if !mounted {
		return nil
	}
	return os.MkdirAll(s.property(name, "mountpoint"), 0o755)
}

func (s *State) set(rest []string) error {
	name := rest[len(rest)-1]
	if s.Datasets[name] == nil {
		return missing(name)
	}
	for k, v := range pairs(rest[:len(rest)-1]) {
		if v == "none" {
			v = ""
		}
		s.Datasets[name].Properties[k] = v
		if k == "mountpoint" {
			s.Datasets[name].Mounted = true
		}
	}
	return nil
}

// program is the one channel program that package zfs has.
func (s *State) program(text string, rest []string, out io.Writer) error {
	if !strings.Contains(text, "zfs.sync.snapshot(w.name)") {
		return failed("fake: an unknown channel program")
	}
	argv := rest[2:] // the pool, and "-"
	type want struct {
		ds, snap string
		props    map[string]string
	}
	var all []want
	for len(argv) > 0 {
		n, _ := strconv.Atoi(argv[1])
		ds, snap, _ := strings.Cut(argv[0], "@")
		w := want{ds, snap, map[string]string{}}
		for i := range n {
			w.props[argv[2+2*i]] = strings.TrimPrefix(argv[3+2*i], "=")
		}
		argv = argv[2+2*n:]
		all = append(all, w)
	}
	reply := "done"
	for i, w := range all {
		var errno syscall.Errno
		if d := s.Datasets[w.ds]; d == nil {
			errno = syscall.ENOENT
		} else if d.Snapshots[w.snap] != nil {
			errno = syscall.EEXIST
		}
		if errno != 0 {
			reply = fmt.Sprintf("%d %d", i+1, errno)
			break
		}
	}
	if reply == "done" {
		s.TXG++
		for _, w := range all {
			s.Datasets[w.ds].Snapshots[w.snap] = &Snapshot{Properties: w.props, GUID: id(w.ds+"@"+w.snap, s.TXG), TXG: s.TXG}
		}
	}
	fmt.Fprintf(out, "{\"return\":%q}", reply)
	return nil
}

func (s *State) hold(verb, tag string, names []string) error {
	for _, name := range names {
		ds, snap, _ := strings.Cut(name, "@")
		if s.Datasets[ds] == nil || s.Datasets[ds].Snapshots[snap] == nil {
			return missing(name)
		}
		x := s.Datasets[ds].Snapshots[snap]
		switch has := slices.Contains(x.Holds, tag); {
		case verb == "hold" && has:
			return failed("cannot hold snapshot '" + name + "': tag already exists on this dataset")
		case verb == "hold":
			x.Holds = append(x.Holds, tag)
		case !has:
			return failed("cannot release hold from snapshot '" + name + "': no such tag on this dataset")
		default:
			x.Holds = slices.DeleteFunc(x.Holds, func(h string) bool { return h == tag })
		}
	}
	return nil
}

func (s *State) place(verb, name string) error {
	d := s.Datasets[name]
	if d == nil {
		return missing(name)
	}
	switch verb {
	case "mount":
		if d.Mounted {
			return failed("cannot mount '" + name + "': filesystem already mounted")
		}
		if d.Locked {
			return failed("cannot mount '" + name + "': encryption key not loaded")
		}
		d.Mounted = true
		return os.MkdirAll(s.property(name, "mountpoint"), 0o755)
	case "umount", "unmount":
		d.Mounted = false
	case "load-key":
		d.Locked = false
	case "unload-key":
		d.Locked = true
	}
	return nil
}
