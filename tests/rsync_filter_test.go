package tests

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var filterSeed = flag.Uint64("filter-seed", 0, "the round of TestRsyncFilters to run again")

// Random trees and random filter rules, in both directions, to the vault and to a second rsync: the same lines, the same end,
// the same trees. The rules act on the client and, by what it sends of them, on the server.
func TestRsyncFilters(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "4G")
	rounds, first := 24, uint64(1) // the same rounds in every run; with -full new ones
	if *full {
		rounds, first = 600, rand.Uint64()
	}
	bins := [][]string{{"rsync"}, {oldRsync(t)}, {"rsync", "--protocol=29"}}
	if *filterSeed != 0 {
		first, rounds = *filterSeed, 1
	}
	for i := range rounds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := &filters{Rand: rand.New(rand.NewPCG(seed, 1))}
			p := newPair(t, v, bins[f.IntN(len(bins))])
			p.noDirTimes = true // a directory that stays where something went out of it has the time of that on disk
			f.tree(t, filepath.Join(p.dir, "src"), 0)
			p.sh(older(7200))
			p.both("-a", "src/", "DEST/") // what is there before
			p.sh("rm -rf src && mkdir src")
			f.tree(t, filepath.Join(p.dir, "src"), 0)
			p.sh(older(3600))
			args := f.options(t, p.dir)
			p.both(append(args, "src/", "DEST/")...)
			p.same()
			p.sh("cp -a src got1; cp -a src got2")
			args = append(f.options(t, p.dir), "-O") // those of the two sources differ
			want, got := p.local(append(args, "DEST/", "got1/")...), p.vault(append(args, "DEST/", "got2/")...)
			p.compare(args, got, want)
			p.alike("got1", "got2")
			if t.Failed() {
				files, _ := filepath.Glob(filepath.Join(p.dir, "rules*"))
				for _, name := range files {
					b, _ := os.ReadFile(name)
					t.Logf("%s:\n%s", filepath.Base(name), b)
				}
				p.sh("find src real > names")
				b, _ := os.ReadFile(filepath.Join(p.dir, "names"))
				t.Logf("pull with %q; trees:\n%s", args, b)
			}
		})
	}
}

// filters makes trees and rules of few names, so that they meet.
type filters struct {
	*rand.Rand
	files int
}

func (f *filters) pick(of ...string) string { return of[f.IntN(len(of))] }

func (f *filters) name() string {
	return f.pick("a", "b", "c", "d.o", "e.bak", "ab", "abc", "x~", ".h", "[a]", "a b", "core")
}

// tree fills a directory, and some below it; merge files are among what it makes.
func (f *filters) tree(t *testing.T, dir string, depth int) {
	for range 2 + f.IntN(5) {
		at := filepath.Join(dir, f.name())
		if depth < 3 && f.IntN(2) == 0 {
			if os.Mkdir(at, 0o755) == nil {
				f.tree(t, at, depth+1)
			}
			continue
		}
		if _, err := os.Lstat(at); err != nil {
			must(t, os.WriteFile(at, []byte(f.pick("one", "two", "three3")), 0o644))
		}
	}
	for _, name := range []string{".rules", ".rsync-filter", ".cvsignore"} {
		if f.IntN(5) == 0 {
			text := f.rules(1+f.IntN(3), false)
			if name == ".cvsignore" {
				text = f.pattern() + " " + strings.ReplaceAll(f.pattern(), " ", "") + "\n"
			}
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
	}
}

func (f *filters) pattern() string {
	part := func() string {
		return f.pick(f.name(), f.name(), "*", "*.o", "a*", "?", "[a-c]", "[!a]*", `\[a]`, "**", "*b*", "a?c", ".*")
	}
	p := part()
	for range f.IntN(3) {
		p += "/" + part()
	}
	switch f.IntN(8) {
	case 0:
		p = "/" + p
	case 1:
		p += "/"
	case 2:
		p += "/***"
	case 3:
		p = "**/" + p
	case 4:
		p = "/" + p + "/"
	}
	return p
}

// rules are n lines of a filter file. Those of the command line may merge others.
func (f *filters) rules(n int, top bool) string {
	var b strings.Builder
	for range n {
		kind := f.pick("-", "-", "-", "+", "+", "H", "S", "P", "R", "-", "+")
		mods := f.pick("", "", "", "", "!", "s", "r", "p", "sr", "C") // not /: the paths of the two servers differ
		pattern := f.pattern()
		switch {
		case mods == "C" && kind == "-" && top:
			fmt.Fprintf(&b, "-C\n")
			continue
		case mods == "C", mods == "s" && strings.Contains("HSPR", kind), mods == "r" && strings.Contains("HSPR", kind), mods == "sr" && strings.Contains("HSPR", kind):
			mods = ""
		}
		fmt.Fprintf(&b, "%s%s %s\n", kind, mods, pattern)
	}
	if f.IntN(12) == 0 {
		b.WriteString("!\n")
	}
	return b.String()
}

// options are a command line with rules.
func (f *filters) options(t *testing.T, dir string) []string {
	args := []string{"-ai"}
	if f.IntN(3) > 0 {
		args = append(args, f.pick("--delete", "--delete-before", "--delete-after", "--delete-delay", "--delete-during"))
		if f.IntN(4) == 0 {
			args = append(args, "--delete-excluded")
		}
	}
	for range f.IntN(3) {
		args = append(args, f.pick("-m", "-F", "-FF", "-C", "-I", "-f:_.rules", "-f:n_.rules", "-f:-_.rules", "-f:e_.rules", "-fdir-merge,-+_.rules", "-f:C", "--ignore-errors", "-O"))
	}
	for range 1 + f.IntN(3) {
		switch f.IntN(5) {
		case 0:
			args = append(args, "--exclude="+f.pattern())
		case 1:
			args = append(args, "--include="+f.pattern())
		default:
			name := fmt.Sprintf("rules%d", f.files)
			f.files++
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(f.rules(1+f.IntN(5), true)), 0o644))
			args = append(args, "--filter=. "+name)
		}
	}
	f.Shuffle(len(args)-1, func(i, j int) { args[i+1], args[j+1] = args[j+1], args[i+1] })
	return args
}
