// Package glob finds the names that a pattern fits in a tenant's tree, as a shell on the server would have done it before a
// program saw its arguments: rsync, scp and cp leave that to it.
//
// Patterns are words of shellwords.SplitPatterns: *, ? and [ have their meaning unless a \ stands before them.
package glob

import (
	"errors"
	"path"
	"slices"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/shellwords"
)

// MaxNames bounds how many names the patterns of a command fit.
const MaxNames = 1 << 20

// ErrMany: they fit more.
var ErrMany = errors.New("a pattern fits too many names")

// Expand makes names of patterns: those that names fit become these names, sorted; the others are taken as they stand. at says
// where a name that is not absolute is.
func Expand(f *appendonly.FS, at func(string) string, patterns []string) ([]string, error) {
	var out []string
	for _, p := range patterns {
		names, err := match(f, at, p)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			names = []string{shellwords.Literal(p)}
		}
		if out = append(out, names...); len(out) > MaxNames {
			return nil, ErrMany
		}
	}
	return out, nil
}

// isPattern reports whether a part of a path has a meaning beyond itself.
func isPattern(part string) bool {
	for i := 0; i < len(part); i++ {
		switch part[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// match returns the names that a pattern fits; none when it is no pattern. With a slash at its end only directories do.
func match(f *appendonly.FS, at func(string) string, p string) ([]string, error) {
	if !isPattern(p) {
		return nil, nil
	}
	found := []string{""}
	if strings.HasPrefix(p, "/") {
		found[0] = "/"
	}
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		var next []string
		for _, dir := range found {
			if !isPattern(part) {
				next = append(next, dir+shellwords.Literal(part)+"/")
				continue
			}
			names, err := matching(f, at(dir), part)
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				next = append(next, dir+n+"/")
			}
			if len(next) > MaxNames {
				return nil, ErrMany
			}
		}
		found = next
	}
	found = slices.DeleteFunc(found, func(name string) bool {
		if strings.HasSuffix(p, "/") {
			info, err := f.StatFollow(at(name))
			return err != nil || info.Kind != appendonly.KindDir
		}
		_, err := f.Stat(at(strings.TrimSuffix(name, "/")))
		return err != nil
	})
	if !strings.HasSuffix(p, "/") {
		for i := range found {
			found[i] = strings.TrimSuffix(found[i], "/")
		}
	}
	return found, nil
}

// matching lists the names in a directory that a pattern fits. What can not be listed has none.
func matching(f *appendonly.FS, dir, pattern string) ([]string, error) {
	d, err := f.OpenDir(dir)
	if err != nil {
		return nil, nil
	}
	var out []string
	err = d.Each(func(i *appendonly.Info) error {
		if i.Name[0] == '.' && pattern[0] != '.' {
			return nil
		}
		if ok, _ := path.Match(pattern, i.Name); ok {
			out = append(out, i.Name)
		}
		if len(out) > MaxNames {
			return ErrMany
		}
		return nil
	})
	if errors.Is(err, ErrMany) {
		return nil, err
	}
	return out, nil
}
