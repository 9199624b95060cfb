package shell

import (
	"errors"
	"path"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/shellwords"
)

// maxGlob bounds how many names the patterns of a command fit.
const maxGlob = 1 << 16

var errManyNames = errors.New("a pattern fits too many names")

// expand makes words of patterns: those that names fit become these names, sorted; the others stay as they are.
func (r *runner) expand(patterns []string) ([]string, error) {
	var out []string
	for _, p := range patterns {
		names, err := r.glob(p)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			names = []string{shellwords.Literal(p)}
		}
		if out = append(out, names...); len(out) > maxGlob {
			return nil, errManyNames
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

// glob returns the names that a pattern fits; none when it is no pattern.
func (r *runner) glob(p string) ([]string, error) {
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
			names, err := r.matching(dir, part)
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				next = append(next, dir+n+"/")
			}
			if len(next) > maxGlob {
				return nil, errManyNames
			}
		}
		found = next
	}
	var out []string
	for _, f := range found {
		name := strings.TrimSuffix(f, "/")
		if name == "" {
			continue
		}
		if strings.HasSuffix(p, "/") { // directories only
			if info, err := r.FS.StatFollow(r.path(name)); err == nil && info.Kind == appendonly.KindDir {
				out = append(out, f)
			}
		} else if _, err := r.FS.Stat(r.path(name)); err == nil {
			out = append(out, name)
		}
	}
	return out, nil
}

// matching lists the names in a directory that a pattern fits. What can not be listed has none.
func (r *runner) matching(dir, pattern string) ([]string, error) {
	if dir == "" {
		dir = "."
	}
	var out []string
	err := entries(r.FS, r.path(dir), func(i *appendonly.Info) error {
		if i.Name[0] == '.' && pattern[0] != '.' {
			return nil
		}
		if ok, _ := path.Match(pattern, i.Name); ok {
			out = append(out, i.Name)
		}
		if len(out) > maxGlob {
			return errManyNames
		}
		return nil
	})
	if errors.Is(err, errManyNames) {
		return nil, err
	}
	return out, nil
}
