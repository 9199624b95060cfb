package appendonly

import (
	"io/fs"
	"path"
	"regexp"
	"strings"
	"time"

	"vaultd/internal/journal"
)

// The bounds on what a client may name; the kernel's own, so that files/ can hold it.
const (
	maxPath = 4095
	maxName = 255
)

// clean makes a client's path relative to the tenant's root, "" for the root itself. ".." is resolved
// lexically and ends at the root (P5).
func clean(op Op, p string) (string, error) {
	if strings.IndexByte(p, 0) >= 0 {
		return "", pathError(op, p, ErrBadName)
	}
	c := strings.TrimPrefix(path.Clean("/"+p), "/")
	if len(c) > maxPath {
		return "", pathError(op, c[:64]+"...", ErrNameTooLong)
	}
	for name := range strings.SplitSeq(c, "/") {
		if len(name) > maxName {
			return "", pathError(op, name[:64]+"...", ErrNameTooLong)
		}
	}
	return c, nil
}

// split cuts a cleaned path into its directory and last element.
func split(rel string) (dir, name string) {
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		return rel[:i], rel[i+1:]
	}
	return "", rel
}

// temporary matches the names under which tools keep unfinished uploads (protocols/clients.md). A
// pattern here lets the uploading key remove what it closed, for a day: none may match a name that
// people give to files they mean to keep.
var temporary = regexp.MustCompile(`(?s)` + strings.Join([]string{
	`-restic-temp-[0-9a-f]+$`, // restic
	`\.partial$`,              // rclone
	`\.filepart$`,             // WinSCP
	`\.part$`,                 // Cyberduck, browsers
	`\.f\.tmp\.[0-9a-f]+$`,    // kopia
	`^\.in\.`,                 // lftp
	`^[a-z]{8}\.tmp$`,         // borgstore
	`\.rest-server-temp`,      // restic rest-server
	`^duplicati-access-privileges-test\.(tmp|txt)$`,
	`^nonce\.tmp$`, // borg
}, "|"))

// isTemporary reports whether name matches temporary. Nearly no name has what every match has; asking for
// that costs a fiftieth of asking the expression.
func isTemporary(name string) bool {
	for _, part := range [...]string{"part", "tmp", "temp", "duplicati", ".in."} {
		if strings.Contains(name, part) {
			return temporary.MatchString(name)
		}
	}
	return false
}

// Policy is what the operator decides for a tenant. The zero value is strict, and seals at CLOSE.
type Policy struct {
	Mode         Mode
	Prefixes     []Prefix      // other modes below some directories; the deepest match counts
	SealAfter    time.Duration // how long ordinary names stay fresh; 0: sealed at CLOSE
	ResumeWindow time.Duration // how long interrupted uploads are kept; 0: 24 h, negative: not at all
	Suspended    bool          // read-only
	Watch        []string      // directories, cleaned and relative, below which sessions count what comes (Counts.Under)
	SyncClose    bool          // durability = "close": CLOSE answers after a barrier
	DeleteFails  bool          // what a client asked to be removed and had to be kept is an error in its report, not a warning
}

// Prefix is a directory with a mode of its own.
type Prefix struct {
	Path string // cleaned, relative
	Mode Mode
}

// defaultWindow is the resume window, and how long a fresh file may stay one.
const defaultWindow = 24 * time.Hour

func (p *Policy) resumeWindow() time.Duration {
	if p.ResumeWindow == 0 {
		return defaultWindow
	}
	return max(p.ResumeWindow, 0)
}

// ModeAt returns the mode of a cleaned path.
func (p *Policy) ModeAt(rel string) Mode {
	mode, depth := p.Mode, -1
	for _, x := range p.Prefixes {
		if within(rel, x.Path) && len(x.Path) > depth {
			mode, depth = x.Mode, len(x.Path)
		}
	}
	return mode
}

// bounds reports whether rel is, or holds, the root of a prefix: moving it would move the boundary.
func (p *Policy) bounds(rel string) bool {
	for _, x := range p.Prefixes {
		if within(x.Path, rel) {
			return true
		}
	}
	return false
}

// within reports whether rel is dir or lies below it.
func within(rel, dir string) bool {
	return dir == "" || rel == dir || strings.HasPrefix(rel, dir) && rel[len(dir)] == '/'
}

// wrapIndex turns the index's errors into this package's.
func wrapIndex(op Op, rel string, err error) error {
	switch err {
	case nil:
		return nil
	case fs.ErrNotExist:
		return pathError(op, rel, fs.ErrNotExist)
	case journal.ErrNotDir:
		return pathError(op, rel, ErrNotDir)
	}
	return err
}
