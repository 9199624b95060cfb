package option

import (
	"bufio"
	"errors"
	"io"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/shellwords"
)

// Bounds on what comes on stdin with -s.
const (
	maxSecluded     = 1 << 20 // bytes
	maxSecludedArgs = 65536
)

// parser takes words off a line. The first error counts.
type parser struct {
	o       *Options
	words   []string
	literal bool // words are no patterns: options that come on stdin
	err     error
	server  bool
	devices bool // -D was given
}

// Parse reads the words behind "rsync". Words may be patterns (shellwords.SplitPatterns); paths stay so.
func Parse(words []string) (*Options, error) {
	p := &parser{o: newOptions(), words: words}
	p.run()
	if !p.o.Secluded {
		p.check()
	}
	return p.o, p.err
}

// ParseSecluded reads the words that follow NUL-terminated on r, where a line had -s: "rsync", options, a dot, paths, and an
// empty one. first is what the line said.
func ParseSecluded(first *Options, r io.Reader) (*Options, error) {
	br := bufio.NewReaderSize(oneByte{r}, 16)
	var words []string
	for total := 0; ; {
		w, err := br.ReadString(0)
		if err != nil {
			return nil, errors.New("the arguments end early")
		}
		if w = w[:len(w)-1]; w == "" {
			break
		}
		if total += len(w); total > maxSecluded || len(words) >= maxSecludedArgs {
			return nil, errors.New("there are too many arguments")
		}
		words = append(words, w)
	}
	if len(words) > 0 && words[0] == "rsync" {
		words = words[1:]
	}
	o := *first
	p := &parser{o: &o, words: words, literal: true, server: true}
	p.run()
	p.check()
	return p.o, p.err
}

// oneByte keeps a bufio.Reader from taking what comes behind the arguments.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

func newOptions() *Options {
	return &Options{MaxSize: -1, MinSize: -1, MaxDelete: -1}
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *parser) text(w string) string {
	if p.literal {
		return w
	}
	return shellwords.Literal(w)
}

// run goes through the words.
func (p *parser) run() {
	for len(p.words) > 0 {
		w := p.words[0]
		p.words = p.words[1:]
		switch {
		case w == "--":
			p.paths()
			return
		case strings.HasPrefix(w, "--"):
			p.long(p.text(w))
		case strings.HasPrefix(w, "-") && len(w) > 1:
			p.short(p.text(w)[1:])
		default:
			p.words = append([]string{w}, p.words...)
			p.paths()
			return
		}
	}
	p.paths()
}

// paths takes the rest: a dot, and what is to be transferred, whatever it looks like.
func (p *parser) paths() {
	rest := p.words
	p.words = nil
	for i, w := range rest {
		if i == 0 && w == "." {
			continue
		}
		if p.o.Sender {
			p.o.Paths = append(p.o.Paths, w)
		} else {
			p.o.Paths = append(p.o.Paths, p.text(w))
		}
	}
}

// check finishes the line: what depends on several options.
func (p *parser) check() {
	o := p.o
	if !p.server && !o.Daemon {
		p.fail(&Usage{"this is a server: --server must be the first option"})
	}
	if p.devices && !o.Devices {
		o.Devices = true
	}
	if o.Backup && o.Suffix == "" && o.BackupDir == "" {
		o.Suffix = "~"
	}
	o.OmitDirTimes = o.OmitDirTimes || o.Backup && o.BackupDir == ""
	if strings.Contains(o.Suffix, "/") {
		p.fail(&Usage{"--suffix can not contain slashes"})
	}
	o.Delete = o.Delete || o.DeleteBefore || o.DeleteDuring || o.DeleteDelay || o.DeleteAfter || o.DeleteExcluded
	if o.Delete && !o.Recursive && !o.Dirs {
		p.fail(&Usage{"--delete does not work without --recursive (-r) or --dirs (-d)"})
	}
	if o.Inplace && o.PartialDir != "" && !o.Caps.PartialDir {
		o.PartialDir = ""
	}
	for _, d := range []struct{ name, dir string }{{"--temp-dir", o.TempDir}, {"--backup-dir", o.BackupDir}} {
		if n := len(o.Paths); n > 0 && leaves(o.Paths[n-1], d.dir) {
			p.fail(&Refused{d.name, "it leads out of what is yours"})
		}
	}
}

// leaves says whether a directory that is relative to a destination has more steps up than that has down. (What is absolute begins at
// the tenant's own root.)
func leaves(dest, dir string) bool {
	if strings.HasPrefix(dir, "/") {
		return false
	}
	depth := strings.Count(strings.TrimSuffix(path.Clean("/"+dest), "/"), "/")
	for part := range strings.SplitSeq(dir, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// short takes bundled letters.
func (p *parser) short(s string) {
	o := p.o
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case 'e':
			p.caps(s[i+1:])
			return
		case 'B', '@', 'T', 'M', 'f':
			value := s[i+1:]
			if value == "" {
				value = p.value("-" + string(c))
			}
			p.shortValue(c, value)
			return
		case 'X':
			o.XAttrs = true
		case 'U':
			o.ATimes++
		case 'y':
			o.Fuzzy++
		case 'x':
			o.OneFileSystem++
		case 'v':
			o.Verbose++
		case 'D':
			p.devices, o.Devices, o.Specials = true, true, true
		case 'a':
			o.Recursive, o.Links, o.Perms, o.Times, o.Group, o.Owner = true, true, true, true, true, true
			p.devices, o.Devices, o.Specials = true, true, true
		case 'K':
			o.KeepDirLinks = true
			p.fail(&Refused{"--keep-dirlinks", "writing never follows a symbolic link here"})
		default:
			b := o.letter(c)
			if b == nil {
				if strings.IndexByte("qihP", c) < 0 {
					p.fail(&Unknown{"-" + string(c)})
				}
				continue
			}
			*b = true
		}
	}
}

