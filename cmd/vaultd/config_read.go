package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Mistake is one thing that is wrong in a configuration.
type Mistake struct {
	Line, Column int // from 1, the column in bytes; 0 when there is no place to point at
	Length       int // bytes to underline
	Text         string
}

// ConfigError lists all mistakes of a file, in its order.
type ConfigError struct {
	Path     string
	Mistakes []Mistake
	source   []byte
}

const (
	maxConfig   = 1 << 20 // bytes
	maxMistakes = 50      // shown
)

// Error draws each mistake under its line.
func (e *ConfigError) Error() string {
	var b strings.Builder
	lines := bytes.Split(e.source, []byte("\n"))
	for i, m := range e.Mistakes {
		if i == maxMistakes {
			fmt.Fprintf(&b, "%s: and %d more mistakes\n", e.Path, len(e.Mistakes)-i)
			break
		}
		if m.Line < 1 || m.Line > len(lines) {
			fmt.Fprintf(&b, "%s: %s\n", e.Path, m.Text)
			continue
		}
		line, gutter := string(bytes.TrimSuffix(lines[m.Line-1], []byte("\r"))), fmt.Sprintf("%5d | ", m.Line)
		at := min(m.Column-1, len(line))
		mark := line[at:min(at+m.Length, len(line))]
		fmt.Fprintf(&b, "%s:%d:%d: %s\n%s%s\n%s%s%s\n", e.Path, m.Line, m.Column, m.Text, gutter, printable(line),
			strings.Repeat(" ", len(gutter)-2)+"| ", blank(line[:at]), strings.Repeat("^", max(1, utf8.RuneCountInString(mark))))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// printable shows a line of the file without handing control characters to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// blank is as wide as s.
func blank(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, s)
}

// LoadConfig reads the configuration of the store in dir, or the file that --config names. Only the
// former may be missing. Mistakes are a *ConfigError.
func LoadConfig(dir, flag string) (Config, error) {
	path, text, err := readConfig(dir, flag)
	if err != nil || text == nil {
		return DefaultConfig(), err
	}
	return ParseConfig(path, text)
}

// readConfig reads the file; without one there is no text.
func readConfig(dir, flag string) (path string, text []byte, err error) {
	path = flag
	if path == "" {
		path = filepath.Join(dir, ConfigName)
	}
	f, err := os.Open(path)
	if flag == "" && errors.Is(err, fs.ErrNotExist) {
		return path, nil, nil
	}
	if err != nil {
		return path, nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("over %d bytes", maxConfig)
	}
	if err != nil {
		return path, nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if text == nil {
		text = []byte{}
	}
	return path, text, nil
}

// ParseConfig reads a configuration and finds all its mistakes. path is for their text.
//
// go-toml stops at the first value of a wrong type. So each key of the file is first decoded by itself, under its
// table's header; what is wrong is told and blanked out; then what is left is decoded as a whole, which
// finds what is wrong only together (a key twice), and is checked. A fault of syntax ends what can be read: the
// part before it is still judged.
func ParseConfig(path string, data []byte) (Config, error) {
	c := DefaultConfig()
	r := &configReader{data: data, rest: slices.Clone(data), where: map[string]*entry{}}
	entries := r.scan()
	for _, e := range entries {
		if !r.judge(e) {
			clearBytes(r.rest[e.outer.from:e.outer.to])
		}
	}
	for range maxMistakes {
		c = DefaultConfig()
		err := strict(r.rest, &c)
		if err == nil || !r.together(err, entries) {
			break
		}
	}
	c.check(func(key string, elem int, format string, args ...any) {
		text := key + ": " + fmt.Sprintf(format, args...)
		e := r.where[key]
		if e == nil {
			r.mistakes = append(r.mistakes, Mistake{Text: text})
			return
		}
		at := e.value
		if elem >= 0 && elem < len(e.elems) {
			at = e.elems[elem]
		}
		r.add(at, text)
	})
	if len(r.mistakes) == 0 {
		return c, nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b Mistake) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		if a.Column != b.Column {
			return a.Column - b.Column
		}
		return strings.Compare(a.Text, b.Text)
	})
	return Config{}, &ConfigError{Path: path, Mistakes: slices.Compact(r.mistakes), source: data}
}

func strict(data []byte, c *Config) error {
	d := toml.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(c)
}

// span is a range of bytes of the file.
type span struct{ from, to int }

// entry is a table's header, or a key with a value that is no inline table.
type entry struct {
	header string // of the table it is in, as written; "" at the top
	text   string // what to decode under that header
	offset int    // of text in the file
	outer  span   // what to blank out: the whole line of a header, the whole of an inline table
	inline bool   // in an inline table, whose key is part of header
	lost   bool   // under a [[header]]: Config has no list of sections, so that is told of the header
	value  span   // of a header: its name
	elems  []span // of a list
}

