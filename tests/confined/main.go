// Command confined is an attacker with full code execution in the server: it confines itself as "vaultd serve" does, by the same
// function and the same rules, and then tries to destroy what is sealed, to reach other processes, and to get out. It is part of the
// tests (tests/confined_test.go) and of no release.
//
// It prints a line of JSON for each thing that it tried. Nothing in it is judged: the test knows what must come out.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vaultd/internal/confine"
)

// Scene is where it happens; the test gives it as JSON in the last argument.
type Scene struct {
	Store      string
	Victim     string // id of the tenant whose data it is after
	Own        string // id of the one that it came in as
	Spare      string // name of a spare dataset, for what must work and would leave traces
	HostKey    string
	Supervisor int
	Expire     int
	Program    string // some other program
	Body       string // name of a ZFS snapshot of the victim's; "": the store is not on ZFS
	Helper     string // the ZFS helper's socket
	Only       string // the one attempt to make, without being confined: shows that it would work

	Targets []target // found before it is confined: inside, tenants/ can not be listed
}

// Result is what became of one attempt.
type Result struct {
	Group  string
	Name   string
	Worked bool
	Detail string // how the first part of it ended
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: confined enter|attack|bare SCENE; confined ask SOCKET|STORE <QUESTIONS")
		os.Exit(2)
	}
	var s Scene
	var err error
	if os.Args[1] == "ask" {
		err = ask(os.Args[2])
	} else if err = json.Unmarshal([]byte(os.Args[2]), &s); err == nil {
		err = run(os.Args[1], s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "confined:", err)
		os.Exit(1)
	}
}

func run(how string, s Scene) error {
	out := json.NewEncoder(os.Stdout)
	if s.Targets == nil {
		s.Targets = s.targets()
	}
	switch how {
	case "enter":
		l := confine.Layout{Store: s.Store, Read: []string{s.HostKey}, Program: "/proc/self/exe"}
		if err := l.MakeProbe(); err != nil {
			return err
		}
		if err := l.Enter(); err != nil {
			return err
		}
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		return l.Exec([]string{"confined", "attack", string(text)}, os.Environ())
	case "again":
		err := s.Targets[0].each(func(p string) error { return open(p, unix.O_WRONLY) })
		return out.Encode(Result{permittedGroup, "execute itself, and be as confined", err != nil, fmt.Sprint(err)})
	case "attack", "bare":
	default:
		return errors.New("enter, attack, again or bare?")
	}
	for _, a := range s.attempts() {
		if s.Only != "" && s.Only != a.group+": "+a.name {
			continue
		}
		r := Result{Group: a.group, Name: a.name, Worked: true, Detail: "done"}
		if err := a.do(); err != nil {
			r.Worked, r.Detail = false, err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	if how == "attack" {
		return unix.Exec("/proc/self/exe", []string{"confined", "again", os.Args[2]}, os.Environ())
	}
	return nil
}

// permittedGroup is what the server needs or nobody refuses.
const permittedGroup = "what it can do"

// attempt is one thing that is tried; nil means that it worked.
type attempt struct {
	group, name string
	do          func() error
}

// all returns the attempts of every group.
func (s Scene) attempts() []attempt {
	var list []attempt
	for _, t := range s.Targets {
		for _, v := range s.verbs() {
			if t.Name == liveName && (v.name == unlinkIt || v.name == renameOver) {
				continue // that it may: see permitted
			}
			list = append(list, attempt{t.Name, v.name, func() error { return t.each(v.do) }})
		}
	}
	list = append(list, s.directories()...)
	list = append(list, s.processes()...)
	list = append(list, s.kernel()...)
	list = append(list, s.elsewhere()...)
	list = append(list, s.zfs()...)
	return append(list, s.permitted()...)
}

func (s Scene) data(id string, parts ...string) string {
	return filepath.Join(append([]string{s.Store, "tenants", id}, parts...)...)
}

// own is a file of the attacker's that it may write.
func (s Scene) own(name string) string { return s.data(s.Own, "staging", name) }

// target is a class of files that must stay as they are.
type target struct {
	Name  string
	Files []string
}

// each tries do on every file: the first that it works on is enough.
func (t target) each(do func(string) error) error {
	err := errors.New("there is no such file")
	for _, f := range t.Files {
		if err = do(f); err == nil {
			return nil
		}
	}
	return err
}

const liveName, unlinkIt, renameOver = "a name in the live tree", "unlink it", "rename another file over it"

func (s Scene) targets() []target {
	glob := func(parts ...string) []string {
		list, _ := filepath.Glob(filepath.Join(append([]string{s.Store}, parts...)...))
		return list
	}
	return []target{
		{"a sealed content", glob("tenants", "*", "store", "*", "*")},
		{"a closed journal segment", glob("tenants", "*", "journal", "*.jsonl")},
		{liveName, []string{s.data(s.Victim, "files", "kept")}},
		{"the format file", glob("tenants", "*", "format")},
		{"the catalog", []string{filepath.Join(s.Store, "vaultd.db")}},
		{"the configuration", []string{filepath.Join(s.Store, "vaultd.toml")}},
		{"the host key", []string{s.HostKey}},
		{"expire's state", []string{filepath.Join(s.Store, "expire", s.Victim, "state.db"), filepath.Join(s.Store, "expire", "lock")}},
	}
}

// errnoOf makes a call's third result an error.
func errnoOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// written writes to path, and reports whether that worked.
func written(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Pwrite(fd, []byte("X"), 0)
	return errors.Join(err, unix.Close(fd))
}

// fresh makes a file of the attacker's own with some bytes in it.
func (s Scene) fresh(name string) (string, error) {
	path := s.own(name)
	return path, os.WriteFile(path, []byte("mine"), 0o640)
}

// reading calls do with a descriptor that was opened for reading.
func reading(path string, do func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

func clean(paths ...string) {
	for _, p := range paths {
		if strings.Contains(p, "/staging/attack-") || strings.Contains(p, "/files/attack-") || strings.Contains(p, "/derived/attack-") {
			unix.Unlink(p)
		}
	}
}
