// Package shellwords splits a command line into words as a POSIX shell would, without a shell: quoting is removed, and
// what only a shell could carry out is an error.
package shellwords

import (
	"errors"
	"strings"
)

// Bounds on a command line.
const (
	maxLine  = 128 << 10 // bytes; rsync and scp name many files in one
	maxWords = 4096
)

// What can be wrong with a line.
var (
	ErrQuote   = errors.New("a quote is not closed")
	ErrShell   = errors.New("this needs a shell, and there is none")
	ErrTooLong = errors.New("the command line is too long")
)

// Split splits line into words as POSIX sh does (XCU 2.2 and 2.6): quoting is removed, variables
// are unset and expand to nothing, an unquoted expansion to nothing is no word. What only a shell
// could carry out is ErrShell. Bytes that are not UTF-8 are kept.
func Split(line string) ([]string, error) { return split(line, false) }

// SplitPatterns is Split for words that are patterns of file names: *, ?, [ and \ that were quoted have a \ before
// them. Literal takes it away again.
func SplitPatterns(line string) ([]string, error) { return split(line, true) }

// Literal is the text of a word of SplitPatterns that is no pattern.
func Literal(word string) string {
	if strings.IndexByte(word, '\\') < 0 {
		return word
	}
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		if word[i] == '\\' && i+1 < len(word) {
			i++
		}
		b.WriteByte(word[i])
	}
	return b.String()
}

func split(line string, patterns bool) ([]string, error) {
	if len(line) > maxLine {
		return nil, ErrTooLong
	}
	s := splitter{rest: line, patterns: patterns}
	var words []string
	for {
		word, ok, err := s.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			return words, nil
		}
		if words = append(words, word); len(words) > maxWords {
			return nil, ErrTooLong
		}
	}
}

// Token is a word, as SplitPatterns gives it, or an operator; line[Start:End] is what it was made of.
type Token struct {
	Text       string
	Operator   bool
	Start, End int
}

// operators by the longest first.
var operators = []string{"1>&2", "2>&1", "&&", "||", "&>", ">>", ">&2", "1>>", "2>>", "1>", "2>", ";", "\n", "|", ">", "<"}

// Tokens splits a line into words and the operators of lists, pipelines and redirections (a line break is the operator
// ";"). What else only a shell could carry out is ErrShell.
func Tokens(line string) ([]Token, error) {
	if len(line) > maxLine {
		return nil, ErrTooLong
	}
	s := splitter{rest: line, patterns: true}
	var out []Token
	for {
		s.rest = strings.TrimLeft(s.rest, " \t")
		if s.rest == "" {
			return out, nil
		}
		t := Token{Start: len(line) - len(s.rest)}
		if t.Text = s.operator(); t.Text != "" {
			t.Operator = true
		} else {
			s.word.Reset()
			s.have = false
			for s.rest != "" && strings.IndexByte(" \t\n;|&<>", s.rest[0]) < 0 {
				if err := s.step(); err != nil {
					return nil, err
				}
			}
			t.Text = s.word.String()
			if !s.have && t.Text == "" { // an expansion to nothing, or a character that is no operator here
				if t.Start == len(line)-len(s.rest) {
					return nil, ErrShell
				}
				continue
			}
		}
		t.End = len(line) - len(s.rest)
		if out = append(out, t); len(out) > maxWords {
			return nil, ErrTooLong
		}
	}
}

// operator takes an operator off rest; "" when there is none.
func (s *splitter) operator() string {
	for _, op := range operators {
		if rest, ok := strings.CutPrefix(s.rest, op); ok && !(op == "<" && strings.HasPrefix(rest, "<")) {
			s.rest = rest
			if op == "\n" {
				return ";"
			}
			return op
		}
	}
	return ""
}

// First is the first word of a line whose rest may be anything; "" when there is none.
func First(line string) string {
	s := splitter{rest: line[:min(len(line), maxLine)]}
	word, _, err := s.next()
	if err != nil {
		return ""
	}
	return word
}