// letter is the option of a letter that stands for itself.
func (o *Options) letter(c byte) *bool {
	switch c {
	case 's':
		return &o.Secluded
	case 'b':
		return &o.Backup
	case 'u':
		return &o.Update
	case 'n':
		return &o.DryRun
	case 'l':
		return &o.Links
	case 'd':
		return &o.Dirs
	case 'm':
		return &o.PruneEmptyDirs
	case 'O':
		return &o.OmitDirTimes
	case 'J':
		return &o.OmitLinkTimes
	case 'L':
		return &o.CopyLinks
	case 'k':
		return &o.CopyDirLinks
	case 'W':
		return &o.WholeFile
	case 'H':
		return &o.HardLinks
	case 'o':
		return &o.Owner
	case 'g':
		return &o.Group
	case 't':
		return &o.Times
	case 'N':
		return &o.CRTimes
	case 'p':
		return &o.Perms
	case 'E':
		return &o.Executability
	case 'A':
		return &o.ACLs
	case 'r':
		return &o.Recursive
	case 'c':
		return &o.Checksum
	case 'C':
		return &o.CVSExclude
	case 'I':
		return &o.IgnoreTimes
	case 'R':
		return &o.Relative
	case 'S':
		return &o.Sparse
	case 'z':
		return &o.Compress
	case '0':
		return &o.From0
	}
	return nil
}

// caps reads the letters behind e: the first digit or dot is the version of a protocol in the making.
func (p *parser) caps(s string) {
	if i := strings.IndexByte(s, '.'); i >= 0 {
		s = s[i+1:]
	}
	c := &p.o.Caps
	for i := range len(s) {
		switch s[i] {
		case 'i':
			c.IncRecurse = true
		case 'L':
			c.LinkTimes = true
		case 's':
			c.IconvLinks = true
		case 'f':
			c.SafeList = true
		case 'x':
			c.NoXAttrOptim = true
		case 'C':
			c.SeedFix = true
		case 'I':
			c.PartialDir = true
		case 'v':
			c.Varint = true
		case 'u':
			c.ID0Names = true
		}
	}
}

func (p *parser) shortValue(c byte, value string) {
	switch c {
	case 'B':
		p.blockSize(value)
	case '@':
		p.o.ModifyWindow = int(p.number("-@", value, math.MinInt32, math.MaxInt32))
	case 'T':
		p.o.TempDir = value
	case 'M': // options for the other side, sent by a client that is one for another
	case 'f':
		p.fail(&Refused{"--filter", "rules come in the protocol, and not on the command line"})
	}
}

// value takes the next word.
func (p *parser) value(name string) string {
	if len(p.words) == 0 {
		p.fail(&Usage{name + ": the value is missing"})
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return p.text(w)
}

func (p *parser) number(name, s string, least, most int64) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		p.fail(&Usage{name + ": not a number in range: " + strconv.Quote(s)})
		return 0
	}
	return n
}

func (p *parser) blockSize(s string) {
	p.o.BlockSize = int32(p.size("--block-size", s, 1<<29))
}

// size reads a number of bytes with rsync's suffixes (options.c: parse_size_arg): K, M, G, T, P are powers of 1024,
// KB, MB, … of 1000, KiB, … of 1024; +1 and -1 may follow.
func (p *parser) size(name, s string, most int64) int64 {
	text, add := s, int64(0)
	if t, ok := strings.CutSuffix(text, "+1"); ok {
		text, add = t, 1
	} else if t, ok := strings.CutSuffix(text, "-1"); ok && t != "" {
		text, add = t, -1
	}
	i := 0
	for i < len(text) && (text[i] >= '0' && text[i] <= '9' || text[i] == '.') {
		i++
	}
	n, err := strconv.ParseFloat(text[:i], 64)
	unit := strings.ToLower(text[i:])
	base := 1024.0
	if len(unit) == 2 && unit[1] == 'b' {
		base, unit = 1000, unit[:1]
	}
	unit = strings.TrimSuffix(unit, "ib")
	power := strings.Index("bkmgtp", unit)
	if unit == "" {
		power = 0
	}
	if err != nil || len(unit) > 1 || power < 0 {
		p.fail(&Usage{name + ": not a size: " + strconv.Quote(s)})
		return 0
	}
	v := n*math.Pow(base, float64(power)) + float64(add)
	if v < 0 || v > float64(most) {
		p.fail(&Usage{name + ": out of range: " + strconv.Quote(s)})
		return 0
	}
	return int64(v)
}

// stopAfter is when --stop-after=MINUTES ends.
func (p *parser) stopAfter(s string) {
	p.o.StopAt = time.Now().Add(time.Duration(p.number("--stop-after", s, 1, 60*24*365)) * time.Minute)
}