type configReader struct {
	data, rest []byte // rest is data with the mistakes blanked out
	mistakes   []Mistake
	where      map[string]*entry // by dotted key, in lower case (go-toml folds it)
}

func (r *configReader) add(at span, text string) {
	line := bytes.Count(r.data[:at.from], []byte("\n")) + 1
	column := at.from - bytes.LastIndexByte(r.data[:at.from], '\n')
	r.mistakes = append(r.mistakes, Mistake{Line: line, Column: column, Length: at.to - at.from, Text: text})
}

// scan splits the file into entries. On a fault of syntax it tells that one, and blanks out the rest.
func (r *configReader) scan() []*entry {
	var p unstable.Parser
	p.Reset(r.data)
	var entries []*entry
	var table string // as written
	var path []string
	lost := false
	end := 0
	for p.NextExpression() {
		n := p.Expression()
		if n.Kind == unstable.KeyValue {
			end = int(n.Raw.Offset + n.Raw.Length)
			first := len(entries)
			entries = r.keyValue(entries, n, table, path, nil)
			for _, e := range entries[first:] {
				e.lost = lost
			}
			continue
		}
		name, names := keySpan(n.Key())
		table, path = string(r.data[name.from:name.to]), names
		line := span{bytes.LastIndexByte(r.data[:name.from], '\n') + 1, len(r.data)}
		if i := bytes.IndexByte(r.data[name.to:], '\n'); i >= 0 {
			line.to = name.to + i
		}
		end = line.to
		text := "[" + table + "]"
		if lost = n.Kind == unstable.ArrayTable; lost {
			text = "[[" + table + "]]"
		}
		entries = append(entries, &entry{text: text, offset: name.from - strings.Index(text, table), outer: line, value: name})
	}
	var fault *unstable.ParserError
	if errors.As(p.Error(), &fault) {
		at := p.Range(fault.Highlight)
		r.add(span{int(at.Offset), int(at.Offset + at.Length)}, "syntax: "+fault.Message)
		clearBytes(r.rest[end:])
	} else if p.Error() != nil {
		r.add(span{end, end}, "syntax: "+p.Error().Error())
		clearBytes(r.rest[end:])
	}
	return entries
}

// keyValue adds the entry of n, or those of its inline table. outer is that of the table around it.
func (r *configReader) keyValue(entries []*entry, n *unstable.Node, table string, path []string, outer *span) []*entry {
	key, names := keySpan(n.Key())
	whole := span{int(n.Raw.Offset), int(n.Raw.Offset + n.Raw.Length)}
	e := &entry{header: table, text: string(r.data[whole.from:whole.to]), offset: whole.from, outer: whole, inline: outer != nil}
	if outer == nil {
		outer = &whole
	}
	e.outer = *outer
	path = append(slices.Clone(path), names...)
	v := n.Value()
	if v.Kind == unstable.InlineTable && v.Child().Valid() {
		inner := string(r.data[key.from:key.to])
		if table != "" {
			inner = table + "." + inner
		}
		for it := v.Children(); it.Next(); {
			entries = r.keyValue(entries, it.Node(), inner, path, outer)
		}
		return entries
	}
	from := key.to + bytes.IndexByte(r.data[key.to:], '=') + 1
	from += len(r.data[from:whole.to]) - len(bytes.TrimLeft(r.data[from:whole.to], " \t"))
	e.value = span{from, from + len(bytes.TrimRight(r.data[from:whole.to], " \t"))}
	if v.Kind == unstable.Array {
		for it := v.Children(); it.Next(); {
			raw := it.Node().Raw
			e.elems = append(e.elems, span{int(raw.Offset), int(raw.Offset + raw.Length)})
		}
	}
	r.where[strings.ToLower(strings.Join(path, "."))] = e
	return append(entries, e)
}

func keySpan(it unstable.Iterator) (span, []string) {
	s, names := span{from: -1}, []string(nil)
	for it.Next() {
		raw := it.Node().Raw
		if s.from < 0 {
			s.from = int(raw.Offset)
		}
		s.to = int(raw.Offset + raw.Length)
		names = append(names, string(it.Node().Data))
	}
	return s, names
}