// splitter takes words off rest.
type splitter struct {
	rest string
	word strings.Builder
	have bool // the word exists, even if it is empty: it was quoted

	patterns bool // quoted characters that mean something in a pattern keep a backslash
}

// quoted adds text that was quoted.
func (s *splitter) quoted(text string) {
	if !s.patterns {
		s.word.WriteString(text)
		return
	}
	for i := range len(text) {
		if strings.IndexByte(`*?[\`, text[i]) >= 0 {
			s.word.WriteByte('\\')
		}
		s.word.WriteByte(text[i])
	}
}

// next returns the next word; false at the end of the line.
func (s *splitter) next() (string, bool, error) {
	for {
		s.rest = strings.TrimLeft(s.rest, " \t")
		if s.rest == "" {
			return "", false, nil
		}
		s.word.Reset()
		s.have = false
		for s.rest != "" && s.rest[0] != ' ' && s.rest[0] != '\t' {
			if err := s.step(); err != nil {
				return "", false, err
			}
		}
		if s.have || s.word.Len() > 0 {
			return s.word.String(), true, nil
		}
	}
}

// step consumes one character outside of quotes, or one quoted part.
func (s *splitter) step() error {
	c := s.rest[0]
	switch {
	case strings.IndexByte("\n;|&<>()`", c) >= 0, c == '#' && !s.have && s.word.Len() == 0:
		return ErrShell
	case c == '\\':
		return s.escaped()
	case c == '\'':
		end := strings.IndexByte(s.rest[1:], '\'')
		if end < 0 {
			return ErrQuote
		}
		s.quoted(s.rest[1 : 1+end])
		s.rest, s.have = s.rest[2+end:], true
	case c == '"':
		s.have = true
		return s.doubleQuoted()
	case c == '$':
		return s.variable(`(@*#?-$!'"`)
	default:
		s.word.WriteByte(c)
		s.rest = s.rest[1:]
	}
	return nil
}

func (s *splitter) escaped() error {
	if len(s.rest) < 2 {
		return ErrQuote
	}
	if c := s.rest[1]; c != '\n' { // a continued line
		s.quoted(s.rest[1:2])
		s.have = true
	}
	s.rest = s.rest[2:]
	return nil
}

// doubleQuoted takes the part up to the closing quote (XCU 2.2.3).
func (s *splitter) doubleQuoted() error {
	s.rest = s.rest[1:]
	for s.rest != "" {
		switch c := s.rest[0]; {
		case c == '"':
			s.rest = s.rest[1:]
			return nil
		case c == '`':
			return ErrShell
		case c == '$':
			if err := s.variable(`(@*#?-$!`); err != nil {
				return err
			}
			continue
		case c == '\\' && len(s.rest) > 1 && strings.IndexByte("$`\"\\\n", s.rest[1]) >= 0:
			if s.rest[1] != '\n' {
				s.quoted(s.rest[1:2])
			}
			s.rest = s.rest[2:]
			continue
		default:
			s.quoted(s.rest[:1])
			s.rest = s.rest[1:]
		}
	}
	return ErrQuote
}

// variable drops $NAME and ${NAME}. A $ before one of special, or before a digit, needs a shell; before
// anything else it is itself.
func (s *splitter) variable(special string) error {
	rest := s.rest[1:]
	braced := strings.HasPrefix(rest, "{")
	if braced {
		rest = rest[1:]
	}
	n := 0
	for n < len(rest) && (rest[n] == '_' || isLetter(rest[n]) || n > 0 && isDigit(rest[n])) {
		n++
	}
	switch {
	case braced && (n == 0 || n == len(rest) || rest[n] != '}'):
		return ErrShell
	case braced:
		s.rest = rest[n+1:]
	case n > 0:
		s.rest = rest[n:]
	case rest != "" && (isDigit(rest[0]) || strings.IndexByte(special, rest[0]) >= 0):
		return ErrShell
	default:
		s.word.WriteByte('$')
		s.rest = rest
	}
	return nil
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