// judge decodes one entry by itself, tells its mistakes, and says whether there are none.
func (r *configReader) judge(e *entry) bool {
	if e.lost {
		return false
	}
	head := ""
	if e.header != "" {
		head = "[" + e.header + "]\n"
	}
	doc := head + e.text
	err := strict([]byte(doc), &Config{})
	var unknown *toml.StrictMissingError
	var one *toml.DecodeError
	place := func(d *toml.DecodeError) (span, bool) {
		at := offsetOf(doc, d) - len(head)
		if at < 0 { // in the header, which has an entry of its own unless it was made from an inline table
			return e.outer, e.inline
		}
		at += e.offset
		for _, in := range append(slices.Clip(e.elems), e.value) {
			if at >= in.from && at < in.to {
				return in, true
			}
		}
		return span{at, at + 1}, true
	}
	switch {
	case err == nil:
		return true
	case errors.As(err, &unknown):
		for i := range unknown.Errors {
			d := &unknown.Errors[i]
			if at, ok := place(d); ok {
				key := d.Key()
				at.to = max(at.to, at.from+len(key[len(key)-1]))
				r.add(at, unknownKey(key))
			}
		}
	case errors.As(err, &one):
		if at, ok := place(one); ok {
			r.add(at, humanError(one.Key(), one.Error()))
		}
	default: // a number where our own types read text: go-toml gives it no place
		r.add(e.value, humanError(nil, err.Error()))
	}
	return false
}

// together tells a mistake that no entry has by itself, blanks its entry out, and says whether to go on.
func (r *configReader) together(err error, entries []*entry) bool {
	var one *toml.DecodeError
	if !errors.As(err, &one) {
		r.mistakes = append(r.mistakes, Mistake{Text: err.Error()})
		return false
	}
	at := offsetOf(string(r.rest), one)
	r.add(span{at, at + 1}, humanError(one.Key(), one.Error()))
	for _, e := range entries {
		if at >= e.outer.from && at < e.outer.to {
			clearBytes(r.rest[e.outer.from:e.outer.to])
			return true
		}
	}
	return false
}

func offsetOf(doc string, d *toml.DecodeError) int {
	line, column := d.Position()
	at := 0
	for ; line > 1; line-- {
		at += strings.IndexByte(doc[at:], '\n') + 1
	}
	return min(at+column-1, len(doc))
}

func clearBytes(b []byte) {
	for i := range b {
		if b[i] != '\n' {
			b[i] = ' '
		}
	}
}

var typeError = regexp.MustCompile(`cannot (?:decode|store) (?:TOML |an? )?(.*?) (?:into|in) (?:.* of type )?(\S.*)$`)

// humanError words go-toml's errors for people who do not read Go.
func humanError(key toml.Key, text string) string {
	text = strings.TrimPrefix(text, "toml: ")
	if m := typeError.FindStringSubmatch(text); m != nil {
		want := "a section"
		switch t := m[2]; {
		case strings.HasSuffix(t, "Config"):
		case strings.HasPrefix(t, "[]"):
			want = `a list of texts, like ["a", "b"]`
		case strings.HasPrefix(t, "int"):
			want = "a whole number"
		case t == "bool":
			want = "true or false"
		case t == "string", strings.HasPrefix(t, "main."), strings.HasPrefix(t, "appendonly."):
			want = "a text in quotes"
		}
		text = fmt.Sprintf("want %s, not %s", want, m[1])
	}
	if len(key) > 0 {
		text = strings.Join(key, ".") + ": " + text
	}
	return text
}

// unknownKey looks for what was meant, first in the same section, then in the others.
func unknownKey(key toml.Key) string {
	section, name := strings.Join(key[:len(key)-1], "."), key[len(key)-1]
	known := configKeys()
	text := fmt.Sprintf("unknown key %q", name)
	if section != "" {
		text += fmt.Sprintf(" in [%s]", section)
	}
	if near := nearest(name, known[strings.ToLower(section)]); near != "" {
		return text + fmt.Sprintf("; did you mean %q?", near)
	}
	for _, other := range append([]string{""}, known[""]...) {
		if slices.Contains(known[other], strings.ToLower(name)) {
			if other == "" {
				return text + "; it belongs at the top, before the first section"
			}
			return text + fmt.Sprintf("; it belongs in [%s]", other)
		}
	}
	return text
}

// configKeys lists the keys of each section of Config; those at the top are in "".
func configKeys() map[string][]string {
	known := map[string][]string{}
	top := reflect.TypeFor[Config]()
	for i := range top.NumField() {
		f := top.Field(i)
		name := f.Tag.Get("toml")
		known[""] = append(known[""], name)
		for j := 0; f.Type.Kind() == reflect.Struct && j < f.Type.NumField(); j++ {
			known[name] = append(known[name], f.Type.Field(j).Tag.Get("toml"))
		}
	}
	return known
}
